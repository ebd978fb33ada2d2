package lb

import "math"

// Rendezvous sends the requests with the same key to the same backend: to that
// which scores highest for the key. When the set of backends changes, no key
// moves but those of the backends that go and those which the new ones win, and
// weights hold exactly. It needs no table, and so no memory and no time when the
// set changes, but each pick asks all backends: choose it up to some dozens of
// them, and [Maglev] or [RingHash] above. It is the highest random weight of
// Thaler and Ravishankar, 1996, with weights by logarithms. It is a value without
// state.
type Rendezvous struct {
	// Key is what is hashed. Nil means KeyClientIP.
	Key HashKey
	// Seed changes which key goes where, as in Maglev.
	Seed uint64
}

// Build implements [Strategy].
func (r Rendezvous) Build(backends []*Backend) Picker { return newHashed(r, backends) }

func (r Rendezvous) hashing(backends []*Backend) (keyed, hashTable) {
	t := &rendezvousTable{seats: make([]rendezvousSeat, len(backends)), equal: true}
	// Equal scores, rare as they are, fall to the same one on every balancer.
	for i, b := range byID(backends) {
		t.seats[i] = rendezvousSeat{b, HashString(b.id), float64(b.Weight())}
		t.equal = t.equal && t.seats[i].weight == t.seats[0].weight
	}
	return newKeyed(r.Key, r.Seed), t
}

type rendezvousSeat struct {
	backend *Backend
	hash    uint64
	weight  float64
}

type rendezvousTable struct {
	seats []rendezvousSeat
	equal bool // in weight
}

func (t *rendezvousTable) find(h uint64, f filter) *Backend {
	if !t.equal {
		return t.findWeighted(h, &f)
	}
	var best *Backend
	var top uint64
	for i := range t.seats {
		s := &t.seats[i]
		if score := mix(h, s.hash); (best == nil || score > top) && f.admits(s.backend) {
			best, top = s.backend, score
		}
	}
	return best
}

// findWeighted scores by weight/-ln(u), where u is uniform in (0, 1): the highest
// belongs to each backend with a probability in proportion to its weight.
func (t *rendezvousTable) findWeighted(h uint64, f *filter) *Backend {
	var best *Backend
	var top float64
	for i := range t.seats {
		s := &t.seats[i]
		u := (float64(mix(h, s.hash)>>11) + 0.5) / (1 << 53)
		if score := -s.weight / math.Log(u); (best == nil || score > top) && f.admits(s.backend) {
			best, top = s.backend, score
		}
	}
	return best
}
