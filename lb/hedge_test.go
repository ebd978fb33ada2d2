package lb

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// settled waits until no backend has a request, and returns the status.
func (r *rig) settled() []BackendStatus {
	r.t.Helper()
	for range 2000 {
		status := r.pool.Status()
		if !slices.ContainsFunc(status, func(s BackendStatus) bool { return s.InFlight != 0 }) {
			return status
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.t.Fatalf("requests are in flight for ever: %+v", r.pool.Status())
	return nil
}

// TestHedge: who wins, for each way in which two attempts can go.
func TestHedge(t *testing.T) {
	gone := make(chan bool, 1)
	// Where the request is hedged, slow and slowly end once it is, however busy the
	// machine: then both attempts are asked. Elsewhere nobody is asked but slow.
	var asked, patience atomic.Int64
	wait := func() {
		asked.Add(1)
		for begin := time.Now(); asked.Load() < 2 && time.Since(begin) < time.Duration(patience.Load()); {
			time.Sleep(time.Millisecond)
		}
	}
	stalls := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done() // until it is given up
		gone <- true
	})
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wait()
		io.WriteString(w, "slow")
	})
	spare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wait() // for the first, which must have begun to be given up
		io.WriteString(w, "ok")
	})
	slowly := rawBackend(t, func(c *conn) { // fails, after the hedge has begun
		c.reqHead()
		wait()
	})
	atOnce := rawBackend(t, func(c *conn) { c.reqHead(); asked.Add(1) })
	ok := new(seen)
	for _, c := range []struct {
		name, method  string
		backends      []any
		hedge         Hedge
		budget        RetryBudget
		body          string
		status        int
		backend       string
		attempts      int
		hedged, ended bool
	}{
		{"the spare wins", "GET", []any{stalls, spare}, Hedge{Delay: 20 * time.Millisecond}, RetryBudget{}, "ok", 200, "b1", 2, true, true},
		{"the spare is slow, too: the first wins", "GET", []any{slow, stalls}, Hedge{Delay: 20 * time.Millisecond}, RetryBudget{}, "slow", 200, "b0", 2, true, true},
		{"the spare fails", "GET", []any{slow, atOnce}, Hedge{Delay: 20 * time.Millisecond}, RetryBudget{}, "slow", 200, "b0", 2, true, false},
		{"the first fails while the spare runs", "GET", []any{slowly, slow}, Hedge{Delay: 20 * time.Millisecond}, RetryBudget{}, "slow", 200, "b1", 2, true, false},
		{"both fail, a third is asked", "GET", []any{slowly, slowly, ok}, Hedge{Delay: 20 * time.Millisecond}, RetryBudget{}, "ok", 200, "b2", 3, true, false},
		{"in time", "GET", []any{ok, stalls}, Hedge{Delay: 5 * time.Second}, RetryBudget{}, "ok", 200, "b0", 1, false, false},
		{"not safe", "DELETE", []any{slow, ok}, Hedge{Delay: time.Millisecond}, RetryBudget{}, "slow", 200, "b0", 1, false, false},
		{"no other backend", "GET", []any{slow}, Hedge{Delay: time.Millisecond}, RetryBudget{}, "slow", 200, "b0", 1, false, false},
		{"no budget", "GET", []any{slow, ok}, Hedge{Delay: time.Millisecond}, RetryBudget{Percent: 1, Reserve: 1}, "slow", 200, "b0", 1, false, false},
		{"nothing is known of quantiles", "GET", []any{slow, ok}, Hedge{Quantile: 0.5}, RetryBudget{}, "slow", 200, "b0", 1, false, false},
	} {
		asked.Store(0)
		patience.Store(int64(100 * time.Millisecond))
		if c.hedged {
			patience.Store(int64(10 * time.Second))
		}
		r := newRig(t, PoolConfig{}, ProxyConfig{Hedge: &c.hedge, RetryBudget: c.budget}, nil, c.backends...)
		client := dialRaw(t, r.addr)
		client.send(c.method + " / HTTP/1.1\nHost: h\n\n")
		res, body := client.response(c.method)
		e := r.event()
		if res.StatusCode != c.status || body != c.body || e.Backend != c.backend || e.Attempts != c.attempts || e.Hedged != c.hedged || e.Err != nil {
			t.Errorf("%s: %d %q, event %+v", c.name, res.StatusCode, body, e)
		}
		status := r.settled()
		if c.ended {
			select {
			case <-gone:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: the loser is not given up", c.name)
			}
			for _, s := range status {
				if s.Failures != 0 {
					t.Errorf("%s: losing is counted as a failure: %+v", c.name, s)
				}
			}
		}
		client.Close()
	}
}

