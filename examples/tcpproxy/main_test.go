package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/leaktest"
	"github.com/palisade-go/palisade/internal/testcert"
	"github.com/palisade-go/palisade/lb"
)

func TestMain(m *testing.M) {
	if os.Getenv("TCPPROXY_TEST_MAIN") != "" {
		main()
	}
	leaktest.Main(m)
}

// TestBadFlags: exit status 2, one line, and it names what is wrong.
func TestBadFlags(t *testing.T) {
	const good = "-backend=127.0.0.1:9001"
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "no -backend"},
		{[]string{good, "-nonsense"}, "nonsense"},
		{[]string{good, "rest"}, `"rest"`},
		{[]string{"-backend", "127.0.0.1"}, `"127.0.0.1"`},
		{[]string{"-backend", "http://127.0.0.1:9001"}, "http://"},
		{[]string{"-backend", "127.0.0.1:http"}, "host:port"},
		{[]string{"-backend", "127.0.0.1:0"}, "a port from 1"},
		{[]string{"-backend", ":9001"}, "a host"},
		{[]string{good, good}, "unique"},
		{[]string{good, "-listen", "x"}, "-listen"},
		{[]string{good, "-strategy", "best"}, "want one of bounded-load, first"},
		{[]string{good, "-idle", "-1s"}, "-idle"},
		{[]string{"-sni", "a.example"}, "name=host:port"},
		{[]string{"-sni", "=127.0.0.1:1"}, "name=host:port"},
		{[]string{"-sni", "a.example=127.0.0.1"}, "-sni a.example"},
		{[]string{"-sni", "a.*=127.0.0.1:1"}, "a.*"},
		{[]string{good, "-proxy-in", "v3"}, "v3"},
		{[]string{good, "-proxy-in", "any"}, "without -proxy-from"},
		{[]string{good, "-proxy-from", "10.0.0.0/8"}, "-proxy-from is for -proxy-in"},
		{[]string{good, "-proxy-in", "any", "-proxy-from", "here"}, `"here"`},
		{[]string{good, "-proxy-out", "any"}, "-proxy-out"},
		{[]string{good, "-udp", "-proxy-out", "v1"}, "-udp goes with none"},
		{[]string{"-sni", "a=127.0.0.1:1", "-udp"}, "-udp goes with none"},
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
	for _, flag := range []string{"listen", "backend", "sni", "strategy", "health", "idle", "proxy-in", "proxy-from", "proxy-out", "udp"} {
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

// backend says its name and closes when the client does.
func backend(t *testing.T, wrap func(net.Listener) net.Listener, serve func(net.Conn)) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if wrap != nil {
		ln = wrap(ln)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(20 * time.Second))
				serve(conn)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// start runs the program in a process of its own, and returns what ends it.
func start(t *testing.T, addr string, args ...string) (stop func() (status int, stderr string)) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"-listen", addr}, args...)...)
	cmd.Env = append(os.Environ(), "TCPPROXY_TEST_MAIN=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceValues(func() (int, string) {
		cmd.Process.Signal(syscall.SIGHUP)
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		return cmd.ProcessState.ExitCode(), stderr.String()
	})
	t.Cleanup(func() { cmd.Process.Kill(); stop() })
	return stop
}

// dial waits until the program listens.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatal(err)
		}
	}
}

