package lb

import (
	"sync"
	"sync/atomic"
)

// RoundRobin gives each backend one request in turn, whatever its weight and
// load. It is a value without state.
type RoundRobin struct{}

// Build implements [Strategy].
func (RoundRobin) Build(backends []*Backend) Picker { return &roundRobin{backends: backends} }

type roundRobin struct {
	backends []*Backend
	next     atomic.Uint64
}

func (r *roundRobin) Pick(info PickInfo) *Backend {
	n := uint64(len(r.backends))
	start := r.next.Add(1) - 1
	for i := range n {
		if b := r.backends[(start+i)%n]; !info.HasTried(b) {
			return b
		}
	}
	return nil
}

// WeightedRoundRobin gives each backend a share of the requests in proportion
// to its weight, spread as evenly as can be: with weights 5, 1 and 1 the order
// is a a b a c a a, and not a a a a a b c. It is a value without state.
type WeightedRoundRobin struct{}

// Build implements [Strategy].
func (WeightedRoundRobin) Build(backends []*Backend) Picker {
	w := &weightedRoundRobin{entries: make([]weighted, len(backends))}
	for i, b := range backends {
		w.entries[i] = weighted{backend: b, weight: int64(b.Weight())}
	}
	return w
}

// weightedRoundRobin is nginx's smooth algorithm (ngx_http_upstream_round_robin):
// everyone earns its weight in each round, and the richest pays the sum of all
// for being chosen.
type weightedRoundRobin struct {
	// mu guards the credits of entries. A round changes all of them, so there is
	// no lock-free form that keeps the order; it is held for some nanoseconds.
	mu      sync.Mutex
	entries []weighted
}

type weighted struct {
	backend        *Backend
	weight, credit int64
}

func (w *weightedRoundRobin) Pick(info PickInfo) *Backend {
	w.mu.Lock()
	defer w.mu.Unlock()
	var best *weighted
	total := int64(0)
	for i := range w.entries {
		e := &w.entries[i]
		if info.HasTried(e.backend) {
			continue
		}
		e.credit += e.weight
		total += e.weight
		if best == nil || e.credit > best.credit {
			best = e
		}
	}
	if best == nil {
		return nil
	}
	best.credit -= total
	return best.backend
}
