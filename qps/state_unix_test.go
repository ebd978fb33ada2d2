//go:build unix

package qps

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestStateFileIsPlain: a pipe in the place of the state would hold New up until
// somebody writes into it, and a device may never end.
func TestStateFileIsPlain(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, "/dev/zero"} {
		done := make(chan error, 1)
		go func() {
			_, err := New(Config{StateFile: path})
			done <- err
		}()
		select {
		case err := <-done:
			if !errors.Is(err, os.ErrInvalid) {
				t.Errorf("%s: %v, want %v", path, err, os.ErrInvalid)
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
