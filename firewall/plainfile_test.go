//go:build unix

package firewall

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func makePipe(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

// promptly wants f to end without anybody who writes into the pipe; if it waits
// for that, somebody does.
func promptly(t *testing.T, pipe string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Errorf("it waits for somebody to write into %s", pipe)
		if w, err := os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			w.Close()
		}
		return <-done
	}
}

// TestOnlyPlainFiles: whatever is read is not waited for, and ends.
func TestOnlyPlainFiles(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	makePipe(t, pipe)
	policy := filepath.Join(dir, "policy.fw")
	f := newFirewall(t, Config{})
	for _, path := range []string{pipe, "/dev/zero", dir} {
		if err := os.WriteFile(policy, []byte("set bad file "+path+"\ndrop bad if source @bad\ndefault accept\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for what, read := range map[string]func() error{
			"a policy":           func() error { _, err := ReadPolicy(path); return err },
			"a list of a policy": func() error { _, err := ReadPolicy(policy); return err },
			"bans":               func() error { return f.LoadBans(path) },
		} {
			if err := promptly(t, pipe, read); !errors.Is(err, errNotPlain) {
				t.Errorf("%s from %s: %v, want %v", what, path, err, errNotPlain)
			}
		}
	}
}

// TestWatchFilePassesPipesOver: a pipe that comes in the place of a list is an
// error, after which another list is loaded, and does not keep WatchFile from its
// TestBansReplacePlainFilesOnly: a pipe, or a device, is not renamed over.
func TestBansReplacePlainFilesOnly(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	makePipe(t, pipe)
	f := newFirewall(t, Config{})
	if err := promptly(t, pipe, func() error { return f.SaveBans(pipe) }); !errors.Is(err, errNotPlain) {
		t.Errorf("saved to a pipe: %v, want %v", err, errNotPlain)
	}
	info, err := os.Stat(pipe)
	if err != nil || info.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("the pipe is %v now, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files are left, %v, want the pipe only", len(entries), err)
	}
}

// end.
func TestWatchFilePassesPipesOver(t *testing.T) {
	dir := t.TempDir()
	path, next := filepath.Join(dir, "bad.txt"), filepath.Join(dir, "next")
	replace := func(text string) {
		t.Helper()
		var err error
		if text == "" {
			err = syscall.Mkfifo(next, 0o600)
		} else {
			err = os.WriteFile(next, []byte(text), 0o600)
		}
		if err == nil {
			err = os.Rename(next, path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	replace("192.0.2.1\n")
	var set PrefixSet
	reports := make(chan error, 100)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() {
		set.WatchFile(ctx, path, time.Millisecond, func(err error) { reports <- err })
		done <- nil
	}()
	report := func() error { return promptly(t, path, func() error { return <-reports }) }
	contains := func(addr string) bool { return set.Contains(netip.MustParseAddr(addr)) }
	if err := report(); err != nil || !contains("192.0.2.1") {
		t.Errorf("a list: %v, %v", err, contains("192.0.2.1"))
	}
	replace("")
	if err := report(); !errors.Is(err, errNotPlain) || !contains("192.0.2.1") {
		t.Errorf("a pipe: %v, want %v and the old list", err, errNotPlain)
	}
	replace("192.0.2.2\n")
	if err := report(); err != nil || !contains("192.0.2.2") {
		t.Errorf("another list: %v, %v", err, contains("192.0.2.2"))
	}
	replace("")
	if err := report(); !errors.Is(err, errNotPlain) {
		t.Errorf("another pipe: %v, want %v", err, errNotPlain)
	}
	stop()
	promptly(t, path, func() error { return <-done })
}
