package lb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// hotColdOf is a picker over n backends whose threshold comes from reports of 0
// to 99 requests in flight, so that more than 84 or so are hot.
func hotColdOf(n int) (*hotCold, []*Backend) {
	backends := backendsOf(slices.Repeat([]int{1}, n)...)
	p := HotColdLexicographic{}.Build(backends).(*hotCold)
	for i := range reportedMax {
		p.count(i * 100 / reportedMax)
	}
	return p, backends
}

// pickAll empties the reports.
func pickAll(p *hotCold) (got []string) {
	for b := p.pickReported(PickInfo{}); b != nil; b = p.pickReported(PickInfo{}) {
		got = append(got, b.ID())
	}
	return got
}

func TestHotColdOrder(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name string
		in   []Load // of a, b, …
		want []string
	}{
		{"cold: by latency", []Load{{9, 5 * ms}, {1, 9 * ms}, {5, 3 * ms}}, []string{"c", "a"}},
		{"hot: by requests in flight", []Load{{97, 1 * ms}, {95, 9 * ms}, {96, 5 * ms}}, []string{"b", "c"}},
		{"cold before hot", []Load{{99, 1 * ms}, {80, 9 * ms}, {98, 1 * ms}}, []string{"b", "c"}},
	} {
		p, backends := hotColdOf(10)
		for i, l := range c.in {
			p.note(backends[i], l)
		}
		// The last report alone is no choice, so it stays.
		if got := pickAll(p); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestHotColdCountsWhatItSends(t *testing.T) {
	p, backends := hotColdOf(10)
	p.note(backends[0], Load{81, time.Millisecond})
	for range 3 {
		p.note(backends[0], Load{81, time.Millisecond})
	}
	p.note(backends[1], Load{10, time.Second})
	var got []string
	for range 4 {
		got = append(got, p.pickReported(PickInfo{}).ID())
	}
	// After two requests more than was reported, a is hot.
	if hot := p.hotAbove(); hot != 82 || !slices.Equal(got, []string{"a", "a", "b", "a"}) {
		t.Errorf("hot above %d: order %v, want a a b a", hot, got)
	}
}

func TestHotColdReportsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, backends := hotColdOf(10)
		for i := range 4 {
			p.note(backends[i], Load{})
		}
		time.Sleep(reportMaxAge + 10*time.Millisecond)
		p.clock.advance()
		if b := p.pickReported(PickInfo{}); b != nil {
			t.Errorf("an old report of %v was used", b)
		}
		if b := p.Pick(PickInfo{}); b == nil {
			t.Error("without reports there is no choice")
		}
		// A report that comes after a time without requests is as old as it is.
		time.Sleep(time.Minute)
		p.note(backends[5], Load{})
		p.note(backends[6], Load{})
		p.clock.advance()
		if b := p.pickReported(PickInfo{}); b == nil {
			t.Error("reports of this moment are taken for old")
		}
	})
}

func TestHotColdDropsByTurnsTheWorstAndTheOldest(t *testing.T) {
	p, backends := hotColdOf(8) // 4 reports lie ready
	for i, l := range []time.Duration{1, 9, 2, 3} {
		p.note(backends[i], Load{Latency: l})
	}
	left := func() (ids string) {
		for _, r := range p.reports[:p.n] {
			ids += r.backend.ID()
		}
		return ids
	}
	var got []string
	for i := range 3 {
		p.note(backends[4+i], Load{Latency: 5})
		got = append(got, left())
	}
	if want := []string{"bcde", "cdef", "defg"}; !slices.Equal(got, want) {
		t.Errorf("reports %v, want %v: the oldest, the worst (b), the oldest", got, want)
	}
}

// TestHotColdQuantileGolden holds the order against sorting anew.
func TestHotColdQuantileGolden(t *testing.T) {
	p, _ := hotColdOf(4)
	p.reported = 0
	var all []int
	for range 500 {
		n := rand.IntN(30)
		p.count(n)
		all = append(all, n)
		want := slices.Sorted(slices.Values(all[max(0, len(all)-reportedMax):]))
		if got := p.sorted[:len(want)]; !slices.Equal(got, want) {
			t.Fatalf("after %d: %v, want %v", len(all), got, want)
		}
		if got := p.hotAbove(); got != want[int(0.84*float64(len(want)))] {
			t.Fatalf("after %d: hot above %d", len(all), got)
		}
	}
}

