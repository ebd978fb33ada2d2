package lb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
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
