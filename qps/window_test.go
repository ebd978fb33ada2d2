package qps

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// goldenLog is the specification of secondLog: a map of seconds, where a second
// takes the place of the one that is a multiple of logSeconds older.
type goldenLog struct {
	counts        map[uint32]uint64
	newest        map[uint32]uint32 // by cell
	retired, late uint64
	peak          Peak
}

func newGoldenLog() *goldenLog {
	return &goldenLog{counts: make(map[uint32]uint64), newest: make(map[uint32]uint32)}
}

func (g *goldenLog) add(second uint32) {
	cell := second % logSeconds
	switch newest := g.newest[cell]; {
	case second < newest:
		g.late++
		return
	case second > newest:
		g.retired += g.counts[newest]
		g.peak.raise(Peak{int64(newest), g.counts[newest]})
		delete(g.counts, newest)
		g.newest[cell] = second
	}
	g.counts[second]++
}

func (g *goldenLog) highest(before uint32) Peak {
	p := g.peak
	for second, n := range g.counts {
		if second < before {
			p.raise(Peak{int64(second), n})
		}
	}
	return p
}

// total is the number of events of a series that its seconds account for.
func (s *series) total() (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drainRequests()
	for i := range s.requests.pages {
		if p := s.requests.pages[i].Load(); p != nil {
			for j := range p {
				_, count := unpack(p[j].Load())
				n += uint64(count)
			}
		}
	}
	return n + s.requests.retired + s.requests.late.Load()
}

// FuzzSeconds counts events of one goroutine, at two places in turn as a
// goroutine that changes its processor does, and compares every second.
func FuzzSeconds(f *testing.F) {
	f.Add([]byte{0, 1, 1, 200, 64, 0, 128, 3})
	f.Add([]byte{0, 8, 248})
	f.Add([]byte{255, 0, 255, 0, 0, 127, 127, 127, 127, 127, 192})
	f.Fuzz(func(t *testing.T, steps []byte) {
		var s series
		g := newGoldenLog()
		now, latest := uint32(1_800_000_000), uint32(0)
		tok := new(token)
		for i, step := range steps {
			now += uint32(7 * int32(int8(step)))
			s.observe(place{uint32(i % 3), tok}, int64(now)*1e9, 0, class2xx, 0)
			g.add(now)
			latest = max(latest, now)
			if step&3 != 0 {
				continue
			}
			w := s.peak(func() int64 { return int64(latest) * 1e9 })
			if want := g.highest(latest); w.Peak != want {
				t.Errorf("after %d events, before %d: peak %+v, want %+v", i+1, latest, w.Peak, want)
			}
		}
		if got := s.total(); got != uint64(len(steps)) {
			t.Errorf("seconds + retired + late = %d, want %d events", got, len(steps))
		}
		if s.requests.late.Load() != g.late || s.requests.retired != g.retired {
			t.Errorf("late %d, retired %d, want %d and %d", s.requests.late.Load(), s.requests.retired, g.late, g.retired)
		}
		for second, want := range g.counts {
			if got := s.requests.at(second); uint64(got) != want {
				t.Errorf("second %d has %d, want %d", second, got, want)
			}
		}
		if got, want := s.requests.highest(1<<32-1), g.highest(1<<32-1); got != want {
			t.Errorf("peak %+v, want %+v", got, want)
		}
	})
}

// TestEveryEventIsCounted has goroutines record as fast as they can, now and
// then with a stall between reading the clock and recording, while the seconds
// of a fast clock go by and windows are read. Every event must be in its second.
func TestEveryEventIsCounted(t *testing.T) {
	for _, procs := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			countEverywhere(t, 2*procs, 800)
		})
	}
}

func countEverywhere(t *testing.T, workers int, span uint32) (events uint64) {
	t.Helper()
	const begin = 1_800_000_000
	var (
		s       series
		picker  picker
		clock   atomic.Uint32 // seconds since begin
		work    sync.WaitGroup
		counted = make([][]uint32, workers) // by second
		unsure  = make([][]uint32, workers) // overtaken by the clock: may be late
	)
	now := func() int64 { return (begin + int64(clock.Load())) * 1e9 }
	work.Go(func() {
		for clock.Load() < span-1 {
			time.Sleep(200 * time.Microsecond)
			clock.Add(1)
		}
	})
	work.Go(func() {
		for clock.Load() < span-1 {
			w := s.window(now)
			if r, e := sum(w.Requests, windowSeconds), sum(w.Errors, windowSeconds); e > r {
				t.Errorf("%d errors in %d requests", e, r)
			}
			time.Sleep(time.Millisecond)
		}
	})
	for i := range workers {
		counted[i], unsure[i] = make([]uint32, span), make([]uint32, span)
		work.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 7))
			for n := 0; clock.Load() < span-1; n++ {
				second := clock.Load()
				switch {
				case n%500 == 499:
					time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
				case n%1009 == 0 && second > 50:
					second -= uint32(rng.IntN(50))
				}
				c := class2xx
				if n%3 == 0 {
					c = class5xx
				}
				s.observe(picker.pick(), int64(begin+second)*1e9, 0, c, 0)
				if clock.Load()-second < logSeconds {
					counted[i][second]++
				} else {
					unsure[i][second]++
				}
			}
		})
	}
	work.Wait()
	var all, allUnsure uint64
	last := clock.Load()
	for second := range span {
		var n, more uint32
		for i := range workers {
			n += counted[i][second]
			more += unsure[i][second]
		}
		all += uint64(n) + uint64(more)
		allUnsure += uint64(more)
		s.total() // drains the shards
		if got := s.requests.at(begin + second); last-second < logSeconds && (got < n || got > n+more) {
			t.Errorf("second %d has %d events, want %d to %d", second, got, n, n+more)
		}
	}
	durations, _ := s.durations()
	if got, h := s.total(), durations.Count(); got != all || h != all {
		t.Errorf("seconds + retired + late = %d, histogram %d, want %d", got, h, all)
	}
	if late := s.requests.late.Load(); late > allUnsure {
		t.Errorf("%d events are late, of %d that may be", late, allUnsure)
	}
	t.Logf("%d events, %d late", all, s.requests.late.Load())
	return all
}

