//go:build !race

package tlsx

import (
	"testing"
	"time"
)

// TestHotSwapRate is TestHotSwap at 300 connections a second: three rotations,
// each of which had as many from its beginning to its end. On a machine that is
// too busy one is repeated, and in the end the test fails: at less it does not
// pass.
func TestHotSwapRate(t *testing.T) {
	const claimed, rotations, tries = 300, 3, 15
	rig := startSwap(t, 330) // so that the time of a pause is made up for
	kept := 0
	var rates []float64
	for range tries {
		begin, before := time.Now(), rig.done.Load()
		rig.rotate(t)
		rate := float64(rig.done.Load()-before) / time.Since(begin).Seconds()
		if rates = append(rates, rate); rate >= claimed {
			kept++
		}
		if kept == rotations {
			break
		}
	}
	t.Logf("connections a second: %.0f; %d in all, %d of them resumed sessions, %d failed", rates, rig.done.Load(), rig.resumed.Load(), rig.failed.Load())
	if kept < rotations {
		t.Errorf("%d of %d rotations at %d connections a second, want %d", kept, tries, claimed, rotations)
	}
	if rig.resumed.Load() == 0 {
		t.Error("no session was resumed, so this is not what clients do")
	}
}
