//go:build unix

package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPages asks for everything that a folder can hold beside plain files, and
// for names that no file can have.
func TestPages(t *testing.T) {
	dir := site(t)
	for link, to := range map[string]string{"inner.txt": "hello.txt", "circle": "circle", "up": "..", "nowhere": "none"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	h := pages(root)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 200}, {"GET", "/hello.txt", 200}, {"HEAD", "/hello.txt", 200}, {"GET", "/inner.txt", 200}, {"GET", "/whoami", 200},
		{"GET", "/none", 404}, {"GET", "/hello.txt/below", 404}, {"GET", "/whoami/below", 404},
		{"GET", "/link.txt", 404}, {"GET", "/circle", 404}, {"GET", "/up", 404}, {"GET", "/up/x", 404}, {"GET", "/nowhere", 404}, {"GET", "/pipe", 404},
		{"GET", "/%00", 404}, {"GET", "/hello.txt%00", 404}, {"GET", "/" + strings.Repeat("a", 300), 404}, {"GET", "/..%2f..%2fetc%2fpasswd", 404},
		{"POST", "/hello.txt", 405}, {"DELETE", "/hello.txt", 405}, {"OPTIONS", "/", 405}, {"PUT", "/whoami", 405},
	} {
		answer := make(chan *httptest.ResponseRecorder, 1)
		go func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
			answer <- w
		}()
		select {
		case w := <-answer:
			if w.Code != c.status || strings.Contains(w.Body.String(), "secret") || (w.Code == http.StatusMethodNotAllowed) != (w.Header().Get("Allow") == "GET, HEAD") {
				t.Errorf("%s %.60s: %d %q", c.method, c.path, w.Code, w.Body)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s %s: no answer", c.method, c.path)
		}
	}
}
