package lb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// end ends n requests to b, as if they had been picked.
func end(p *Pool, b *Backend, n int, o Outcome) {
	for range n {
		b.inFlight.Add(1)
		Picked{backend: b, pool: p}.Done(o)
	}
}

func stateOf(p *Pool, i int) State { return p.Status()[i].State }

var bad = Outcome{Result: Failed, Err: errors.New("reset")}

func TestOutlierMistakes(t *testing.T) {
	_, err := NewPool(PoolConfig{PanicThreshold: 1.5, Outlier: &OutlierDetection{
		Interval: -1, EjectionTime: 9 * time.Second, MaxEjectionTime: time.Second, Deviations: math.NaN(), LatencyFactor: 0.5, MinRequests: -2, MinBackends: 2, MaxEjected: 101,
	}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"PanicThreshold is 1.5", "Interval is -1ns", "MaxEjectionTime is 1s", "Deviations is NaN", "LatencyFactor is 0.5", "MinRequests is -2", "MinBackends is 2", "MaxEjected is 101"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

func TestFailuresInARowEject(t *testing.T) {
	for _, c := range []struct {
		name    string
		outcome Outcome
		want    State
	}{
		{"no response", bad, Ejected},
		{"unreachable", Outcome{Result: Unreachable, Err: syscall.ECONNREFUSED}, Ejected},
		{"503", Outcome{Result: Succeeded, Status: 503}, Ejected},
		{"500", Outcome{Result: Succeeded, Status: 500}, Healthy},
		{"200", Outcome{Result: Succeeded, Status: 200}, Healthy},
		{"the client has gone", Outcome{Result: Canceled, Err: context.Canceled}, Healthy},
		{"no descriptors here", Outcome{Result: Unreachable, Err: syscall.EMFILE}, Healthy},
	} {
		p := poolOf(t, PoolConfig{Outlier: new(OutlierDetection)}, 3)
		b := p.backends[0]
		end(p, b, 4, c.outcome)
		if got := b.State(); got != Healthy {
			t.Errorf("%s: after 4 %v", c.name, got)
		}
		end(p, b, 1, c.outcome)
		if got := b.State(); got != c.want {
			t.Errorf("%s: after 5 %v, want %v", c.name, got, c.want)
		}
		p.Close()
	}
	p := poolOf(t, PoolConfig{Outlier: &OutlierDetection{Consecutive: 2}}, 3)
	for range 5 {
		end(p, p.backends[0], 1, bad)
		end(p, p.backends[0], 1, Outcome{Status: 200})
	}
	if got := stateOf(p, 0); got != Healthy {
		t.Errorf("with a success after each failure it is %v", got)
	}
}

// TestCircuit takes a backend through the three states of a circuit breaker.
func TestCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var news []string
		p := poolOf(t, PoolConfig{
			Outlier:       &OutlierDetection{Consecutive: 3, EjectionTime: 10 * time.Second},
			OnStateChange: func(c StateChange) { news = append(news, fmt.Sprintf("%v %v", c.To, c.Circuit)) },
		}, 2)
		b := p.backends[0]
		expect := func(when string, circuit Circuit, failures int64) {
			t.Helper()
			synctest.Wait()
			if s := p.Status()[0]; s.Circuit != circuit || s.FailuresInARow != failures {
				t.Errorf("%s: the circuit is %v after %d failures in a row, want %v after %d", when, s.Circuit, s.FailuresInARow, circuit, failures)
			}
		}
		good := Outcome{Status: 200}
		end(p, b, 2, bad)
		expect("below the limit", CircuitClosed, 2)
		end(p, b, 1, bad)
		expect("at the limit", CircuitOpen, 3)
		end(p, b, 1, good) // a request from before
		expect("after a late answer", CircuitOpen, 0)
		time.Sleep(10 * time.Second)
		expect("when the time is over", CircuitHalfOpen, 0)
		end(p, b, 1, bad)
		expect("after a failure on trial", CircuitOpen, 1)
		time.Sleep(20 * time.Second)
		end(p, b, 1, Outcome{Result: Canceled})
		expect("after a request that was given up", CircuitHalfOpen, 0)
		end(p, b, 1, good)
		expect("after a success", CircuitClosed, 0)
		end(p, b, 2, bad)
		expect("below the limit again", CircuitClosed, 2)
		if want := []string{"ejected open", "healthy half-open", "ejected open", "healthy half-open"}; !slices.Equal(news, want) {
			t.Errorf("news %q, want %q", news, want)
		}
	})
}

