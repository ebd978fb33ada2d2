package load

import (
	"context"
	"math/rand/v2"
	"testing"
)

// TestRound checks that each lane has its turns, that what is watched is counted
// for the lane whose turn it is, and that one that fails begins anew.
func TestRound(t *testing.T) {
	addr := startBackend(t)
	var watched int64
	started := 0
	good := &Lane{
		Program: "good", Key: "a", Proc: here{},
		Start: func() *Load { started++; return Client{Addr: addr, Size: 10, Conns: 3}.InTurns() },
		Watch: func() (int64, int64) { watched++; return watched, 10 * watched },
	}
	other := &Lane{Program: "good", Key: "b", Proc: here{}, Start: Client{Addr: addr, Size: 20, Conns: 2}.InTurns}
	failures := 0
	bad := &Lane{Program: "bad", Key: "a", Proc: here{}, Start: func() *Load {
		failures++
		return Client{Addr: "127.0.0.1:1", Size: 10, Conns: 1}.InTurns()
	}}
	lanes := []*Lane{good, other, bad}
	defer func() {
		for _, l := range lanes {
			l.Stop()
		}
	}()
	random := rand.New(rand.NewPCG(1, 2))
	Warm(t.Context(), random, lanes)
	for range 2 {
		told := 0
		costs := Round(t.Context(), random, lanes, 3*turnLength, func(l *Lane, err error) {
			if told++; l != bad || err == nil {
				t.Errorf("%s failed: %v", l.Program, err)
			}
		})
		a, b := costs["good"]["a"], costs["good"]["b"]
		if len(costs) != 1 || len(costs["good"]) != 2 || told != 1 {
			t.Fatalf("the costs are %v, %d were told of", costs, told)
		}
		if a.A != 3 || a.B != 30 || b.A != 0 {
			t.Errorf("watched %d, %d and %d, want 3, 30 and 0", a.A, a.B, b.A)
		}
		if least := 2 * turnLength.Seconds(); a.Elapsed < least || b.Elapsed < least || a.Ops == 0 || a.CPU <= 0 {
			t.Errorf("a lane had %+v, want two thirds of three turns", a)
		}
	}
	if started != 1 || failures != 3 {
		t.Errorf("started %d and %d times, want once and in each round", started, failures)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if c := Round(over, random, lanes, turnLength, func(*Lane, error) {})["good"]["a"]; c.Ops != 0 {
		t.Errorf("when it was over, %v was done", c.Ops)
	}
}
