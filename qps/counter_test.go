package qps

import (
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"
)

func TestCounterLosesNothing(t *testing.T) {
	const workers, each = 8, 50_000
	for _, procs := range []int{1, 2, 8} {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		var c Counter
		var g Gauge
		var r Recorder
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				shard, rec := c.Shard(), r.Shard()
				for i := range each {
					shard.Inc()
					c.Add(2)
					g.Add(0.5)
					rec.Record(time.Duration(i))
					if i%1000 == 0 {
						r.Record(-1)
					}
				}
			})
		}
		wg.Wait()
		if c.Value() != 3*workers*each || g.Value() != workers*each/2 {
			t.Errorf("%d processors: counter %d, gauge %v; want %d, %d", procs, c.Value(), g.Value(), 3*workers*each, workers*each/2)
		}
		h := r.Histogram()
		if h.Count() != workers*(each+each/1000) || h.Sum() != workers*each*(each-1)/2 {
			t.Errorf("%d processors: %d durations, sum %d", procs, h.Count(), h.Sum())
		}
	}
}

func TestZeroRecorders(t *testing.T) {
	var c Counter
	var g Gauge
	var r Recorder
	if c.Value() != 0 || g.Value() != 0 || r.Histogram().Count() != 0 {
		t.Error("a zero recorder is not empty")
	}
	g.Set(2.5)
	g.Add(-4)
	if g.Value() != -1.5 {
		t.Errorf("gauge %v, want -1.5", g.Value())
	}
}

// TestShardsShareNoLine: two shards on one cache line cost what sharding saves.
func TestShardsShareNoLine(t *testing.T) {
	for name, size := range map[string]uintptr{
		"shard": unsafe.Sizeof(shard{}), "counterCell": unsafe.Sizeof(counterCell{}), "recorderCell": unsafe.Sizeof(recorderCell{}),
	} {
		if size%lineBytes != 0 {
			t.Errorf("%s has %d bytes, want a multiple of %d", name, size, lineBytes)
		}
	}
}

// TestPlacesFollowProcessors: goroutines that run at the same time get
// different places, and one that goes on running keeps its own.
func TestPlacesFollowProcessors(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0))))
	var p picker
	a := p.pick()
	same := 0
	for range 1000 {
		if p.pick() == a {
			same++
		}
	}
	// A collection of the pool or a move to another processor may change it,
	// and under the race detector pools forget at random.
	if same < 500 && !raceEnabled {
		t.Errorf("of 1000 places in a row %d are the first", same)
	}
	a.token.move()
	if b := p.pick(); b.token == a.token && b.shard != a.shard+1 {
		t.Errorf("after a collision the shard is %d, was %d", b.shard, a.shard)
	}
}
