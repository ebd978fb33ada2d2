package acme

import (
	"errors"
	"io/fs"
	"strconv"
	"sync"
	"testing"

	"github.com/caddyserver/certmagic"

	"github.com/palisade-go/palisade/tlsx"
)

var _ tlsx.Storage = SharedStorage{}

// TestSharedStorageLosesNoSwap has several count up at once.
func TestSharedStorageLosesNoSwap(t *testing.T) {
	s := SharedStorage{&certmagic.FileStorage{Path: t.TempDir()}}
	if _, err := s.Load(t.Context(), "n"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing stored: %v", err)
	}
	if err := s.Swap(t.Context(), "n", []byte("x"), []byte("y")); !errors.Is(err, tlsx.ErrConflict) {
		t.Errorf("a value that is not there was replaced: %v", err)
	}
	const swappers = 3
	var wg sync.WaitGroup
	for range swappers {
		wg.Go(func() {
			for done := false; !done; {
				old, err := s.Load(t.Context(), "n")
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(old))
				err = s.Swap(t.Context(), "n", old, strconv.AppendInt(nil, int64(n+1), 10))
				if done = err == nil; err != nil && !errors.Is(err, tlsx.ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, err := s.Load(t.Context(), "n"); string(got) != strconv.Itoa(swappers) {
		t.Errorf("counted to %q, %v", got, err)
	}
	if err := s.Swap(t.Context(), "n", nil, []byte("x")); !errors.Is(err, tlsx.ErrConflict) {
		t.Errorf("stored over a value: %v", err)
	}
}

func TestSharedStorageWithoutStorage(t *testing.T) {
	if _, err := (SharedStorage{}).Load(t.Context(), "n"); err == nil {
		t.Error("loaded")
	}
	if err := (SharedStorage{}).Swap(t.Context(), "n", nil, []byte("x")); err == nil {
		t.Error("stored")
	}
}
