package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
		if e := r.event(); res.StatusCode != c.status || e.Status != c.status || e.Attempts != c.attempts || e.RequestBytes > 4 {
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

// attentive takes the first backend that is left, and keeps what it is told.
type attentive struct{ watcher }

func (a *attentive) Build(backends []*Backend) Picker { a.backends = backends; return a }

func (a *attentive) Pick(info PickInfo) *Backend {
	if i := len(info.Tried); i < len(a.backends) {
		return a.backends[i]
	}
	return nil
}

// TestPassedOver: what the pool and the strategy hear of a response that is passed
// over, and that the client still sees the next one's interim responses.
func TestPassedOver(t *testing.T) {
	w := new(attentive)
	load := Load{InFlight: 7}
	busy := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(LoadHeader, load.String())
		w.WriteHeader(503)
	})
	hints := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "<x>")
		w.WriteHeader(http.StatusEarlyHints)
	})
	r := newRig(t, PoolConfig{Strategy: w, Outlier: new(OutlierDetection)}, ProxyConfig{RetryStatus: []int{503}}, nil, busy, hints)
	client := dialRaw(t, r.addr)
	client.send("GET / HTTP/1.1\nHost: h\n\n")
	for _, want := range []string{"HTTP/1.1 103 ", "HTTP/1.1 200 "} {
		if head := client.head(); !strings.HasPrefix(head, want) {
			t.Errorf("the client sees %q, want %s", head, want)
		}
	}
	if e := r.event(); e.Attempts != 2 {
		t.Fatalf("event %+v", e)
	}
	if s := r.pool.Status()[0]; s.FailuresInARow != 1 || s.Failures != 0 {
		t.Errorf("status %+v, want a failure in a row for the 503", s)
	}
	if o := w.done[0]; o.Status != 503 || o.Load == nil || *o.Load != load || o.Wait <= 0 {
		t.Errorf("the strategy hears %+v", o)
	}
}

// TestPassedOverButNobodyWaits: a client that goes away in the pause before a retry
// has it made for nobody, and nothing stays counted.
func TestPassedOverButNobodyWaits(t *testing.T) {
	busy := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			d := newDirect(t, PoolConfig{}, ProxyConfig{RetryStatus: []int{503}, Backoff: time.Second, RetryBudget: RetryBudget{Percent: -1}}, busy, busy, busy)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Nanosecond, cancel) // the pause is longer all but always
			d.do(httptest.NewRequestWithContext(ctx, "GET", "/", nil))
			if d.last.Attempts != 2 || d.last.Backend != "b1" {
				t.Errorf("event %+v", d.last)
			}
			for _, s := range d.pool.Status() {
				if s.InFlight != 0 || s.Failures != 0 {
					t.Errorf("status %+v", s)
				}
			}
		})
	}
}

// slowBody gives its parts with a pause before each.
type slowBody struct {
	parts []string
	pause time.Duration
}

func (b *slowBody) Read(p []byte) (int, error) {
	time.Sleep(b.pause)
	if len(b.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.parts[0])
	b.parts = b.parts[1:]
	return n, nil
}

func (*slowBody) Close() error { return nil }

// TestRetryWaitsForTheClient: an attempt that waits because the one before it still
// reads what the client sends late has all of its time afterwards, and no more.
func TestRetryWaitsForTheClient(t *testing.T) {
	hangs := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	for _, c := range []struct {
		name   string
		length int64 // -1: chunks, whose end takes another pause
		second http.Handler
		status int
		took   time.Duration
	}{
		{"in time", -1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			time.Sleep(time.Second)
			w.Write(b)
		}), 200, 31 * time.Second},
		{"too late", -1, hangs, 504, 32 * time.Second},
		{"too late, of a known length", 6, hangs, 504, 22 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			first := func(c net.Conn) { io.ReadFull(c, make([]byte, 1)) } // and breaks off
			d := newDirect(t, PoolConfig{}, ProxyConfig{Retries: 1, RetryBody: 100, TryTimeout: 2 * time.Second}, first, c.second)
			r := httptest.NewRequest("PUT", "/", nil)
			r.Body, r.ContentLength = &slowBody{[]string{"abc", "def"}, 10 * time.Second}, c.length
			start := time.Now()
			w := d.do(r)
			if took := time.Since(start); w.Code != c.status || took != c.took || d.last.Attempts != 2 || c.status == 200 && w.Body.String() != "abcdef" {
				t.Errorf("%s: status %d %q after %v: %+v", c.name, w.Code, w.Body, took, d.last)
			}
		})
	}
}

