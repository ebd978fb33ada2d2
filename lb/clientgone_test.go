package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

// TestClientGone: wherever the client goes away, the event says 499, nothing is
// tried again, and the backend is not to blame.
func TestClientGone(t *testing.T) {
	reached := make(chan struct{}, 1)
	backend := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "begin")
			w.(http.Flusher).Flush()
		}
		reached <- struct{}{}
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	for _, c := range []struct{ name, request string }{
		{"before the head", "GET / HTTP/1.1\nHost: h\n\n"},
		{"during the body", "GET /body HTTP/1.1\nHost: h\n\n"},
		{"while it sends", "POST / HTTP/1.1\nHost: h\nContent-Length: 10\n\nabc"},
		{"while it sends chunks", "PUT / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n3\nabc\n"},
	} {
		r := newRig(t, PoolConfig{Health: &HealthCheck{Interval: time.Hour, Timeout: time.Hour}}, ProxyConfig{}, nil, backend, backend)
		<-reached // the first checks
		<-reached
		client := dialRaw(t, r.addr)
		client.send(c.request)
		<-reached
		if c.name == "during the body" {
			client.head() // so that the proxy is past it
		}
		client.Conn.(*net.TCPConn).SetLinger(0)
		client.Close()
		if e := r.event(); e.Status != StatusClientClosed || e.Attempts != 1 {
			t.Errorf("%s: event %+v", c.name, e)
		}
		for _, s := range r.pool.Status() {
			if s.Failures != 0 || s.InFlight != 0 || s.State == Unhealthy {
				t.Errorf("%s: status %+v", c.name, s)
			}
		}
		r.pool.Close()
		r.server.CloseClientConnections()
	}
}

func TestBadRequestBody(t *testing.T) {
	limited := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, 4)
			next.ServeHTTP(w, r)
		})
	}
	for _, c := range []struct {
		body   string
		wrap   func(http.Handler) http.Handler
		status int
	}{
		{"Transfer-Encoding: chunked\n\nzz\nGET /smuggled HTTP/1.1\nHost: h\n\n", nil, 400},
		{"Transfer-Encoding: chunked\n\n5\nhello\n0\nX : y\n\nGET /smuggled HTTP/1.1\nHost: h\n\n", nil, 400},
		{"Content-Length: 5\n\nhello", limited, 413},
	} {
		backend := new(seen)
		r := newRig(t, PoolConfig{}, ProxyConfig{}, c.wrap, backend)
		client := dialRaw(t, r.addr)
		client.send("POST / HTTP/1.1\nHost: h\n" + c.body)
		res, err := http.ReadResponse(client.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != c.status || !res.Close {
			t.Errorf("%q: status %d, close %v, want %d and the end of the connection", c.body, res.StatusCode, res.Close, c.status)
		}
		io.Copy(io.Discard, res.Body)
		if rest, _ := io.ReadAll(client.r); len(rest) > 0 {
			t.Errorf("%q: then %q", c.body, rest)
		}
		if e := r.event(); e.Status != c.status || e.Attempts != 1 {
			t.Errorf("%q: event %+v", c.body, e)
		}
		if s := r.pool.Status()[0]; s.Failures != 0 || s.Requests != 1 {
			t.Errorf("%q: status %+v", c.body, s)
		}
	}
}

// bubble is a proxy in a synctest bubble, on the in-memory network.
type bubble struct {
	network
	front  *memnet.Listener
	client *http.Client
	pool   *Pool
	events chan Event
}

func newBubble(t *testing.T, conf ProxyConfig, wrap func(http.Handler) http.Handler, backend http.Handler) *bubble {
	b := &bubble{network: make(network), front: memnet.Listen("192.0.2.9:80"), events: make(chan Event, 100)}
	b.serve(t, addrA, backend)
	b.pool = poolOf(t, PoolConfig{Backends: []BackendConfig{{ID: "a", URL: "http://" + addrA}}, Dial: b.dial}, 0)
	conf.Pool, conf.OnDone, conf.Logger = b.pool, func(e Event) { b.events <- e }, slog.New(slog.DiscardHandler)
	proxy, err := NewProxy(conf)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Handler(proxy)
	if wrap != nil {
		h = wrap(h)
	}
	srv := rigFront(frontConf{handler: h}, new(logBuffer))
	go srv.Serve(b.front)
	tr := &http.Transport{DialContext: b.front.DialContext}
	b.client = &http.Client{Transport: tr}
	t.Cleanup(func() { tr.CloseIdleConnections(); srv.Close(); b.pool.Close() })
	return b
}

func TestHeadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, ProxyConfig{Timeout: 10 * time.Second}, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Minute)
		}))
		start := time.Now()
		res, err := b.client.Get("http://h/")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != 504 || time.Since(start) != 10*time.Second {
			t.Errorf("status %d after %v, want 504 after 10s", res.StatusCode, time.Since(start))
		}
		if e := <-b.events; e.Status != 504 || e.Duration != 10*time.Second || b.pool.Status()[0].Failures != 1 {
			t.Errorf("event %+v, status %+v", e, b.pool.Status()[0])
		}
		time.Sleep(time.Minute)
	})
}

// slowReader gives a byte each half minute.
type slowReader int

func (s *slowReader) Read(p []byte) (int, error) {
	if *s--; *s < 0 {
		return 0, io.EOF
	}
	time.Sleep(30 * time.Second)
	return copy(p, "x"), nil
}

// A client that sends slowly, and a response that goes on for long, are no
// reason for a 504.
func TestHeadTimeoutIsForTheBackendOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, ProxyConfig{Timeout: 10 * time.Second}, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			time.Sleep(9 * time.Second)
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			time.Sleep(time.Hour)
			fmt.Fprint(w, n)
		}))
		res, err := b.client.Post("http://h/", "text/plain", new(slowReader(5)))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 200 || string(body) != "5" || err != nil {
			t.Errorf("%d %q, %v", res.StatusCode, body, err)
		}
	})
}

// A limit that a middleware sets is neither the client's going nor the
// backend's fault.
func TestDeadlineOfAMiddleware(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, ProxyConfig{}, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithTimeout(r.Context(), time.Second)
				defer cancel()
				next.ServeHTTP(w, r.WithContext(ctx))
			})
		}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		res, err := b.client.Get("http://h/")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if e := <-b.events; res.StatusCode != 504 || !errors.Is(e.Err, context.DeadlineExceeded) || b.pool.Status()[0].Failures != 0 {
			t.Errorf("status %d, event %+v", res.StatusCode, e)
		}
	})
}

func TestDialTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{DialTimeout: 3 * time.Second, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}, 1)
		start := time.Now()
		req, _ := http.NewRequest("GET", "http://h/", strings.NewReader(""))
		if _, err := p.backends[0].transport.RoundTrip(req); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v, want a timeout after 3s", err, time.Since(start))
		}
	})
}
