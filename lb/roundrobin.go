package lb

import "sync"

// RoundRobin gives each backend one request in turn, whatever its weight and
// load. It is a value without state.
//
// At more than a million picks a second on one processor, each processor goes
// round by itself, which keeps the shares and gives up the one order.
type RoundRobin struct{}

// Build implements [Strategy].
func (RoundRobin) Build(backends []*Backend) Picker { return newRotation(backends) }

// rotation goes round a list, in which a backend may be more than once.
type rotation struct {
	order []*Backend
	turns turns
}

func newRotation(order []*Backend) *rotation {
	return &rotation{order: order, turns: turns{round: uint64(len(order))}}
}

func (r *rotation) Pick(info PickInfo) *Backend { return r.at(r.turns.take(), info) }

// at is the backend whose turn it is, or the next one that has not been tried.
func (r *rotation) at(turn uint64, info PickInfo) *Backend {
	n := uint64(len(r.order))
	start := turn % n
	b := r.order[start]
	for i := start + 1; info.HasTried(b); i++ {
		if i == n {
			i = 0
		}
		if i == start {
			return nil
		}
		b = r.order[i]
	}
	return b
}

// WeightedRoundRobin gives each backend a share of the requests in proportion
// to its weight, spread as evenly as can be: with weights 5, 1 and 1 the order
// is a a b a c a a, and not a a a a a b c. It is a value without state.
//
// An order that comes round soon is laid down beforehand, and has the bounds of
// [RoundRobin]; for one that does not, such as that of 10 backends whose weights
// add up to more than 6,000 and have no common divisor, each pick waits for the
// one before, some nanoseconds.
type WeightedRoundRobin struct{}

// orderWork bounds the steps of laying down an order: its length, times the
// backends that are looked at for each place.
const orderWork = 1 << 16

// Build implements [Strategy].
func (WeightedRoundRobin) Build(backends []*Backend) Picker {
	w := &weightedRoundRobin{entries: make([]weighted, len(backends))}
	divisor, total := int64(0), int64(0)
	for i, b := range backends {
		weight := b.weight.Load()
		w.entries[i] = weighted{backend: b, weight: weight}
		divisor = commonDivisor(divisor, weight)
		total += weight
	}
	length := total / divisor
	if length*int64(len(backends)) > orderWork {
		return w
	}
	order := make([]*Backend, length)
	for i := range order {
		order[i] = w.Pick(PickInfo{})
	}
	return newRotation(order)
}

func commonDivisor(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// weightedRoundRobin is nginx's smooth algorithm (ngx_http_upstream_round_robin):
// everyone earns its weight in each round, and the richest pays the sum of all
// for being chosen. After as many picks as the weights, without their common
// divisor, add up to, everyone has what it began with.
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
