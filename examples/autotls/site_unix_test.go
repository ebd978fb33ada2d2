//go:build unix

package main

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
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
	for name, data := range map[string]string{
		".env": "secret", ".git/config": "secret", ".well-known/security.txt": "contact", ".well-known/.git/config": "secret",
		"below/.htpasswd": "secret", "below/shown.txt": "shown", "below/.well-known/key": "secret", "dots../..x": "secret", "a.b": "plain", "a b/c%d.txt": "plain",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	h := pages(root)
	for path, want := range map[string]string{"/": ".well-known/ a%20b/ a.b below/ circle dots../ hello.txt inner.txt link.txt nowhere pipe up", "/below/": "shown.txt", "/dots../": "", "/.well-known/": "security.txt"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		var got []string
		for _, m := range regexp.MustCompile(`href="(.*?)"`).FindAllStringSubmatch(w.Body.String(), -1) {
			got = append(got, m[1])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s lists %q, want %q", path, got, want)
		}
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 200}, {"GET", "/hello.txt", 200}, {"HEAD", "/hello.txt", 200}, {"GET", "/inner.txt", 200}, {"GET", "/whoami", 200},
		{"GET", "/none", 404}, {"GET", "/hello.txt/below", 404}, {"GET", "/whoami/below", 404},
		{"GET", "/link.txt", 404}, {"GET", "/circle", 404}, {"GET", "/up", 404}, {"GET", "/up/x", 404}, {"GET", "/nowhere", 404}, {"GET", "/pipe", 404},
		{"GET", "/%00", 404}, {"GET", "/hello.txt%00", 404}, {"GET", "/" + strings.Repeat("a", 300), 404}, {"GET", "/..%2f..%2fetc%2fpasswd", 404},
		{"GET", "/.env", 404}, {"GET", "/.git", 404}, {"GET", "/.git/", 404}, {"GET", "/.git/config", 404}, {"HEAD", "/.git/config", 404}, {"GET", "/%2egit/config", 404}, {"GET", "/.none", 404},
		{"GET", "/.well-known/security.txt", 200}, {"GET", "/.well-known/", 200}, {"GET", "/.well-known/.git/config", 404}, {"GET", "/.well-known/..%2f.env", 404},
		{"GET", "/below/", 200}, {"GET", "/below/shown.txt", 200}, {"GET", "/below/.htpasswd", 404}, {"GET", "/below/.well-known/key", 404}, {"GET", "/dots../", 200}, {"GET", "/dots../..x", 404}, {"GET", "/a.b", 200},
		{"POST", "/hello.txt", 405}, {"DELETE", "/hello.txt", 405}, {"OPTIONS", "/", 405}, {"PUT", "/whoami", 405}, {"TRACE", "/", 405}, {"CONNECT", "/", 405},
		{"GET", "//below//shown.txt", 200}, {"GET", "//a%20b/c%25d.txt", 200}, {"GET", "/below/../hello.txt", 200}, {"GET", "/../hello.txt", 200}, {"GET", "/below/..//.env", 404}, {"GET", "//.git/config", 404},
	} {
		answer := make(chan *httptest.ResponseRecorder, 1)
		go func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
			answer <- w
		}()
		select {
		case w := <-answer:
			if w.Code != c.status || strings.Contains(w.Body.String(), "secret") || (w.Code == http.StatusMethodNotAllowed) != (w.Header().Get("Allow") == "GET, HEAD") || w.Header().Get("X-Content-Type-Options") != "nosniff" ||
				(c.path == "/whoami" && w.Code == http.StatusOK) != (w.Header().Get("Cache-Control") == "no-store") {
				t.Errorf("%s %.60s: %d %q", c.method, c.path, w.Code, w.Body)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s %s: no answer", c.method, c.path)
		}
	}
}

// TestListingInParts reads a folder one entry at a time, past those that are left
// out.
func TestListingInParts(t *testing.T) {
	files := fstest.MapFS{".a": {}, ".b": {}, "c": {}, ".d": {}, "e": {}, ".f": {}}
	f, err := siteFS{files}.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []string
	for {
		entries, err := f.(fs.ReadDirFile).ReadDir(1)
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if err == io.EOF {
			break
		}
		if err != nil || len(entries) != 1 {
			t.Fatalf("%d entries, %v", len(entries), err)
		}
	}
	if strings.Join(got, " ") != "c e" {
		t.Errorf("listed %q, want c and e", got)
	}
}
