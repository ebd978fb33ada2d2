//go:build soak

package qps

import (
	"runtime"
	"testing"
)

// TestSoakEveryEventIsCounted is TestEveryEventIsCounted with 10^8 events, for
// each number of processors from 1 to 8.
func TestSoakEveryEventIsCounted(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	var events uint64
	for round := 0; round == 0 || events < 100_000_000; round++ {
		for procs := 1; procs <= 8; procs++ {
			runtime.GOMAXPROCS(procs)
			events += countEverywhere(t, 32, 4_000)
		}
	}
	t.Logf("%d events in all", events)
}
