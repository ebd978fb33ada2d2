package lb

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestOutliersGolden names those that are out of line, the worst first. A record is
// good, bad and the mean latency of the good ones in milliseconds.
func TestOutliersGolden(t *testing.T) {
	type rec struct{ good, bad, ms int64 }
	even := func(n int) (out []rec) { return slices.Repeat([]rec{{100, 0, 10}}, n) }
	with := func(base []rec, more ...rec) []rec { return append(slices.Clone(base), more...) }
	for _, c := range []struct {
		name string
		conf OutlierDetection
		all  []rec
		want []int
	}{
		{"nobody", OutlierDetection{}, even(6), nil},
		{"one of five", OutlierDetection{}, with(even(4), rec{90, 10, 10}), []int{4}},
		{"one of four", OutlierDetection{}, with(even(3), rec{90, 10, 10}), nil},
		// Of n, one is √(n−1) deviations away: 2 with 5, 2.236 with 6.
		{"two deviations, 1.99 wanted", OutlierDetection{Deviations: 1.99}, with(even(4), rec{90, 10, 10}), []int{4}},
		{"two deviations, 2.01 wanted", OutlierDetection{Deviations: 2.01}, with(even(4), rec{90, 10, 10}), nil},
		{"2.236 deviations, however small", OutlierDetection{Deviations: 2.23}, with(even(5), rec{99, 1, 10}), []int{5}},
		{"a half", OutlierDetection{Deviations: 2.23}, with(even(5), rec{50, 50, 10}), []int{5}},
		{"two, the worse first", OutlierDetection{Deviations: 1}, with(even(6), rec{70, 30, 10}, rec{60, 40, 10}), []int{7, 6}},
		{"slow by more than thrice", OutlierDetection{LatencyFactor: 3}, with(even(5), rec{100, 0, 31}), []int{5}},
		{"slow by thrice", OutlierDetection{LatencyFactor: 3}, with(even(5), rec{100, 0, 30}), nil},
		{"two are slow, the slower first", OutlierDetection{LatencyFactor: 3}, with(even(5), rec{100, 0, 40}, rec{100, 0, 50}), []int{6, 5}},
		{"failures have no latency", OutlierDetection{LatencyFactor: 3, Deviations: -1}, with(even(5), rec{50, 50, 29}), nil},
		{"slow and failing by half", OutlierDetection{LatencyFactor: 3, Deviations: -1}, with(even(5), rec{50, 50, 31}), []int{5}},
		{"nothing good is not slow", OutlierDetection{LatencyFactor: 3, Deviations: -1}, with(even(5), rec{0, 100, 0}), nil},
		{"too few with a latency", OutlierDetection{LatencyFactor: 3, Deviations: -1}, with(even(3), rec{100, 0, 50}, rec{0, 100, 0}, rec{0, 100, 0}), nil},
		{"failures before slowness", OutlierDetection{LatencyFactor: 3}, with(even(6), rec{100, 0, 50}, rec{50, 50, 10}), []int{7, 6}},
	} {
		var all []record
		for i, r := range c.all {
			all = append(all, record{backend: &Backend{id: fmt.Sprint(i)}, good: r.good, bad: r.bad, took: r.good * r.ms * int64(time.Millisecond)})
		}
		o := c.conf.withDefaults()
		var got, want []string
		for _, r := range o.outliers(all) {
			if got = append(got, r.backend.id); r.why == nil {
				t.Errorf("%s: no reason", c.name)
			}
		}
		for _, i := range c.want {
			want = append(want, fmt.Sprint(i))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v are outliers, want %v", c.name, got, want)
		}
	}
}

