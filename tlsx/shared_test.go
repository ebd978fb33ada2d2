package tlsx

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// memStorage is a Storage that can be told to fail.
type memStorage struct {
	mu       sync.Mutex
	values   map[string][]byte
	failures float64 // share of calls that fail
	lot      *rand.Rand
	hang     bool // until the context ends
	calls    int
}

var errStorage = errors.New("storage is down")

func newMemStorage() *memStorage {
	return &memStorage{values: make(map[string][]byte), lot: rand.New(rand.NewPCG(1, 2))}
}

func (m *memStorage) set(failures float64, hang bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures, m.hang = failures, hang
}

func (m *memStorage) call(ctx context.Context, do func() error) error {
	m.mu.Lock()
	m.calls++
	if m.hang {
		m.mu.Unlock()
		<-ctx.Done()
		return ctx.Err()
	}
	defer m.mu.Unlock()
	if m.lot.Float64() < m.failures {
		return errStorage
	}
	return do()
}

func (m *memStorage) Load(ctx context.Context, name string) (value []byte, err error) {
	err = m.call(ctx, func() error {
		v, ok := m.values[name]
		if !ok {
			return fs.ErrNotExist
		}
		value = slices.Clone(v)
		return nil
	})
	return value, err
}

func (m *memStorage) Swap(ctx context.Context, name string, old, value []byte) error {
	return m.call(ctx, func() error {
		if !bytes.Equal(m.values[name], old) {
			return ErrConflict
		}
		m.values[name] = slices.Clone(value)
		return nil
	})
}

func TestDirStorage(t *testing.T) {
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "new", "folder")
	s := DirStorage{Path: dir}
	if _, err := s.Load(ctx, "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing stored: %v", err)
	}
	if err := s.Swap(ctx, "a", []byte("x"), []byte("y")); !errors.Is(err, ErrConflict) {
		t.Errorf("a value that is not there was replaced: %v", err)
	}
	for i := range 5 {
		var old []byte
		if i > 0 {
			old = []byte(strconv.Itoa(i - 1))
		}
		if err := s.Swap(ctx, "a", old, []byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
		if err := s.Swap(ctx, "a", old, []byte("other")); !errors.Is(err, ErrConflict) {
			t.Errorf("an old value was replaced: %v", err)
		}
		if got, err := s.Load(ctx, "a"); string(got) != strconv.Itoa(i) {
			t.Errorf("loaded %q, %v, want %d", got, err, i)
		}
	}
	if err := s.Swap(ctx, "ab", nil, []byte("b")); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("the folder has %v, %v, want two files", entries, err)
	}
	// What a crash has left over, and what is none of ours.
	for name, data := range map[string]string{"v": "1", "v.2": "2", "v.9": "9", "v.10": "10", "v.011": "x", "v.+12": "x", "v.-13": "x", "v.x": "x", ".v-14": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Load(ctx, "v"); string(got) != "10" {
		t.Errorf("of several versions %q, %v was loaded, want the latest", got, err)
	}
	if err := s.Swap(ctx, "v", []byte("10"), []byte("11")); err != nil {
		t.Error(err)
	}
	if got, err := s.Load(ctx, "v"); string(got) != "11" {
		t.Errorf("loaded %q, %v, want 11", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "v.9")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an old version stays: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Load(ended, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context: %v", err)
	}
	for _, name := range []string{"", "../a", "a/b", "a.1", ".", "a b"} {
		if _, err := s.Load(ctx, name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("name %q: %v", name, err)
		}
		if err := s.Swap(ctx, name, nil, []byte("x")); err == nil {
			t.Errorf("name %q was stored", name)
		}
	}
	if err := (DirStorage{}).Swap(ctx, "a", nil, []byte("x")); err == nil {
		t.Error("stored in no folder")
	}
	if _, err := (DirStorage{}).Load(ctx, "a"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("loaded from no folder: %v", err)
	}
}

// TestDirStorageLosesNoSwap has many count up at once: every swap that
// succeeded counts. One that was overtaken may count although it reported a
// conflict, hence "at least".
func TestDirStorageLosesNoSwap(t *testing.T) {
	s := DirStorage{Path: t.TempDir()}
	const swappers, each = 6, 20
	var wg sync.WaitGroup
	for range swappers {
		wg.Go(func() {
			for done := 0; done < each; {
				old, err := s.Load(t.Context(), "n")
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(old))
				switch err := s.Swap(t.Context(), "n", old, strconv.AppendInt(nil, int64(n+1), 10)); {
				case err == nil:
					done++
				case !errors.Is(err, ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	got, err := s.Load(t.Context(), "n")
	if n, _ := strconv.Atoi(string(got)); err != nil || n < swappers*each {
		t.Errorf("counted to %q, %v, want at least %d", got, err, swappers*each)
	}
}
