//go:build soak

package qps

import (
	"runtime"
	"testing"
)

// TestSoakEveryEventIsCounted is TestEveryEventIsCounted for about a minute per
// number of processors.
func TestSoakEveryEventIsCounted(t *testing.T) {
	for _, procs := range []int{1, 2, 3, 4, 8} {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		countEverywhere(t, 2*procs, 100_000)
	}
}