func TestCircuitText(t *testing.T) {
	for c := CircuitClosed; c <= CircuitOpen; c++ {
		text, err := c.MarshalText()
		var back Circuit
		if err != nil || string(text) != c.String() || back.UnmarshalText(text) != nil || back != c {
			t.Errorf("%v: %q, error %v, and back %v", c, text, err, back)
		}
	}
	if got := fmt.Sprint(CircuitClosed, CircuitHalfOpen, CircuitOpen, Circuit(-1)); got != "closed half-open open Circuit(-1)" {
		t.Errorf("the circuits are %s", got)
	}
	if _, err := Circuit(-1).MarshalText(); err == nil {
		t.Error("a negative circuit was taken")
	}
	if _, err := Circuit(3).MarshalText(); err == nil || Circuit(3).String() != "Circuit(3)" || new(Circuit).UnmarshalText([]byte("ajar")) == nil {
		t.Error("a circuit that is none was taken")
	}
}

// Each ejection is longer than the one before, and ends by itself.
func TestEjectionsGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var news []string
		p := poolOf(t, PoolConfig{
			Outlier:       &OutlierDetection{Consecutive: 3, EjectionTime: 10 * time.Second, MaxEjectionTime: 25 * time.Second, Interval: time.Hour},
			OnStateChange: func(c StateChange) { news = append(news, fmt.Sprintf("%s %v→%v", c.Backend, c.From, c.To)) },
		}, 2)
		b := p.backends[0]
		failures, why := 3, "3 failures in a row, the last: reset"
		for _, want := range []time.Duration{10 * time.Second, 20 * time.Second, 25 * time.Second, 25 * time.Second} {
			end(p, b, failures, bad)
			if s := p.Status()[0]; s.State != Ejected || time.Until(s.EjectedUntil) != want || !strings.Contains(s.LastError, why) {
				t.Fatalf("status %+v, want ejected for %v", s, want)
			}
			failures, why = 1, "failed when it was tried again: reset"
			for range 3 {
				if got := pickID(t, p, PickInfo{}); got != "b1" {
					t.Fatalf("picked %s", got)
				}
			}
			time.Sleep(want - time.Millisecond)
			synctest.Wait()
			if got := stateOf(p, 0); got != Ejected {
				t.Fatalf("%v before its time", got)
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if s := p.Status()[0]; s.State != Healthy || !s.EjectedUntil.IsZero() {
				t.Fatalf("status %+v after its time", s)
			}
		}
		if want := []string{"b0 healthy→ejected", "b0 ejected→healthy"}; !slices.Equal(news[:2], want) {
			t.Errorf("news %q", news)
		}
		time.Sleep(4*time.Hour + time.Second) // four steps back
		end(p, b, 3, bad)
		if d := time.Until(p.Status()[0].EjectedUntil); d != 10*time.Second {
			t.Errorf("after a long good time ejected for %v", d)
		}
	})
}

func TestMaxEjected(t *testing.T) {
	for _, c := range []struct{ backends, percent, want int }{
		{1, 100, 0}, {2, 0, 1}, {2, 100, 1}, {5, 10, 1}, {10, 30, 3}, {10, 0, 5}, {4, 100, 3},
	} {
		p := poolOf(t, PoolConfig{Outlier: &OutlierDetection{MaxEjected: c.percent}}, c.backends)
		ejected := 0
		for _, b := range p.backends {
			end(p, b, 50, bad)
		}
		for _, s := range p.Status() {
			if s.State == Ejected {
				ejected++
			}
		}
		if ejected != c.want {
			t.Errorf("%+v: %d ejected", c, ejected)
		}
		p.Close()
	}
}

func TestSuccessRateAndLatencyEject(t *testing.T) {
	good := Outcome{Status: 200, Duration: 10 * time.Millisecond}
	slow := Outcome{Status: 200, Duration: 50 * time.Millisecond}
	for _, c := range []struct {
		name    string
		conf    OutlierDetection
		n       int
		of      func(p *Pool)
		ejected string
	}{
		{"one fails a fifth", OutlierDetection{Consecutive: -1}, 6, func(p *Pool) { end(p, p.backends[2], 30, bad) }, "2"},
		{"all fail alike", OutlierDetection{Consecutive: -1}, 6, func(p *Pool) {
			for _, b := range p.backends {
				end(p, b, 30, bad)
			}
		}, ""},
		{"rates off", OutlierDetection{Consecutive: -1, Deviations: -1}, 6, func(p *Pool) { end(p, p.backends[2], 30, bad) }, ""},
		{"too few backends", OutlierDetection{Consecutive: -1}, 4, func(p *Pool) { end(p, p.backends[2], 30, bad) }, ""},
		{"too few requests", OutlierDetection{Consecutive: -1, MinRequests: 1000}, 6, func(p *Pool) { end(p, p.backends[2], 30, bad) }, ""},
		{"slow, not asked", OutlierDetection{}, 6, func(p *Pool) { end(p, p.backends[4], 400, slow) }, ""},
		{"slow", OutlierDetection{LatencyFactor: 3}, 6, func(p *Pool) { end(p, p.backends[4], 400, slow) }, "4"},
		{"not slow enough", OutlierDetection{LatencyFactor: 6}, 6, func(p *Pool) { end(p, p.backends[4], 400, slow) }, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := poolOf(t, PoolConfig{Outlier: &c.conf}, c.n)
			for _, b := range p.backends {
				end(p, b, 120, good)
			}
			c.of(p)
			time.Sleep(10*time.Second + time.Millisecond)
			synctest.Wait()
			var got []string
			for i, s := range p.Status() {
				if s.State == Ejected {
					got = append(got, fmt.Sprint(i))
				}
			}
			if s := strings.Join(got, " "); s != c.ejected {
				t.Errorf("%s: ejected %q, want %q", c.name, s, c.ejected)
			}
		})
	}
}

