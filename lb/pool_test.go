package lb

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// poolOf makes a pool of n backends a, b, … at addresses that nobody connects
// to, unless conf has others.
func poolOf(t testing.TB, conf PoolConfig, n int) *Pool {
	t.Helper()
	for i := range n {
		conf.Backends = append(conf.Backends, BackendConfig{ID: fmt.Sprint("b", i), URL: fmt.Sprintf("http://192.0.2.1:%d", i+1)})
	}
	if conf.Logger == nil {
		conf.Logger = slog.New(slog.DiscardHandler)
	}
	p, err := NewPool(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func pickID(t *testing.T, p *Pool, info PickInfo) string {
	t.Helper()
	picked, err := p.Pick(info)
	if err != nil {
		return err.Error()
	}
	picked.Done(Outcome{})
	return picked.Backend().ID()
}

func TestNewPoolNamesEveryMistake(t *testing.T) {
	_, err := NewPool(PoolConfig{
		Backends:    []BackendConfig{{URL: "http://h"}, {URL: "gopher://h"}, {ID: "h", URL: "http://other"}},
		Health:      &HealthCheck{Path: "healthz", Host: "a b", Interval: -1, Timeout: -2, Rise: -3, Fall: -4},
		DialTimeout: -5, IdleConns: -6, IdleTimeout: -7, HeaderBytes: -8,
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"gopher", "backend 2: ID is \"h\", which is backend 0's", "Path is \"healthz\"", "Host is \"a b\"", "Interval is -1ns", "Timeout is -2ns",
		"Rise is -3", "Fall is -4", "DialTimeout", "IdleConns is negative (-6)", "IdleTimeout", "HeaderBytes",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	if _, err := NewPool(PoolConfig{Backends: make([]BackendConfig, maxBackends+1)}); err == nil {
		t.Error("too many backends were taken")
	}
}

func TestEmptyPool(t *testing.T) {
	p := poolOf(t, PoolConfig{}, 0)
	if _, err := p.Pick(PickInfo{}); !errors.Is(err, ErrNoBackend) {
		t.Errorf("Pick: %v, want ErrNoBackend", err)
	}
	if err := p.Set([]BackendConfig{{ID: "x", URL: "http://h"}}); err != nil {
		t.Fatal(err)
	}
	if got := pickID(t, p, PickInfo{}); got != "x" {
		t.Errorf("after Set: %s", got)
	}
}

func TestSetKeepsWhatStays(t *testing.T) {
	p := poolOf(t, PoolConfig{}, 3)
	kept, _ := p.Pick(PickInfo{})
	if err := p.Drain("b1"); err != nil {
		t.Fatal(err)
	}
	before := slices.Clone(p.backends)
	if err := p.Set([]BackendConfig{
		{ID: "new", URL: "http://h"},
		{ID: "b1", URL: "http://192.0.2.1:2", Weight: 7},
		{ID: "b2", URL: "http://192.0.2.1:99"}, // the same name elsewhere is another server
		{ID: "b0", URL: "http://192.0.2.1:1"},
	}); err != nil {
		t.Fatal(err)
	}
	status := p.Status()
	if p.backends[3] != before[0] || p.backends[1] != before[1] {
		t.Error("a backend whose ID and URL stayed was replaced")
	}
	if p.backends[2] == before[2] {
		t.Error("a backend whose URL changed was kept")
	}
	if s := status[1]; s.Weight != 7 || s.State != Draining {
		t.Errorf("b1 is %+v, want weight 7 and draining still", s)
	}
	if s := status[3]; s.InFlight != 1 || s.Requests != 1 {
		t.Errorf("b0 is %+v, want its request in flight", s)
	}
	kept.Done(Outcome{})
	if err := p.Set([]BackendConfig{{URL: "http://ok"}, {URL: "bad"}}); err == nil || len(p.Status()) != 4 {
		t.Errorf("a set with a mistake: error %v, and %d backends, want the 4 of before", err, len(p.Status()))
	}
}

func TestDrainAndResume(t *testing.T) {
	var news []string
	p := poolOf(t, PoolConfig{OnStateChange: func(c StateChange) {
		news = append(news, fmt.Sprintf("%s %v→%v", c.Backend, c.From, c.To))
	}}, 2)
	for range 2 { // the second changes nothing
		if err := p.Drain("b0"); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		if got := pickID(t, p, PickInfo{}); got != "b1" {
			t.Fatalf("b0 drains, but got %s", got)
		}
	}
	p.Drain("b1")
	if got := pickID(t, p, PickInfo{}); got != ErrNoBackend.Error() {
		t.Errorf("all drain, but got %s", got)
	}
	p.Resume("b0")
	if got := pickID(t, p, PickInfo{}); got != "b0" {
		t.Errorf("b0 has resumed, but got %s", got)
	}
	if err := p.Drain("nobody"); err == nil {
		t.Error("nobody could be drained")
	}
	if want := []string{"b0 healthy→draining", "b1 healthy→draining", "b0 draining→healthy"}; !slices.Equal(news, want) {
		t.Errorf("news %q, want %q", news, want)
	}
}

// The hook may call the pool, and its news stay in order.
func TestStateChangeHookMayCallThePool(t *testing.T) {
	var p *Pool
	var news []string
	p = poolOf(t, PoolConfig{OnStateChange: func(c StateChange) {
		news = append(news, c.Backend+" "+c.To.String())
		if c.Backend == "b0" && c.To == Draining {
			p.Drain("b1")
			p.Resume("b0")
		}
		if len(p.Status()) != 2 {
			t.Error("no status inside the hook")
		}
	}}, 2)
	p.Drain("b0")
	if want := []string{"b0 draining", "b1 draining", "b0 healthy"}; !slices.Equal(news, want) {
		t.Errorf("news %q, want %q", news, want)
	}
}

func TestHookThatPanicsDoesNotSilenceTheNext(t *testing.T) {
	calls := 0
	p := poolOf(t, PoolConfig{OnStateChange: func(StateChange) {
		if calls++; calls == 1 {
			panic("hook")
		}
	}}, 1)
	func() {
		defer func() { recover() }()
		p.Drain("b0")
	}()
	p.Resume("b0")
	if calls != 2 {
		t.Errorf("%d calls of the hook, want 2", calls)
	}
}

func TestTiers(t *testing.T) {
	p := poolOf(t, PoolConfig{Strategy: RoundRobin{}}, 3)
	setAll := func(states ...State) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i, s := range states {
			p.backends[i].health.Store(int32(s))
		}
		p.publish()
	}
	for _, c := range []struct {
		states []State
		want   string
	}{
		{[]State{Healthy, Unknown, Unhealthy}, "b0 b0 b0"},
		{[]State{Unhealthy, Unknown, Unhealthy}, "b1 b1 b1"},
		{[]State{Unhealthy, Unhealthy, Unhealthy}, "b0 b1 b2"},
		{[]State{Unhealthy, Healthy, Healthy}, "b1 b2 b1"},
	} {
		setAll(c.states...)
		var got []string
		for range 3 {
			got = append(got, pickID(t, p, PickInfo{}))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%v: picked %s, want %s", c.states, s, c.want)
		}
	}
}

// watcher is a strategy that always picks the first and notes what it is told.
type watcher struct {
	backends []*Backend
	done     []Outcome
}

func (w *watcher) Build(backends []*Backend) Picker { w.backends = backends; return w }
func (w *watcher) Pick(PickInfo) *Backend           { return w.backends[0] }
func (w *watcher) Done(b *Backend, o Outcome)       { w.done = append(w.done, o) }

func TestDoneFeedsTheStrategy(t *testing.T) {
	w := new(watcher)
	p := poolOf(t, PoolConfig{Strategy: w}, 1)
	for _, r := range []Result{Succeeded, Failed, Unreachable, Canceled} {
		picked, err := p.Pick(PickInfo{})
		if err != nil {
			t.Fatal(err)
		}
		picked.Done(Outcome{Result: r, Duration: time.Second, Err: errors.New("cause")})
	}
	if len(w.done) != 4 || w.done[2].Result != Unreachable || w.done[0].Duration != time.Second {
		t.Errorf("the strategy was told %+v", w.done)
	}
	s := p.Status()[0]
	if s.Requests != 4 || s.Failures != 2 || s.InFlight != 0 || s.LastError != "cause" {
		t.Errorf("status %+v, want 4 requests, 2 failures, none in flight", s)
	}
	if s.State != Healthy {
		t.Errorf("without health checks the backend is %v", s.State)
	}
	// A strategy that picks what was tried is not believed.
	if _, err := p.Pick(PickInfo{Tried: p.backends}); !errors.Is(err, ErrNoBackend) {
		t.Errorf("picked a backend again: %v", err)
	}
}

func TestPoolClose(t *testing.T) {
	p := poolOf(t, PoolConfig{Health: new(HealthCheck)}, 3)
	for range 2 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Pick(PickInfo{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Pick: %v", err)
	}
	if err := p.Set(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Set: %v", err)
	}
	if err := p.Drain("b0"); !errors.Is(err, ErrClosed) {
		t.Errorf("Drain: %v", err)
	}
}

// TestConcurrentUse is for the race detector, and for the count in flight.
func TestConcurrentUse(t *testing.T) {
	p := poolOf(t, PoolConfig{}, 5)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 200 {
				if picked, err := p.Pick(PickInfo{}); err == nil {
					picked.Done(Outcome{Result: Result(i)})
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 50 {
			p.Drain(fmt.Sprint("b", i%5))
			p.Resume(fmt.Sprint("b", i%5))
			p.Set(slices.Collect(func(yield func(BackendConfig) bool) {
				for j := range 5 {
					if !yield(BackendConfig{ID: fmt.Sprint("b", j), URL: fmt.Sprintf("http://192.0.2.1:%d", j+1), Weight: i + 1}) {
						return
					}
				}
			}))
			p.Status()
		}
	})
	wg.Wait()
	var requests uint64
	for _, s := range p.Status() {
		requests += s.Requests
		if s.InFlight != 0 {
			t.Errorf("%s has %d in flight at the end", s.ID, s.InFlight)
		}
	}
	if requests == 0 {
		t.Error("nothing was picked")
	}
}