func TestOutlierDefaults(t *testing.T) {
	d := OutlierDetection{}.withDefaults()
	status := d.FailureStatus
	d.FailureStatus = nil
	if got, want := fmt.Sprint(d), "{5 <nil> 10s 1.9 0 100 5 30s 5m0s 50}"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for code := range 1000 {
		if got := status(code); got != (code == 502 || code == 503 || code == 504) {
			t.Errorf("%d counts as a failure: %v", code, got)
		}
	}
	if d := (OutlierDetection{EjectionTime: time.Hour}).withDefaults(); d.MaxEjectionTime != time.Hour {
		t.Errorf("MaxEjectionTime is %v, want an hour as EjectionTime", d.MaxEjectionTime)
	}
	for _, good := range []OutlierDetection{
		{EjectionTime: time.Minute, MaxEjectionTime: time.Minute}, {LatencyFactor: 1.001}, {MinBackends: 3}, {MaxEjected: 100}, {Deviations: -1, Consecutive: -1},
	} {
		if err := good.validate(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	if (&OutlierDetection{LatencyFactor: 1}).validate() == nil {
		t.Error("LatencyFactor 1 was taken, by which half of all are slow")
	}
}

// TestIntervalsStandAlone: what was before the last comparison does not count, and
// MinRequests are of good and bad ones.
func TestIntervalsStandAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{Outlier: &OutlierDetection{Consecutive: -1, LatencyFactor: 3}}, 6)
		defer p.Close()
		ejected := func() (ids []string) {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			for _, s := range p.Status() {
				if s.State == Ejected {
					ids = append(ids, s.ID)
				}
			}
			return ids
		}
		good := func(b *Backend, n int, d time.Duration) { end(p, b, n, Outcome{Status: 200, Duration: d}) }
		time.Sleep(time.Millisecond) // behind the comparisons
		for _, b := range p.backends[1:] {
			good(b, 100, time.Millisecond)
		}
		// 99 requests are too few, whatever they were.
		good(p.backends[0], 9, time.Second)
		end(p, p.backends[0], 90, bad)
		if got := ejected(); len(got) > 0 {
			t.Errorf("%v are ejected after 99 requests", got)
		}
		// Then 100 good ones, fast: the 90 bad and the slow ones are forgotten.
		for _, b := range p.backends {
			good(b, 100, time.Millisecond)
		}
		if got := ejected(); len(got) > 0 {
			t.Errorf("%v are ejected for what was in another interval", got)
		}
		// Good ones of before do not make up for what 50 are too few to say.
		for _, b := range p.backends[1:] {
			good(b, 100, time.Millisecond)
		}
		end(p, p.backends[0], 50, bad)
		if got := ejected(); len(got) > 0 {
			t.Errorf("%v are ejected after 50 requests", got)
		}
		// 100 of which few are good.
		for _, b := range p.backends[1:] {
			good(b, 100, time.Millisecond)
		}
		good(p.backends[0], 20, time.Millisecond)
		end(p, p.backends[0], 80, bad)
		if got := ejected(); !slices.Equal(got, []string{"b0"}) {
			t.Errorf("%v are ejected, want b0", got)
		}
	})
}

// TestTwoReasonsEjectOnce: one that is both slow and failing is ejected for as long
// as for one of them.
func TestTwoReasonsEjectOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{Outlier: &OutlierDetection{Consecutive: -1, LatencyFactor: 3}}, 6)
		defer p.Close()
		for _, b := range p.backends[1:] {
			end(p, b, 100, Outcome{Status: 200, Duration: time.Millisecond})
		}
		end(p, p.backends[0], 50, Outcome{Status: 200, Duration: time.Second})
		end(p, p.backends[0], 50, bad)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := p.Status()[0]; s.State != Ejected || time.Until(s.EjectedUntil) != 30*time.Second || !strings.Contains(s.LastError, "success rate") {
			t.Errorf("%+v, want an ejection of 30 s for the success rate", s)
		}
	})
}

// TestStepsBack: each Interval in which a backend is not ejected takes one step back.
func TestStepsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{Outlier: &OutlierDetection{Consecutive: 1, EjectionTime: 25 * time.Second, Interval: 10 * time.Second}}, 3)
		defer p.Close()
		b := p.backends[0]
		eject := func(want time.Duration) {
			t.Helper()
			end(p, b, 1, bad)
			if got := time.Until(p.Status()[0].EjectedUntil); got != want {
				t.Fatalf("ejected for %v, want %v", got, want)
			}
			// No step back meanwhile.
			time.Sleep(want)
			synctest.Wait()
			if got := stateOf(p, 0); got != Healthy {
				t.Fatalf("%v after its time", got)
			}
		}
		time.Sleep(time.Millisecond)
		eject(25 * time.Second) // to 25
		eject(50 * time.Second) // to 75
		eject(75 * time.Second) // to 150
		time.Sleep(10 * time.Second)
		eject(75 * time.Second) // one step back
		time.Sleep(20 * time.Second)
		eject(50 * time.Second) // two
	})
}

// TestRemovedBackendIsNotEjected: its late failures are nobody's business.
func TestRemovedBackendIsNotEjected(t *testing.T) {
	var news []StateChange
	p := poolOf(t, PoolConfig{Outlier: new(OutlierDetection), OnStateChange: func(c StateChange) { news = append(news, c) }}, 3)
	b := p.backends[0]
	if err := p.Remove("b0"); err != nil {
		t.Fatal(err)
	}
	end(p, b, 50, Outcome{Result: Failed, Err: errors.New("late")})
	if len(news) > 0 || b.State() != Healthy {
		t.Errorf("a backend that is gone is %v: %+v", b.State(), news)
	}
}
