package lb

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurnsInALeisurelyOrder: as long as a processor takes a turn each
// microsecond, or has not taken many, all together take them in order.
func TestTurnsInALeisurelyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := turns{round: 7}
		a, b := newTaker(), newTaker()
		for want := uint64(0); want < 5*hurryAfter; want += 2 {
			if x, y := ts.takeFor(a), ts.takeFor(b); x != want || y != want+1 {
				t.Fatalf("turns %d and %d, want %d and the next", x, y, want)
			}
			time.Sleep(2 * hurry)
		}
	})
}

// TestTurnsInAHurry: each has lots of whole rounds, and no turn is taken twice or
// left out but for what is left of them.
func TestTurnsInAHurry(t *testing.T) {
	for _, round := range []uint64{1, 7, 512, 5000} {
		synctest.Test(t, func(t *testing.T) {
			ts := turns{round: round}
			a, b := newTaker(), newTaker()
			const each = 10 * hurryAfter
			var got []uint64
			inOrder := 0
			for range each {
				x, y := ts.takeFor(a), ts.takeFor(b)
				if y == x+1 {
					inOrder++
				}
				got = append(got, x, y)
			}
			if inOrder > hurryAfter {
				t.Errorf("round %d: %d turns in one order, want %d", round, inOrder, hurryAfter)
			}
			lots := 1
			for i := 2 * hurryAfter; i+2 < len(got); i += 2 {
				if got[i+2] != got[i]+1 {
					lots++
				}
			}
			if most := each/lotLeast + 1; lots > most {
				t.Errorf("round %d: %d lots, want %d", round, lots, most)
			}
			for _, p := range []*taker{a, b} {
				for i := range p.left {
					got = append(got, p.lot+i)
				}
			}
			slices.Sort(got)
			for i, n := range got {
				if n != uint64(i) {
					t.Fatalf("round %d: turn %d is missing, or was taken twice", round, i)
				}
			}
			// With time, the one order comes back.
			for range 2 * max(lotLeast, round) {
				ts.takeFor(a)
				ts.takeFor(b)
				time.Sleep(10 * hurry)
			}
			if x, y := ts.takeFor(a), ts.takeFor(b); y != x+1 {
				t.Errorf("round %d: turns %d and %d, want one after the other", round, x, y)
			}
		})
	}
}

// TestTurnsAreTakenOnce: whatever the scheduler does.
func TestTurnsAreTakenOnce(t *testing.T) {
	ts := turns{round: 3}
	const workers, each = 8, 50_000
	var got [workers][]uint64
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for range each {
				got[i] = append(got[i], ts.take())
			}
		})
	}
	wg.Wait()
	all := slices.Concat(got[:]...)
	slices.Sort(all)
	if n := len(slices.Compact(all)); n != workers*each {
		t.Errorf("%d different turns, want %d", n, workers*each)
	}
}