// TestTCP: two backends, of which one is dead, a header in and out, SIGHUP, and a
// drain with a connection in flight.
func TestTCP(t *testing.T) {
	wrap := func(ln net.Listener) net.Listener {
		l, err := lb.ProxyProtocolListener(ln, lb.ProxyProtocolConfig{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	live := backend(t, wrap, func(c net.Conn) {
		io.WriteString(c, c.RemoteAddr().String())
		io.Copy(c, c)
	})
	addr := freeAddr(t)
	stop := start(t, addr, "-backend", freeAddr(t), "-backend", live, "-strategy", "first", "-proxy-in", "any", "-proxy-from", "127.0.0.1", "-proxy-out", "v2")
	conn := dial(t, addr)
	io.WriteString(conn, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhello")
	got := make([]byte, len("192.0.2.1:1hello"))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "192.0.2.1:1hello" {
		t.Fatalf("%q, %v", got, err)
	}
	type exit struct {
		status int
		stderr string
	}
	ended := make(chan exit, 1)
	go func() { status, stderr := stop(); ended <- exit{status, stderr} }()
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		other, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		other.Close()
		if time.Since(begin) > 20*time.Second {
			t.Fatal("it still listens")
		}
	}
	io.WriteString(conn, "still")
	if _, err := io.ReadFull(conn, got[:5]); err != nil || string(got[:5]) != "still" {
		t.Errorf("%q, %v", got[:5], err)
	}
	conn.Close()
	if e := <-ended; e.status != 0 || !strings.Contains(e.stderr, "draining") {
		t.Errorf("exit status %d\n%s", e.status, e.stderr)
	}
}

// TestSNI: names with several backends, wildcards, and what is left.
func TestSNI(t *testing.T) {
	ca := testcert.NewCA(t)
	cert := ca.Issue(testcert.Leaf{Names: []string{"a.example", "x.b.example"}})
	named := func(name string) string {
		return backend(t, nil, func(c net.Conn) {
			server := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
			if server.Handshake() == nil {
				io.WriteString(server, name)
				server.Close()
			}
		})
	}
	sni := []string{"-sni", "A.example=" + named("A"), "-sni", "a.example=" + named("A"), "-sni", "*.b.example=" + named("B")}
	plain := backend(t, nil, func(c net.Conn) { io.WriteString(c, "plain"); io.Copy(io.Discard, c) })
	strict, open := freeAddr(t), freeAddr(t)
	start(t, strict, sni...)
	start(t, open, append(sni, "-backend", plain)...)
	for name, want := range map[string]string{"a.example": "A", "x.b.example": "B", "b.example": "", "c.example": ""} {
		for _, addr := range []string{strict, open} {
			client := tls.Client(dial(t, addr), &tls.Config{ServerName: name, RootCAs: ca.Pool()})
			got, err := io.ReadAll(client)
			if string(got) != want || want == "" && (err == nil || addr == strict && !strings.Contains(err.Error(), "unrecognized name")) {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
	}
	conn := dial(t, open)
	io.WriteString(conn, "x")
	got := make([]byte, 5)
	if io.ReadFull(conn, got); string(got) != "plain" {
		t.Errorf("%q", got)
	}
	conn = dial(t, strict)
	io.WriteString(conn, "x")
	if got, _ := io.ReadAll(conn); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

// TestUDP: an answer to a datagram, with and without a TERM.
func TestUDP(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(buf[:n], from)
		}
	}()
	addr := freeAddr(t)
	stop := start(t, addr, "-udp", "-backend", server.LocalAddr().String(), "-idle", "100ms")
	client, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	buf := make([]byte, 100)
	for begin := time.Now(); ; {
		client.Write([]byte("hello"))
		client.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, err := client.Read(buf); string(buf[:n]) == "hello" {
			break
		} else if time.Since(begin) > 20*time.Second {
			t.Fatal(err)
		}
	}
	if status, stderr := stop(); status != 0 {
		t.Errorf("exit status %d\n%s", status, stderr)
	}
}

// TestAddrInUse: what fails later than the flags is exit status 1.
func TestAddrInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var stderr bytes.Buffer
	if status := run(context.Background(), []string{"-listen", ln.Addr().String(), "-backend", "127.0.0.1:1"}, io.Discard, &stderr); status != 1 || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("status %d, %q", status, stderr.String())
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
	cmd := exec.Command(os.Args[0], "-listen", addr, "-backend", backend.Addr().String())
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "TCPPROXY_TEST_MAIN=1"), w, w
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
