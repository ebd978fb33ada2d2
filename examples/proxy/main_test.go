package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/leaktest"
	"github.com/palisade-go/palisade/internal/testcert"
)

func TestMain(m *testing.M) {
	if os.Getenv("PROXY_TEST_MAIN") != "" {
		main()
	}
	leaktest.Main(m)
}

// TestBadFlags: exit status 2, one line, and it names what is wrong.
func TestBadFlags(t *testing.T) {
	const good = "-backend=http://127.0.0.1:9001"
	pipe := filepath.Join(t.TempDir(), "pipe") // which nobody reads
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "no -backend"},
		{[]string{good, "-nonsense"}, "nonsense"},
		{[]string{good, "rest"}, `"rest"`},
		{[]string{"-backend", "ftp://h"}, "ftp"},
		{[]string{good, good}, "unique"},
		{[]string{good + ";weight=x"}, "weight=N"},
		{[]string{good + ";zone=x"}, "weight=N"},
		{[]string{good, "-front", "apache"}, "palisade or nethttp"},
		{[]string{good, "-strategy", "best"}, "want one of bounded-load, first"},
		{[]string{good, "-retries", "17"}, "17"},
		{[]string{good, "-retries", "-1"}, "-retries is -1"},
		{[]string{good, "-timeout", "0"}, "-timeout is 0s"},
		{[]string{good, "-affinity", "magic"}, "magic"},
		{[]string{good, "-health", "healthz"}, "healthz"},
		{[]string{good, "-tls-cert", "x"}, "go together"},
		{[]string{good, "-tls-cert", "/nowhere", "-tls-key", "/nowhere"}, "/nowhere"},
		{[]string{good, "-backend-ca", "/nowhere"}, "/nowhere"},
		{[]string{good, "-trusted", "10.0.0.0"}, "10.0.0.0"},
		{[]string{good, "-listen", ""}, "-listen"},
		{[]string{good, "-listen", "127.0.0.1"}, "want host:port"},
		{[]string{good, "-listen", "127.0.0.1:"}, "want host:port"},
		{[]string{good, "-listen", "127.0.0.1:65536"}, "want host:port"},
		{[]string{good, "-access-log", "/nowhere/log"}, "-access-log"},
		{[]string{good, "-access-log", pipe}, "-access-log"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), c.args, &stdout, &stderr)
		if status != 2 || strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), c.want) || stdout.Len() > 0 {
			t.Errorf("%q: status %d, stderr %q, want %q", c.args, status, stderr.String(), c.want)
		}
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if status := run(t.Context(), []string{"-h"}, &stdout, &stderr); status != 0 || stderr.Len() > 0 {
		t.Errorf("status %d, stderr %q", status, stderr.String())
	}
	for name := range strategies {
		if !strings.Contains(stdout.String(), name) {
			t.Errorf("the help lacks the strategy %s", name)
		}
	}
	for _, flag := range []string{"listen", "front", "backend", "strategy", "health", "retries", "affinity", "timeout", "h2c", "tls-cert", "tls-key", "backend-ca", "trusted", "access-log"} {
		if !strings.Contains(stdout.String(), "-"+flag) {
			t.Errorf("the help lacks -%s", flag)
		}
	}
}

