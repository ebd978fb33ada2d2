package lb

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const addrProxy = "192.0.2.80:80"

func TestBudget(t *testing.T) {
	var b budget
	for range 1000 {
		if !b.spend() {
			t.Fatal("a budget without bound says no")
		}
	}
	b.set(RetryBudget{Reserve: 20})
	spent := func() (n int) {
		for b.spend() {
			n++
		}
		return n
	}
	if n := spent(); n != 2 {
		t.Errorf("a new budget allows %d retries, want a tenth of 20", n)
	}
	for range 50 {
		b.earn() // when it begins
	}
	if n := spent(); n != 5 {
		t.Errorf("50 requests that are not answered earn %d retries, want a tenth", n)
	}
	for range 50 {
		b.earn()
		b.earn() // when it is answered
	}
	if n := spent(); n != 10 {
		t.Errorf("50 requests earn %d retries, want a fifth", n)
	}
	for range 1000 {
		b.earn()
	}
	b.giveBack()
	if n := spent(); n != 20 {
		t.Errorf("%d are saved up, want 20 at most", n)
	}
	b.giveBack()
	if n := spent(); n != 1 {
		t.Errorf("%d after one was given back", n)
	}
	// Many at once spend no more than there is.
	for range 1000 {
		b.earn()
	}
	var total atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { total.Add(int64(spent())) })
	}
	if wg.Wait(); total.Load() != 20 {
		t.Errorf("%d were spent at once, of 20", total.Load())
	}
}

func TestRetryMistakes(t *testing.T) {
	_, err := NewProxy(ProxyConfig{TryTimeout: -1, Backoff: 2 * time.Second, RetryBudget: RetryBudget{Percent: 1001, Reserve: -3}})
	for _, want := range []string{"TryTimeout is -1ns", "Backoff is 2s", "Percent is 1001", "Reserve is -3"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

// TestOutageIsNotAmplified: with all backends dead, the attempts are bounded by
// the budget and not by Retries.
func TestOutageIsNotAmplified(t *testing.T) {
	var broken atomic.Int64
	for name, backends := range map[string][]any{
		"refused": {deadAddr(t), deadAddr(t), deadAddr(t)},
		"reset":   {breaks(t, &broken, ""), breaks(t, &broken, ""), breaks(t, &broken, "")},
	} {
		r := newRig(t, PoolConfig{}, ProxyConfig{Backoff: -1}, nil, backends...)
		client := dialRaw(t, r.addr)
		const n = 500
		attempts := 0
		for range n {
			client.send("GET / HTTP/1.1\nHost: h\n\n")
			client.response("GET")
			attempts += r.event().Attempts
		}
		// A tenth of the reserve beside half of a fifth of the requests.
		if attempts > n+n/10+10 || attempts < n+n/10 {
			t.Errorf("%s: %d attempts for %d requests", name, attempts, n)
		}
	}
}

// TestLongOutageIsNotAmplified: an outage makes 1.2 attempts for each request at
// most, all that was saved up before included, and ends with the first backend
// that is back, even if each request tries a dead one first.
func TestLongOutageIsNotAmplified(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close") // so that each attempt dials
	}))
	defer backend.Close()
	var alive atomic.Int32 // how many of the backends
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "192.0.2.1:80" && alive.Load() < 2 || alive.Load() == 0 {
			return nil, syscall.ECONNREFUSED
		}
		return new(net.Dialer).DialContext(ctx, network, backend.Listener.Addr().String())
	}
	pool := poolOf(t, PoolConfig{Dial: dial, Strategy: First{}, Backends: []BackendConfig{
		{URL: "http://192.0.2.1"}, {URL: "http://192.0.2.2"}, {URL: "http://192.0.2.3"},
	}}, 0)
	attempts := 0
	proxy, err := NewProxy(ProxyConfig{Pool: pool, Backoff: -1, OnDone: func(e Event) { attempts += e.Attempts }})
	if err != nil {
		t.Fatal(err)
	}
	run := func(requests int) (answered int) {
		attempts = 0
		for range requests {
			w := httptest.NewRecorder()
			if proxy.ServeHTTP(w, httptest.NewRequest("GET", "/", nil)); w.Code == 200 {
				answered++
			}
		}
		return answered
	}
	alive.Store(2)
	if got := run(1000); got != 1000 || proxy.budget.saved.Load() != proxy.budget.most {
		t.Fatalf("%d of 1000 answered, and %d saved up of %d", got, proxy.budget.saved.Load(), proxy.budget.most)
	}
	alive.Store(0)
	const n = 20_000
	if got := run(n); got != 0 || attempts > n*12/10 {
		t.Errorf("%d attempts for %d requests of an outage (%d answered), want %d at most", attempts, n, got, n*12/10)
	}
	alive.Store(1)
	if got := run(500); got < 480 {
		t.Errorf("%d of 500 answered after the outage", got)
	}
}