// TestHedgeThenRetry: the response that won the race is one after which another
// backend is asked, while the spare attempt has hardly begun.
func TestHedgeThenRetry(t *testing.T) {
	const delay = 2 * time.Millisecond
	busy := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(delay)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(5 * delay)
		io.WriteString(w, "ok")
	})
	r := newRig(t, PoolConfig{Strategy: First{}}, ProxyConfig{
		Hedge: &Hedge{Delay: delay}, RetryStatus: []int{503}, RetryBudget: RetryBudget{Percent: -1},
	}, nil, busy, slow, slow)
	client := dialRaw(t, r.addr)
	for range 100 {
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		if res, body := client.response("GET"); res.StatusCode != 200 || body != "ok" {
			t.Errorf("%d %q, want 200 \"ok\"", res.StatusCode, body)
		}
	}
	r.settled()
}

// Both attempts may race to the end, over and over, with all kinds of backends.
func TestHedgeUnderLoad(t *testing.T) {
	var attempts atomic.Int64
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		attempts.Add(1)
		time.Sleep(time.Duration(rand.N(3000)) * time.Microsecond)
		fmt.Fprintf(w, "%s is answered", r.URL.Path)
	})
	srv := newH2CServer(t, 100, h)
	for _, backends := range [][]any{{h, h, h}, nil} {
		pc := PoolConfig{Strategy: LeastRequest{}}
		if backends == nil {
			pc.Backends = []BackendConfig{{ID: "x", URL: srv.url()}, {ID: "y", URL: "h2c://localhost:" + srv.URL[len("http://127.0.0.1:"):]}}
		}
		attempts.Store(0)
		r := newRig(t, pc, ProxyConfig{Hedge: &Hedge{Delay: 1500 * time.Microsecond}, RetryBudget: RetryBudget{Percent: -1}}, nil, backends...)
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
		var wg sync.WaitGroup
		const workers, each = 8, 60
		for i := range workers {
			wg.Go(func() {
				for j := range each {
					path := fmt.Sprintf("/%d-%d", i, j)
					res, err := client.Get(r.server.URL + path)
					if err != nil {
						t.Error(err)
						return
					}
					body, err := io.ReadAll(res.Body)
					res.Body.Close()
					if err != nil || string(body) != path+" is answered" {
						t.Errorf("%s: %q, %v", path, body, err)
					}
				}
			})
		}
		wg.Wait()
		client.CloseIdleConnections()
		for _, s := range r.settled() {
			if s.Failures != 0 {
				t.Errorf("status %+v", s)
			}
		}
		hedged := 0
		for range workers * each {
			if r.event().Hedged {
				hedged++
			}
		}
		if hedged == 0 {
			t.Errorf("nothing was hedged in %d attempts", attempts.Load())
		}
	}
}

// The budget bounds hedging: backends that are all slow get a fifth more.
func TestHedgeBudget(t *testing.T) {
	var attempts atomic.Int64
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		attempts.Add(1)
		time.Sleep(2 * time.Millisecond)
	})
	r := newRig(t, PoolConfig{}, ProxyConfig{Hedge: &Hedge{Delay: time.Nanosecond}, RetryBudget: RetryBudget{Reserve: 10}}, nil, slow, slow)
	client := dialRaw(t, r.addr)
	const requests = 200
	for range requests {
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		client.response("GET")
	}
	r.settled()
	if got := attempts.Load(); got > requests*12/10+1 || got < requests+10 {
		t.Errorf("%d attempts for %d requests, want a fifth more", got, requests)
	}
}

