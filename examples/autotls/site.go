package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/palisade-go/palisade/tlsx"
)

// pages serves the folder, and /whoami. A ServeMux would lead clients astray: it
// redirects from "//a%20b" to "/a%2520b".
func pages(root *os.Root) http.Handler {
	files := http.FileServerFS(siteFS{root.FS()})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		case r.URL.Path == "/whoami":
			whoami(w, r)
		default:
			files.ServeHTTP(w, r)
		}
	})
}

// whoami says who the client proved to be.
func whoami(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	id, ok := tlsx.IdentityFrom(r.Context())
	if !ok {
		fmt.Fprintln(w, "nobody: the client showed no certificate")
		return
	}
	fmt.Fprintf(w, "subject     %s\nURIs        %s\nDNS names   %s\nfingerprint %s\n",
		oneLine(id.Subject), oneLine(strings.Join(id.URIs, " ")), oneLine(strings.Join(id.DNSNames, " ")), id.Fingerprint)
}

// oneLine keeps what a certificate says in its line: a name may have line feeds,
// and what follows them could pass for another line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// siteFS is the folder that is served: its files and folders. Whatever else a name
// leads to is not there: a pipe, which would hold up whoever opens it, a link that
// leads out of the folder or in a circle, and what is hidden.
type siteFS struct{ fs.FS }

// Open implements fs.FS.
func (s siteFS) Open(name string) (fs.File, error) {
	info, err := fs.Stat(s.FS, name)
	if err == nil && (isHidden(name) || !info.IsDir() && !info.Mode().IsRegular()) {
		err = fs.ErrNotExist
	}
	if err == nil {
		var f fs.File
		if f, err = s.FS.Open(name); err == nil {
			if dir, ok := f.(fs.ReadDirFile); ok && info.IsDir() {
				f = siteDir{dir, name}
			}
			return f, nil
		}
	}
	if !isServers(err) {
		err = fs.ErrNotExist
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: err}
}

// isHidden says whether a path has an element that begins with a dot: .git, .env
// and the like are in many a folder and meant for nobody on the net. The one that
// is meant for everybody is .well-known at the top (RFC 8615).
func isHidden(name string) bool {
	for i, elem := range strings.Split(name, "/") {
		if strings.HasPrefix(elem, ".") && name != "." && (i > 0 || elem != ".well-known") {
			return true
		}
	}
	return false
}

// siteDir is a folder that lists nothing that is hidden.
type siteDir struct {
	fs.ReadDirFile
	name string
}

// ReadDir implements fs.ReadDirFile.
func (d siteDir) ReadDir(n int) ([]fs.DirEntry, error) {
	for {
		entries, err := d.ReadDirFile.ReadDir(n)
		entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return isHidden(path.Join(d.name, e.Name())) })
		if len(entries) > 0 || n <= 0 || err != nil {
			return entries, err
		}
	}
}

// isServers says whether it is the server's fault that a name cannot be opened,
// and not the name's: that one cannot be a name, or what os.Root refuses by itself.
func isServers(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && !slices.Contains([]syscall.Errno{syscall.EINVAL, syscall.ENAMETOOLONG, syscall.ENOTDIR, syscall.ELOOP}, errno)
}
