package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// shadow is a pool of one backend, for copies.
func shadow(t *testing.T, h http.Handler) *Pool {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return poolOf(t, PoolConfig{Backends: []BackendConfig{{ID: "shadow", URL: srv.URL}}}, 0)
}

// TestMirror: what is copied, and what is not.
func TestMirror(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, c := range []struct {
		name, request string
		body          string
		copied        bool
	}{
		{"GET", "GET /a?b HTTP/1.1\nHost: h.test\nX-Mine: 1\n\n", "", true},
		{"POST", "POST /a?b HTTP/1.1\nHost: h.test\nX-Mine: 1\nContent-Length: 4\n\nbody", "body", true},
		{"chunks", "PUT /a?b HTTP/1.1\nHost: h.test\nX-Mine: 1\nTransfer-Encoding: chunked\n\n2\nbo\n2\ndy\n0\nX-T: 1\n\n", "body", true},
		{"as much as may be", "POST /a?b HTTP/1.1\nHost: h.test\nX-Mine: 1\nContent-Length: 50\n\n" + long[:50], long[:50], true},
		{"too long", "POST /a?b HTTP/1.1\nHost: h.test\nContent-Length: 51\n\n" + long[:51], "", false},
		{"too long, it turns out", "POST /a?b HTTP/1.1\nHost: h.test\nTransfer-Encoding: chunked\n\n64\n" + long + "\n0\n\n", "", false},
		{"upgrade", "GET /a?b HTTP/1.1\nHost: h.test\nConnection: Upgrade\nUpgrade: websocket\n\n", "", false},
	} {
		copies, backend := new(seen), new(seen)
		done := make(chan Event, 1)
		r := newRig(t, PoolConfig{}, ProxyConfig{Mirror: &Mirror{
			Pool: shadow(t, copies), MaxBody: 50, OnDone: func(e Event) { done <- e },
		}}, nil, backend)
		client := dialRaw(t, r.addr)
		client.send(c.request)
		if res, body := client.response("POST"); res.StatusCode != 200 || body != "ok" {
			t.Errorf("%s: the client gets %d %q", c.name, res.StatusCode, body)
		}
		if e := r.event(); e.Attempts != 1 || e.Backend != "b0" {
			t.Errorf("%s: event %+v", c.name, e)
		}
		if !c.copied {
			// Were there one, it would have begun before the response came.
			if copies.request() != nil || r.proxyMirrorBusy() {
				t.Errorf("%s was copied", c.name)
			}
			continue
		}
		e := <-done
		req := copies.request()
		if e.Err != nil || e.Status != 200 || e.Backend != "shadow" || e.ResponseBytes != 2 || e.RequestBytes != int64(len(c.body)) || e.Attempts != 1 {
			t.Errorf("%s: the copy's event %+v", c.name, e)
		}
		if req.Method != backend.request().Method || req.Host != "h.test" || req.URL.RequestURI() != "/a?b" || req.Header.Get("X-Mine") != "1" ||
			req.Header.Get("X-Forwarded-For") != "127.0.0.1" || copies.body != c.body {
			t.Errorf("%s: the copy is %+v, body %q", c.name, req, copies.body)
		}
	}
}

// proxyMirrorBusy says whether a copy is under way.
func (r *rig) proxyMirrorBusy() bool {
	return r.server.handler.(*Proxy).mirror.inFlight.Load() > 0
}