func TestOldSecondsHaveNoCount(t *testing.T) {
	var s series
	s.observe(place{token: new(token)}, 1000*1e9, 0, class2xx, 0)
	if s.total(); s.requests.at(1000) != 1 || s.requests.at(1000-logSeconds) != 0 || s.requests.at(1000+logSeconds) != 0 {
		t.Error("a second has the count of another")
	}
}

// TestRatesAgainstOracle replays random traffic of several minutes and compares
// every rate with a plain list of the events.
func TestRatesAgainstOracle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(123 * time.Millisecond) // seconds do not begin with the Meter
		m := newMeter(t, Config{})
		u := m.Upstream("db")
		rng := rand.New(rand.NewPCG(1, 2))
		type event struct {
			second int64
			failed bool
		}
		var events []event
		begin := time.Now()
		for time.Since(begin) < 1000*time.Second {
			// Bursts, idle spells, and gaps longer than the ring.
			switch pause := rng.IntN(1000); {
			case pause < 3:
				time.Sleep(time.Duration(rng.IntN(400)) * time.Second)
			case pause < 600:
				time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
			}
			failed := rng.IntN(4) == 0
			u.Observe(time.Millisecond, failed)
			events = append(events, event{time.Now().Unix(), failed})
			if rng.IntN(5) > 0 {
				continue
			}
			s := m.Snapshot().Upstreams[0]
			for _, n := range []int64{1, 10, 60, 300} {
				var requests, failures float64
				for _, e := range events {
					if age := time.Now().Unix() - e.second; age >= 1 && age <= n {
						requests++
						if e.failed {
							failures++
						}
					}
				}
				window := time.Duration(n) * time.Second
				if got, want := s.Rate(window), requests/float64(n); got != want {
					t.Fatalf("%v: rate over %v is %v, want %v", time.Since(begin), window, got, want)
				}
				want := 0.0
				if requests > 0 {
					want = failures / requests
				}
				if got := s.ErrorRatio(window); got != want {
					t.Fatalf("%v: error ratio over %v is %v, want %v", time.Since(begin), window, got, want)
				}
			}
		}
		if got := u.total(); got != uint64(len(events)) || u.requests.late.Load() != 0 {
			t.Errorf("the ring has %d events, %d late, want %d and none", got, u.requests.late.Load(), len(events))
		}
	})
}

func TestWindowLimits(t *testing.T) {
	w := Window{Requests: []uint32{6, 0, 6}, Errors: []uint32{3}}
	for window, want := range map[time.Duration]float64{
		-time.Second: 6, 0: 6, time.Millisecond: 6, 1999 * time.Millisecond: 6, 2 * time.Second: 3, 3 * time.Second: 4,
		time.Minute: 0.2, time.Hour: 0.04,
	} {
		if got := w.Rate(window); got != want {
			t.Errorf("Rate(%v) = %v, want %v", window, got, want)
		}
	}
	if got := w.ErrorRatio(time.Minute); got != 0.25 {
		t.Errorf("ErrorRatio = %v, want 0.25", got)
	}
	if got := (Window{Errors: []uint32{1}}).ErrorRatio(time.Second); got != 0 {
		t.Errorf("ErrorRatio without requests = %v, want 0", got)
	}
}

// TestLateEvents records events of seconds whose cells are taken: they are in
// the totals and in no window.
func TestLateEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(t, Config{})
		u := m.Upstream("db")
		ended := m.now()
		time.Sleep(logSeconds * time.Second)
		u.Observe(0, false)
		u.observe(m.picker.pick(), ended, time.Second, class5xx, 0)
		time.Sleep(time.Second)
		w := m.Snapshot().Upstreams[0]
		if w.Window.Late != 1 || w.Rate(time.Second) != 1 || w.ErrorRatio(time.Minute) != 0 || w.Duration.Count() != 2 {
			t.Errorf("late %d, rate %v, errors %v, durations %d; want 1, 1, 0, 2",
				w.Window.Late, w.Rate(time.Second), w.ErrorRatio(time.Minute), w.Duration.Count())
		}
	})
}