// TestHedgeClientGone: a client that goes away ends both attempts, and nobody is
// to blame.
func TestHedgeClientGone(t *testing.T) {
	arrived, gone := make(chan bool, 2), make(chan bool, 2)
	stalls := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-r.Context().Done()
		gone <- true
	})
	r := newRig(t, PoolConfig{}, ProxyConfig{Hedge: &Hedge{Delay: time.Millisecond}}, nil, stalls, stalls)
	client := dialRaw(t, r.addr)
	client.send("GET / HTTP/1.1\nHost: h\n\n")
	<-arrived
	<-arrived
	client.Close()
	<-gone
	<-gone
	if e := r.event(); e.Status != StatusClientClosed || e.Attempts != 2 {
		t.Errorf("event %+v", e)
	}
	for _, s := range r.settled() {
		if s.Failures != 0 {
			t.Errorf("status %+v", s)
		}
	}
}

// TestWaitsGolden compares the quantile with that of the sorted observations.
func TestWaitsGolden(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, q := range []float64{0.5, 0.9, 0.99} {
		w := &waits{quantile: q}
		var all []time.Duration
		for i := range 2000 {
			d := time.Duration(rng.ExpFloat64() * float64(10*time.Millisecond))
			w.observe(d)
			all = append(all, d)
			if i+1 < waitLeast && w.value.Load() != 0 {
				t.Fatalf("after %d observations the quantile is %v", i+1, time.Duration(w.value.Load()))
			}
			if (i+1)%waitEvery != 0 || i+1 < waitLeast {
				continue
			}
			sorted := slices.Clone(all)
			slices.Sort(sorted)
			want, got := sorted[int(q*float64(len(sorted)))], time.Duration(w.value.Load())
			if got < want || float64(got) > float64(want)*1.126+2000 {
				t.Fatalf("after %d observations the quantile %v is %v, want %v", i+1, q, got, want)
			}
		}
	}
	// What was long ago is forgotten.
	w := &waits{quantile: 0.9}
	for range 10 * waitMost {
		w.observe(time.Second)
	}
	for range 10 * waitMost {
		w.observe(time.Millisecond)
	}
	if v := time.Duration(w.value.Load()); v > 2*time.Millisecond {
		t.Errorf("the quantile is %v", v)
	}
	w.observe(-1)
	w.observe(1 << 62)
}

func TestHedgeQuantile(t *testing.T) {
	h := newHedge(&Hedge{Delay: 5 * time.Millisecond, Quantile: 0.9})
	if d := h.delay(); d != 0 {
		t.Errorf("the delay is %v before anything is known", d)
	}
	for range 1000 {
		h.observe(time.Millisecond)
	}
	if d := h.delay(); d != 5*time.Millisecond {
		t.Errorf("the delay is %v, want the least", d)
	}
	for range 10_000 {
		h.observe(20 * time.Millisecond)
	}
	if d := h.delay(); d < 20*time.Millisecond || d > 23*time.Millisecond {
		t.Errorf("the delay is %v, want some 20 ms", d)
	}
}

func TestHedgeMistakes(t *testing.T) {
	for _, h := range []Hedge{{}, {Delay: -1}, {Delay: -1, Quantile: 0.5}, {Quantile: 1}, {Quantile: -0.1}, {Delay: 1, Quantile: math.NaN()}} {
		if err := h.validate(); err == nil {
			t.Errorf("%+v was taken", h)
		}
	}
	for _, h := range []Hedge{{Delay: 1}, {Quantile: 0.999}, {Delay: 1, Quantile: 0.5}} {
		if err := h.validate(); err != nil {
			t.Errorf("%+v: %v", h, err)
		}
	}
}

// TestHedgeOnlyWhatIsSafe and has no body, and no upgrade.
func TestHedgeOnlyWhatIsSafe(t *testing.T) {
	for request, hedged := range map[string]bool{
		"GET / HTTP/1.1\nHost: h\n\n": true, "HEAD / HTTP/1.1\nHost: h\n\n": true, "OPTIONS / HTTP/1.1\nHost: h\n\n": true,
		"PUT / HTTP/1.1\nHost: h\nContent-Length: 0\n\n": false, "POST / HTTP/1.1\nHost: h\nContent-Length: 1\n\nx": false,
		"GET / HTTP/1.1\nHost: h\nContent-Length: 1\n\nx":                      false,
		"GET / HTTP/1.1\nHost: h\nConnection: Upgrade\nUpgrade: websocket\n\n": false,
	} {
		var arrived atomic.Int64
		both := make(chan bool)
		slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if arrived.Add(1) == 2 {
				close(both)
			}
			wait := 30 * time.Millisecond
			if hedged {
				wait = 20 * time.Second
			}
			select {
			case <-both:
			case <-time.After(wait):
			}
		})
		r := newRig(t, PoolConfig{}, ProxyConfig{Hedge: &Hedge{Delay: time.Millisecond}}, nil, slow, slow)
		client := dialRaw(t, r.addr)
		client.send(request)
		method, _, _ := strings.Cut(request, " ")
		client.response(method)
		if e := r.event(); e.Hedged != hedged || e.Attempts != map[bool]int{false: 1, true: 2}[hedged] {
			t.Errorf("%q: %+v, want it hedged: %v", request, e, hedged)
		}
		r.settled()
	}
}

