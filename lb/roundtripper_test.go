package lb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func clientPool(t *testing.T, conf PoolConfig, addrs ...string) (*Pool, *http.Client) {
	t.Helper()
	for i, addr := range addrs {
		conf.Backends = append(conf.Backends, BackendConfig{ID: fmt.Sprint("b", i), URL: "http://" + addr})
	}
	conf.Strategy = RoundRobin{}
	p := poolOf(t, conf, 0)
	return p, &http.Client{Transport: p.RoundTripper()}
}

func TestRoundTripper(t *testing.T) {
	ok := new(seen)
	srv := httptest.NewServer(ok)
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	p, client := clientPool(t, PoolConfig{}, addr)
	req, _ := http.NewRequest("POST", "http://orders.test/v1/42?q=1", strings.NewReader("body"))
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if got := ok.request(); got.Host != "orders.test" || got.RequestURI != "/v1/42?q=1" || ok.body != "body" {
		t.Errorf("the backend got %s of %s with %q", got.RequestURI, got.Host, ok.body)
	}
	if req.URL.Host != "orders.test" || res.Request != req {
		t.Error("the client's request was changed or forgotten")
	}
	if s := p.Status()[0]; s.InFlight != 1 {
		t.Errorf("%d in flight while the body is read", s.InFlight)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if s := p.Status()[0]; err != nil || string(body) != "ok" || s.InFlight != 0 || s.Failures != 0 {
		t.Errorf("body %q, %v, status %+v", body, err, s)
	}
	res, err = client.Get("http://orders.test/")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close() // unread
	if s := p.Status()[0]; s.InFlight != 0 || s.Failures != 0 {
		t.Errorf("a body that was closed unread: %+v", s)
	}
	p.Close()
	if _, err := client.Get("http://orders.test/"); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestRoundTripperRetries says which requests go to the other backend.
func TestRoundTripperRetries(t *testing.T) {
	for _, c := range []struct {
		name, method string
		body         io.Reader
		first        string // "dead", or what the first backend sends before it resets
		requests     [2]uint64
		fails        bool
	}{
		{"GET, refused", "GET", nil, "dead", [2]uint64{1, 1}, false},
		{"POST in memory, refused", "POST", strings.NewReader("body"), "dead", [2]uint64{1, 1}, false},
		{"POST of a stream, refused", "POST", io.MultiReader(strings.NewReader("body")), "dead", [2]uint64{1, 0}, true},
		{"GET, reset", "GET", nil, "", [2]uint64{1, 1}, false},
		{"PUT in memory, reset", "PUT", bytes.NewReader([]byte("body")), "", [2]uint64{1, 1}, false},
		{"POST in memory, reset", "POST", strings.NewReader("body"), "", [2]uint64{1, 0}, true},
		{"GET, reset in the head", "GET", nil, "HTTP/1.1 200 OK\nContent-", [2]uint64{1, 0}, true},
	} {
		first := deadAddr(t)
		if c.first != "dead" {
			first = breaks(t, new(atomic.Int64), c.first)
		}
		ok := new(seen)
		srv := httptest.NewServer(ok)
		p, client := clientPool(t, PoolConfig{}, first, srv.Listener.Addr().String())
		req, _ := http.NewRequest(c.method, "http://h/", c.body)
		res, err := client.Do(req)
		if err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		s := p.Status()
		if (err != nil) != c.fails || s[0].Requests != c.requests[0] || s[1].Requests != c.requests[1] || s[0].Failures != 1 || s[0].InFlight+s[1].InFlight != 0 {
			t.Errorf("%s: %v, %+v", c.name, err, s)
		}
		if c.body != nil && !c.fails && ok.body != "body" {
			t.Errorf("%s: the second backend got %q", c.name, ok.body)
		}
		srv.Close()
	}
}

func TestRoundTripperFailures(t *testing.T) {
	truncates := rawBackend(t, func(c *conn) {
		c.reqHead()
		c.send("HTTP/1.1 200 OK\nContent-Length: 100\n\npart")
	})
	p, client := clientPool(t, PoolConfig{}, truncates)
	res, err := client.Get("http://h/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("a truncated response looks whole")
	}
	res.Body.Close()
	if s := p.Status()[0]; s.Failures != 1 || s.InFlight != 0 {
		t.Errorf("status %+v", s)
	}
	hangs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer hangs.Close()
	p, client = clientPool(t, PoolConfig{}, hangs.Listener.Addr().String(), hangs.Listener.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for p.Status()[0].InFlight == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://h/", nil)
	if _, err := client.Do(req); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if s := p.Status(); s[0].Failures != 0 || s[0].InFlight != 0 || s[1].Requests != 0 {
		t.Errorf("after a client that gave up: %+v", s)
	}
	p, client = clientPool(t, PoolConfig{})
	if _, err := client.Get("http://h/"); !errors.Is(err, ErrNoBackend) {
		t.Errorf("without backends: %v", err)
	}
}

// TestRoundTripperGolden is what each course of a request comes to: how many
// backends are asked, whether it fails, and what the budget has afterwards, of which
// a request earns a part when it comes and another when it is answered.
func TestRoundTripperGolden(t *testing.T) {
	resets := func(net.Conn) {}
	status := func(code int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
	}
	for _, c := range []struct {
		name     string
		backends []any
		saved    int64 // beforehand
		asked    int
		fails    bool
		earns    int64 // in parts of a request's two
		costs    int64 // in retries
	}{
		{"answered", []any{status(200)}, 2000, 1, false, 2, 0},
		{"answered badly", []any{status(503), status(200)}, 2000, 1, false, 2, 0},
		{"refused, then answered", []any{nil, status(200)}, 2000, 2, false, 2, 0},
		{"refused twice, then answered", []any{nil, nil, status(200)}, 2000, 3, false, 2, 1},
		{"refused, and nobody is left", []any{nil}, 2000, 1, true, 1, 0},
		{"refused too often", []any{nil, nil, nil, status(200)}, 2000, 3, true, 1, 2},
		{"broken off, then answered", []any{resets, status(200)}, 2000, 2, false, 2, 1},
		{"broken off, and nobody is left", []any{resets}, 2000, 1, true, 1, 0},
		{"nothing is saved", []any{nil, status(200)}, 0, 1, true, 1, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDirect(t, PoolConfig{}, ProxyConfig{}, c.backends...)
			rt := d.pool.RoundTripper().(*roundTripper)
			rt.budget.saved.Store(c.saved)
			res, err := rt.RoundTrip(httptest.NewRequest("GET", "http://h/", nil))
			if (err != nil) != c.fails || errors.Is(err, ErrNoBackend) {
				t.Errorf("%s: %v", c.name, err)
			}
			if err == nil {
				res.Body.Close()
			}
			asked := 0
			for _, s := range d.pool.Status() {
				if asked += int(s.Requests); s.InFlight != 0 || s.Requests > 1 {
					t.Errorf("%s: status %+v", c.name, s)
				}
			}
			got, want := rt.budget.saved.Load(), c.saved+c.earns*rt.budget.earns-c.costs*retryCost
			if asked != c.asked || got != want {
				t.Errorf("%s: %d were asked, and the budget has %d, want %d and %d", c.name, asked, got, c.asked, want)
			}
		})
	}
}

// TestRoundTripperClosesBodies of requests, whatever becomes of them, as every
// http.RoundTripper must.
func TestRoundTripperClosesBodies(t *testing.T) {
	fails := errors.New("no copy")
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		empty  bool // there are no backends
		err    error
	}{
		{"a stream", func(*http.Request) {}, false, nil},
		{"in memory", func(r *http.Request) {
			r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("body")), nil }
		}, false, nil},
		{"that cannot be copied", func(r *http.Request) { r.GetBody = func() (io.ReadCloser, error) { return nil, fails } }, false, fails},
		{"without a URL", func(r *http.Request) { r.URL = nil }, false, nil},
		{"without a backend", func(*http.Request) {}, true, ErrNoBackend},
	} {
		synctest.Test(t, func(t *testing.T) {
			backend := new(seen)
			backends := []any{backend, new(seen)}
			if c.empty {
				backends = nil
			}
			d := newDirect(t, PoolConfig{}, ProxyConfig{}, backends...)
			body := &closedBody{Reader: strings.NewReader("body")}
			r, _ := http.NewRequest("PUT", "http://h/", nil)
			r.Body, r.ContentLength = body, 4
			c.change(r)
			res, err := d.pool.RoundTripper().RoundTrip(r)
			switch {
			case r.URL == nil && err != nil, c.err != nil && errors.Is(err, c.err):
			case err != nil || c.err != nil || r.URL == nil:
				t.Errorf("%s: %v, want %v", c.name, err, c.err)
			default:
				res.Body.Close()
				if backend.body != "body" {
					t.Errorf("%s: the backend got %q", c.name, backend.body)
				}
			}
			synctest.Wait()
			if !body.closed {
				t.Errorf("%s: the body stays open", c.name)
			}
			for _, s := range d.pool.Status() {
				if s.InFlight != 0 || s.Failures != 0 || err != nil && s.Requests > 1 {
					t.Errorf("%s: status %+v", c.name, s)
				}
			}
		})
	}
}

