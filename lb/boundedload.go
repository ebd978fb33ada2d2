package lb

import (
	"math/rand/v2"
	"sync/atomic"
)

// BoundedLoad is a hash strategy that passes over a backend which has too much
// to do: a request whose backend has more than Factor times its share of the
// requests in flight goes to the next one of its key. Choose it where keys are
// not alike, so that a hot one cannot drown its backend, and its requests go to
// a few backends rather than one. It is the consistent hashing with bounded loads
// of Mirrokni, Thorup and Zadimoghaddam, 2018. It is a value without state.
type BoundedLoad struct {
	// Over is the hash strategy. Nil means Maglev{}.
	Over HashStrategy
	// Factor is how much of its share of the requests in flight, by weight, a
	// backend may have, rounded up. Less is more even, more keeps more keys in
	// their place. Below 1, such as 0, it means 1.25.
	Factor float64
}

// Build implements [Strategy].
func (s BoundedLoad) Build(backends []*Backend) Picker {
	if s.Over == nil {
		s.Over = Maglev{}
	}
	if !(s.Factor >= 1) {
		s.Factor = 1.25
	}
	p := &boundedLoad{hashed: newHashed(s.Over, backends)}
	p.bound.backends = backends
	total := int64(0)
	for _, b := range backends {
		total += int64(b.Weight())
	}
	p.bound.share = s.Factor / float64(total)
	p.bound.counted.Store(p.bound.count())
	return p
}

type boundedLoad struct {
	*hashed
	bound bound
}

func (p *boundedLoad) Pick(info PickInfo) *Backend {
	f := filter{tried: info.Tried, bound: &p.bound, total: p.bound.total()}
	h := p.hash(info)
	if b := p.table.find(h, f); b != nil {
		return b
	}
	// Everyone is full only if the loads have changed since they were counted, or
	// those with room were tried.
	f.total = p.bound.recount()
	if b := p.table.find(h, f); b != nil {
		return b
	}
	return p.table.find(h, filter{tried: info.Tried})
}

// bound says who is full.
type bound struct {
	backends []*Backend
	share    float64 // of all requests in flight, for each unit of weight
	counted  atomic.Int64
}

// total returns the requests in flight. To count them is to look at all backends,
// so above 15 of them only one pick in len/8 does, at random, and the total is
// behind by as many requests as have come or gone since.
func (b *bound) total() int64 {
	every := uint64(len(b.backends) / 8)
	switch {
	case every <= 1:
		return b.count()
	case rand.Uint64N(every) != 0:
		return b.counted.Load()
	}
	return b.recount()
}

func (b *bound) recount() int64 {
	n := b.count()
	b.counted.Store(n)
	return n
}

func (b *bound) count() int64 {
	n := int64(0)
	for _, backend := range b.backends {
		n += backend.inFlight.Load()
	}
	return n
}

// admits says whether a backend may have one more request, the total being that
// before it came. The request itself counts on both sides, so that one of them
// always has room.
func (b *bound) admits(backend *Backend, total int64) bool {
	room := b.share * float64(total+1) * float64(backend.weight.Load())
	return float64(backend.inFlight.Load()) < room
}