// TestHedgeBlames: a spare that fails is to blame, and so are both if nobody
// answers; a spare for which there is no backend costs nothing.
func TestHedgeBlames(t *testing.T) {
	failed := make(chan bool, 10)
	fails := func(after time.Duration) string {
		return rawBackend(t, func(c *conn) {
			c.reqHead()
			time.Sleep(after)
			c.Close()
			failed <- true
		})
	}
	afterIt := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-failed:
			time.Sleep(300 * time.Millisecond) // until that is known
		case <-time.After(20 * time.Second):
		}
	})
	ok := new(seen)
	for _, c := range []struct {
		name     string
		backends []any
		want     []uint64 // failures
	}{
		{"the spare fails", []any{afterIt, fails(0)}, []uint64{0, 1}},
		{"the first fails by itself, and then the spare answers", []any{fails(60 * time.Millisecond), afterIt}, []uint64{1, 0}},
		{"both fail, and a third is asked", []any{fails(60 * time.Millisecond), fails(60 * time.Millisecond), ok}, []uint64{1, 1, 0}},
		{"nobody else is there", []any{http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(50 * time.Millisecond) })}, []uint64{0}},
	} {
		r := newRig(t, PoolConfig{}, ProxyConfig{Hedge: &Hedge{Delay: 10 * time.Millisecond}}, nil, c.backends...)
		budget := &r.server.handler.(*Proxy).budget
		before := budget.saved.Load()
		client := dialRaw(t, r.addr)
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		if res, _ := client.response("GET"); res.StatusCode != 200 {
			t.Errorf("%s: status %d", c.name, res.StatusCode)
		}
		r.event()
		for i, s := range r.settled() {
			if s.Failures != c.want[i] {
				t.Errorf("%s: %+v, want %d failures", c.name, s, c.want[i])
			}
		}
		if len(c.backends) == 1 && budget.saved.Load() != before+2*budget.earns {
			t.Errorf("%s: the budget has %d, want %d and what the request earns", c.name, budget.saved.Load(), before)
		}
	}
}

// TestHedgeObserves says what counts among the times of which the quantile is: those
// of first attempts that were answered, and of those that were given up for a faster
// one, but for which the quantile would sink from hedge to hedge. Failures do not.
func TestHedgeObserves(t *testing.T) {
	after := func(d time.Duration) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		})
	}
	for _, c := range []struct {
		name     string
		backends []any
		status   int
		want     time.Duration // that is observed; 0: nothing is
	}{
		{"in time", []any{after(5 * time.Millisecond), after(0)}, 200, 5 * time.Millisecond},
		{"the first wins", []any{after(30 * time.Millisecond), after(time.Second)}, 200, 30 * time.Millisecond},
		{"the spare wins", []any{after(time.Second), after(50 * time.Millisecond)}, 200, 60 * time.Millisecond},
		{"nobody answers", []any{nil}, 502, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDirect(t, PoolConfig{}, ProxyConfig{Hedge: &Hedge{Delay: 10 * time.Millisecond, Quantile: 0.5}}, c.backends...)
			w := &d.proxy.hedge.waits
			w.value.Store(1) // known, and below Delay
			if res := d.ask("GET", "/"); res.Code != c.status {
				t.Errorf("%s: status %d", c.name, res.Code)
			}
			n := uint32(0)
			if c.want > 0 {
				n = 1
			}
			if w.seen.Load() != n || w.counts[waitBucket(c.want)].Load() != n {
				t.Errorf("%s: %d times were observed, of %v %d", c.name, w.seen.Load(), c.want, w.counts[waitBucket(c.want)].Load())
			}
		})
	}
}

