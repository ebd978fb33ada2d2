package lb

import "slices"

// Maglev sends the requests with the same key to the same backend by a table of
// which each backend has its share, equal to within one entry. It is the fastest
// of the hash strategies and the most even. When the set of backends changes,
// the keys of those that go move, and a few of the others': choose [RingHash] or
// [Rendezvous] where each needless move is dear, as for caches that fill slowly,
// and [BoundedLoad] over it where single keys may be hot.
//
// The table is that of Eisenbud and others, Maglev, NSDI 2016, section 3.4. It
// has 65,537 entries, and above 655 backends 1,048,573, so that there are at
// least 100 for each. Weights give shares of it. Balancers with the same set of
// backends, in any order, have the same table. It is a value without state.
type Maglev struct {
	// Key is what is hashed. Nil means KeyClientIP.
	Key HashKey
	// Seed changes which key goes where. Balancers that shall agree need the same
	// one; one that is secret keeps clients from knowing their backend. 0 is a
	// seed like any other.
	Seed uint64
}

// maglevSizes are primes, so that every step visits the whole table.
var maglevSizes = [...]int{65_537, 1_048_573}

// Build implements [Strategy].
func (m Maglev) Build(backends []*Backend) Picker { return newHashed(m, backends) }

func (m Maglev) hashing(backends []*Backend) (keyed, hashTable) {
	size := maglevSizes[0]
	if 100*len(backends) > size {
		size = maglevSizes[1]
	}
	return newKeyed(m.Key, m.Seed), newMaglevTable(backends, size)
}

type maglevTable struct {
	backends []*Backend // by ID
	entries  []uint16   // indexes of backends, of which there are 10,000 at most
}

// byID returns the backends in an order that is the same on every balancer.
func byID(backends []*Backend) []*Backend {
	backends = slices.Clone(backends)
	slices.SortFunc(backends, func(a, b *Backend) int {
		switch {
		case a.id < b.id:
			return -1
		case a.id > b.id:
			return 1
		}
		return 0
	})
	return backends
}

// newMaglevTable fills the table in rounds: each backend in turn takes the first
// free entry of its own permutation of them. In the paper everyone has a turn in
// each round; here it is as many as its weight allows, relative to the largest.
func newMaglevTable(backends []*Backend, size int) *maglevTable {
	t := &maglevTable{backends: byID(backends), entries: make([]uint16, size)}
	turns := newMaglevTurns(t.backends, size)
	steps := make([]maglevStep, len(backends))
	for i, b := range t.backends {
		h := HashString(b.id)
		steps[i] = maglevStep{at: int32(below(h, size)), by: int32(below(mix(h, 1), size-1)) + 1}
	}
	taken := make([]uint64, size/64+1) // a bit for each entry: it stays in the first cache
	for range size {
		i := turns.next()
		s := &steps[i]
		at, by := s.at, s.by
		for taken[uint32(at)/64]&(1<<(uint32(at)%64)) != 0 {
			if at += by; at >= int32(size) {
				at -= int32(size)
			}
		}
		taken[uint32(at)/64] |= 1 << (uint32(at) % 64)
		s.at = at
		t.entries[at] = uint16(i)
	}
	return t
}

// maglevStep is where a backend is in its permutation of the entries, and how it
// goes on.
type maglevStep struct{ at, by int32 }

// maglevTurns says whose turn it is. With equal weights it goes round; else the
// k-th turn of a backend is in round ⌈k·largest/weight⌉, and those of a round
// wait in a list, so that a backend of small weight costs nothing in between.
type maglevTurns struct {
	equal   bool
	i, n    int
	weights []int64
	largest int64
	count   []int64 // turns that a backend has had
	round   int
	head    []int32 // by round, -1 for none
	tail    []int32
	after   []int32 // by backend: who follows in its list
}

func newMaglevTurns(backends []*Backend, size int) *maglevTurns {
	t := &maglevTurns{n: len(backends), weights: weightsOf(backends)}
	t.largest = slices.Max(t.weights)
	if t.equal = slices.Min(t.weights) == t.largest; t.equal {
		return t
	}
	t.count = make([]int64, t.n)
	t.head = slices.Repeat([]int32{-1}, size+1)
	t.tail = make([]int32, size+1)
	t.after = make([]int32, t.n)
	for i := range t.n {
		t.enqueue(i)
	}
	return t
}

// enqueue lists the next turn of i, unless the table is full before it comes.
func (t *maglevTurns) enqueue(i int) {
	w := t.weights[i]
	round := ((t.count[i]+1)*t.largest + w - 1) / w
	if round >= int64(len(t.head)) {
		return
	}
	t.after[i] = -1
	if t.head[round] < 0 {
		t.head[round] = int32(i)
	} else {
		t.after[t.tail[round]] = int32(i)
	}
	t.tail[round] = int32(i)
}

func (t *maglevTurns) next() int {
	if t.equal {
		i := t.i
		if t.i++; t.i == t.n {
			t.i = 0
		}
		return i
	}
	// The largest has a turn in every round, so that no more rounds are needed
	// than there are entries.
	for t.head[t.round] < 0 {
		t.round++
	}
	i := int(t.head[t.round])
	t.head[t.round] = t.after[i]
	t.count[i]++
	t.enqueue(i)
	return i
}

// maglevHops is how often a hash that leads to a backend which may not be taken
// is hashed again, before the backends are looked at one by one.
const maglevHops = 8

func (t *maglevTable) find(h uint64, f filter) *Backend {
	i := t.entries[below(h, len(t.entries))]
	if b := t.backends[i]; f.admits(b) {
		return b
	}
	return t.findOther(h, &f)
}

// findOther hashes again rather than take the next entry, so that the keys of a
// backend which fails spread over all others.
func (t *maglevTable) findOther(h uint64, f *filter) *Backend {
	i := 0
	for range maglevHops {
		h = mix(h, hashK0)
		i = int(t.entries[below(h, len(t.entries))])
		if b := t.backends[i]; f.admits(b) {
			return b
		}
	}
	return firstAdmitted(t.backends, i, f)
}
