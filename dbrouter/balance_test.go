package dbrouter

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// shares returns how often each of the nodes is chosen.
func shares(b balance, nodes []*node) []float64 {
	const draws = 20000
	counts := make([]float64, maxNodes)
	for range draws {
		counts[b.choose(nodes, 0, nil, position{}).index] += 1.0 / draws
	}
	return counts[:len(nodes)]
}

func someNodes(n int) []*node {
	var out []*node
	for i := range n {
		n := &node{index: i, weight: 1, pool: new(pool)}
		n.waits = newWaits(n)
		out = append(out, n)
	}
	return out
}

func wantShares(t *testing.T, about string, got, want []float64) {
	t.Helper()
	for i := range want {
		if math.Abs(got[i]-want[i]) > 0.03 {
			t.Errorf("%s: %.3f, want %.3f", about, got, want)
			return
		}
	}
}

func TestBalance(t *testing.T) {
	n := someNodes(3)
	wantShares(t, "alike", shares(balance{}, n), []float64{1. / 3, 1. / 3, 1. / 3})
	n[0].weight, n[1].weight = 2, 5
	wantShares(t, "weights 2, 5, 1", shares(balance{}, n), []float64{2. / 8, 5. / 8, 1. / 8})

	n = someNodes(2)
	n[0].latency.observe(3 * time.Millisecond)
	n[1].latency.observe(time.Millisecond)
	wantShares(t, "three times as slow", shares(balance{}, n), []float64{0.1, 0.9})
	for range 200 {
		n[0].latency.observe(time.Millisecond)
	}
	wantShares(t, "fast again", shares(balance{}, n), []float64{0.5, 0.5})
	n[1].pool.used.Store(2)
	wantShares(t, "two reads on the second", shares(balance{}, n), []float64{0.9, 0.1})

	n = someNodes(3)
	n[0].latency.observe(time.Hour)
	n[0].zone, n[1].zone, n[2].zone = "here", "there", ""
	wantShares(t, "one in our zone", shares(balance{zone: "here"}, n), []float64{1, 0, 0})
	wantShares(t, "none in our zone", shares(balance{zone: "elsewhere"}, n[1:]), []float64{0, 0.5})
	if got := (balance{zone: "here"}).choose(n, 1, nil, position{}); got == nil || got.index == 0 {
		t.Errorf("with the one in our zone tried already: %+v", got)
	}
	if got := (balance{}).choose(n, 7, nil, position{}); got != nil {
		t.Errorf("with all tried: %+v", got)
	}
	want := position{dialect: mariaDB, text: "0-1-7"}
	n[2].waits.now.Store(&proof{position: want})
	if got := (balance{zone: "here"}).choose(n, 0, nil, want); got != n[2] {
		t.Errorf("not the one that has the position: %+v", got)
	}
	if got := (balance{}).choose(n, 0, &physical{pool: n[1].pool}, position{}); got != n[1] {
		t.Errorf("not the one that there is a connection to: %+v", got)
	}
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := balance{slowStart: 10 * time.Second}
		n := someNodes(2)
		n[0].warmSince.Store(time.Now().UnixNano())
		wantShares(t, "at first", shares(b, n), []float64{0.1 / 1.1, 1 / 1.1})
		time.Sleep(5 * time.Second)
		wantShares(t, "half way", shares(b, n), []float64{0.55 / 1.55, 1 / 1.55})
		time.Sleep(5 * time.Second)
		wantShares(t, "at last", shares(b, n), []float64{0.5, 0.5})
		if n[0].warmSince.Load() != 0 {
			t.Error("the slow start does not end")
		}
	})
}
