package lb

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// rig is a proxy on a port, and what it recorded.
type rig struct {
	t      *testing.T
	pool   *Pool
	addr   string
	server *httptest.Server
	mu     sync.Mutex
	events []Event
	got    chan struct{} // has an element if there may be an event
}

// newRig puts a proxy before backends, each an address or an http.Handler. wrap
// may put something before the proxy; it may be nil.
func newRig(t *testing.T, pc PoolConfig, conf ProxyConfig, wrap func(http.Handler) http.Handler, backends ...any) *rig {
	t.Helper()
	for i, b := range backends {
		addr, ok := b.(string)
		if !ok {
			srv := httptest.NewUnstartedServer(b.(http.Handler))
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.Start()
			t.Cleanup(srv.Close)
			addr = srv.Listener.Addr().String()
		}
		pc.Backends = append(pc.Backends, BackendConfig{ID: fmt.Sprint("b", i), URL: "http://" + addr})
	}
	if pc.Strategy == nil {
		pc.Strategy = RoundRobin{} // so that the order is known
	}
	r := &rig{t: t, pool: poolOf(t, pc, 0), got: make(chan struct{}, 1)}
	conf.Pool = r.pool
	conf.OnDone = func(e Event) {
		r.mu.Lock()
		r.events = append(r.events, e)
		r.mu.Unlock()
		select {
		case r.got <- struct{}{}: // nobody may ask, however many there are
		default:
		}
	}
	conf.Logger = slog.New(slog.DiscardHandler)
	proxy, err := NewProxy(conf)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Handler(proxy)
	if wrap != nil {
		h = wrap(h)
	}
	r.server = httptest.NewUnstartedServer(h)
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.server.Start()
	t.Cleanup(r.server.Close)
	r.addr = r.server.Listener.Addr().String()
	return r
}

// event waits for the next record.
func (r *rig) event() Event {
	r.t.Helper()
	late := time.After(10 * time.Second)
	for {
		r.mu.Lock()
		if len(r.events) > 0 {
			defer r.mu.Unlock()
			e := r.events[0]
			r.events = r.events[1:]
			return e
		}
		r.mu.Unlock()
		select {
		case <-r.got:
		case <-late:
			r.t.Fatal("no event")
		}
	}
}

// conn is a client's connection, spoken by hand.
type conn struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dialRaw(t *testing.T, addr string) *conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &conn{t, c, bufio.NewReader(c)}
}

// send writes s, in which each line ends with \n.
func (c *conn) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, strings.ReplaceAll(s, "\n", "\r\n")); err != nil {
		c.t.Fatal(err)
	}
}

// head reads a status line and the fields after it, as they are.
func (c *conn) head() string {
	c.t.Helper()
	var s strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("after %q: %v", s.String(), err)
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			return s.String()
		}
		s.WriteString(line + "\n")
	}
}

// response reads one final response.
func (c *conn) response(method string) (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("body %q: %v", body, err)
	}
	return res, string(body)
}

// rawBackend answers each connection with f.
func rawBackend(t *testing.T, f func(c *conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(20 * time.Second))
				f(&conn{t, nc, bufio.NewReader(nc)})
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// reqHead reads a request's head without failing the test: a connection may
// close without one.
func (c *conn) reqHead() (string, bool) {
	var s strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return "", false
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return s.String(), true
		}
		s.WriteString(line + "\n")
	}
}

// seen is a backend that keeps the last request and answers 200.
type seen struct {
	mu   sync.Mutex
	last *http.Request
	body string
}

func (s *seen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.body = r.Clone(context.Background()), string(b)
	io.WriteString(w, "ok")
}

func (s *seen) request() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// deadAddr is an address at which nobody listens.
func deadAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