// TestMirrorIsNeverFelt: a shadow that stalls, or does not exist, costs the client
// nothing, and copies beyond the bound are dropped.
func TestMirrorIsNeverFelt(t *testing.T) {
	var mu sync.Mutex
	var events []Event
	record := func(e Event) { mu.Lock(); events = append(events, e); mu.Unlock() }
	await := func(n int) []Event {
		for range 2000 {
			mu.Lock()
			got := len(events)
			mu.Unlock()
			if got >= n {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		mu.Lock()
		defer mu.Unlock()
		defer func() { events = nil }()
		return events
	}
	stalls := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	pool := shadow(t, stalls)
	r := newRig(t, PoolConfig{}, ProxyConfig{Mirror: &Mirror{Pool: pool, MaxInFlight: 3, Timeout: time.Hour, OnDone: record}}, nil, new(seen))
	client := dialRaw(t, r.addr)
	for range 10 {
		client.send("POST / HTTP/1.1\nHost: h\nContent-Length: 4\n\nbody")
		if res, body := client.response("POST"); res.StatusCode != 200 || body != "ok" {
			t.Fatalf("%d %q", res.StatusCode, body)
		}
	}
	for _, e := range await(7) {
		if !errors.Is(e.Err, ErrBusy) {
			t.Errorf("beyond the bound: %+v", e)
		}
	}
	pool.Close() // ends those under way
	if got := await(3); len(got) != 3 || got[0].Err == nil {
		t.Errorf("after Close: %+v", got)
	}

	dead := poolOf(t, PoolConfig{Backends: []BackendConfig{{ID: "dead", URL: "http://" + deadAddr(t)}}}, 0)
	r = newRig(t, PoolConfig{}, ProxyConfig{Mirror: &Mirror{Pool: dead, OnDone: record}}, nil, new(seen))
	client = dialRaw(t, r.addr)
	client.send("GET / HTTP/1.1\nHost: h\n\n")
	if res, _ := client.response("GET"); res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
	if got := await(1); len(got) != 1 || got[0].Err == nil || got[0].Backend != "dead" {
		t.Errorf("%+v", got)
	}
}

func TestMirrorBounds(t *testing.T) {
	p := poolOf(t, PoolConfig{}, 1)
	for want, m := range map[string]Mirror{
		"Pool is nil": {}, "Share is 1.5": {Pool: p, Share: 1.5}, "Share is -1": {Pool: p, Share: -1},
		"MaxBody is -1": {Pool: p, MaxBody: -1}, "MaxBody is 67108865": {Pool: p, MaxBody: maxRetryBody + 1},
		"MaxInFlight is -1": {Pool: p, MaxInFlight: -1}, "Timeout is -1ns": {Pool: p, Timeout: -1},
	} {
		if err := m.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	m := Mirror{Pool: p, Share: 1, MaxBody: maxRetryBody}
	if err := m.validate(); err != nil {
		t.Error(err)
	}
	if c := newMirror(&Mirror{Pool: p}).conf; c.Share != 1 || c.MaxBody != 64<<10 || c.MaxInFlight != 100 || c.Timeout != 10*time.Second {
		t.Errorf("by default %+v", c)
	}
}

// TestMirrorMakesRoomAgain: copies that were dropped or have ended do not count,
// a copy's time is its own, and what it lacks of the request is left out.
func TestMirrorMakesRoomAgain(t *testing.T) {
	got, release := make(chan *http.Request, 1), make(chan bool)
	var held atomic.Bool
	copies := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if held.CompareAndSwap(false, true) {
			<-release
			return
		}
		got <- r
	})
	done := make(chan Event, 100)
	next := func() Event {
		select {
		case e := <-done:
			return e
		case <-time.After(20 * time.Second):
			t.Fatal("no copy has ended")
			return Event{}
		}
	}
	pool := shadow(t, copies)
	r := newRig(t, PoolConfig{}, ProxyConfig{Mirror: &Mirror{Pool: pool, MaxInFlight: 1, OnDone: func(e Event) { done <- e }}}, nil, new(seen))
	client := dialRaw(t, r.addr)
	ask := func(request string) {
		t.Helper()
		client.send(request)
		res, _ := client.response("POST")
		for res.StatusCode == 100 {
			res, _ = client.response("POST")
		}
		if res.StatusCode != 200 {
			t.Fatalf("status %d", res.StatusCode)
		}
		r.event()
	}
	ask("GET / HTTP/1.1\nHost: h\n\n")
	for range 5 {
		ask("GET / HTTP/1.1\nHost: h\n\n")
		if e := next(); !errors.Is(e.Err, ErrBusy) {
			t.Errorf("beyond the bound: %+v", e)
		}
	}
	release <- true
	if e := next(); e.Err != nil || e.Status != 200 {
		t.Errorf("the first copy: %+v", e)
	}
	for i := 0; r.proxyMirrorBusy() && i < 4000; i++ {
		time.Sleep(5 * time.Millisecond)
	}
	client.send("POST / HTTP/1.1\nHost: h\nExpect: 100-continue\nTransfer-Encoding: chunked\nTrailer: X-T\n\n")
	time.Sleep(20 * time.Millisecond)
	end := time.Now()
	ask("0\nX-T: 1\n\n")
	e := next()
	if e.Err != nil || e.Start.Before(end) || e.Duration > time.Since(end) {
		t.Errorf("a copy that began after %v: %+v", end, e)
	}
	if req := <-got; req.Header.Get("Expect") != "" || len(req.Trailer) > 0 || len(e.Request.Trailer) > 0 || req.ContentLength != 0 {
		t.Errorf("the copy of an empty body is %+v", req)
	}
}

// TestMirrorTellsThePool: a shadow that cannot be reached is known to its pool.
func TestMirrorTellsThePool(t *testing.T) {
	done := make(chan Event, 1)
	pool := poolOf(t, PoolConfig{
		Backends: []BackendConfig{{URL: "http://" + deadAddr(t)}},
		Health:   &HealthCheck{Interval: time.Hour, Func: func(context.Context, *Backend) error { return nil }},
	}, 0)
	waitUntil(t, func() bool { return pool.Status()[0].State == Healthy })
	r := newRig(t, PoolConfig{}, ProxyConfig{Mirror: &Mirror{Pool: pool, OnDone: func(e Event) { done <- e }}}, nil, new(seen))
	client := dialRaw(t, r.addr)
	client.send("GET / HTTP/1.1\nHost: h\n\n")
	client.response("GET")
	<-done
	if s := pool.Status()[0]; s.State != Unhealthy || s.Failures != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestMirrorShare(t *testing.T) {
	const requests = 1000
	done := make(chan Event, requests)
	r := newRig(t, PoolConfig{}, ProxyConfig{Mirror: &Mirror{
		Pool: shadow(t, new(seen)), Share: 0.2, MaxInFlight: requests, OnDone: func(e Event) { done <- e },
	}}, nil, new(seen))
	client := dialRaw(t, r.addr)
	for range requests {
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		client.response("GET")
	}
	for i := 0; r.proxyMirrorBusy() && i < 2000; i++ {
		time.Sleep(time.Millisecond)
	}
	// Ten standard deviations around 200.
	if n := len(done); n < 74 || n > 326 {
		t.Errorf("%d of %d requests were copied, want about a fifth", n, requests)
	}
}

// TestMirrorRecords what becomes of a copy that a shadow keeps for too long, or
// breaks off: its record tells of it, and of its time.
func TestMirrorRecords(t *testing.T) {
	hangs := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	late := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(2 * time.Second)
		io.WriteString(w, "done")
	})
	truncates := func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart") }
	for _, c := range []struct {
		name   string
		shadow any
		err    error
		status int
		bytes  int64
		took   time.Duration
	}{
		{"in time", late, nil, 200, 4, 2 * time.Second},
		{"too long", hangs, context.DeadlineExceeded, 0, 0, 5 * time.Second},
		{"broken off", truncates, io.ErrUnexpectedEOF, 200, 4, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			done := make(chan Event, 1)
			shadow := newDirect(t, PoolConfig{}, ProxyConfig{}, c.shadow)
			d := newDirect(t, PoolConfig{}, ProxyConfig{RequestID: "X-Request-Id", Mirror: &Mirror{
				Pool: shadow.pool, Timeout: 5 * time.Second, OnDone: func(e Event) { done <- e },
			}}, new(seen))
			start := time.Now()
			if w := d.ask("GET", "/"); w.Code != 200 || time.Since(start) != 0 {
				t.Errorf("%s: the client gets %d after %v", c.name, w.Code, time.Since(start))
			}
			e := <-done
			if !errors.Is(e.Err, c.err) || e.Status != c.status || e.ResponseBytes != c.bytes || e.Duration != c.took || !e.Start.Equal(start) {
				t.Errorf("%s: %+v, want %+v", c.name, e, c)
			}
			if id := e.Request.Header.Get("X-Request-Id"); id == "" || e.RequestID != id {
				t.Errorf("%s: the record's id is %q, the copy's %q", c.name, e.RequestID, id)
			}
			if s := shadow.pool.Status()[0]; s.InFlight != 0 {
				t.Errorf("%s: status %+v", c.name, s)
			}
		})
	}
}

