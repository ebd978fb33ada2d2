package lb

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// readsThenResets is a backend that reads a request and so many bytes of its
// body, and resets the connection.
func readsThenResets(t *testing.T, n int) string {
	return rawBackend(t, func(c *conn) {
		if _, ok := c.reqHead(); ok {
			io.CopyN(io.Discard, c.r, int64(n))
			c.Conn.(*net.TCPConn).SetLinger(0)
		}
	})
}

// TestRetryBody says which bodies are sent again after a backend has read of
// them and broken off.
func TestRetryBody(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for _, c := range []struct {
		name, method string
		keep         int64
		body         string
		chunked      bool
		attempts     int
	}{
		{"kept", "PUT", 1 << 20, "hello", false, 2},
		{"kept, long", "PUT", 1 << 20, long, false, 2},
		{"kept, chunked", "DELETE", 1 << 20, long, true, 2},
		{"just kept", "PUT", 100_000, long, false, 2},
		{"too long", "PUT", 99_999, long, false, 1},
		{"too long, chunked", "PUT", 50, long, true, 1},
		{"not idempotent", "POST", 1 << 20, "hello", false, 1},
		{"nothing is kept", "PUT", 0, "hello", false, 1},
	} {
		backend := new(seen)
		r := newRig(t, PoolConfig{}, ProxyConfig{RetryBody: c.keep}, nil, readsThenResets(t, 5), backend)
		var body io.Reader = strings.NewReader(c.body)
		if c.chunked {
			body = io.MultiReader(body)
		}
		req, _ := http.NewRequest(c.method, r.server.URL, body)
		res, err := http.DefaultTransport.RoundTrip(req)
		e := r.event()
		if err != nil {
			// The proxy closes on a client that still sends.
			if c.attempts != 1 || e.Status != 502 {
				t.Errorf("%s: %v, event %+v", c.name, err, e)
			}
		} else {
			res.Body.Close()
			if want := map[int]int{1: 502, 2: 200}[c.attempts]; res.StatusCode != want {
				t.Errorf("%s: status %d, want %d", c.name, res.StatusCode, want)
			}
		}
		if e.Attempts != c.attempts {
			t.Errorf("%s: %d attempts, want %d: %+v", c.name, e.Attempts, c.attempts, e)
		}
		if c.attempts == 2 && (backend.body != c.body || e.RequestBytes != int64(len(c.body))) {
			t.Errorf("%s: the second backend got %d bytes of %d, event %+v", c.name, len(backend.body), len(c.body), e)
		}
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	}
}

// What the first attempt was reading when it ended is the second's, and so is
// what is still to come.
func TestRetryBodyWhileItComes(t *testing.T) {
	failed := make(chan struct{})
	first := rawBackend(t, func(c *conn) {
		c.reqHead()
		io.ReadFull(c.r, make([]byte, 3))
		c.Conn.(*net.TCPConn).SetLinger(0)
		close(failed)
	})
	backend := new(seen)
	r := newRig(t, PoolConfig{}, ProxyConfig{RetryBody: 1 << 20}, nil, first, backend)
	client := dialRaw(t, r.addr)
	client.send("PUT / HTTP/1.1\nHost: h\nContent-Length: 9\n\nabc")
	<-failed
	for r.pool.Status()[1].InFlight == 0 { // the second attempt has begun
		time.Sleep(time.Millisecond)
	}
	client.send("def")
	client.send("ghi")
	if res, _ := client.response("PUT"); res.StatusCode != 200 || backend.body != "abcdefghi" {
		t.Errorf("status %d, the backend got %q", res.StatusCode, backend.body)
	}
	if e := r.event(); e.Attempts != 2 || e.RequestBytes != 9 {
		t.Errorf("event %+v", e)
	}
}

// A client that waits for a 100 gets one, however many backends send one.
func TestRetryBodyContinuesOnce(t *testing.T) {
	asks := func(then func(c *conn)) string {
		return rawBackend(t, func(c *conn) {
			c.reqHead()
			c.send("HTTP/1.1 100 Continue\n\n")
			io.ReadFull(c.r, make([]byte, 4))
			then(c)
		})
	}
	r := newRig(t, PoolConfig{}, ProxyConfig{RetryBody: 100, RetryStatus: []int{503}}, nil,
		asks(func(c *conn) { c.send("HTTP/1.1 503 Service Unavailable\n\n") }),
		asks(func(c *conn) { c.send("HTTP/1.1 204 No Content\n\n") }))
	client := dialRaw(t, r.addr)
	client.send("PUT / HTTP/1.1\nHost: h\nExpect: 100-continue\nContent-Length: 4\n\n")
	if head := client.head(); head != "HTTP/1.1 100 Continue\n" {
		t.Fatalf("first %q", head)
	}
	client.send("body")
	if head := client.head(); !strings.HasPrefix(head, "HTTP/1.1 204") {
		t.Errorf("then %q", head)
	}
	if e := r.event(); e.Attempts != 2 {
		t.Errorf("event %+v", e)
	}
}

