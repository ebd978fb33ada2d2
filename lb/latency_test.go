package lb

import (
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func nanosOf(d time.Duration) float32 { return float32(d) }

// goldenEstimate is the same average, in float64 and without packing.
type goldenEstimate struct {
	mean float64
	at   int64 // ticks
	any  bool
}

func (g *goldenEstimate) observe(nanos, window float64, now int64, peak bool) {
	age := now - g.at
	switch {
	case !g.any || float64(age) > float64(ticksOf(forgetAfter)), peak && nanos > g.mean:
		g.mean = nanos
	case age == 0:
		return
	default:
		g.mean += (nanos - g.mean) * float64(age) / (window + float64(age))
	}
	g.any, g.at = true, now
}

func TestEstimateGolden(t *testing.T) {
	for _, peak := range []bool{false, true} {
		var e estimate
		var g goldenEstimate
		now := int64(math.MaxUint32) - 5000 // the ticks wrap on the way
		x := uint32(1)
		for i := range 3000 {
			x = x*1664525 + 1013904223
			now += int64(x >> 29)
			if i%500 == 499 {
				now += 20_000 // longer than is remembered
			}
			nanos := float64(x>>8) + 1
			e.observe(float32(nanos), 1000, tick(now), peak)
			g.observe(nanos, 1000, now, peak)
			if got := float64(e.load(tick(now)).nanos); math.Abs(got-g.mean) > 1e-4*g.mean {
				t.Fatalf("peak %v, observation %d: estimate %v, want %v", peak, i, got, g.mean)
			}
		}
	}
}

func TestEstimateFadesAndIsForgotten(t *testing.T) {
	var e estimate
	if l := e.load(7); l.nanos != 0 {
		t.Errorf("nothing was observed, but %v", l.nanos)
	}
	e.observe(nanosOf(time.Second), 1000, 100, false)
	for age, want := range map[tick]float32{0: 1, 1000: 0.5, 3000: 0.25, 20_000: 0} {
		if got := e.load(100+age).faded(1000) / nanosOf(time.Second); math.Abs(float64(got-want)) > 1e-6 {
			t.Errorf("after %d ticks %v of it is believed, want %v", age, got, want)
		}
	}
	// A clock that lags behind is no reason to forget.
	if got := e.load(50); got.nanos != nanosOf(time.Second) || got.age != 0 {
		t.Errorf("seen from before: %+v", got)
	}
}

func TestEstimateUnderConcurrency(t *testing.T) {
	var e estimate
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 2000 {
				e.observe(nanosOf(time.Millisecond), 1000, tick(i), false)
			}
		})
	}
	wg.Wait()
	if got := e.load(2000).nanos; math.Abs(float64(got/nanosOf(time.Millisecond)-1)) > 1e-3 {
		t.Errorf("everyone observed 1 ms, the estimate is %v ns", got)
	}
}

// latencyStrategies look at latency.
var latencyStrategies = []Strategy{LeastRequest{}, PeakEWMA{}}

// serve lets n requests pass one after the other, a request each 2 ms, with the
// latency that each backend has, and returns how many each got.
func serve(p Picker, backends []*Backend, n int, answer func(i int) Outcome) []int {
	got := make([]int, len(backends))
	for range n {
		b := p.Pick(PickInfo{})
		i := slices.Index(backends, b)
		got[i]++
		b.requests.Add(1) // as acquire does
		b.inFlight.Add(1)
		o := answer(i)
		time.Sleep(2 * time.Millisecond)
		// What takes longer than that is only said to: requests do not overlap, so
		// that latency alone decides.
		b.inFlight.Add(-1)
		p.(Observer).Done(b, o)
	}
	return got
}

func TestSlowBackendIsAvoidedAndTriedAgain(t *testing.T) {
	for _, s := range latencyStrategies {
		synctest.Test(t, func(t *testing.T) {
			backends := backendsOf(1, 1, 1, 1)
			p := s.Build(backends)
			slow := 100 * time.Millisecond
			answer := func(i int) Outcome {
				if i == 2 {
					return Outcome{Status: 200, Duration: slow}
				}
				return Outcome{Status: 200, Duration: 5 * time.Millisecond}
			}
			got := serve(p, backends, 10_000, answer) // 20 s
			if got[2] == 0 || got[2] > 200 {
				t.Errorf("%T: the slow one got %d of 10000, want a few", s, got[2])
			}
			for _, i := range []int{0, 1, 3} {
				if got[i] < 2500 {
					t.Errorf("%T: a fast one got %d of 10000, want a third", s, got[i])
				}
			}
			slow = 5 * time.Millisecond
			serve(p, backends, 7000, answer) // 14 s in which it is tried again
			if got := serve(p, backends, 4000, answer); got[2] < 500 {
				t.Errorf("%T: it is fast again and got %d of 4000, want a fourth or so", s, got[2])
			}
		})
	}
}