// What cannot be judged by health is judged as before: an unhealthy backend is
// unhealthy, and a drain is a drain, ejected or not.
func TestEjectionHidesNothing(t *testing.T) {
	p := poolOf(t, PoolConfig{Outlier: new(OutlierDetection)}, 3)
	b := p.backends[0]
	end(p, b, 5, bad)
	p.Drain("b0")
	if got := b.State(); got != Draining {
		t.Errorf("drained: %v", got)
	}
	p.Resume("b0")
	if got := b.State(); got != Ejected {
		t.Errorf("resumed: %v", got)
	}
	b.health.Store(int32(Unhealthy))
	if got := b.State(); got != Unhealthy {
		t.Errorf("unhealthy: %v", got)
	}
	// A backend that is gone cannot be ejected, and its timer is stopped.
	p.Set(nil)
	end(p, b, 50, bad)
	p.readmit(b)
}

// Rates that are equal differ from their mean by rounding only.
func TestEqualRatesAreNoOutliers(t *testing.T) {
	for _, deviations := range []float64{0, 0.1} { // which is less than one, as rounding may be
		o := new(OutlierDetection{Deviations: deviations}.withDefaults())
		for n := 5; n < 40; n++ {
			for good := range int64(100) {
				all := slices.Repeat([]record{{good: good, bad: 100 - good}}, n)
				if out := o.outliers(all); len(out) > 0 {
					t.Fatalf("%d with %d of 100 good: %v", n, good, out[0].why)
				}
			}
		}
	}
}

// TestEjectionsAreNews at once, with the reason, whether failures in a row have brought
// them about or a comparison.
func TestEjectionsAreNews(t *testing.T) {
	unavailable := Outcome{Status: 503, Duration: time.Millisecond}
	for name, c := range map[string]struct {
		conf  OutlierDetection
		after time.Duration
		why   string
	}{
		"in a row":   {OutlierDetection{Consecutive: 3}, 0, "3 failures in a row, the last: status 503"},
		"comparison": {OutlierDetection{Consecutive: -1, Interval: time.Minute}, time.Minute, "success rate 97.6 %"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var news []StateChange
			p := poolOf(t, PoolConfig{Outlier: &c.conf, OnStateChange: func(c StateChange) { news = append(news, c) }}, 6)
			start := time.Now()
			for _, b := range p.backends {
				end(p, b, 120, Outcome{Status: 200, Duration: time.Millisecond})
			}
			end(p, p.backends[2], 3, unavailable)
			time.Sleep(c.after)
			synctest.Wait()
			if len(news) != 1 || news[0].Backend != "b2" || news[0].To != Ejected || news[0].Time.Sub(start) != c.after ||
				!strings.Contains(fmt.Sprint(news[0].Err), c.why) || p.Status()[2].LastError != news[0].Err.Error() {
				t.Errorf("%s: %+v, and the status %+v", name, news, p.Status()[2])
			}
			p.Close()
		})
	}
}

// TestRemovedBackendHasNoTimer: nothing waits for the end of the ejection of a backend
// that has gone.
func TestRemovedBackendHasNoTimer(t *testing.T) {
	p := poolOf(t, PoolConfig{Outlier: &OutlierDetection{Consecutive: 1}}, 3)
	b := p.backends[1]
	end(p, b, 1, Outcome{Status: 503})
	if b.State() != Ejected {
		t.Fatalf("the backend is %v", b.State())
	}
	if err := p.Remove(b.ID()); err != nil {
		t.Fatal(err)
	}
	if b.conduct.back.Stop() {
		t.Error("the timer still runs")
	}
}