// TestRetryStatus says which responses are passed over.
func TestRetryStatus(t *testing.T) {
	const put = "Content-Length: 4\n\nbody"
	for _, c := range []struct {
		name, method, rest string
		keep               int64
		answers            []int // of the backends, in turn
		status, attempts   int
	}{
		{"GET", "GET", "\n", 0, []int{503, 200}, 200, 2},
		{"another status", "GET", "\n", 0, []int{500, 200}, 500, 1},
		{"all are busy: the last one's", "GET", "\n", 0, []int{503, 502, 503}, 503, 3},
		{"no backend is left", "GET", "\n", 0, []int{503, 502}, 502, 2},
		{"only one", "GET", "\n", 0, []int{503}, 503, 1},
		{"POST", "POST", put, 100, []int{503, 200}, 503, 1},
		{"PUT", "PUT", put, 100, []int{503, 200}, 200, 2},
		{"PUT that is not kept", "PUT", put, 0, []int{503, 200}, 503, 1},
	} {
		var backends []any
		var served atomic.Int64
		for i, status := range c.answers {
			backends = append(backends, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				served.Add(1)
				io.Copy(io.Discard, r.Body)
				w.WriteHeader(status)
				fmt.Fprintf(w, "from %d", i)
			}))
		}
		r := newRig(t, PoolConfig{}, ProxyConfig{RetryStatus: []int{503, 502}, RetryBody: c.keep, Backoff: -1}, nil, backends...)
		client := dialRaw(t, r.addr)
		client.send(c.method + " / HTTP/1.1\nHost: h\n" + c.rest)
		res, body := client.response(c.method)
		e := r.event()
		if res.StatusCode != c.status || e.Status != c.status || e.Attempts != c.attempts || served.Load() != int64(c.attempts) || e.Err != nil {
			t.Errorf("%s: status %d, event %+v, want status %d after %d attempts", c.name, res.StatusCode, e, c.status, c.attempts)
		}
		if want := fmt.Sprint("from ", c.attempts-1); body != want {
			t.Errorf("%s: body %q, want %q", c.name, body, want)
		}
		for _, s := range r.pool.Status() {
			if s.InFlight != 0 || s.Failures != 0 {
				t.Errorf("%s: status %+v", c.name, s)
			}
		}
	}
}

// A response that is passed over costs no connection if it is short.
func TestRetryStatusKeepsTheConnection(t *testing.T) {
	var opened atomic.Int64
	busy := rawBackend(t, func(c *conn) {
		opened.Add(1)
		for {
			if _, ok := c.reqHead(); !ok {
				return
			}
			c.send("HTTP/1.1 503 Service Unavailable\nContent-Length: 4\n\nbusy")
		}
	})
	r := newRig(t, PoolConfig{Strategy: First{}}, ProxyConfig{RetryStatus: []int{503}}, nil, busy, new(seen))
	client := dialRaw(t, r.addr)
	for range 5 {
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		if res, body := client.response("GET"); res.StatusCode != 200 || body != "ok" {
			t.Errorf("%d %q", res.StatusCode, body)
		}
	}
	if opened.Load() != 1 {
		t.Errorf("%d connections for 5 requests", opened.Load())
	}
}

// The budget bounds these retries, too.
func TestRetryStatusBudget(t *testing.T) {
	var served atomic.Int64
	busy := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		w.WriteHeader(503)
	})
	r := newRig(t, PoolConfig{}, ProxyConfig{RetryStatus: []int{503}, Backoff: -1}, nil, busy, busy, busy)
	client := dialRaw(t, r.addr)
	const requests = 500
	for range requests {
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		if res, _ := client.response("GET"); res.StatusCode != 503 {
			t.Fatalf("status %d", res.StatusCode)
		}
	}
	if got := served.Load(); got < requests*109/100 || got > requests*11/10+10 {
		t.Errorf("%d attempts for %d requests, want a tenth more and the 10 that were saved up", got, requests)
	}
}

