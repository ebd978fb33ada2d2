package lb

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFileIsPlain: a pipe in the place of the file would hold up whoever looks, and
// with it the end of the pool.
func TestFileIsPlain(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir, "/dev/zero"} {
		done := make(chan error, 1)
		go func() {
			_, err := File{Path: path}.Resolve(t.Context())
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), path+" is not a plain file") {
				t.Errorf("%s: %v", path, err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s is waited for", path)
			if w, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
				w.Close()
			}
			<-done
		}
	}
}

// TestFileIsClosed: whether it is good or not. Otherwise the collector would have
// to find it, which may be late.
func TestFileIsClosed(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	if err := errors.Join(os.WriteFile(good, []byte(`[{"url": "http://a"}]`), 0o600), os.WriteFile(bad, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{good, bad, dir} {
		File{Path: path}.Resolve(t.Context())
	}
	const open = "/proc/self/fd"
	fds, err := os.ReadDir(open)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if name, err := os.Readlink(filepath.Join(open, fd.Name())); err == nil && strings.HasPrefix(name, dir) {
			t.Errorf("%s is open", name)
		}
	}
}
