package dbrouter

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// latency is how long a node has taken for its latest reads, as a moving
// average. Its zero value has seen none. It is safe for concurrent use.
type latency struct{ bits atomic.Uint64 }

// latencyShare is the weight of the latest read in the average.
const latencyShare = 1.0 / 8

func (l *latency) observe(d time.Duration) {
	before := l.bits.Load()
	average := math.Float64frombits(before)
	if now := float64(max(d, 1)); average == 0 {
		average = now
	} else {
		average += (now - average) * latencyShare
	}
	// If another read was quicker, this one does not count; nobody misses it.
	l.bits.CompareAndSwap(before, math.Float64bits(average))
}

// average is in nanoseconds; 0 if nothing was seen.
func (l *latency) average() float64 { return math.Float64frombits(l.bits.Load()) }

// coldShare is what a node gets of its share at the beginning of a slow start.
const coldShare = 0.1

// warmth is the part of its share that a node gets: less than 1 during its slow
// start.
func (n *node) warmth(slowStart time.Duration) float64 {
	since := n.warmSince.Load()
	if since == 0 {
		return 1
	}
	done := float64(time.Now().UnixNano()-since) / float64(slowStart)
	if done >= 1 {
		n.warmSince.CompareAndSwap(since, 0)
		return 1
	}
	return coldShare + (1-coldShare)*max(done, 0)
}

// odds says how likely a node is to get a read, compared with others: by its
// weight, and by the square of how long the read will take there, so that a
// node that is twice as slow gets a quarter, and yet is looked at again and
// again. Without an average of its own it has that of the others.
func (n *node) odds(slowStart time.Duration, others float64) float64 {
	took := n.latency.average()
	if took == 0 {
		took = others
	}
	cost := took * float64(n.pool.busy()+1)
	return float64(n.weight) * n.warmth(slowStart) / (cost * cost)
}

// balance is how reads are spread.
type balance struct {
	zone      string
	slowStart time.Duration
}

// choose picks a replica that was not tried yet: one that is known to have the
// wanted position, if there is any; of those one of our own zone, if there is
// any; of those the one that the session has a connection to, or else one by
// chance, with its odds.
func (b balance) choose(replicas []*node, tried uint64, kept *physical, want position) *node {
	var left [maxNodes]*node
	n, best := 0, -1
	for _, r := range replicas {
		if tried&(1<<r.index) != 0 {
			continue
		}
		rank := 0
		if want.text != "" && len(replicas) > 1 && r.waits.mayHave(want) {
			rank = 2
		}
		if b.zone != "" && r.zone == b.zone {
			rank++
		}
		if rank < best {
			continue
		}
		if rank > best {
			n, best = 0, rank
		}
		left[n] = r
		n++
	}
	switch {
	case n == 0:
		return nil
	case n == 1:
		return left[0]
	}
	if kept != nil {
		for _, r := range left[:n] {
			if kept.pool == r.pool {
				return r
			}
		}
	}
	return b.draw(left[:n])
}

// draw picks one of several by chance.
func (b balance) draw(nodes []*node) *node {
	others := math.Inf(1)
	for _, n := range nodes {
		if a := n.latency.average(); a > 0 {
			others = min(others, a)
		}
	}
	if math.IsInf(others, 1) {
		others = 1
	}
	var odds [maxNodes]float64
	sum := 0.0
	for i, n := range nodes {
		odds[i] = n.odds(b.slowStart, others)
		sum += odds[i]
	}
	at := rand.Float64() * sum
	for i, n := range nodes {
		if at -= odds[i]; at < 0 {
			return n
		}
	}
	return nodes[len(nodes)-1]
}
