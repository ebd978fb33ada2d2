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
	"slices"
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
	server *rigServer
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
	r.server = startRigServer(t, h)
	r.addr = r.server.Listener.Addr().String()
	return r
}

// rigFront is what proxies are tested behind. TestProxyBehindServer changes it;
// tests are not run in parallel.
var rigFront = newNetHTTP

// rigServer serves a proxy by rigFront, as an httptest.Server would.
type rigServer struct {
	URL      string
	Listener net.Listener
	handler  http.Handler
	front    front
	client   *http.Client

	mu    sync.Mutex // guards conns
	conns map[net.Conn]http.ConnState
}

func startRigServer(t *testing.T, h http.Handler) *rigServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr := new(http.Transport)
	s := &rigServer{
		URL: "http://" + ln.Addr().String(), Listener: ln, handler: h, client: &http.Client{Transport: tr}, conns: make(map[net.Conn]http.ConnState),
	}
	s.front = rigFront(frontConf{handler: h, connState: s.noteState}, new(logBuffer))
	ended := make(chan error, 1)
	go func() { ended <- s.front.Serve(ln) }()
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		http.DefaultClient.CloseIdleConnections()
		s.closeConnections(http.StateNew, http.StateIdle)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.front.Shutdown(ctx)
		s.front.Close()
		if err := <-ended; err != http.ErrServerClosed {
			t.Errorf("Serve returned %v, want %v", err, http.ErrServerClosed)
		}
	})
	return s
}

func (s *rigServer) noteState(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[c] = state; state == http.StateClosed || state == http.StateHijacked {
		delete(s.conns, c)
	}
}

func (s *rigServer) closeConnections(states ...http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, state := range s.conns {
		if slices.Contains(states, state) {
			c.Close()
		}
	}
}

// CloseClientConnections ends what is connected.
func (s *rigServer) CloseClientConnections() {
	s.closeConnections(http.StateNew, http.StateActive, http.StateIdle)
}

// Client is a client that connects anew for each test.
func (s *rigServer) Client() *http.Client { return s.client }

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
