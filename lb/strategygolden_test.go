package lb

import (
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestRoundRobinIsExactUnderConcurrency: no turn is taken twice or left out. In
// a hurry, what is left of each processor's round is, and no more.
func TestRoundRobinIsExactUnderConcurrency(t *testing.T) {
	const workers, each = 8, 240_000
	// More threads than processors: one is often stopped between two instructions.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(workers))
	for _, hurries := range []bool{false, true} {
		backends := backendsOf(1, 1, 1)
		r := newRotation(backends)
		var counts [workers]map[*Backend]int
		var takers [workers]*taker
		start := make(chan bool)
		var wg sync.WaitGroup
		for i := range workers {
			wg.Go(func() {
				<-start
				got, p := make(map[*Backend]int), newTaker()
				for range each {
					if !hurries {
						p.until, p.count = hurryAfter, hurryAfter // it never looks
					}
					got[r.at(r.turns.takeFor(p), PickInfo{})]++
				}
				counts[i], takers[i] = got, p
			})
		}
		close(start)
		wg.Wait()
		for i, p := range takers {
			for ; p.left > 0; p.left-- {
				counts[i][r.at(p.lot, PickInfo{})]++
				p.lot++
			}
		}
		n := make([]int, len(backends))
		for i, b := range backends {
			for _, got := range counts {
				n[i] += got[b]
			}
		}
		if slices.Max(n)-slices.Min(n) > 1 || !hurries && n[0] != workers*each/len(backends) {
			t.Errorf("in a hurry %v: the backends got %v requests, want as many each", hurries, n)
		}
	}
}

// TestAliasTableGolden adds up what the slots of the table give to each backend,
// which is its weight's share but for rounding.
func TestAliasTableGolden(t *testing.T) {
	for _, weights := range [][]int{{1, 2, 3}, {2, 1, 3, 2}, {5, 5, 1, 9}, {1, maxWeight}, {4, 4, 4, 1, 7}, {1, 2, 3, 4, 5, 6, 7, 8, 9}} {
		s := newSampler(backendsOf(weights...))
		got := make([]float64, len(weights))
		for i, slot := range s.slots {
			keep := float64(slot.keep) / (1 << 32)
			got[i] += keep / float64(len(weights))
			got[slot.other] += (1 - keep) / float64(len(weights))
		}
		total := 0
		for _, w := range weights {
			total += w
		}
		for i, w := range weights {
			if want := float64(w) / float64(total); math.Abs(got[i]-want) > 1e-9 {
				t.Errorf("weights %v: the table gives %.9f to number %d, want %.9f", weights, got[i], i, want)
			}
		}
	}
	if s := newSampler(backendsOf(3, 3)); s.slots != nil {
		t.Error("equal weights have a table")
	}
}

// TestSampleTwoGolden: two backends of equal weight are different ones, and each
// pair is as likely as any other.
func TestSampleTwoGolden(t *testing.T) {
	backends := backendsOf(1, 1, 1, 1)
	s := newSampler(backends)
	const n = 60_000
	pairs := make(map[[2]*Backend]int)
	for range n {
		a, b := s.sampleTwo(PickInfo{})
		pairs[[2]*Backend{a, b}]++
	}
	if len(pairs) != 12 {
		t.Errorf("%d pairs, want the 12 of different backends", len(pairs))
	}
	for pair, got := range pairs {
		// Five standard deviations of chance.
		if want := n / 12.0; pair[0] == pair[1] || math.Abs(float64(got)-want) > 5*math.Sqrt(want) {
			t.Errorf("%v came %d times, want %v or nearly so", pair, got, want)
		}
	}
}

// TestLeastRequestScansUpTo64: a word has a bit for each.
func TestLeastRequestScansUpTo64(t *testing.T) {
	backends := backendsOf(slices.Repeat([]int{1}, scanMax)...)
	p, ok := LeastRequest{}.Build(backends).(*leastRequest)
	if !ok || scanMax != 64 {
		t.Fatalf("up to %d backends are scanned, want 64", scanMax)
	}
	for i, want := range backends {
		for j, b := range backends {
			b.inFlight.Store(int64(min(1, max(i-j, j-i))))
		}
		if got := p.Pick(PickInfo{}); got != want {
			t.Errorf("%v alone is idle, got %v", want, got)
		}
	}
	for _, b := range backends {
		b.inFlight.Store(0)
	}
	got := make(map[*Backend]bool)
	for range backends {
		b := p.Pick(PickInfo{})
		b.requests.Add(1)
		got[b] = true
	}
	if len(got) != scanMax {
		t.Errorf("%d of %d that are equal had their turn", len(got), scanMax)
	}
	if p, ok := (LeastRequest{}).Build(backendsOf(slices.Repeat([]int{1}, scanMax+1)...)).(*betterOfTwo); !ok {
		t.Errorf("65 backends get a %T", p)
	}
}

// TestSlownessGolden: a backend counts as many times more requests as its answers
// take longer than 1.5 times what is usual, and a millisecond more at least.
func TestSlownessGolden(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		usual, latency time.Duration
		inFlight       int64
		want           float64
	}{
		{0, time.Minute / 2, 3, 3}, // nobody knows what is usual
		{10 * ms, 0, 3, 3},
		{10 * ms, 14 * ms, 3, 3},
		{10 * ms, 15 * ms, 3, 3},
		{10 * ms, 30 * ms, 0, 1}, // (0+1)·2 − 1
		{10 * ms, 30 * ms, 3, 7}, // (3+1)·2 − 1
		{10 * ms, 45 * ms, 1, 5}, // (1+1)·3 − 1
		{1 * ms, 2 * ms, 3, 3},   // 1.5 ms, but not a millisecond more
		{1 * ms, 4 * ms, 3, 7},   // (3+1)·(4/2) − 1
	} {
		b := backendsOf(1)[0]
		var s slowness
		s.begin(nil, slowWindow, slowSlack)
		const now = 5000
		if c.usual > 0 {
			s.usual.observe(nanosOf(c.usual), s.window, now, false)
		}
		if c.latency > 0 {
			b.latency.observe(nanosOf(c.latency), s.window, now, false)
		}
		b.inFlight.Store(c.inFlight)
		if got := s.inFlight(b, now, s.limit(now)); math.Abs(float64(got)-c.want) > 1e-3 {
			t.Errorf("%v is usual, it takes %v and has %d in flight: counts %v, want %v", c.usual, c.latency, c.inFlight, got, c.want)
		}
	}
}