// TestHotColdQuantile: what is no quantile means the default.
func TestHotColdQuantile(t *testing.T) {
	for quantile, want := range map[float64]float64{0.25: 0.25, 0.5: 0.5, 0.99: 0.99, 0: 0.84, -1: 0.84, 1: 0.84, 2: 0.84, math.NaN(): 0.84, math.Inf(1): 0.84} {
		p := HotColdLexicographic{Quantile: quantile}.Build(backendsOf(1, 1, 1, 1)).(*hotCold)
		for i := range reportedMax {
			p.count(i)
		}
		if got := p.hotAbove(); got != int(want*reportedMax) {
			t.Errorf("Quantile %v of the numbers below %d: hot above %d, want %d", quantile, reportedMax, got, int(want*reportedMax))
		}
	}
}

// A backend that is never reported gets its part all the same.
func TestHotColdExplores(t *testing.T) {
	p, backends := hotColdOf(4)
	got := make(map[*Backend]int)
	for range 8000 {
		p.note(backends[0], Load{Latency: 1})
		p.note(backends[1], Load{Latency: 1})
		got[p.Pick(PickInfo{})]++
	}
	for _, b := range backends[2:] {
		if got[b] < 50 || got[b] > 250 { // 8000/16/4 = 125
			t.Errorf("%v got %d of 8000, want 125 or so", b, got[b])
		}
	}
}

func TestHotColdSkipsTheTried(t *testing.T) {
	p, backends := hotColdOf(10)
	p.note(backends[0], Load{Latency: 1})
	p.note(backends[1], Load{Latency: 2})
	if b := p.pickReported(PickInfo{Tried: backends[:1]}); b != backends[1] {
		t.Errorf("got %v, want b", b)
	}
}

// TestProbes: each request that ends has two backends asked, at most 64 at a
// time; answers are used, errors are not, and a close ends them.
func TestProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked, answered, ended atomic.Int64
		hang := false
		var last Picked
		pool := poolOf(t, PoolConfig{Strategy: HotColdLexicographic{Probe: func(ctx context.Context, b *Backend) (Load, error) {
			asked.Add(1)
			defer ended.Add(1)
			if hang {
				<-ctx.Done()
				return Load{}, ctx.Err()
			}
			if b.ID() == "b0" {
				return Load{InFlight: 7}, errors.New("no")
			}
			answered.Add(1)
			return Load{InFlight: 1, Latency: time.Millisecond}, nil
		}}}, 10)
		request := func() {
			picked, err := pool.Pick(PickInfo{})
			if err != nil {
				t.Fatal(err)
			}
			picked.Done(Outcome{})
			last = picked
			synctest.Wait()
		}
		for range 20 {
			request()
		}
		if n := asked.Load(); n != 20*probesEach {
			t.Errorf("%d probes for 20 requests", n)
		}
		p := last.observer.(*hotCold)
		for _, r := range p.reports[:p.n] {
			if r.backend.ID() == "b0" {
				t.Error("an answer with an error was used")
			}
		}
		if n := answered.Load(); p.n == 0 || int64(p.reported) != n || p.sorted[p.reported-1] != 1 {
			t.Errorf("%d answers were noted, want the %d good ones, which tell of 1 request in flight", p.reported, n)
		}
		hang = true
		asked.Store(0)
		ended.Store(0)
		for range 100 {
			request()
		}
		if n := asked.Load(); n != probesMax {
			t.Errorf("%d probes that hang, want %d", n, probesMax)
		}
		time.Sleep(probeTimeout)
		synctest.Wait()
		if n := ended.Load(); n != probesMax {
			t.Errorf("%d probes ended in time, want %d", n, probesMax)
		}
		// Those that were refused do not count any more.
		for range 100 {
			request()
		}
		if n := asked.Load(); n != 2*probesMax {
			t.Errorf("%d probes after the first ones ended, want %d more", n-probesMax, probesMax)
		}
		pool.Close()
		synctest.Wait()
		before := asked.Load()
		p.ask(pool.ctx)
		synctest.Wait()
		if n := asked.Load(); n != before {
			t.Errorf("%d probes after the pool was closed", n-before)
		}
		if a, e := asked.Load(), ended.Load(); a != e {
			t.Errorf("%d of %d probes ended with the pool", e, a)
		}
	})
}

func TestOutcomeLoadIsAReport(t *testing.T) {
	pool := poolOf(t, PoolConfig{Strategy: HotColdLexicographic{}}, 4)
	for i := range 3 {
		picked, err := pool.Pick(PickInfo{})
		if err != nil {
			t.Fatal(err)
		}
		picked.Done(Outcome{Load: new(Load{InFlight: i})})
	}
	picked, _ := pool.Pick(PickInfo{})
	picked.Done(Outcome{})
	p := picked.observer.(*hotCold)
	if p.reported != 3 {
		t.Errorf("%d reports, want 3: %s", p.reported, fmt.Sprint(p.newest[:4]))
	}
}