// TestHedgeNoRetry: a request that is sent again is not hedged then, however slow
// that is.
func TestHedgeNoRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) })
		d := newDirect(t, PoolConfig{}, ProxyConfig{Hedge: &Hedge{Delay: 10 * time.Millisecond}}, nil, slow, new(seen))
		start := time.Now()
		w := d.ask("GET", "/")
		if took := time.Since(start); w.Code != 200 || took != time.Second || d.last.Hedged || d.last.Attempts != 2 || d.last.Backend != "b1" {
			t.Errorf("status %d after %v: %+v", w.Code, took, d.last)
		}
	})
}

// TestHedgeDropsTheLoser whose response comes although the attempt was given up, and a
// response of the spare's that comes when its time is over.
func TestHedgeDropsTheLoser(t *testing.T) {
	const delay = 10 * time.Millisecond
	answers := func(after time.Duration, text string) (stubTransport, *closedBody) {
		res, body := stubResponse(text)
		return func(*http.Request) (*http.Response, error) { time.Sleep(after); return res, nil }, body
	}
	hangs := stubTransport(func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() })
	for _, c := range []struct {
		name    string
		main    time.Duration // 0: it hangs
		spare   time.Duration // from the delay on
		status  int
		backend string
		took    time.Duration
	}{
		{"the spare's", time.Second, 2 * time.Second, 200, "b0", time.Second},
		{"the first's", 2 * time.Second, time.Second, 200, "b1", 2 * time.Second},
		{"too late", 0, 9 * time.Second, 504, "b1", 9*time.Second + delay},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDirect(t, PoolConfig{}, ProxyConfig{Timeout: 5 * time.Second, Hedge: &Hedge{Delay: delay}}, nil, nil)
			main, mainBody := answers(c.main, "main")
			spare, spareBody := answers(c.spare, "spare")
			if c.main == 0 {
				main, mainBody = hangs, &closedBody{closed: true}
			}
			d.pool.backends[0].transport, d.pool.backends[1].transport = main, spare
			start := time.Now()
			w := d.ask("GET", "/")
			if took := time.Since(start); w.Code != c.status || d.last.Backend != c.backend || took != c.took || !d.last.Hedged {
				t.Errorf("%s: %d after %v: %+v", c.name, w.Code, took, d.last)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if !mainBody.closed || !spareBody.closed {
				t.Errorf("%s: a body stays open: the first's %v, the spare's %v", c.name, !mainBody.closed, !spareBody.closed)
			}
			for _, s := range d.pool.Status() {
				if s.InFlight != 0 {
					t.Errorf("%s: status %+v", c.name, s)
				}
			}
		})
	}
}

// TestHedgeGivesUpTheSpare as soon as the first attempt's response begins, and not when
// it ends.
func TestHedgeGivesUpTheSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var ended time.Duration
		d := newDirect(t, PoolConfig{}, ProxyConfig{Hedge: &Hedge{Delay: 10 * time.Millisecond}},
			http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(20 * time.Millisecond)
				io.WriteString(w, "begin")
				w.(http.Flusher).Flush()
				time.Sleep(time.Second)
			}),
			http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); ended = time.Since(start) }))
		if w := d.ask("GET", "/"); w.Code != 200 || d.last.Backend != "b0" || !d.last.Hedged {
			t.Errorf("status %d, event %+v", w.Code, d.last)
		}
		synctest.Wait()
		if ended != 20*time.Millisecond {
			t.Errorf("the spare was given up after %v, want 20ms", ended)
		}
	})
}

// TestHedgeTriesNobodyTwice: after both attempts have failed the request goes to a
// third backend.
func TestHedgeTriesNobodyTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resets := func(net.Conn) { time.Sleep(20 * time.Millisecond) }
		d := newDirect(t, PoolConfig{}, ProxyConfig{Hedge: &Hedge{Delay: 10 * time.Millisecond}}, resets, resets, new(seen))
		w := d.ask("GET", "/")
		if w.Code != 200 || d.last.Backend != "b2" || d.last.Attempts != 3 {
			t.Errorf("status %d, event %+v", w.Code, d.last)
		}
		for _, s := range d.pool.Status() {
			if s.Requests != 1 {
				t.Errorf("status %+v, want one request", s)
			}
		}
	})
}
