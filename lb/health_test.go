package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

// network is a set of in-memory servers, one for each address dialed.
type network map[string]*memnet.Listener

func (n network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	if ln := n[addr]; ln != nil {
		return ln.DialContext(ctx, "tcp", addr)
	}
	return nil, memnet.ErrRefused
}

// serve runs h at addr until the test ends. It must be called in the bubble.
func (n network) serve(t *testing.T, addr string, h http.Handler) *http.Server {
	ln := memnet.Listen(addr)
	srv := &http.Server{Handler: h}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() { srv.Close(); wg.Wait() })
	n[addr] = ln
	return srv
}

// sick answers with a status that can be changed.
type sick struct {
	status atomic.Int64
	last   atomic.Pointer[http.Request]
	checks atomic.Int64
}

func (s *sick) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.checks.Add(1)
	s.last.Store(r)
	switch n := s.status.Load(); n {
	case 0:
	case -1:
		<-r.Context().Done()
	default:
		w.WriteHeader(int(n))
	}
}

const addrA, addrB = "192.0.2.1:80", "192.0.2.2:80"

func checkedPool(t *testing.T, n network, h *HealthCheck, onChange func(StateChange)) *Pool {
	return poolOf(t, PoolConfig{
		Backends: []BackendConfig{{ID: "a", URL: "http://" + addrA}, {ID: "b", URL: "http://" + addrB}},
		Health:   h, Dial: n.dial, OnStateChange: onChange, Logger: slog.New(slog.DiscardHandler),
	}, 0)
}

func states(p *Pool) string {
	s := p.Status()
	return fmt.Sprint(s[0].State, " ", s[1].State)
}

func TestHealthChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := make(network)
		var a, b sick
		b.status.Store(503)
		n.serve(t, addrA, &a)
		n.serve(t, addrB, &b)
		var mu sync.Mutex
		var news []string
		p := checkedPool(t, n, &HealthCheck{Path: "/healthz?deep=1", Host: "check.test", Interval: 10 * time.Second, Rise: 2, Fall: 3}, func(c StateChange) {
			mu.Lock()
			defer mu.Unlock()
			news = append(news, fmt.Sprintf("%s %v→%v", c.Backend, c.From, c.To))
		})
		expect := func(when, want string) {
			t.Helper()
			synctest.Wait()
			if got := states(p); got != want {
				t.Errorf("%s: states %s, want %s", when, got, want)
			}
		}
		expect("after the first checks, which decide alone", "healthy unhealthy")
		if r := a.last.Load(); r.Method != "GET" || r.RequestURI != "/healthz?deep=1" || r.Host != "check.test" {
			t.Errorf("the check is %s %s of %s", r.Method, r.RequestURI, r.Host)
		}
		if s := p.Status()[1]; s.LastError != "health check: status 503" {
			t.Errorf("the last error is %q", s.LastError)
		}
		b.status.Store(302)
		time.Sleep(11 * time.Second)
		expect("one of two good checks", "healthy unhealthy")
		time.Sleep(11 * time.Second)
		expect("two of two", "healthy healthy")
		a.status.Store(404)
		time.Sleep(22 * time.Second)
		expect("two of three bad checks", "healthy healthy")
		time.Sleep(11 * time.Second)
		expect("three of three", "unhealthy healthy")
		time.Sleep(time.Minute)
		mu.Lock()
		sortedFirst := slices.Sorted(slices.Values(news[:2])) // the first checks run side by side
		got := append(sortedFirst, news[2:]...)
		mu.Unlock()
		if want := []string{"a unknown→healthy", "b unknown→unhealthy", "b unhealthy→healthy", "a healthy→unhealthy"}; !slices.Equal(got, want) {
			t.Errorf("news %q, want %q", got, want)
		}
		p.Close()
		checks := a.checks.Load()
		time.Sleep(time.Minute)
		if a.checks.Load() != checks {
			t.Error("checked after Close")
		}
	})
}

func TestHealthCheckTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := make(network)
		var a, b sick
		a.status.Store(-1)
		n.serve(t, addrA, &a)
		n.serve(t, addrB, &b)
		start := time.Now()
		p := checkedPool(t, n, &HealthCheck{Timeout: 3 * time.Second}, nil)
		time.Sleep(2900 * time.Millisecond)
		if got := states(p); got != "unknown healthy" {
			t.Errorf("before the timeout: %s", got)
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if got := states(p); got != "unhealthy healthy" {
			t.Errorf("after the timeout: %s", got)
		}
		if s := p.Status()[0]; s.Since.Sub(start) != 3*time.Second {
			t.Errorf("unhealthy after %v, want 3s", s.Since.Sub(start))
		}
		p.Close()
	})
}

func TestCustomExpectStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := make(network)
		var a, b sick
		a.status.Store(418)
		n.serve(t, addrA, &a)
		n.serve(t, addrB, &b)
		p := checkedPool(t, n, &HealthCheck{ExpectStatus: func(s int) bool { return s == 418 }}, nil)
		synctest.Wait()
		if got := states(p); got != "healthy unhealthy" {
			t.Errorf("states %s", got)
		}
		p.Close()
	})
}

// Checks do not run in step: after a while they are spread.
func TestHealthCheckJitter(t *testing.T) {
	low, high := time.Hour, time.Duration(0)
	for range 1000 {
		d := jitter(time.Second)
		low, high = min(low, d), max(high, d)
	}
	if low < 900*time.Millisecond || high > 1100*time.Millisecond || high-low < 100*time.Millisecond {
		t.Errorf("1 s becomes %v to %v, want 900ms to 1.1s", low, high)
	}
}

func TestUnreachableIsUnhealthyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := make(network)
		var a, b sick
		n.serve(t, addrA, &a)
		n.serve(t, addrB, &b)
		p := checkedPool(t, n, &HealthCheck{Interval: time.Minute}, nil)
		synctest.Wait()
		done := func(r Result, err error) {
			for {
				picked, err2 := p.Pick(PickInfo{})
				if err2 != nil {
					t.Fatal(err2)
				}
				if picked.Backend().ID() == "a" {
					picked.Done(Outcome{Result: r, Err: err})
					return
				}
				picked.Done(Outcome{})
			}
		}
		done(Canceled, context.Canceled)
		done(Failed, errors.New("broke off"))
		done(Unreachable, fmt.Errorf("dial: %w", syscall.EMFILE)) // our own want
		if got := states(p); got != "healthy healthy" {
			t.Errorf("states %s, want no change from what is not the backend's fault", got)
		}
		done(Unreachable, memnet.ErrRefused)
		if got := states(p); got != "unhealthy healthy" {
			t.Errorf("refused: states %s", got)
		}
		if s := p.Status()[0]; s.LastError != memnet.ErrRefused.Error() {
			t.Errorf("the last error is %q", s.LastError)
		}
		time.Sleep(67 * time.Second)
		synctest.Wait()
		if s := p.Status()[0]; s.State != Healthy || s.LastError != "" {
			t.Errorf("after a good check: %+v", s)
		}
		p.Close()
	})
}

func TestRemovedBackendIsNotChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := make(network)
		var a, b sick
		n.serve(t, addrA, &a)
		n.serve(t, addrB, &b)
		p := checkedPool(t, n, new(HealthCheck), nil)
		synctest.Wait()
		if err := p.Set([]BackendConfig{{ID: "b", URL: "http://" + addrB}}); err != nil {
			t.Fatal(err)
		}
		before, others := a.checks.Load(), b.checks.Load()
		time.Sleep(time.Minute)
		if a.checks.Load() != before {
			t.Error("a removed backend was checked")
		}
		if b.checks.Load() == others {
			t.Error("the backend that stayed was not checked")
		}
		p.Close()
	})
}

// Rise and Fall count checks in a row: one of the other kind begins anew.
func TestRiseAndFallCountInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{Health: &HealthCheck{
			Interval: time.Hour, Rise: 2, Fall: 2, Func: func(context.Context, *Backend) error { return nil },
		}}, 1)
		defer p.Close()
		synctest.Wait()
		b, sick := p.backends[0], errors.New("sick")
		for i, c := range []struct {
			err  error
			want State
		}{
			{sick, Healthy}, {nil, Healthy}, {sick, Healthy}, {sick, Unhealthy},
			{nil, Unhealthy}, {sick, Unhealthy}, {nil, Unhealthy}, {nil, Healthy},
		} {
			if p.checked(b, c.err); b.State() != c.want {
				t.Errorf("after check %d it is %v, want %v", i, b.State(), c.want)
			}
		}
	})
}