// TestRoundTripperTellsThePool what became of a response, and whom a client's own
// Host field asks for.
func TestRoundTripperTellsThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var host string
		d := newDirect(t, PoolConfig{Outlier: &OutlierDetection{}}, ProxyConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host = r.Host
			w.WriteHeader(503)
			io.WriteString(w, "part")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}))
		rt := d.pool.RoundTripper()
		ctx, cancel := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(ctx, "GET", "http://h/", nil)
		r.Host = "own.test"
		res, err := rt.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		cancel() // while it is read
		if _, err := io.ReadAll(res.Body); err == nil {
			t.Error("half a response looks whole")
		}
		res.Body.Close()
		if s := d.pool.Status()[0]; s.Failures != 0 || s.FailuresInARow != 0 || s.InFlight != 0 || host != "own.test" {
			t.Errorf("after a client that gave up, for %s: %+v", host, s)
		}
		d = newDirect(t, PoolConfig{Outlier: &OutlierDetection{}}, ProxyConfig{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }))
		if res, err = d.pool.RoundTripper().RoundTrip(httptest.NewRequest("GET", "http://h/", nil)); err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		if s := d.pool.Status()[0]; s.Failures != 0 || s.FailuresInARow != 1 || s.InFlight != 0 {
			t.Errorf("after 503: %+v", s)
		}
	})
}