// TestTrailersOfTheTrusted may claim what their headers may, and no trailer has a field
// that ends at the next hop.
func TestTrailersOfTheTrusted(t *testing.T) {
	for _, trusted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var got http.Header
			conf := ProxyConfig{}
			if trusted {
				conf.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			}
			d := newDirect(t, PoolConfig{}, conf, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				got = r.Trailer
			}))
			r := httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader("body")))
			r.ContentLength = -1
			r.Trailer = http.Header{"X-Sum": {"1"}, "X-Forwarded-For": {"6.6.6.6"}, "Client-Cert": {"c"}, "Keep-Alive": {"5"}, "Proxy": {"x"}, "Upgrade": {"h2c"}}
			d.do(r)
			want := http.Header{"X-Sum": {"1"}}
			if trusted {
				want["X-Forwarded-For"] = []string{"6.6.6.6"}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("trusted %v: the backend gets %v, want %v", trusted, got, want)
			}
		})
	}
}

// TestClientStatus is what a client is told whose body could not be read.
func TestClientStatus(t *testing.T) {
	for _, c := range []struct {
		err   error
		major int
		want  int
	}{
		{&http.MaxBytesError{Limit: 4}, 1, 413}, {&http.MaxBytesError{Limit: 4}, 2, 413}, {fmt.Errorf("read: %w", os.ErrDeadlineExceeded), 1, 408},
		{io.ErrUnexpectedEOF, 1, StatusClientClosed}, {errors.New("malformed chunk"), 1, 400}, {errors.New("stream reset"), 2, StatusClientClosed}, {errBadTrailer, 1, 400},
	} {
		if got := clientStatus(&http.Request{ProtoMajor: c.major}, c.err); got != c.want {
			t.Errorf("HTTP/%d, %v: %d, want %d", c.major, c.err, got, c.want)
		}
	}
	for method, want := range map[string]bool{
		"": true, "GET": true, "HEAD": true, "OPTIONS": true, "TRACE": true, "PUT": true, "DELETE": true, "POST": false, "PATCH": false, "CONNECT": false, "get": false,
	} {
		if isIdempotent(method) != want {
			t.Errorf("%s is idempotent: %v", method, !want)
		}
	}
}

// TestBodyBounds are those of the configuration.
func TestBodyBounds(t *testing.T) {
	for _, c := range []ProxyConfig{{RetryBody: maxRetryBody}, {RetryStatus: []int{400, 599}}} {
		if err := c.validateBodies(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, c := range []ProxyConfig{{RetryBody: maxRetryBody + 1}, {RetryBody: -1}, {RetryStatus: []int{399}}, {RetryStatus: []int{500, 600}}, {MaxRequestBody: -1}, {MaxResponseBody: -1}} {
		if c.validateBodies() == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

// TestSealedBodyIsWhole: an attempt ends while a part comes that is too much to keep.
// Either nobody sends the request again, or all that came is kept.
func TestSealedBodyIsWhole(t *testing.T) {
	for range 2000 {
		body := &requestBody{kept: newKeptBody(3)}
		body.started.Store(true)
		a := &attempt{x: &exchange{body: body}, body: &attemptBody{requestBody: body}}
		var reading sync.WaitGroup
		reading.Go(func() { body.kept.keep(a.body, []byte("abcd")) })
		again := body.replayable() && a.sealBody()
		reading.Wait()
		if kept := string(body.kept.data); again != (kept == "abcd") {
			t.Fatalf("%q is kept; the request may be sent again: %v", kept, again)
		}
	}
}
