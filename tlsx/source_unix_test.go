//go:build unix

package tlsx

import (
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

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
