package qps

import (
	"math"
	"sync/atomic"
	"time"
)

// Counter is a number that only grows, exact however many goroutines add to
// it. The zero value is 0 and ready to use; a Counter must not be copied. It is
// safe for concurrent use.
//
// An Add finds the part of the Counter that belongs to its processor, which
// costs more than the addition itself. What adds often, such as a loop, should
// take a [CounterShard].
type Counter struct {
	picker picker
	shards shards[counterCell]
}

type counterCell struct {
	n atomic.Uint64
	_ [lineBytes - 8]byte
}

// Add adds n. The sum of all wraps around at 2^64.
func (c *Counter) Add(n uint64) { c.shards.at(c.picker.pick()).n.Add(n) }

// Inc adds 1.
func (c *Counter) Inc() { c.Add(1) }

// Shard returns the part of the Counter that suits the processor of the caller.
func (c *Counter) Shard() CounterShard { return CounterShard{c.shards.at(c.picker.pick())} }

// Value returns the sum. An Add that happened before is in it; of those that
// happen meanwhile, any may be.
func (c *Counter) Value() uint64 {
	var n uint64
	for cell := range c.shards.all() {
		n += cell.n.Load()
	}
	return n
}

// CounterShard adds to a [Counter] at the price of an uncontended atomic
// addition. [Counter.Shard] returns it; the zero value panics. Take one for a
// request or a run of a loop: one that is kept for good stays correct, but other
// goroutines will collide with it. It is safe for concurrent use.
type CounterShard struct{ cell *counterCell }

// Add adds n.
func (c CounterShard) Add(n uint64) { c.cell.n.Add(n) }

// Inc adds 1.
func (c CounterShard) Inc() { c.cell.n.Add(1) }

// Gauge is a number that goes up and down. The zero value is 0 and ready to
// use; a Gauge must not be copied. It is safe for concurrent use.
type Gauge struct{ bits atomic.Uint64 }

// Set makes v the value.
func (g *Gauge) Set(v float64) { g.bits.Store(math.Float64bits(v)) }

// Add adds d, which may be negative.
func (g *Gauge) Add(d float64) {
	for {
		old := g.bits.Load()
		if g.bits.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+d)) {
			return
		}
	}
}

// Value returns the value.
func (g *Gauge) Value() float64 { return math.Float64frombits(g.bits.Load()) }

// Recorder counts durations into a [Histogram]. The zero value is empty and
// ready to use; a Recorder must not be copied. It is safe for concurrent use.
type Recorder struct {
	picker picker
	shards shards[recorderCell]
}

type recorderCell struct {
	recorder
	_ [3*lineBytes - 8*(pageCount+3)]byte
}

// Record counts one duration; a negative one counts as zero.
func (r *Recorder) Record(d time.Duration) { r.Shard().Record(d) }

// Shard returns the part of the Recorder that suits the processor of the caller.
func (r *Recorder) Shard() RecorderShard { return RecorderShard{r.shards.at(r.picker.pick())} }

// Histogram returns what has been recorded so far.
func (r *Recorder) Histogram() Histogram {
	var parts []*recorder
	for cell := range r.shards.all() {
		parts = append(parts, &cell.recorder)
	}
	h, _ := gather(parts, 0)
	return h
}

// RecorderShard records into a [Recorder] without looking for the right part
// first; see [CounterShard]. [Recorder.Shard] returns it; the zero value panics.
// It is safe for concurrent use.
type RecorderShard struct{ cell *recorderCell }

// Record counts one duration; a negative one counts as zero.
func (r RecorderShard) Record(d time.Duration) { r.cell.record(uint64(max(d, 0))) }
