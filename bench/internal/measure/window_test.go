package measure

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for name, c := range map[string]struct {
		spans []span
		nanos float64
		ok    bool
	}{
		"one":           {[]span{{at(0), at(100), ms(100), 1000}}, 1e5, true},
		"interrupted":   {[]span{{at(0), at(100), ms(94), 1000}}, 0, false},
		"two":           {[]span{{at(0), at(100), ms(100), 1000}, {at(10), at(110), ms(97), 500}}, 1.5e5, true},
		"one after one": {[]span{{at(0), at(100), ms(100), 1000}, {at(20), at(120), ms(100), 1000}}, 0, false},
		"apart":         {[]span{{at(0), at(100), ms(100), 1000}, {at(200), at(300), ms(100), 1000}}, 0, false},
	} {
		if nanos, ok := judge(c.spans); ok != c.ok || ok && nanos != c.nanos {
			t.Errorf("%s: %v, %v, want %v, %v", name, nanos, ok, c.nanos, c.ok)
		}
	}
}

// TestWindows checks the bookkeeping; a busy machine may let no window count.
func TestWindows(t *testing.T) {
	var calls, prepared atomic.Int64
	got := Windows(2, 3, 2*time.Second, []Operation{
		{Name: "a", Prepare: func() func() { prepared.Add(1); return func() { calls.Add(1) } }},
		{Name: "b", Prepare: func() func() { return func() {} }},
	})
	if len(got) != 2 || got[0].Tried < 1 || len(got[0].Nanos) > 3 || len(got[0].Nanos) > got[0].Tried {
		t.Errorf("the windows are %+v", got)
	}
	if prepared.Load() != 2*int64(got[0].Tried) || calls.Load() < 2*warmOps {
		t.Errorf("%d threads were prepared and %d operations done in %d windows", prepared.Load(), calls.Load(), got[0].Tried)
	}
	for _, w := range got {
		for _, n := range w.Nanos {
			if n <= 0 {
				t.Errorf("an operation took %v ns", n)
			}
		}
	}
}

// TestThreadCPU checks that the clock sees less than a tick.
func TestThreadCPU(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	seen := 0
	for range 100 {
		cpu, process := threadCPU(), ProcessCPU()
		for begin := time.Now(); time.Since(begin) < 100*time.Microsecond; {
		}
		if used := threadCPU() - cpu; used > 20*time.Microsecond && ProcessCPU()-process >= used/2 {
			seen++
		}
	}
	if seen < 50 {
		t.Errorf("the clock saw %d of 100 loops of 100 µs", seen)
	}
}
