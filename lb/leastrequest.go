package lb

import (
	"math/rand/v2"
	"sync/atomic"
)

// scanMax is the number of backends up to which all of them are compared. A
// full scan beats the better of two on one balancer, and costs little as long
// as there are few.
const scanMax = 64

// LeastRequest gives each request to a backend with the fewest requests in
// flight, relative to its weight. Up to 64 backends it compares all of them, and
// those that are equal get requests in turn, in proportion to their weights;
// above, it takes the better of two at random. It is the default, and a value
// without state.
type LeastRequest struct{}

// Build implements [Strategy].
func (LeastRequest) Build(backends []*Backend) Picker {
	if len(backends) > scanMax {
		return &betterOfTwo{leastRequest{backends: backends}}
	}
	return &leastRequest{backends: backends}
}

type leastRequest struct {
	backends []*Backend
	turn     atomic.Uint64
}

// load is a number of requests per weight, compared without dividing.
type load struct{ inFlight, weight int64 }

func loadOf(b *Backend) load { return load{b.inFlight.Load(), b.weight.Load()} }

func (l load) less(m load) bool  { return l.inFlight*m.weight < m.inFlight*l.weight }
func (l load) equal(m load) bool { return l.inFlight*m.weight == m.inFlight*l.weight }

func (l *leastRequest) Pick(info PickInfo) *Backend {
	var first *Backend
	var least load
	tied := int64(0) // the weight of all that are equal to first
	for _, b := range l.backends {
		if info.HasTried(b) {
			continue
		}
		switch now := loadOf(b); {
		case first == nil || now.less(least):
			first, least, tied = b, now, now.weight
		case now.equal(least):
			tied += now.weight
		}
	}
	if first == nil || tied == least.weight {
		return first
	}
	return l.takeTurn(info, least, tied, first)
}

// takeTurn chooses among the backends whose load is least. Loads change
// meanwhile; if none is left, first is as good as any.
func (l *leastRequest) takeTurn(info PickInfo, least load, tied int64, first *Backend) *Backend {
	turn := int64((l.turn.Add(1) - 1) % uint64(tied))
	for _, b := range l.backends {
		now := loadOf(b)
		if !now.equal(least) || info.HasTried(b) {
			continue
		}
		if turn -= now.weight; turn < 0 {
			return b
		}
	}
	return first
}

// betterOfTwo embeds the full scan for the rare request that has been to both
// candidates.
type betterOfTwo struct{ leastRequest }

func (t *betterOfTwo) Pick(info PickInfo) *Backend {
	i := rand.IntN(len(t.backends))
	j := rand.IntN(len(t.backends) - 1)
	if j >= i {
		j++
	}
	a, b := t.backends[i], t.backends[j]
	switch {
	case info.HasTried(a) && info.HasTried(b):
		return t.leastRequest.Pick(info)
	case info.HasTried(a):
		return b
	case info.HasTried(b):
		return a
	}
	la, lb := loadOf(a), loadOf(b)
	switch {
	case la.less(lb):
		return a
	case lb.less(la):
		return b
	case rand.Int64N(la.weight+lb.weight) < la.weight:
		return a
	}
	return b
}
