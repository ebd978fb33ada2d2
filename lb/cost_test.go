//go:build unix

package lb

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// What a request costs is measured in a process of its own, in which nothing but
// the proxy runs: this one, started again with these variables.
const (
	costKind    = "PALISADE_COST_KIND"
	costBackend = "PALISADE_COST_BACKEND"
)

// costAnswer is what the backend sends, as a small page is.
var costAnswer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 130\r\n\r\n" +
	strings.Repeat("x", 130)

// costProcess is the process that is measured: it serves, and answers each line
// of its input with what it has used so far. It returns the exit status.
func costProcess() int {
	h, end, err := costHandler(os.Getenv(costKind), os.Getenv(costBackend))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer end()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	defer srv.Close()
	go srv.Serve(ln)
	fmt.Println("addr", ln.Addr())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		fmt.Println("used", usage.Utime.Nano()+usage.Stime.Nano(), mem.TotalAlloc)
	}
	return 0
}

// costHandler is what a costProcess serves, and what ends it.
func costHandler(kind, backend string) (http.Handler, func(), error) {
	if kind != "lb" {
		h, end := tunedReverseProxy(backend)
		return h, end, nil
	}
	pool, err := NewPool(PoolConfig{Backends: []BackendConfig{{URL: "http://" + backend}}})
	if err != nil {
		return nil, nil, err
	}
	proxy, err := NewProxy(ProxyConfig{Pool: pool})
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	return proxy, func() { pool.Close() }, nil
}

// tunedReverseProxy is httputil.ReverseProxy as one would set it up for speed.
func tunedReverseProxy(backend string) (http.Handler, func()) {
	transport := &http.Transport{MaxIdleConns: 1000, MaxIdleConnsPerHost: 256, IdleConnTimeout: time.Minute, DisableCompression: true}
	target := &url.URL{Scheme: "http", Host: backend}
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(target)
			pr.Out.Host = pr.In.Host
			pr.SetXForwarded()
		},
		Transport:  transport,
		BufferPool: new(costBuffers),
	}, transport.CloseIdleConnections
}

type costBuffers struct{ pool sync.Pool }

func (b *costBuffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *costBuffers) Put(p []byte) { b.pool.Put(&p) }

// measured is a proxy in a process of its own.
type measured struct {
	tb      testing.TB
	in      io.WriteCloser
	out     *bufio.Scanner
	clients []net.Conn
}

func startMeasured(tb testing.TB, kind, backend string, clients int) *measured {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), costKind+"="+kind, costBackend+"="+backend, "GOMAXPROCS=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	m := &measured{tb: tb, in: in, out: bufio.NewScanner(out)}
	tb.Cleanup(func() {
		in.Close()
		for _, c := range m.clients {
			c.Close()
		}
		if err := cmd.Wait(); err != nil {
			tb.Error(err)
		}
	})
	var addr string
	if m.out.Scan(); !strings.HasPrefix(m.out.Text(), "addr ") {
		tb.Fatalf("the process says %q", m.out.Text())
	}
	fmt.Sscan(m.out.Text(), new(string), &addr)
	for range clients {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			tb.Fatal(err)
		}
		m.clients = append(m.clients, c)
	}
	return m
}

// used returns the CPU time and the bytes allocated so far.
func (m *measured) used() (cpu, bytes int64) {
	fmt.Fprintln(m.in)
	if !m.out.Scan() {
		m.tb.Fatal("the process has ended")
	}
	if _, err := fmt.Sscan(m.out.Text(), new(string), &cpu, &bytes); err != nil {
		m.tb.Fatalf("%q: %v", m.out.Text(), err)
	}
	return cpu, bytes
}

// run sends n requests and returns what one has cost.
func (m *measured) run(n int) (cpu time.Duration, bytes int64) {
	cpu0, bytes0 := m.used()
	var wg sync.WaitGroup
	each := n/len(m.clients) + 1
	for _, c := range m.clients {
		wg.Go(func() {
			for range each {
				io.WriteString(c, "GET /page?id=1 HTTP/1.1\r\nHost: example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
				if err := readCostAnswer(c); err != nil {
					m.tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	cpu1, bytes1 := m.used()
	total := int64(each * len(m.clients))
	return time.Duration((cpu1 - cpu0) / total), (bytes1 - bytes0) / total
}

// readCostAnswer reads a response whose body is all of x.
func readCostAnswer(c net.Conn) error {
	var buf [2048]byte
	n := 0
	for n < 130 || !strings.HasSuffix(string(buf[:n]), costAnswer[len(costAnswer)-132:]) {
		m, err := c.Read(buf[n:])
		if err != nil {
			return err
		}
		n += m
	}
	if !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200 OK\r\n") {
		return fmt.Errorf("got %q", buf[:n])
	}
	return nil
}

// costBackendAddr answers every read with costAnswer.
func costBackendAddr(tb testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				buf, answer := make([]byte, 4096), []byte(costAnswer)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			})
		}
	})
	tb.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// TestAllocations bounds what the Proxy adds to what the server allocates. The
// race detector makes pools forget, so the bound is loose enough for that.
func TestAllocations(t *testing.T) {
	pool := poolOf(t, PoolConfig{Backends: []BackendConfig{{URL: "http://" + costBackendAddr(t)}}}, 0)
	proxy, err := NewProxy(ProxyConfig{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.ReadRequest(newReader("GET /page?id=1 HTTP/1.1\r\nHost: example.com\r\nUser-Agent: test\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	req.RemoteAddr = "192.0.2.7:1234"
	w := &discardWriter{header: make(http.Header)}
	if n := testing.AllocsPerRun(200, func() {
		clear(w.header)
		proxy.ServeHTTP(w, req)
	}); n > 20 || w.status != 200 {
		t.Errorf("%v allocations for a request (status %d), want at most 20", n, w.status)
	} else {
		t.Logf("%v allocations", n)
	}
}

// BenchmarkProxy reports the CPU time and the bytes allocated for a request
// under net/http, of the Proxy and of a tuned httputil.ReverseProxy, in turns
// (medians of five).
func BenchmarkProxy(b *testing.B) {
	backend := costBackendAddr(b)
	ours, theirs := startMeasured(b, "lb", backend, 16), startMeasured(b, "httputil", backend, 16)
	ours.run(500)
	theirs.run(500)
	b.ResetTimer()
	const rounds = 5
	var cpu, rival [rounds]time.Duration
	var bytes int64
	for i := range rounds {
		cpu[i], bytes = ours.run(b.N / rounds)
		rival[i], _ = theirs.run(b.N / rounds)
	}
	slices.Sort(cpu[:])
	slices.Sort(rival[:])
	b.ReportMetric(float64(cpu[rounds/2].Nanoseconds()), "cpu-ns/request")
	b.ReportMetric(float64(rival[rounds/2].Nanoseconds()), "httputil-cpu-ns/request")
	b.ReportMetric(float64(cpu[rounds/2])/float64(rival[rounds/2]), "ratio")
	b.ReportMetric(float64(bytes), "alloc-B/request")
}
