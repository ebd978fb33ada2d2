//go:build soak

package http1

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

var (
	executions = flag.Int("executions", 20_000_000, "how many messages each soak compares")
	seed       = flag.Uint64("seed", uint64(time.Now().UnixNano()), "what the messages are made from")
)

// TestSoakRequests and TestSoakResponses compare this package with net/http on
// messages that a grammar makes. One execution is one message that both have
// read to the end of its body, or refused.
func TestSoakRequests(t *testing.T) {
	g := newGenerator(*seed)
	soak(t, g.compareRequest)
}

func TestSoakResponses(t *testing.T) {
	g := newGenerator(*seed)
	soak(t, g.compareResponse)
}

func soak(t *testing.T, compare func(*differ) ([]byte, error)) {
	d, start := newDiffer(), time.Now()
	for i := range *executions {
		if message, err := compare(d); err != nil {
			t.Fatalf("seed %d, execution %d: %q: %v", *seed, i, message, err)
		}
	}
	took := time.Since(start)
	fmt.Printf("%s: seed %d, %d executions in %v, %.0f/s: both accept %d, both refuse %d, only net/http accepts %d\n",
		t.Name(), *seed, *executions, took.Round(time.Second), float64(*executions)/took.Seconds(), d.accepted, d.refused, d.stricter)
	for _, reason := range slices.Sorted(maps.Keys(d.reasons)) {
		fmt.Printf("%12d  %s\n", d.reasons[reason], reason)
	}
}
