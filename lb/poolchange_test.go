package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestPinsFollowTheID: a backend that takes the place of another is the one that
// its ID names from then on, and one that is gone is named by nobody.
func TestPinsFollowTheID(t *testing.T) {
	p := poolOf(t, PoolConfig{}, 2)
	before := p.backends[0]
	if err := p.Upsert(BackendConfig{ID: "b0", URL: "https://192.0.2.1:1"}); err != nil {
		t.Fatal(err)
	}
	if p.backends[0] == before || !before.removed {
		t.Error("another scheme at the same address is taken for the same server")
	}
	picked, err := p.pickByID("b0", PickInfo{})
	if err != nil || picked.Backend() != p.backends[0] {
		t.Errorf("b0 is %p, %v, want the new one, %p", picked.Backend(), err, p.backends[0])
	}
	if _, err := p.pickByID("b0", PickInfo{Tried: p.backends[:1]}); err != ErrNoBackend {
		t.Errorf("b0 again after it was tried: %v", err)
	}
	if err := p.Set([]BackendConfig{{ID: "b0", URL: "http://192.0.2.1:7"}}); err != nil {
		t.Fatal(err)
	}
	if picked, err := p.pickByID("b0", PickInfo{}); err != nil || picked.Backend() != p.backends[0] {
		t.Errorf("b0 is %v, %v after Set", picked.Backend(), err)
	}
	for _, id := range []string{"b1", "nobody"} {
		if _, err := p.pickByID(id, PickInfo{}); err != ErrNoBackend {
			t.Errorf("%s is gone, but picked: %v", id, err)
		}
	}
	p.Close()
	if _, err := p.pickByID("b0", PickInfo{}); err != ErrNoBackend {
		t.Errorf("after Close: %v", err)
	}
}

// TestRemovedBackendLosesItsIdleConnections, and one that stays keeps them.
func TestRemovedBackendLosesItsIdleConnections(t *testing.T) {
	idle, closed := make(chan string, 10), make(chan string, 10)
	backend := func(name string) string {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateIdle:
				idle <- name
			case http.StateClosed:
				closed <- name
			}
		}
		srv.Start()
		t.Cleanup(srv.Close)
		return srv.Listener.Addr().String()
	}
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, backend("b0"), backend("b1"))
	client := dialRaw(t, r.addr)
	for range 2 {
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		client.response("GET")
		<-idle
	}
	if err := r.pool.Remove("b0"); err != nil {
		t.Fatal(err)
	}
	select {
	case name := <-closed:
		if name != "b0" {
			t.Errorf("the connection to %s was closed", name)
		}
	case <-time.After(20 * time.Second):
		t.Error("the idle connection of a backend that is gone stays open")
	}
	if len(closed) > 0 {
		t.Error("the connection to b1 was closed as well")
	}
}

// TestUnreachableCountsLikeAllOfFall: whatever was known of the backend before.
func TestUnreachableCountsLikeAllOfFall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var news []string
		p := poolOf(t, PoolConfig{
			Health:        &HealthCheck{Interval: time.Hour, Rise: 2, Func: func(context.Context, *Backend) error { return nil }},
			OnStateChange: func(c StateChange) { news = append(news, fmt.Sprintf("%v→%v %v", c.From, c.To, c.Err)) },
		}, 1)
		defer p.Close()
		synctest.Wait()
		b := p.backends[0]
		fail := func() { Picked{backend: b, pool: p}.Done(Outcome{Result: Unreachable, Err: errors.New("refused")}) }
		pass := func() { p.checked(b, nil) }
		for i, c := range []struct {
			what func()
			want State
		}{
			{pass, Healthy}, {pass, Healthy}, {fail, Unhealthy}, {pass, Unhealthy}, {pass, Healthy},
			{func() { p.mu.Lock(); p.setHealth(b, Unknown, nil); p.mu.Unlock() }, Unknown}, {fail, Unhealthy}, {pass, Unhealthy}, {pass, Healthy},
		} {
			if c.what(); b.State() != c.want {
				t.Errorf("after step %d it is %v, want %v", i, b.State(), c.want)
			}
		}
		if len(news) < 2 || news[1] != "healthy→unhealthy refused" || news[0] != "unknown→healthy <nil>" {
			t.Errorf("news %q", news)
		}
		p.Remove("b0")
		n := len(news)
		fail()
		if p.notify(); len(news) != n {
			t.Errorf("news of a backend that is gone: %q", news[n:])
		}
	})
}