func TestMaxRequestBody(t *testing.T) {
	for _, c := range []struct {
		name, rest       string
		status, attempts int
	}{
		{"known", "Content-Length: 5\n\nhello", 413, 0},
		{"found out", "Transfer-Encoding: chunked\n\n5\nhello\n0\n\n", 413, 1},
		{"just right", "Content-Length: 4\n\nbody", 200, 1},
		{"just right, chunked", "Transfer-Encoding: chunked\n\n2\nbo\n2\ndy\n0\n\n", 200, 1},
	} {
		backend := new(seen)
		r := newRig(t, PoolConfig{}, ProxyConfig{MaxRequestBody: 4}, nil, backend)
		client := dialRaw(t, r.addr)
		client.send("POST / HTTP/1.1\nHost: h\n" + c.rest)
		res, _ := client.response("POST")
		if e := r.event(); res.StatusCode != c.status || e.Status != c.status || e.Attempts != c.attempts {
			t.Errorf("%s: status %d, event %+v, want %d after %d attempts", c.name, res.StatusCode, e, c.status, c.attempts)
		}
		if s := r.pool.Status()[0]; s.Failures != 0 || s.InFlight != 0 {
			t.Errorf("%s: status %+v", c.name, s)
		}
		if c.status == 413 && !res.Close {
			t.Errorf("%s: the connection stays open after half a request", c.name)
		}
		if c.status == 200 && backend.body != "body" {
			t.Errorf("%s: the backend got %q", c.name, backend.body)
		}
	}
}

func TestMaxResponseBody(t *testing.T) {
	for _, c := range []struct {
		name, method, rest string
		status             int
		body               string
		aborted            bool
	}{
		{"known", "GET", "Content-Length: 5\n\nhello", 502, "502 Bad Gateway\n", false},
		{"found out", "GET", "Transfer-Encoding: chunked\n\n5\nhello\n0\n\n", 200, "hell", true},
		{"found out in another part", "GET", "Transfer-Encoding: chunked\n\n4\nhell\n1\no\n0\n\n", 200, "hell", true},
		{"just right", "GET", "Content-Length: 4\n\nbody", 200, "body", false},
		{"just right, chunked", "GET", "Transfer-Encoding: chunked\n\n4\nbody\n0\n\n", 200, "body", false},
		{"of HEAD", "HEAD", "Content-Length: 5\n\n", 200, "", false},
	} {
		r := newRig(t, PoolConfig{}, ProxyConfig{MaxResponseBody: 4}, nil, rawBackend(t, func(c2 *conn) {
			c2.reqHead()
			c2.send("HTTP/1.1 200 OK\n" + c.rest)
		}))
		client := dialRaw(t, r.addr)
		client.send(c.method + " / HTTP/1.1\nHost: h\n\n")
		res, err := http.ReadResponse(client.r, &http.Request{Method: c.method})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		body, err := io.ReadAll(res.Body)
		if res.StatusCode != c.status || !strings.HasPrefix(c.body, string(body)) || !c.aborted && string(body) != c.body || (err != nil) != c.aborted {
			t.Errorf("%s: %d %q, %v", c.name, res.StatusCode, body, err)
		}
		if e := r.event(); (e.Err != nil) != (c.aborted || c.status == 502) {
			t.Errorf("%s: event %+v", c.name, e)
		}
		if s := r.pool.Status()[0]; s.Failures != 0 || s.InFlight != 0 {
			t.Errorf("%s: status %+v", c.name, s)
		}
	}
}

// The trailer of a request that is sent again goes with it.
func TestRetryBodyTrailer(t *testing.T) {
	got := make(chan http.Header, 1)
	backend := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		got <- r.Trailer
	})
	r := newRig(t, PoolConfig{}, ProxyConfig{RetryBody: 100}, nil, readsThenResets(t, 5), backend)
	client := dialRaw(t, r.addr)
	client.send("PUT / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\n4\nbody\n0\nX-Sum: 1\nX-Forwarded-For: evil\n\n")
	if res, _ := client.response("PUT"); res.StatusCode != 200 {
		t.Fatalf("status %d", res.StatusCode)
	}
	if h := <-got; len(h) != 1 || h.Get("X-Sum") != "1" {
		t.Errorf("trailer %v", h)
	}
	if e := r.event(); e.Attempts != 2 {
		t.Errorf("event %+v", e)
	}
}
