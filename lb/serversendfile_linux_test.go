package lb

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestServerSendfile counts by strace what the kernel moves by itself: a file
// goes out by sendfile, and a body from another connection by splice. This process
// is started again to be traced.
func TestServerSendfile(t *testing.T) {
	const size = 8 << 20
	if os.Getenv("LB_TEST_SENDFILE") != "" {
		sendfile(t, size)
		return
	}
	strace := program(t, "strace")
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command(strace, "-f", "-e", "trace=sendfile,splice", "-e", "signal=none", "-s", "0", "-o", trace, os.Args[0], "-test.run=^TestServerSendfile$", "-test.count=1")
	cmd.Env = append(os.Environ(), "LB_TEST_SENDFILE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	moved := make(map[string]int64)
	for line := range strings.Lines(string(data)) {
		// A call that was interrupted by another thread's has its result in a line
		// of its own.
		call, result, ok := strings.Cut(line, " = ")
		if !ok {
			continue
		}
		for _, name := range []string{"sendfile", "splice"} {
			if strings.Contains(call, name) {
				var n int64
				fmt.Sscan(result, &n)
				moved[name] += max(0, n)
			}
		}
	}
	// By splice each byte is counted as it goes into the pipe and as it comes out.
	for name, want := range map[string]float64{"sendfile": 2 * size, "splice": 2 * size} {
		if share := float64(moved[name]) / want; share < 0.9 || share > 1.01 {
			t.Errorf("%.3f of the bytes went by %s, want 0.9 or more", share, name)
		}
	}
}

// sendfile is the traced process: it gets two bodies from a file, as a FileServer
// sends them and as a plain handler does, and one from a connection, all of the
// size.
func sendfile(t *testing.T, size int64) {
	dir := t.TempDir()
	file, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(file, &pattern{}, size); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	source := tcpBackend(t, func(c *net.TCPConn) { io.CopyN(c, &pattern{}, size) })
	files := http.FileServer(http.Dir(dir))
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var src io.ReadCloser
		var err error
		switch r.URL.Path {
		case "/connection":
			src, err = net.Dial("tcp", source)
		case "/copy":
			src, err = os.Open(file.Name())
		default:
			files.ServeHTTP(w, r)
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		defer src.Close()
		w.Header().Set("Content-Length", fmt.Sprint(size))
		if _, err := io.Copy(w, src); err != nil {
			t.Error(err)
		}
	})})
	c := dialTCP(t, rig.addr)
	r := bufio.NewReader(c)
	for _, path := range []string{"/file", "/copy", "/connection"} {
		if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.ContentLength != size {
			t.Fatalf("%s: length %d", path, res.ContentLength)
		}
		if err := checkPattern(res.Body, size); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
