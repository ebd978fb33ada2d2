package lb

import (
	"cmp"
	"math/bits"
	"slices"
)

// RingHash sends the requests with the same key to the same backend by a ring of
// points, of which each backend has 160 or as many as its weight relative to the
// mean gives it: a key belongs to the point that follows it. When the set of
// backends changes, no key moves but those of the backends that go, and those
// which the new ones take. Choose it for caches and for state that is dear to
// move; the shares differ by a tenth or so, where [Maglev]'s are equal. It is
// consistent hashing (Karger and others, 1997) in the manner of libketama. It is
// a value without state.
type RingHash struct {
	// Key is what is hashed. Nil means KeyClientIP.
	Key HashKey
	// Seed changes which key goes where, as in Maglev.
	Seed uint64
}

// ringPoints is the number of points of a backend of mean weight.
const ringPoints = 160

// Build implements [Strategy].
func (r RingHash) Build(backends []*Backend) Picker { return newHashed(r, backends) }

func (r RingHash) hashing(backends []*Backend) (keyed, hashTable) {
	return newKeyed(r.Key, r.Seed), newRing(backends)
}

type ringPoint struct {
	at      uint64
	backend uint16 // index
}

type ring struct {
	backends []*Backend
	points   []ringPoint // sorted
	// starts has the index of the first point at or after each i<<shift, so that
	// the search begins within a few points of its end.
	starts []uint32
	shift  int
}

func newRing(backends []*Backend) *ring {
	r := &ring{backends: byID(backends)}
	weights := weightsOf(r.backends)
	total := int64(0)
	for _, w := range weights {
		total += w
	}
	n := int64(len(backends))
	r.points = make([]ringPoint, 0, (ringPoints+1)*n)
	for i, b := range r.backends {
		h := HashString(b.id)
		// Point k of a backend is the same whatever the other backends are.
		for k := range max(1, (ringPoints*n*weights[i]+total/2)/total) {
			r.points = append(r.points, ringPoint{mix(h, uint64(k)), uint16(i)})
		}
	}
	r.sort()
	return r
}

// sort puts the points in order: first into the part of the ring that the upper
// bits of each tell, of which there are as many as points, and then within it.
func (r *ring) sort() {
	width := bits.Len(uint(len(r.points)))
	r.shift = 64 - width
	r.starts = make([]uint32, 1<<width+1)
	for _, p := range r.points {
		r.starts[p.at>>r.shift+1]++
	}
	for i := range r.starts[1:] {
		r.starts[i+1] += r.starts[i]
	}
	sorted, next := make([]ringPoint, len(r.points)), slices.Clone(r.starts)
	for _, p := range r.points {
		part := p.at >> r.shift
		sorted[next[part]] = p
		next[part]++
	}
	for i, start := range r.starts[1:] {
		slices.SortFunc(sorted[r.starts[i]:start], func(a, b ringPoint) int {
			return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.backend, b.backend))
		})
	}
	r.points = sorted
}

// after returns the index of the first point at or after h.
func (r *ring) after(h uint64) int {
	i := int(r.starts[h>>r.shift])
	for i < len(r.points) && r.points[i].at < h {
		i++
	}
	if i == len(r.points) {
		return 0
	}
	return i
}

func (r *ring) find(h uint64, f filter) *Backend {
	start := r.after(h)
	// One backend's points are rarely many in a row: a walk that meets nobody for
	// as long as this has met everyone, or nearly so.
	for i := range min(len(r.points), 8*len(r.backends)) {
		p := r.points[(start+i)%len(r.points)]
		if b := r.backends[p.backend]; f.admits(b) {
			return b
		}
	}
	return firstAdmitted(r.backends, below(h, len(r.backends)), &f)
}