// freeAddr is an address at which nobody listens.
func freeAddr(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// TestProxy runs the program with everything turned on: two backends, of which
// one is dead, checks, a cookie, HTTPS, and a log; and then ends it as a signal
// does, while a request is in flight.
func TestProxy(t *testing.T) {
	for name := range fronts {
		t.Run(name, func(t *testing.T) { testProxy(t, name) })
	}
}

func testProxy(t *testing.T, front string) {
	arrived := make(chan bool, 1)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- true
			time.Sleep(100 * time.Millisecond)
		}
		io.WriteString(w, "for "+r.Header.Get("X-Forwarded-For"))
	}))
	defer backend.Close()
	dir, addr := t.TempDir(), freeAddr(t)
	ca := testcert.NewCA(t)
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	chain, secret := testcert.EncodePEM(t, ca.Issue(testcert.Leaf{Names: []string{"127.0.0.1"}}))
	for path, data := range map[string][]byte{cert: chain, key: secret} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(dir, "log")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		ended <- run(ctx, []string{
			"-listen", addr, "-backend", backend.URL + ";weight=2", "-backend", "http://" + freeAddr(t), "-health", "/", "-strategy", "weighted",
			"-affinity", "cookie", "-tls-cert", cert, "-tls-key", key, "-access-log", log, "-trusted", "127.0.0.0/8", "-front", front,
		}, io.Discard, &stderr)
	}()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	get := func(path string) (string, *http.Response) {
		req, _ := http.NewRequest("GET", "https://"+addr+path, nil)
		req.Header.Set("X-Forwarded-For", "192.0.2.7")
		res, err := client.Do(req)
		if err != nil {
			return err.Error(), nil
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return string(body), res
	}
	var body string
	var res *http.Response
	for range 3000 {
		if body, res = get("/"); res != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if res == nil || res.StatusCode != 200 || body != "for 192.0.2.7, 127.0.0.1" || len(res.Cookies()) != 1 || !res.Cookies()[0].Secure || res.ProtoMajor != 2 {
		t.Fatalf("%q, %+v\n%s", body, res, stderr.String())
	}
	req, _ := http.NewRequest("OPTIONS", "https://"+addr, nil)
	req.URL.Opaque = "*"
	if res, err := client.Do(req); err != nil || res.StatusCode != 200 || len(res.Cookies()) != 1 {
		t.Errorf("OPTIONS * got %+v, %v, want a backend's answer", res, err)
	} else {
		res.Body.Close()
	}
	if c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.Pool()}); err != nil {
		t.Error(err)
	} else {
		io.WriteString(c, "nonsense\r\n\r\n")
		io.Copy(io.Discard, c)
		c.Close()
	}
	go func() { <-arrived; stop() }()
	if body, res := get("/slow"); res == nil || res.StatusCode != 200 {
		t.Errorf("the request that was in flight got %q", body)
	}
	if status := <-ended; status != 0 {
		t.Errorf("exit status %d\n%s", status, stderr.String())
	}
	lines, err := os.ReadFile(log)
	if err != nil || strings.Count(string(lines), `"GET /`) != 2 || !strings.Contains(string(lines), `"OPTIONS *`) || !strings.Contains(string(lines), `"GET /slow HTTP/2.0" 200 24 "-" "Go-http-client/2.0"`) {
		t.Errorf("log %q, %v", lines, err)
	}
	if got := strings.Contains(string(lines), `] "nonsense" 400 15 "-" "-"`); got != (front == "palisade") {
		t.Errorf("log %q; a request that was refused is in it: %v", lines, got)
	}
}

// TestSecondSignal: the first one drains, also if nobody reads the log any more, and
// the second one does not wait.
func TestSecondSignal(t *testing.T) {
	asked := make(chan struct{})
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	go func() {
		c, err := backend.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		close(asked)
		io.Copy(io.Discard, c) // and no answer
	}()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	addr := freeAddr(t)
	cmd := exec.Command(os.Args[0], "-listen", addr, "-backend", "http://"+backend.Addr().String())
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "PROXY_TEST_MAIN=1"), w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	defer cmd.Process.Kill()
	begun := time.Now()
	dialed := func() (net.Conn, error) {
		for ; ; time.Sleep(10 * time.Millisecond) {
			c, err := net.Dial("tcp", addr)
			if err == nil || len(exited) > 0 || time.Since(begun) > 20*time.Second {
				return c, err
			}
		}
	}
	c, err := dialed()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	<-asked
	cmd.Process.Signal(syscall.SIGTERM)
	for range 3000 { // until it does not listen any more
		c, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		c.Close()
		time.Sleep(10 * time.Millisecond)
	}
	if len(exited) > 0 {
		t.Fatalf("it does not drain: %v", <-exited)
	}
	for end := time.Now().Add(drain - 5*time.Second); len(exited) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it drains on after a second signal")
		}
		cmd.Process.Signal(syscall.SIGTERM) // again, as the first may come too soon
	}
	if err := <-exited; cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("it ends with %v, want the signal", err)
	}
}