// TestRoundTripperUpgrade: the body of a 101 is the connection, in both directions.
func TestRoundTripperUpgrade(t *testing.T) {
	p, client := clientPool(t, PoolConfig{}, echoes(t))
	r, _ := http.NewRequest("GET", "http://h/ws", nil)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"WebSocket"}}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	conn, ok := res.Body.(interface {
		io.ReadWriter
		CloseWrite() error
	})
	if res.StatusCode != 101 || !ok {
		t.Fatalf("status %d, and the body is a %T", res.StatusCode, res.Body)
	}
	if _, err := io.WriteString(conn, "mine"); err != nil {
		t.Fatal(err)
	}
	if s := p.Status()[0]; s.InFlight != 1 {
		t.Errorf("status %+v while the connection is open", s)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello mine goodbye" {
		t.Errorf("got %q, %v", got, err)
	}
	if s := p.Status()[0]; s.InFlight != 0 || s.Failures != 0 {
		t.Errorf("status %+v", s)
	}
}

// TestRoundTripperHTTP2: what could not be connected to has had nothing, whatever
// the protocol, so that a POST goes elsewhere.
func TestRoundTripperHTTP2(t *testing.T) {
	srv := newH2CServer(t, 100, new(seen))
	p := poolOf(t, PoolConfig{Strategy: First{}, Backends: []BackendConfig{{ID: "dead", URL: "h2c://" + deadAddr(t)}, {ID: "h2c", URL: srv.url()}}}, 0)
	client := http.Client{Transport: p.RoundTripper()}
	res, err := client.Post("http://h/", "text/plain", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if s := p.Status(); res.StatusCode != 200 || res.ProtoMajor != 2 || string(body) != "ok" || err != nil || s[0].Failures != 1 || s[1].Requests != 1 {
		t.Errorf("%s %d %q, %v, %+v", res.Proto, res.StatusCode, body, err, s)
	}
}