func TestTryTimeout(t *testing.T) {
	hang := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // or the server does not see that the client leaves
		<-r.Context().Done()
	})
	early := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		<-r.Context().Done()
	})
	for _, c := range []struct {
		name, method, body string
		first              http.Handler
		second             http.Handler // nil is a good one
		status, attempts   int
		took               time.Duration
	}{
		{"GET", "GET", "", hang, nil, 200, 2, 2 * time.Second},
		{"a GET that has had a part of a response", "GET", "", early, nil, 504, 1, 2 * time.Second},
		{"POST", "POST", "", hang, nil, 504, 1, 2 * time.Second},
		{"PUT with a body", "PUT", "body", hang, nil, 504, 1, 2 * time.Second},
		{"the time for all is over in the second attempt", "GET", "", hang, hang, 504, 2, 3 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := make(network)
			n.serve(t, addrA, c.first)
			if c.second == nil {
				c.second = new(seen)
			}
			n.serve(t, addrB, c.second)
			pool := checkedPool(t, n, nil, nil)
			defer pool.Close()
			var e Event
			proxy, err := NewProxy(ProxyConfig{Pool: pool, Timeout: 3 * time.Second, TryTimeout: 2 * time.Second, OnDone: func(got Event) { e = got }})
			if err != nil {
				t.Fatal(err)
			}
			n.serve(t, addrProxy, proxy)
			tr := &http.Transport{DialContext: n.dial}
			defer tr.CloseIdleConnections()
			start := time.Now()
			req, _ := http.NewRequest(c.method, "http://"+addrProxy+"/", strings.NewReader(c.body))
			res, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			synctest.Wait()
			if took := time.Since(start); res.StatusCode != c.status || e.Attempts != c.attempts || took != c.took {
				t.Errorf("%s: status %d, %d attempts in %v, want %+v", c.name, res.StatusCode, e.Attempts, took, c)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		base     time.Duration
		attempts int
		most     time.Duration
	}{{20, 1, 0}, {20, 2, 20}, {20, 3, 40}, {20, 5, 160}, {-1, 5, 0}, {maxBackoff, 17, maxBackoff}} {
		longest, shortest := time.Duration(0), c.most
		for range 2000 {
			d := backoff(c.base, c.attempts)
			longest, shortest = max(longest, d), min(shortest, d)
		}
		if longest > c.most || longest < c.most*9/10 || shortest > c.most/10 {
			t.Errorf("%+v: from %v to %v", c, shortest, longest)
		}
	}
}

// A client that goes away during a pause is not waited for.
func TestBackoffEndsWithTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := make(network) // everyone refuses
		pool := poolOf(t, PoolConfig{Dial: n.dial}, 5)
		defer pool.Close()
		var e Event
		proxy, err := NewProxy(ProxyConfig{Pool: pool, Retries: 4, Backoff: time.Second, OnDone: func(got Event) { e = got }})
		if err != nil {
			t.Fatal(err)
		}
		n.serve(t, addrProxy, proxy)
		tr := &http.Transport{DialContext: n.dial}
		defer tr.CloseIdleConnections()
		req, _ := http.NewRequest("GET", "http://"+addrProxy+"/", nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := tr.RoundTrip(req.WithContext(ctx)); err == nil {
			t.Fatal("an answer")
		}
		synctest.Wait()
		if e.Status != StatusClientClosed || e.Attempts != 2 || errors.Is(e.Err, errHeadTimeout) || e.Duration > 2*time.Millisecond {
			t.Errorf("event %+v", e)
		}
	})
}