// TestBetterOfTwoWeighs: of two, the less loaded one relative to its weight, and
// one that is slow has more.
func TestBetterOfTwoWeighs(t *testing.T) {
	backends := backendsOf(3, 4)
	for _, c := range []struct {
		inFlight [2]int64
		slow     int // -1 for none
		want     int
	}{
		{[2]int64{3, 3}, -1, 1}, {[2]int64{3, 5}, -1, 0}, {[2]int64{2, 3}, -1, 0}, {[2]int64{0, 1}, -1, 0}, {[2]int64{1, 0}, -1, 1},
		{[2]int64{3, 3}, 1, 0}, {[2]int64{3, 5}, 0, 1},
	} {
		p := &betterOfTwo{sampler: newSampler(backends)}
		p.begin(nil, slowWindow, slowSlack)
		now := p.clock.now()
		p.usual.observe(nanosOf(time.Millisecond), p.window, now, false)
		for i, b := range backends {
			b.inFlight.Store(c.inFlight[i])
			b.latency.word.Store(0)
			if i == c.slow {
				b.latency.observe(nanosOf(time.Second), p.window, now, false)
			}
		}
		// Each is drawn first by its weight; that both draws, of four, are of the one
		// that is not wanted, happens in (4/7)^5 of the cases.
		got := spread(p, backends, 4000, anyRequest)
		if share := float64(got[c.want]) / 4000; share < 0.9 {
			t.Errorf("in flight %v, slow %d: number %d got a share of %.2f", c.inFlight, c.slow, c.want, share)
		}
	}
}

