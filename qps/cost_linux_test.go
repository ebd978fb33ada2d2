//go:build figures

package qps

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// window runs an operation for a short while on so many threads at once, and
// returns the nanoseconds that one took. On a machine that others use, "go test
// -bench" measures them as well, and hides contention, because its threads
// seldom run together. So a window counts only if every thread had a processor
// to itself, 95 % of the time, and ran beside the others for 85 %.
func window(threads int, prepare func() func()) (nanos float64, ok bool) {
	const length = 400 * time.Microsecond
	type run struct {
		begin, end time.Time
		cpu        time.Duration
		ops        int
	}
	runs := make([]run, threads)
	var together, ready atomic.Int32
	var wg sync.WaitGroup
	for i := range threads {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			// Threads that are not yet side by side would hold the same shard.
			meet(&together, threads)
			op := prepare()
			for range 200 {
				op()
			}
			meet(&ready, threads)
			r := run{begin: time.Now()}
			before := threadCPU()
			for time.Since(r.begin) < length {
				for range 256 {
					op()
				}
				r.ops += 256
			}
			r.cpu = threadCPU() - before
			r.end = time.Now()
			runs[i] = r
		})
	}
	wg.Wait()
	begin, end := runs[0].begin, runs[0].end
	for _, r := range runs {
		if float64(r.cpu) < 0.95*float64(r.end.Sub(r.begin)) {
			return 0, false
		}
		if r.begin.After(begin) {
			begin = r.begin
		}
		if r.end.Before(end) {
			end = r.end
		}
		nanos += float64(r.end.Sub(r.begin)) / float64(r.ops) / float64(threads)
	}
	for _, r := range runs {
		if float64(end.Sub(begin)) < 0.85*float64(r.end.Sub(r.begin)) {
			return 0, false
		}
	}
	return nanos, true
}

// meet waits until so many threads have come.
func meet(here *atomic.Int32, threads int) {
	here.Add(1)
	for int(here.Load()) < threads {
		runtime.Gosched()
	}
}

type candidate struct {
	name     string
	prepare  func() func()
	accepted []float64
}

func (c *candidate) median() float64 {
	if len(c.accepted) == 0 {
		return 0
	}
	slices.Sort(c.accepted)
	return c.accepted[len(c.accepted)/2]
}

// measure takes a window of each candidate in turn, until each has 15 or time
// is up, and returns the medians.
func measure(t *testing.T, threads int, candidates []candidate) map[string]float64 {
	tried := 0
	for begin := time.Now(); time.Since(begin) < 15*time.Second; tried++ {
		missing := false
		for i := range candidates {
			c := &candidates[i]
			if nanos, ok := window(threads, c.prepare); ok && len(c.accepted) < 15 {
				c.accepted = append(c.accepted, nanos)
			}
			missing = missing || len(c.accepted) < 15
		}
		if !missing {
			break
		}
	}
	medians := make(map[string]float64)
	for i := range candidates {
		c := &candidates[i]
		medians[c.name] = c.median()
		t.Logf("%d threads: %-15s %8.1f ns (%d accepted in %d rounds)", threads, c.name, c.median(), len(c.accepted), tried)
	}
	return medians
}

// TestCosts prints what recording costs.
//
//	go test -tags figures -run TestCosts -v ./qps
func TestCosts(t *testing.T) {
	var plain atomic.Uint64
	var counter Counter
	var recorder Recorder
	m := newMeter(t, Config{})
	upstream := m.Upstream("db")
	pattern := func(next http.Handler) func() func() {
		return func() func() {
			r := httptest.NewRequest("GET", "/", nil)
			r.Pattern = "GET /"
			w := new(nullWriter)
			return func() { next.ServeHTTP(w, r) }
		}
	}
	bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("hello")) })
	candidates := func() []candidate {
		return []candidate{
			{name: "plain atomic", prepare: func() func() { return func() { plain.Add(1) } }},
			{name: "Counter held", prepare: func() func() { s := counter.Shard(); return func() { s.Add(1) } }},
			{name: "Counter", prepare: func() func() { return func() { counter.Inc() } }},
			{name: "Recorder held", prepare: func() func() { s := recorder.Shard(); return func() { s.Record(time.Millisecond) } }},
			{name: "Recorder", prepare: func() func() { return func() { recorder.Record(time.Millisecond) } }},
			{name: "Upstream", prepare: func() func() { return func() { upstream.Observe(time.Millisecond, false) } }},
			{name: "one clock read", prepare: func() func() { return func() { m.now() } }},
			{name: "bare handler", prepare: pattern(bare)},
			{name: "middleware", prepare: pattern(m.Middleware(bare))},
		}
	}
	one := measure(t, 1, candidates())
	if a, h := one["plain atomic"], one["Counter held"]; h > 1.2*a {
		t.Errorf("a held counter costs %.1f ns, more than 1.2 of the %.1f ns of a plain atomic", h, a)
	}
	t.Logf("middleware above the handler and two clock reads: %.1f ns", one["middleware"]-one["bare handler"]-2*one["one clock read"])
	if runtime.GOMAXPROCS(0) > 1 {
		measure(t, 2, candidates())
	}
}
