package lb

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// breaks accepts, reads a request, and resets the connection. It counts requests.
func breaks(t *testing.T, n *atomic.Int64, before string) string {
	return rawBackend(t, func(c *conn) {
		head, ok := c.reqHead()
		if !ok {
			return
		}
		if strings.Contains(head, "Content-Length: 4\n") {
			io.CopyN(io.Discard, c.r, 4)
		}
		n.Add(1)
		c.send(before)
		c.Conn.(*net.TCPConn).SetLinger(0)
	})
}

// TestRetries says, for each way to fail, whether the request goes to the other
// backend.
func TestRetries(t *testing.T) {
	const post = "Content-Length: 4\n\nbody"
	for _, c := range []struct {
		name, method, rest string
		first              string // "dead", or what the first backend sends before it resets
		retries            int
		status, attempts   int
	}{
		{"GET, refused", "GET", "\n", "dead", 0, 200, 2},
		{"POST with a body, refused", "POST", post, "dead", 0, 200, 2},
		{"GET, reset", "GET", "\n", "", 0, 200, 2},
		{"DELETE, reset", "DELETE", "\n", "", 0, 200, 2},
		{"POST, reset", "POST", "Content-Length: 0\n\n", "", 0, 502, 1},
		{"PUT with a body, reset", "PUT", post, "", 0, 502, 1},
		{"PATCH, reset", "PATCH", "\n", "", 0, 502, 1},
		{"GET, reset in the head", "GET", "\n", "HTTP/1.1 200 OK\nContent-", 0, 502, 1},
		{"GET, no HTTP", "GET", "\n", "SSH-2.0-x\n\n", 0, 502, 1},
		{"GET, refused, retries off", "GET", "\n", "dead", -1, 502, 1},
	} {
		var broken atomic.Int64
		first := deadAddr(t)
		if c.first != "dead" {
			first = breaks(t, &broken, c.first)
		}
		ok := new(seen)
		r := newRig(t, PoolConfig{}, ProxyConfig{Retries: c.retries}, nil, first, ok)
		client := dialRaw(t, r.addr)
		client.send(c.method + " / HTTP/1.1\nHost: h\n" + c.rest)
		res, _ := client.response(c.method)
		e := r.event()
		if res.StatusCode != c.status || e.Status != c.status || e.Attempts != c.attempts {
			t.Errorf("%s: status %d, event %+v, want status %d after %d attempts", c.name, res.StatusCode, e, c.status, c.attempts)
		}
		if c.first != "dead" && broken.Load() != 1 {
			t.Errorf("%s: the first backend got %d requests", c.name, broken.Load())
		}
		if c.status == 200 && strings.HasSuffix(c.rest, "body") && ok.body != "body" {
			t.Errorf("%s: the second backend got the body %q", c.name, ok.body)
		}
		status := r.pool.Status()
		if status[0].Failures != 1 || status[0].InFlight+status[1].InFlight != 0 {
			t.Errorf("%s: status %+v", c.name, status)
		}
	}
}

func TestRetriesEnd(t *testing.T) {
	var backends []any
	for range 5 {
		backends = append(backends, deadAddr(t))
	}
	for _, c := range []struct{ backends, retries, attempts int }{{5, 0, 3}, {5, 3, 4}, {2, 9, 2}} {
		r := newRig(t, PoolConfig{}, ProxyConfig{Retries: c.retries}, nil, backends[:c.backends]...)
		client := dialRaw(t, r.addr)
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		res, body := client.response("GET")
		e := r.event()
		if res.StatusCode != 502 || e.Attempts != c.attempts {
			t.Errorf("%+v: status %d after %d attempts", c, res.StatusCode, e.Attempts)
		}
		if err, ok := errors.AsType[*Error](e.Err); !ok || err.Status != 502 || err.Backend != e.Backend {
			t.Errorf("%+v: error %#v of backend %s", c, e.Err, e.Backend)
		}
		if strings.Contains(body, "127.0.0.1") {
			t.Errorf("the client is told about the inner network: %q", body)
		}
	}
}

func TestRefusedBackendIsTriedOnce(t *testing.T) {
	r := newRig(t, PoolConfig{Health: &HealthCheck{Interval: time.Hour}}, ProxyConfig{}, nil, new(seen), new(seen))
	r.waitFor("healthy healthy")
	// From here on nobody listens at the first.
	dead := deadAddr(t)
	r.pool.backends[0].url.Host = dead
	client := dialRaw(t, r.addr)
	attempts := 0
	for range 10 {
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		if res, _ := client.response("GET"); res.StatusCode != 200 {
			t.Fatalf("status %d", res.StatusCode)
		}
		attempts += r.event().Attempts
	}
	if attempts != 11 {
		t.Errorf("%d attempts for 10 requests, want one more than those", attempts)
	}
	if got := states(r.pool); got != "unhealthy healthy" {
		t.Errorf("states %s", got)
	}
}

