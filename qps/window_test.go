package qps

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// goldenRing is the specification of ring: a map of seconds, where a second
// takes the place of the one that is a multiple of ringCells older.
type goldenRing struct {
	cells         map[uint32]uint64
	newest        map[uint32]uint32 // by cell
	retired, late uint64
}

func newGoldenRing() *goldenRing {
	return &goldenRing{cells: make(map[uint32]uint64), newest: make(map[uint32]uint32)}
}

func (g *goldenRing) add(second uint32) {
	cell := second % ringCells
	switch newest := g.newest[cell]; {
	case second < newest:
		g.late++
		return
	case second > newest:
		g.retired += g.cells[newest]
		delete(g.cells, newest)
		g.newest[cell] = second
	}
	g.cells[second]++
}

func (r *ring) total() (n uint64) {
	for i := range r.cells {
		n += r.cells[i].Load() & 0xffffffff
	}
	return n + r.retired.Load() + r.late.Load()
}

func checkRing(t *testing.T, r *ring, g *goldenRing, events uint64) {
	t.Helper()
	if got := r.total(); got != events {
		t.Errorf("seconds + retired + late = %d, want %d events", got, events)
	}
	if r.late.Load() != g.late || r.retired.Load() != g.retired {
		t.Errorf("late %d, retired %d, want %d and %d", r.late.Load(), r.retired.Load(), g.late, g.retired)
	}
	for second, want := range g.cells {
		if got, ok := r.at(second); !ok || uint64(got) != want {
			t.Errorf("second %d has %d (%v), want %d", second, got, ok, want)
		}
	}
}

func FuzzRing(f *testing.F) {
	f.Add([]byte{0, 1, 1, 200, 64, 0, 128, 3})
	f.Add([]byte{255, 0, 255, 0, 0, 64, 192})
	f.Fuzz(func(t *testing.T, steps []byte) {
		var r ring
		g := newGoldenRing()
		now := uint32(1_800_000_000)
		for _, s := range steps {
			now += uint32(int32(int8(s)))
			r.add(now)
			g.add(now)
		}
		checkRing(t, &r, g, uint64(len(steps)))
	})
}

// TestRingCountsEveryEvent has goroutines count into the same few seconds,
// including some that are long over, and checks that not one is lost.
func TestRingCountsEveryEvent(t *testing.T) {
	const workers, each = 8, 200_000
	var r ring
	var wg sync.WaitGroup
	start := make(chan struct{}) // or the first are done before the last begin
	for w := range workers {
		wg.Go(func() {
			<-start
			for i := range each {
				// Workers drift apart, so all stay within three cells.
				second := uint32(1_800_000_000 + i%3)
				if i > each/2 && i%1000 == 0 {
					second += ringCells // overtakes a cell that others still use
				}
				if w == 0 && i%100 == 0 {
					second -= 3 * ringCells
				}
				r.add(second)
			}
		})
	}
	close(start)
	wg.Wait()
	if got := r.total(); got != workers*each {
		t.Errorf("seconds + retired + late = %d, want %d", got, workers*each)
	}
	if r.late.Load() == 0 || r.retired.Load() == 0 {
		t.Errorf("late %d, retired %d: the test did not reach what it tests", r.late.Load(), r.retired.Load())
	}
}

func TestRingReaderSeesThatItWasOvertaken(t *testing.T) {
	var r ring
	r.add(1000)
	if _, ok := r.at(1000 - ringCells); ok {
		t.Error("the count of a second whose cell is taken was returned")
	}
	if n, ok := r.at(1000 + ringCells); n != 0 || !ok {
		t.Errorf("a second that has not begun has %d, %v", n, ok)
	}
	if _, ok := r.before(1000 - ringCells + 1); ok {
		t.Error("a window was returned that lacks a second")
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
		for time.Since(begin) < 200*time.Second {
			// Bursts, idle spells, and gaps longer than the ring.
			switch pause := rng.IntN(1000); {
			case pause < 3:
				time.Sleep(time.Duration(rng.IntN(90)) * time.Second)
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
			for _, n := range []int64{1, 10, 60} {
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
		if got := u.flow.requests.total(); got != uint64(len(events)) || u.flow.requests.late.Load() != 0 {
			t.Errorf("the ring has %d events, %d late, want %d and none", got, u.flow.requests.late.Load(), len(events))
		}
	})
}

func TestWindowLimits(t *testing.T) {
	w := Window{Requests: []uint32{6, 0, 6}, Errors: []uint32{3}}
	for window, want := range map[time.Duration]float64{
		-time.Second: 6, 0: 6, time.Millisecond: 6, 1999 * time.Millisecond: 6, 2 * time.Second: 3, 3 * time.Second: 4,
		time.Minute: 0.2, time.Hour: 0.2,
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
		time.Sleep(ringCells * time.Second)
		u.Observe(0, false)
		u.flow.observe(ended, time.Second, true)
		time.Sleep(time.Second)
		w := m.Snapshot().Upstreams[0]
		if w.Window.Late != 1 || w.Rate(time.Second) != 1 || w.ErrorRatio(time.Minute) != 0 || w.Duration.Count() != 2 {
			t.Errorf("late %d, rate %v, errors %v, durations %d; want 1, 1, 0, 2",
				w.Window.Late, w.Rate(time.Second), w.ErrorRatio(time.Minute), w.Duration.Count())
		}
	})
}
