package lb

import (
	"math/bits"
	"time"
)

// scanMax is the number of backends up to which all of them are compared. A
// full scan beats the better of two on one balancer, and costs little as long
// as there are few. A word has a bit for each.
const scanMax = 64

const (
	// slowWindow is long beside a request and short beside a trouble.
	slowWindow = time.Second
	// slowSlack lets backends that differ by chance count as equal.
	slowSlack = 1.5
	// slowNoise is a difference that means nothing, whatever the proportion.
	slowNoise = float32(time.Millisecond)
)

// LeastRequest gives each request to a backend with the fewest requests in
// flight, relative to its weight. A backend whose answers take more than 1.5
// times as long as is usual in the pool counts as having as many times more, so
// that it gets less although it looks idle. It is the default, and right for one
// balancer, or a few, in front of servers or requests that are unequal; for many
// balancers see [HotColdLexicographic].
//
// Up to 64 backends it compares all of them, and those that are equal get
// requests in turn, in proportion to their weights; above, it takes the better of
// two at random. A latency is an average over a second. It fades while the
// backend answers nothing and is forgotten after 10 s, so that a backend that was
// slow is tried again, and one of which nothing is known counts as usual. A
// failure counts as four times the latency there was, so that errors, which are
// fast, attract nothing. It is a value without state; what is known of a backend's
// latency stays with the backend.
type LeastRequest struct{}

// Build implements [Strategy].
func (LeastRequest) Build(backends []*Backend) Picker {
	if len(backends) > scanMax {
		t := &betterOfTwo{sampler: newSampler(backends)}
		t.begin(backends, slowWindow, slowSlack)
		return t
	}
	l := &leastRequest{seats: make([]leastSeat, len(backends)), equal: true}
	for i, b := range backends {
		w := b.weight.Load()
		l.seats[i] = leastSeat{b, w, float32(w)}
		l.equal = l.equal && w == l.seats[0].weight
	}
	l.begin(backends, slowWindow, slowSlack)
	return l
}

type leastRequest struct {
	seats []leastSeat
	equal bool // in weight
	slowness
}

type leastSeat struct {
	backend *Backend
	weight  int64
	divisor float32 // the same
}

// inFlight counts a backend that is slow by as many times more requests as it
// takes longer for one.
func (s *slowness) inFlight(b *Backend, now tick, limit float32) float32 {
	n := float32(b.inFlight.Load())
	if nanos := b.latency.load(now).faded(s.window); nanos > limit {
		n = (n+1)*nanos/limit - 1
	}
	return n
}

// limit is the latency above which a backend is slow.
func (s *slowness) limit(now tick) float32 {
	if l := s.usual.load(now); l.nanos > 0 {
		return max(l.nanos*s.slack, l.nanos+slowNoise)
	}
	return latencyMax
}

func (l *leastRequest) Pick(info PickInfo) *Backend {
	now := l.clock.now()
	limit := l.limit(now)
	again := len(info.Tried) > 0
	var tied uint64 // a bit for each whose load is least
	var least float32
	seats, equal := l.seats, l.equal
	for i := range seats {
		s := &seats[i]
		if again && info.HasTried(s.backend) {
			continue
		}
		load := float32(s.backend.inFlight.Load())
		if nanosIn(s.backend.latency.word.Load()) > limit { // few are, and the call costs
			load = l.inFlight(s.backend, now, limit)
		}
		if !equal {
			load /= s.divisor
		}
		switch {
		case tied == 0 || load < least:
			tied, least = 1<<i, load
		case load == least:
			tied |= 1 << i
		}
	}
	switch {
	case tied == 0:
		return nil
	case tied&(tied-1) == 0:
		return l.seats[bits.TrailingZeros64(tied)].backend
	}
	return l.takeTurn(tied)
}

// takeTurn chooses among several, as often as their weights say. Whose turn it is
// follows from the requests that there have been, as a counter of turns would be
// written by each pick and passed from processor to processor.
func (l *leastRequest) takeTurn(tied uint64) *Backend {
	turn := uint64(0)
	for i := range l.seats {
		turn += l.seats[i].backend.requests.Load()
	}
	if l.equal {
		for range uint32(turn) % uint32(bits.OnesCount64(tied)) {
			tied &= tied - 1
		}
		return l.seats[bits.TrailingZeros64(tied)].backend
	}
	total := int64(0)
	for rest := tied; rest != 0; rest &= rest - 1 {
		total += l.seats[bits.TrailingZeros64(rest)].weight
	}
	at := int64(turn % uint64(total))
	for {
		s := &l.seats[bits.TrailingZeros64(tied)]
		if at -= s.weight; at < 0 {
			return s.backend
		}
		tied &= tied - 1
	}
}

// betterOfTwo takes two at random, by weight, and of them the less loaded.
type betterOfTwo struct {
	sampler
	slowness
}

func (t *betterOfTwo) Pick(info PickInfo) *Backend {
	a, b := t.sampleTwo(info)
	if a == b {
		return a
	}
	now := t.clock.now()
	limit := t.limit(now)
	// Both came at random, so that the first may have it if they are equal.
	if t.inFlight(b, now, limit)*float32(a.weight.Load()) < t.inFlight(a, now, limit)*float32(b.weight.Load()) {
		return b
	}
	return a
}
