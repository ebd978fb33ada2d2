package lb

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"
)

var someFiles = http.FileServerFS(fstest.MapFS{
	"a.txt":          {Data: []byte("0123456789"), ModTime: time.Unix(1e9, 0)},
	"dir/index.html": {Data: []byte("<html>index"), ModTime: time.Unix(1e9, 0)},
	"large.bin":      {Data: bytes.Repeat([]byte{1, 2, 3, 4}, 100_000), ModTime: time.Unix(1e9, 0)},
}).ServeHTTP

var fileCases = []wireCase{
	{name: "file", send: "GET /a.txt HOST\n\n", handler: someFiles, want: "0123456789"},
	{name: "file HEAD", send: "HEAD /a.txt HOST\n\n", handler: someFiles, want: "length 10"},
	{name: "file large", send: "GET /large.bin HOST\n\n", handler: someFiles, want: "length 400000"},
	{name: "file range", send: "GET /a.txt HOST\nRange: bytes=2-4\n\n", handler: someFiles, want: `"234"`},
	{name: "file suffix", send: "GET /a.txt HOST\nRange: bytes=-3\n\n", handler: someFiles, want: `"789"`},
	{name: "file range beyond", send: "GET /a.txt HOST\nRange: bytes=20-\n\n", handler: someFiles, want: "416"},
	{name: "file not modified", send: "GET /a.txt HOST\nIf-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT\n\n", handler: someFiles, want: "304"},
	{name: "file missing", send: "GET /none HOST\n\n", handler: someFiles, want: "404"},
	{name: "file directory", send: "GET /dir/ HOST\n\n", handler: someFiles, want: "<html>index"},
	{name: "file redirect", send: "GET /dir HOST\n\n", handler: someFiles, want: `["dir/"]`},
	{name: "file outside", send: "GET /../a.txt HOST\n\n", handler: someFiles, want: "0123456789"},
}

// TestServeFiles serves what is on a disk, where the body may go to the
// connection without coming by.
func TestServeFiles(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	if err := os.WriteFile(filepath.Join(dir, "f"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	matrix(t, func(t *testing.T, m mode) {
		s := m.serve(t, frontConf{handler: http.FileServer(http.Dir(dir))})
		c := s.dial()
		for range 3 {
			c.send("GET /f HTTP/1.1\nHost: h\n\nGET /f HTTP/1.1\nHost: h\nRange: bytes=16-31\n\n")
			if res, body := c.response("GET"); res.ContentLength != int64(len(content)) || body != string(content) {
				t.Fatalf("%d bytes", len(body))
			}
			if _, body := c.response("GET"); body != "0123456789abcdef" {
				t.Fatalf("%q", body)
			}
		}
	})
}
