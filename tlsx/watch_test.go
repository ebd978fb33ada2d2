package tlsx

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// watchTexts watches files as one text.
func watchTexts(t *testing.T, files ...string) *watched[string] {
	t.Helper()
	w, err := watch(slog.New(slog.DiscardHandler), func(contents [][]byte) (*string, error) {
		return new(string(bytes.Join(contents, []byte("|")))), nil
	}, files...)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestWatchPaces: what is used all the time looks at its files five times a second,
// and never longer than that after the clock was put back.
func TestWatchPaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		replace(t, file, []byte("0"))
		w := watchTexts(t, file)
		want := func(when, want string) {
			t.Helper()
			if got := *w.load(); got != want {
				t.Errorf("%s: %s, want %s", when, got, want)
			}
		}
		replace(t, file, []byte("1"))
		want("just loaded", "0")
		time.Sleep(filePoll - 1)
		want("before its time", "0")
		time.Sleep(time.Nanosecond)
		want("in time", "1")
		replace(t, file, []byte("2"))
		want("just looked at", "1")
		time.Sleep(filePoll)
		want("in time again", "2")
		w.checked.Store(time.Now().Add(time.Hour).UnixNano())
		replace(t, file, []byte("3"))
		want("after the clock was put back", "3")
	})
}

// TestWatchTellsFilesApart moves a byte from one file to the next.
func TestWatchTellsFilesApart(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	replace(t, one, []byte("ab"))
	replace(t, two, []byte("c"))
	w := watchTexts(t, one, two)
	replace(t, one, []byte("a"))
	replace(t, two, []byte("bc"))
	w.checked.Store(0)
	if got := *w.load(); got != "a|bc" {
		t.Errorf("%s, want a|bc", got)
	}
}