// TestBudgetGolden is what each course of a request does to the budget: it earns when
// it comes and when it is answered, a retry costs, and one that was no work to anyone,
// or was none, is given back.
func TestBudgetGolden(t *testing.T) {
	resets := func(net.Conn) {}
	status := func(code int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
	}
	for _, c := range []struct {
		name     string
		backends []any
		status   int
		earns    int64 // in parts of a request's two
		costs    int64 // in retries
	}{
		{"answered", []any{status(200)}, 200, 2, 0},
		{"answered badly", []any{status(500)}, 500, 2, 0},
		{"refused, then answered", []any{nil, status(200)}, 200, 2, 0},
		{"refused twice, then answered", []any{nil, nil, status(200)}, 200, 2, 1},
		{"refused, and nobody is left", []any{nil}, 502, 1, 0},
		{"refused by all", []any{nil, nil, nil}, 502, 1, 2},
		{"broken off, then answered", []any{resets, status(200)}, 200, 2, 1},
		{"broken off, and nobody is left", []any{resets}, 502, 1, 0},
		{"a status, then answered", []any{status(503), status(200)}, 200, 2, 1},
		{"a status, and nobody is left", []any{status(503)}, 503, 1, 0},
		{"a status of all", []any{status(503), status(503)}, 503, 1, 1},
		{"nobody is there", nil, 503, 1, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDirect(t, PoolConfig{}, ProxyConfig{RetryStatus: []int{503}}, c.backends...)
			budget := &d.proxy.budget
			before := budget.saved.Load()
			w := d.ask("GET", "/")
			if got, want := budget.saved.Load()-before, c.earns*budget.earns-c.costs*retryCost; w.Code != c.status || got != want {
				t.Errorf("%s: status %d, and the budget changes by %d, want %d and %d", c.name, w.Code, got, c.status, want)
			}
		})
	}
}

// TestRetryNeedsAWholeOne: what is less than a retry is saved up, and not overdrawn.
func TestRetryNeedsAWholeOne(t *testing.T) {
	var b budget
	b.set(RetryBudget{})
	b.saved.Store(retryCost - 1)
	if b.spend() || b.saved.Load() != retryCost-1 {
		t.Errorf("a part of a retry is spent, %d are left", b.saved.Load())
	}
	b.saved.Store(retryCost)
	if !b.spend() || b.saved.Load() != 0 {
		t.Errorf("a whole one is not, %d are left", b.saved.Load())
	}
	for _, r := range []RetryBudget{{Percent: 1000, Reserve: 1_000_000}, {Percent: -1}} {
		if err := r.validate(); err != nil {
			t.Error(err)
		}
	}
	for _, r := range []RetryBudget{{Percent: 1001}, {Reserve: 1_000_001}, {Reserve: -1}} {
		if r.validate() == nil {
			t.Errorf("%+v was taken", r)
		}
	}
}

// TestNoPauseBeyondTheTimeout: who would have to be told in the end that the time is
// over is told at once.
func TestNoPauseBeyondTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 10 * time.Millisecond
		d := newDirect(t, PoolConfig{}, ProxyConfig{Backoff: time.Second, Timeout: timeout, RetryBudget: RetryBudget{Percent: -1}}, nil, nil, nil)
		for range 20 {
			start := time.Now()
			w := d.ask("GET", "/")
			if took := time.Since(start); w.Code != 502 || took >= timeout {
				t.Errorf("status %d after %v", w.Code, took)
			}
		}
	})
}

// TestConnectTimeout: a request that got no connection in TryTimeout has been to
// nobody, so that even a POST goes to another backend.
func TestConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := new(seen)
		d := newDirect(t, PoolConfig{}, ProxyConfig{}, backend)
		pool := poolOf(t, PoolConfig{
			Strategy: First{}, Backends: []BackendConfig{{ID: "silent", URL: "http://192.0.2.99:80"}, {ID: "b0", URL: d.pool.Status()[0].URL}},
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if addr == "192.0.2.99:80" {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return d.dial(ctx, network, addr)
			},
		}, 0)
		d.pool = pool
		proxy, err := NewProxy(ProxyConfig{Pool: pool, TryTimeout: 2 * time.Second, OnDone: func(e Event) { d.last = e }})
		if err != nil {
			t.Fatal(err)
		}
		d.proxy = proxy
		start := time.Now()
		w := d.do(httptest.NewRequest("POST", "/", strings.NewReader("body")))
		if took := time.Since(start); w.Code != 200 || took != 2*time.Second || backend.body != "body" || d.last.Attempts != 2 {
			t.Errorf("status %d after %v, the backend got %q: %+v", w.Code, took, backend.body, d.last)
		}
	})
}
