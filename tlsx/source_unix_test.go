//go:build unix

package tlsx

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// TestSymlinkSwap has a folder of versions, of which a link names the present one,
// as orchestrators mount their secrets: both files change at once, by a rename.
func TestSymlinkSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testcert.NewCA(t)
		dir := t.TempDir()
		version := func(name string, p pair) {
			t.Helper()
			folder, link := filepath.Join(dir, name), filepath.Join(dir, "..new")
			if err := errors.Join(os.Mkdir(folder, 0o700), os.Symlink(name, link)); err != nil {
				t.Fatal(err)
			}
			replace(t, filepath.Join(folder, "cert.pem"), p.cert)
			replace(t, filepath.Join(folder, "key.pem"), p.key)
			if err := os.Rename(link, filepath.Join(dir, "..data")); err != nil {
				t.Fatal(err)
			}
		}
		one, two, three := pairOf(t, ca, testcert.Leaf{CommonName: "one"}), pairOf(t, ca, testcert.Leaf{CommonName: "two"}), pairOf(t, ca, testcert.Leaf{CommonName: "three"})
		version("v1", one)
		for _, name := range []string{"cert.pem", "key.pem"} {
			if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Files(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		check := func(want string) {
			t.Helper()
			time.Sleep(seenAfter)
			if got := s.Certificates()[0].Subject.CommonName; got != want {
				t.Errorf("%q is served, want %q", got, want)
			}
		}
		check("one")
		version("v2", two)
		check("two")
		if err := os.RemoveAll(filepath.Join(dir, "v1")); err != nil {
			t.Fatal(err)
		}
		version("v3", pair{three.cert, two.key})
		check("two")
		if err := os.Remove(filepath.Join(dir, "..data")); err != nil { // links to nowhere
			t.Fatal(err)
		}
		check("two")
		version("v4", three)
		check("three")
	})
}

// TestPipeAtTheStart is how shells hand over secrets: trust <(fetch-roots).
func TestPipeAtTheStart(t *testing.T) {
	ca := testcert.NewCA(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(pipe, ca.PEM(), 0o600) }()
	trust, err := TrustFile(pipe, slog.New(slog.DiscardHandler))
	if err := errors.Join(err, <-written); err != nil {
		t.Fatal(err)
	}
	first := trust.Roots()
	trust.w.checked.Store(0)
	if first.digest != rootsOf(t, ca).digest || trust.Roots() != first {
		t.Error("the authorities are not those of the pipe, or do not stay")
	}
}

// TestPipeInPlaceOfAFile has a pipe that nobody writes into take the place of a
// file: neither the handshake that looks nor what comes later waits for it.
func TestPipeInPlaceOfAFile(t *testing.T) {
	ca := testcert.NewCA(t)
	one, two := pairOf(t, ca, testcert.Leaf{CommonName: "one"}), pairOf(t, ca, testcert.Leaf{CommonName: "two"})
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	replace(t, certFile, one.cert)
	replace(t, keyFile, one.key)
	s, err := Files(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	served := func() string {
		t.Helper()
		s.w.checked.Store(0) // so that this one looks
		name := make(chan string, 1)
		go func() { name <- s.Certificates()[0].Subject.CommonName }()
		select {
		case n := <-name:
			return n
		case <-time.After(time.Minute):
			t.Fatal("waits for the pipe")
			return ""
		}
	}
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(certFile, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := served(); got != "one" {
		t.Errorf("with a pipe %q is served", got)
	}
	replace(t, certFile, two.cert)
	replace(t, keyFile, two.key)
	if got := served(); got != "two" {
		t.Errorf("after it %q is served", got)
	}
}
