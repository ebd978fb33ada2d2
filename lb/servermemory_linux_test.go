//go:build !race

package lb

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

// The race detector keeps memory of its own, so this runs without it: see
// test.sh.

// idleServer makes this test binary the process whose memory is measured.
const idleServer = "PALISADE_IDLE_SERVER"

// TestServerIdleMemory: a connection that has had an answer and waits for its
// client takes 6 KB of resident memory at most. The server is in a process of its
// own, so that nothing of the clients counts, and has worked before, as it would
// have. The memory is what the kernel says when garbage has been collected, which
// comes to pass while a connection idles for long.
func TestServerIdleMemory(t *testing.T) {
	if os.Getenv(idleServer) != "" {
		serveIdle(t)
		return
	}
	const conns, most = 2000, 6 << 10
	cmd := exec.Command(os.Args[0], "-test.run=^TestServerIdleMemory$", "-test.count=1")
	cmd.Env = append(os.Environ(), idleServer+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	idle := func(n, requests int) (all []net.Conn) {
		for range n {
			c, err := net.Dial("tcp", strings.TrimSpace(addr))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
			for range requests {
				askIdle(t, c, "/")
			}
		}
		return all
	}
	closeAll := func(all []net.Conn) {
		for _, c := range all {
			c.Close()
		}
	}
	warm := idle(64, 200)
	defer closeAll(warm)
	before := askIdle(t, warm[0], "/memory")
	all := idle(conns, 1)
	defer closeAll(all)
	each := (askIdle(t, warm[0], "/freed") - before) / conns
	t.Logf("%d bytes for each idle connection", each)
	if each > most {
		t.Errorf("%d bytes of resident memory for each idle connection, want %d at most", each, most)
	}
	if each < 500 {
		t.Errorf("%d bytes for each idle connection, which is less than its descriptor takes: nothing was measured", each)
	}
	// They are idle, not closed.
	for _, c := range []net.Conn{all[0], all[conns-1]} {
		askIdle(t, c, "/")
	}
}

// askIdle makes one request and returns the number that is the answer.
func askIdle(t *testing.T, c net.Conn, path string) int {
	t.Helper()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(body))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// serveIdle serves until its input ends.
func serveIdle(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{ErrorLog: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := 0
		switch r.URL.Path {
		case "/freed":
			debug.FreeOSMemory()
			fallthrough
		case "/memory":
			var err error
			if n, err = residentMemory(); err != nil {
				t.Error(err)
			}
		}
		fmt.Fprint(w, n)
	})}
	ended := make(chan error)
	go func() { ended <- s.Serve(ln) }()
	fmt.Println(ln.Addr())
	io.Copy(io.Discard, os.Stdin)
	s.Close()
	<-ended
}

// residentMemory is what this process has of its own, in bytes.
func residentMemory() (int, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(status), "RssAnon:")
	var kb int
	_, err = fmt.Sscan(after, &kb)
	return kb << 10, err
}
