//go:build soak

package dbrouter

import (
	"slices"
	"testing"
	"time"
)

// TestSoakKilledPrimary: over 30 failovers nothing acknowledged is lost, and the
// first write comes within 300 ms of the new primary's being writable.
func TestSoakKilledPrimary(t *testing.T) {
	const runs, limit = 30, 300 * time.Millisecond
	var took []time.Duration
	for range runs {
		took = append(took, killPrimary(t, 30*time.Second))
		if t.Failed() {
			return
		}
	}
	slices.Sort(took)
	t.Logf("first write after the new primary was writable: median %v, worst of %d %v", took[runs/2], runs, took[runs-1])
	if took[runs-1] > limit {
		t.Errorf("%v, want %v at most", took[runs-1], limit)
	}
}

// TestSoakPairs is TestPairs at length.
func TestSoakPairs(t *testing.T) { testPairs(t, 100_000) }

// TestSoakKilledReplica: a replica that dies 50 times under read load costs no
// error.
func TestSoakKilledReplica(t *testing.T) {
	c := cluster(t, 2)
	r, _ := open(t, Config{Nodes: nodes(c), CheckInterval: 50 * time.Millisecond, WaitLimit: time.Second})
	upReplicas(t, r, 2)
	mustExec(t, r.DB(), "CREATE TABLE t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(100))")
	for range 500 {
		mustExec(t, r.DB(), "INSERT INTO t (v) VALUES ('row')")
	}
	killReplica(t, c, r, 50)
}