// A backend that was hopeless is not starved for ever either.
func TestForgottenBackendIsTried(t *testing.T) {
	for _, s := range latencyStrategies {
		synctest.Test(t, func(t *testing.T) {
			backends := backendsOf(1, 1)
			p := s.Build(backends)
			backends[1].latency.observe(nanosOf(time.Minute), 1000, tickNow(), false)
			ok := func(int) Outcome { return Outcome{Status: 200, Duration: time.Millisecond} }
			if got := serve(p, backends, 4000, ok); got[1] > 4 { // 8 s
				t.Errorf("%T: the hopeless one got %d of 4000", s, got[1])
			}
			if got := serve(p, backends, 2000, ok); got[1] == 0 {
				t.Errorf("%T: it was never tried again", s)
			}
		})
	}
}

// Errors are fast, which must not make them attractive.
func TestFailuresAreNotFast(t *testing.T) {
	for _, s := range latencyStrategies {
		for name, bad := range map[string]Outcome{
			"failed": {Result: Failed, Duration: time.Millisecond}, "unreachable": {Result: Unreachable, Duration: time.Millisecond},
			"503": {Status: 503, Duration: time.Millisecond},
		} {
			synctest.Test(t, func(t *testing.T) {
				backends := backendsOf(1, 1, 1)
				p := s.Build(backends)
				got := serve(p, backends, 6000, func(i int) Outcome {
					if i == 1 {
						return bad
					}
					return Outcome{Status: 200, Duration: 20 * time.Millisecond}
				})
				if got[1] > 2100 {
					t.Errorf("%T, %s: the one that fails got %d of 6000, want no more than its share", s, name, got[1])
				}
			})
		}
	}
}

func TestOutcomesThatSayNothing(t *testing.T) {
	var l latency
	for _, o := range []Outcome{
		{Result: Canceled, Duration: time.Hour}, {Status: 101, Duration: time.Hour}, {Status: 200},
	} {
		if nanos, ok := l.sample(o); ok {
			t.Errorf("%+v counts as %v ns", o, nanos)
		}
	}
}

// TestSampleIsBounded: the time to the head counts, if it is known, a failure
// counts for more than it took, and nothing for more than 8 times what was known.
func TestSampleIsBounded(t *testing.T) {
	const ms = time.Millisecond
	known := latency{nanos: nanosOf(10 * ms)}
	for _, c := range []struct {
		l    latency
		o    Outcome
		want time.Duration
	}{
		{known, Outcome{Status: 200, Duration: 15 * ms}, 15 * ms},
		{known, Outcome{Status: 200, Duration: time.Hour, Wait: 12 * ms}, 12 * ms},
		{known, Outcome{Status: 200, Duration: time.Hour}, 80 * ms},
		{known, Outcome{Status: 500, Duration: 1 * ms}, 40 * ms},
		{known, Outcome{Result: Failed, Duration: time.Minute}, 80 * ms},
		{latency{}, Outcome{Status: 200, Duration: time.Hour}, time.Hour},
	} {
		if got, ok := c.l.sample(c.o); !ok || got != nanosOf(c.want) {
			t.Errorf("%v ns known, %+v: %v, %v, want %v", c.l.nanos, c.o, got, ok, c.want)
		}
	}
}

// TestNewPickerKnowsTheLatencies: the set changes often, and what was learnt of
// backends stays.
func TestNewPickerKnowsTheLatencies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backends := backendsOf(1, 1, 1)
		p := LeastRequest{}.Build(backends)
		answer := func(i int) Outcome {
			return Outcome{Status: 200, Duration: []time.Duration{5, 5, 50}[i] * time.Millisecond}
		}
		serve(p, backends, 300, answer)
		p = LeastRequest{}.Build(backends)
		if got := order(p, 4); got != "abab" {
			t.Errorf("order %s, want abab: c is slow", got)
		}
	})
}

// A new backend joins as a usual one: it is neither flooded nor left out.
func TestNewBackendGetsItsShare(t *testing.T) {
	for _, s := range latencyStrategies {
		synctest.Test(t, func(t *testing.T) {
			backends := backendsOf(1, 1, 1, 1)
			answer := func(int) Outcome { return Outcome{Status: 200, Duration: 5 * time.Millisecond} }
			serve(s.Build(backends[:3]), backends, 300, answer)
			for _, b := range backends[:3] {
				b.inFlight.Store(10)
			}
			p := s.Build(backends)
			n := 0
			for range 24 { // none of which ends
				b := p.Pick(PickInfo{})
				b.inFlight.Add(1)
				if b == backends[3] {
					n++
				}
			}
			if n < 5 || n > 14 {
				t.Errorf("%T: the new one got %d of 24, want it to catch up with the others' 10", s, n)
			}
		})
	}
}