func (r *rig) waitFor(want string) {
	r.t.Helper()
	for range 1000 {
		if states(r.pool) == want {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.t.Fatalf("states %s, want %s", states(r.pool), want)
}

// mortal is a backend that can be killed as kill -9 does: the port is closed and
// all its connections are reset, in whatever they were.
type mortal struct {
	ln    net.Listener
	srv   *http.Server
	mu    sync.Mutex
	conns map[net.Conn]bool
}

func newMortal(t *testing.T, addr string, h http.Handler) *mortal {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	m := &mortal{ln: ln, conns: make(map[net.Conn]bool)}
	m.srv = &http.Server{Handler: h, ConnState: func(c net.Conn, s http.ConnState) {
		m.mu.Lock()
		defer m.mu.Unlock()
		switch s {
		case http.StateNew:
			m.conns[c] = true
		case http.StateClosed:
			delete(m.conns, c)
		}
	}}
	var wg sync.WaitGroup
	wg.Go(func() { m.srv.Serve(ln) })
	t.Cleanup(func() { m.srv.Close(); wg.Wait() })
	return m
}

func (m *mortal) kill() {
	m.ln.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

// TestKilledBackendFailsNoGET: of two backends under load, one dies. Every GET
// is answered, and the survivor takes all.
func TestKilledBackendFailsNoGET(t *testing.T) {
	work := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Millisecond)
		io.WriteString(w, "ok")
	})
	for _, health := range []*HealthCheck{nil, {Interval: 50 * time.Millisecond}} {
		a, b := newMortal(t, "127.0.0.1:0", work), newMortal(t, "127.0.0.1:0", work)
		r := newRig(t, PoolConfig{Health: health, Strategy: LeastRequest{}}, ProxyConfig{}, nil, a.ln.Addr().String(), b.ln.Addr().String())
		r.waitFor("healthy healthy")
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
		var done, failed atomic.Int64
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					res, err := client.Get(r.server.URL)
					if err == nil {
						var body []byte
						body, err = io.ReadAll(res.Body)
						res.Body.Close()
						if err == nil && (res.StatusCode != 200 || string(body) != "ok") {
							err = fmt.Errorf("%d %q", res.StatusCode, body)
						}
					}
					if err != nil {
						failed.Add(1)
						t.Error(err)
					}
					done.Add(1)
				}
			})
		}
		untilDone := func(n int64) {
			for done.Load() < n && failed.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		untilDone(200)
		a.kill()
		untilDone(done.Load() + 400)
		close(stop)
		wg.Wait()
		client.CloseIdleConnections()
		if health != nil && r.pool.Status()[0].State != Unhealthy {
			t.Errorf("the dead backend is %v", r.pool.Status()[0].State)
		}
	}
}

func TestTruncatedResponseIsAborted(t *testing.T) {
	for _, head := range []string{"Content-Length: 100\n\npart", "Transfer-Encoding: chunked\n\n4\npart\n"} {
		r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, rawBackend(t, func(c *conn) {
			c.reqHead()
			c.send("HTTP/1.1 200 OK\n" + head)
		}))
		client := dialRaw(t, r.addr)
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		res, err := http.ReadResponse(client.r, nil)
		if err != nil {
			// A short part of a known length may be held back until the end.
			t.Logf("%q: no head: %v", head, err)
		} else if body, err := io.ReadAll(res.Body); err == nil || !strings.HasPrefix("part", string(body)) {
			t.Errorf("%q: the client sees a whole response %q", head, body)
		}
		e := r.event()
		if err, ok := errors.AsType[*Error](e.Err); !ok || err.Status != 502 || e.Status != 200 || e.Attempts != 1 {
			t.Errorf("%q: event %+v", head, e)
		}
		if s := r.pool.Status()[0]; s.Failures != 1 || s.InFlight != 0 {
			t.Errorf("%q: status %+v", head, s)
		}
	}
}

func TestBadResponses(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 099 Low\nContent-Length: 0\n\n",
		"HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n\n",
		"HTTP/1.1 200 OK\nX: " + strings.Repeat("x", 5000) + "\n\n",
		"HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 2\n\nab",
		"HTTP/1.1 200 OK\nContent-Length: 0\nX: a\x01b\n\n",
	} {
		r := newRig(t, PoolConfig{HeaderBytes: 4096}, ProxyConfig{}, nil, rawBackend(t, func(c *conn) {
			c.reqHead()
			c.send(answer)
		}))
		client := dialRaw(t, r.addr)
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		if res, _ := client.response("GET"); res.StatusCode != 502 {
			t.Errorf("%.40q: status %d", answer, res.StatusCode)
		}
		r.event()
		if s := r.pool.Status()[0]; s.Failures != 1 || s.InFlight != 0 {
			t.Errorf("%.40q: status %+v", answer, s)
		}
	}
}