// TestPeakEWMACostGolden: latency times requests, relative to weight. What is not
// known is usual, or, of an idle one, worth a try.
func TestPeakEWMACostGolden(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		latency  time.Duration
		age      tick // of the latency, in ticks
		inFlight int64
		weight   int
		want     time.Duration
	}{
		{10 * ms, 0, 0, 1, 10 * ms},
		{10 * ms, 0, 3, 1, 40 * ms},
		{10 * ms, 0, 3, 4, 10 * ms},
		{10 * ms, tick(ticksOf(peakWindow)), 3, 1, 20 * ms}, // half of it is believed
		{0, 0, 3, 2, 40 * ms},                               // 20 ms are usual
		{0, 0, 0, 1, 0},
	} {
		b := backendsOf(c.weight)[0]
		p := PeakEWMA{}.Build([]*Backend{b}).(*peakEWMA)
		const now = 50_000
		if c.latency > 0 {
			b.latency.observe(nanosOf(c.latency), p.window, now-c.age, true)
		}
		b.inFlight.Store(c.inFlight)
		if got := p.cost(b, now, nanosOf(20*ms)); math.Abs(float64(got-nanosOf(c.want))) > 1e3 {
			t.Errorf("%+v: cost %v, want %v", c, time.Duration(got), c.want)
		}
	}
}

// TestPeakEWMAPrefersTheCheaper: of two, as their costs are.
func TestPeakEWMAPrefersTheCheaper(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		latency  [2]time.Duration
		inFlight [2]int64
		want     int
	}{
		{[2]time.Duration{10 * ms, 30 * ms}, [2]int64{1, 1}, 0},
		{[2]time.Duration{10 * ms, 30 * ms}, [2]int64{4, 0}, 1},
		{[2]time.Duration{10 * ms, 0}, [2]int64{0, 5}, 0}, // it is taken for a usual one
		{[2]time.Duration{10 * ms, 0}, [2]int64{0, 0}, 1},
	} {
		backends := backendsOf(1, 1)
		p := PeakEWMA{}.Build(backends).(*peakEWMA)
		now := p.clock.now()
		p.usual.observe(nanosOf(10*ms), p.window, now, false)
		for i, b := range backends {
			b.inFlight.Store(c.inFlight[i])
			if c.latency[i] > 0 {
				b.latency.observe(nanosOf(c.latency[i]), p.window, now, true)
			}
		}
		if got := spread(p, backends, 100, anyRequest); got[c.want] != 100 {
			t.Errorf("%+v: got %v, want all for number %d", c, got, c.want)
		}
	}
}

// TestPeakEWMABelievesPeaksAtOnce, and that they are over bit by bit: within 10 s,
// while LeastRequest takes the mean of a second in both directions.
func TestPeakEWMABelievesPeaksAtOnce(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		s    Strategy
		peak [2]time.Duration // what the latency is after one slow answer, from and to
		over [2]time.Duration // and after a second of fast ones
	}{
		{PeakEWMA{}, [2]time.Duration{40 * ms, 40 * ms}, [2]time.Duration{25 * ms, 35 * ms}},
		{LeastRequest{}, [2]time.Duration{5 * ms, 6 * ms}, [2]time.Duration{5 * ms, 6 * ms}},
	} {
		synctest.Test(t, func(t *testing.T) {
			backends := backendsOf(1, 1)
			p := c.s.Build(backends)
			answer := func(d time.Duration, times int) time.Duration {
				for range times {
					time.Sleep(10 * ms)
					p.(Observer).Done(backends[0], Outcome{Status: 200, Duration: d})
				}
				return time.Duration(backends[0].latency.load(tickNow()).nanos)
			}
			answer(5*ms, 50)
			if got := answer(40*ms, 1); got < c.peak[0] || got > c.peak[1] {
				t.Errorf("%T: after one slow answer the latency is %v, want %v to %v", c.s, got, c.peak[0], c.peak[1])
			}
			if got := answer(5*ms, 100); got < c.over[0] || got > c.over[1] {
				t.Errorf("%T: a second later it is %v, want %v to %v", c.s, got, c.over[0], c.over[1])
			}
			if got := answer(5*ms, 900); got > 7*ms {
				t.Errorf("%T: ten seconds later it is %v, want 5 ms or little more", c.s, got)
			}
		})
	}
}