// TestMirrorSharesNothing with requests that came later, and use the room of the one
// that it is a copy of.
func TestMirrorSharesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests = 20
		got, done := make(chan string, requests), make(chan Event, requests)
		shadow := newDirect(t, PoolConfig{}, ProxyConfig{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			got <- r.URL.RequestURI() + r.Header.Get("X-N")
		}))
		dial := shadow.pool.conf.Dial
		shadow.pool.conf.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			time.Sleep(time.Second) // until all requests have been answered
			return dial(ctx, network, addr)
		}
		pool := poolOf(t, PoolConfig{Dial: shadow.pool.conf.Dial, Backends: []BackendConfig{{URL: shadow.pool.Status()[0].URL}}}, 0)
		d := newDirect(t, PoolConfig{}, ProxyConfig{Mirror: &Mirror{Pool: pool, OnDone: func(e Event) { done <- e }}}, new(seen))
		for i := range requests {
			r := httptest.NewRequest("GET", fmt.Sprintf("/%d?%d", i, i), nil)
			r.Header.Set("X-N", fmt.Sprint(i))
			d.do(r)
		}
		left := make(map[string]bool)
		for i := range requests {
			left[fmt.Sprintf("/%d?%d%d", i, i, i)] = true
		}
		recorded := maps.Clone(left)
		for range requests {
			e := <-done
			s := e.Request.URL.RequestURI() + e.Request.Header.Get("X-N")
			if !recorded[s] {
				t.Errorf("there was no request for %s, or the copy was recorded twice", s)
			}
			delete(recorded, s)
			if s = <-got; !left[s] {
				t.Errorf("there was no request for %s, or the copy was sent twice", s)
			}
			delete(left, s)
		}
	})
}

// TestMirrorOfAKnownLength is complete with its last byte: nobody asks the body for
// what comes after it.
func TestMirrorOfAKnownLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		copies, done := new(seen), make(chan Event, 1)
		shadow := newDirect(t, PoolConfig{}, ProxyConfig{}, copies)
		d := newDirect(t, PoolConfig{}, ProxyConfig{Mirror: &Mirror{Pool: shadow.pool, OnDone: func(e Event) { done <- e }}}, new(seen))
		r := httptest.NewRequest("POST", "/", nil)
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader("body")), 4 // whose end comes by itself
		d.do(r)
		synctest.Wait()
		select {
		case e := <-done:
			if e.Err != nil || e.RequestBytes != 4 || copies.body != "body" {
				t.Errorf("the copy has %q: %+v", copies.body, e)
			}
		default:
			t.Error("no copy was sent")
		}
	})
}