// TestChecksAreSpread: backends that were checked at once are not so for ever.
func TestChecksAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := make(chan time.Duration, 1000)
		start := time.Now()
		p := poolOf(t, PoolConfig{Health: &HealthCheck{Interval: 10 * time.Second, Func: func(context.Context, *Backend) error {
			at <- time.Since(start)
			return nil
		}}}, 20)
		time.Sleep(12 * time.Second)
		p.Close()
		close(at)
		moments := make(map[time.Duration]int)
		for d := range at {
			moments[d]++
			if d != 0 && (d < 9*time.Second || d > 11*time.Second) {
				t.Errorf("a check after %v", d)
			}
		}
		if moments[0] != 20 || len(moments) < 15 {
			t.Errorf("checks of 20 backends at %v", moments)
		}
	})
}

// TestStateChangesAreLogged says which are warnings.
func TestStateChangesAreLogged(t *testing.T) {
	var log strings.Builder
	remove := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	p := poolOf(t, PoolConfig{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: remove}))}, 1)
	set := func(to State, err error) {
		p.mu.Lock()
		p.setHealth(p.backends[0], to, err)
		p.mu.Unlock()
		p.notify()
	}
	set(Unhealthy, errors.New("cause"))
	set(Healthy, nil)
	p.Drain("b0")
	want := `level=WARN msg="lb: backend changed" backend=b0 from=healthy to=unhealthy err=cause
level=INFO msg="lb: backend changed" backend=b0 from=unhealthy to=healthy
level=INFO msg="lb: backend changed" backend=b0 from=healthy to=draining
`
	if got := log.String(); got != want {
		t.Errorf("logged\n%swant\n%s", got, want)
	}
}

// TestNewsComeOneAtATime: a change that comes while the hook is told of another
// does not wait for it, and is told of afterwards, with the circuit of its time.
func TestNewsComeOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan bool)
		var inside, most int
		var news []string
		p := poolOf(t, PoolConfig{
			Outlier: &OutlierDetection{Consecutive: 1, EjectionTime: time.Minute},
			OnStateChange: func(c StateChange) {
				inside++
				most = max(most, inside)
				news = append(news, fmt.Sprint(c.Backend, " ", c.To, " ", c.Circuit))
				if len(news) == 1 {
					<-hold
				}
				inside--
			},
		}, 2)
		defer p.Close()
		go p.Drain("b0")
		synctest.Wait()
		Picked{backend: p.backends[1], pool: p}.Done(Outcome{Result: Failed, Err: errors.New("cause")})
		close(hold)
		synctest.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got, want := strings.Join(news, ", "), "b0 draining closed, b1 ejected open, b1 healthy half-open"; got != want || most != 1 {
			t.Errorf("news %q, up to %d at a time, want %q", got, most, want)
		}
	})
}

// watchers builds a picker of its own for each tier, which counts what it hears.
type watchers struct{ built []*balanced }

func (w *watchers) Build(backends []*Backend) Picker {
	w.built = append(w.built, &balanced{first: backends})
	return w.built[len(w.built)-1]
}

// TestWhoeverPicksHears: the picker of the tier that the request went to, which
// is kept while nothing changes, even if nobody is healthy.
func TestWhoeverPicksHears(t *testing.T) {
	w := new(watchers)
	p := tiered(t, PoolConfig{Strategy: w}, "h h")
	picked, err := p.Pick(PickInfo{Tried: p.backends[:1]})
	if err != nil {
		t.Fatal(err)
	}
	picked.Done(Outcome{})
	for _, b := range w.built {
		if want := map[*Backend]int{p.backends[1]: 1}[b.first[0]]; len(b.first) == 1 && b.done != want {
			t.Errorf("the picker of %v heard of %d requests, want %d", b.first, b.done, want)
		}
	}
	w = new(watchers)
	p = tiered(t, PoolConfig{Strategy: w}, "u u")
	before := len(w.built)
	p.mu.Lock()
	p.publish()
	p.mu.Unlock()
	if len(w.built) != before {
		t.Errorf("%d pickers were built though nothing has changed", len(w.built)-before)
	}
}

// TestMostBackends takes as many as may be.
func TestMostBackends(t *testing.T) {
	configs := make([]BackendConfig, maxBackends)
	for i := range configs {
		configs[i] = BackendConfig{ID: fmt.Sprint(i), URL: "http://h"}
	}
	if _, err := parseBackends(configs); err != nil {
		t.Errorf("%d backends: %v", len(configs), err)
	}
}
