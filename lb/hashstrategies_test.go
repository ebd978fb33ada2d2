package lb

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func keyed1(i int) PickInfo { return PickInfo{Key: fmt.Sprint("key-", i)} }

var hashStrategies = []HashStrategy{RingHash{}, Maglev{}, Rendezvous{}}

func TestHashStrategiesKeepAKey(t *testing.T) {
	for _, s := range hashStrategies {
		backends := backendsOf(1, 2, 3, 4)
		shuffled := slices.Clone(backends)
		slices.Reverse(shuffled)
		a, b, seeded := s.Build(backends), s.Build(shuffled), seededLike(s).Build(backends)
		moved := 0
		for i := range 1000 {
			want := a.Pick(keyed1(i))
			backends[i%4].inFlight.Add(1) // loads mean nothing
			if got := a.Pick(keyed1(i)); got != want {
				t.Fatalf("%T: key %d went to %v and to %v", s, i, want, got)
			}
			if got := b.Pick(keyed1(i)); got != want {
				t.Fatalf("%T: key %d goes to %v, and to %v if the backends come in another order", s, i, want, got)
			}
			if seeded.Pick(keyed1(i)) != want {
				moved++
			}
		}
		if moved < 400 {
			t.Errorf("%T: another seed moves %d of 1000 keys only", s, moved)
		}
	}
}

func seededLike(s HashStrategy) HashStrategy {
	switch s.(type) {
	case RingHash:
		return RingHash{Seed: 1}
	case Maglev:
		return Maglev{Seed: 1}
	}
	return Rendezvous{Seed: 1}
}

func TestHashStrategiesShares(t *testing.T) {
	for _, c := range []struct {
		s     HashStrategy
		slack float64
	}{{RingHash{}, 0.35}, {Maglev{}, 0.01}, {Rendezvous{}, 0}} {
		for _, weights := range [][]int{{1}, {1, 1, 1, 1, 1}, {1, 2, 3, 4}, {10, 1, 1}, slices.Repeat([]int{1}, 40)} {
			backends := backendsOf(weights...)
			got := spread(c.s.Build(backends), backends, 60_000, keyed1)
			checkShares(t, fmt.Sprintf("%T, weights %v", c.s, weights), backends, got, 5, c.slack)
		}
		// Requests without a key are spread as well.
		backends := backendsOf(1, 1, 2)
		got := spread(c.s.Build(backends), backends, 20_000, anyRequest)
		checkShares(t, fmt.Sprintf("%T, no key", c.s), backends, got, 5, c.slack)
	}
}

// TestHashStrategiesDisruption: when one of 20 goes, its keys move, and of the
// others' none, or with Maglev few. When it comes back, all is as before.
func TestHashStrategiesDisruption(t *testing.T) {
	const keys = 20_000
	for _, c := range []struct {
		s     HashStrategy
		moves float64 // of the keys that could stay
	}{{RingHash{}, 0}, {Maglev{}, 0.03}, {Rendezvous{}, 0}} {
		backends := backendsOf(slices.Repeat([]int{1}, 20)...)
		before, after := c.s.Build(backends), c.s.Build(slices.Delete(slices.Clone(backends), 7, 8))
		gone, moved := make(map[*Backend]int), 0
		for i := range keys {
			was, is := before.Pick(keyed1(i)), after.Pick(keyed1(i))
			switch {
			case was == backends[7]:
				gone[is]++
			case was != is:
				moved++
			}
		}
		if float64(moved) > c.moves*keys {
			t.Errorf("%T: %d of %d keys moved that could stay, want %v of them at most", c.s, moved, keys, c.moves)
		}
		if len(gone) < 15 {
			t.Errorf("%T: the keys of the one that went are with %d of 19 backends only", c.s, len(gone))
		}
	}
}

// A retry goes where the key would go if the backend were not there, always to
// the same one, and the keys of one backend to many.
func TestHashStrategiesSecondChoice(t *testing.T) {
	for _, s := range hashStrategies {
		backends := backendsOf(slices.Repeat([]int{1}, 10)...)
		p := s.Build(backends)
		second := make(map[*Backend]bool)
		for i := range 2000 {
			info := keyed1(i)
			if info.Tried = []*Backend{p.Pick(info)}; info.Tried[0] != backends[3] {
				continue
			}
			b := p.Pick(info)
			if b == nil || b == backends[3] || b != p.Pick(info) {
				t.Fatalf("%T: the second choice of key %d is %v", s, i, b)
			}
			second[b] = true
		}
		if len(second) < 7 {
			t.Errorf("%T: the keys of one backend have %d of 9 others for second choice", s, len(second))
		}
	}
}

// goldenMaglev is the pseudo-code of the paper, with its matrix of permutations.
func goldenMaglev(backends []*Backend, size int) []uint16 {
	n := len(backends)
	permutation := make([][]int, n)
	for i, b := range backends {
		h := HashString(b.id)
		offset, skip := below(h, size), below(mix(h, 1), size-1)+1
		for j := range size {
			permutation[i] = append(permutation[i], (offset+j*skip)%size)
		}
	}
	next, entry := make([]int, n), slices.Repeat([]int{-1}, size)
	for filled := 0; ; {
		for i := range n {
			c := permutation[i][next[i]]
			for entry[c] >= 0 {
				next[i]++
				c = permutation[i][next[i]]
			}
			entry[c] = i
			next[i]++
			if filled++; filled == size {
				out := make([]uint16, size)
				for k, e := range entry {
					out[k] = uint16(e)
				}
				return out
			}
		}
	}
}

func TestMaglevIsThePapers(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 50} {
		for _, weight := range []int{1, 7} {
			backends := byID(backendsOf(slices.Repeat([]int{weight}, n)...))
			for _, size := range []int{53, 251, 1009} {
				if got := newMaglevTable(backends, size).entries; !slices.Equal(got, goldenMaglev(backends, size)) {
					t.Errorf("%d backends, %d entries: the table is not the paper's", n, size)
				}
			}
		}
	}
}

// imbalance is how much more than its share the largest backend has.
func imbalance(table *maglevTable) float64 {
	count := make([]int, len(table.backends))
	for _, i := range table.entries {
		count[i]++
	}
	return float64(slices.Max(count))*float64(len(count))/float64(len(table.entries)) - 1
}

func TestMaglevImbalance(t *testing.T) {
	for _, n := range []int{3, 10, 100, 655, 656, 1000} {
		backends := backendsOf(slices.Repeat([]int{1}, n)...)
		_, table := Maglev{}.hashing(backends)
		if size := len(table.(*maglevTable).entries); size < 100*n {
			t.Errorf("%d backends: %d entries, want 100 for each", n, size)
		}
		if got := imbalance(table.(*maglevTable)); got > 0.01 {
			t.Errorf("%d backends: imbalance %.4f, want 0.01 at most", n, got)
		}
	}
	// The paper's hard case has 65 entries for each.
	if got := imbalance(newMaglevTable(backendsOf(slices.Repeat([]int{1}, 1000)...), 65_537)); got > 0.01 {
		t.Errorf("65,537 entries for 1000: imbalance %.4f, want 0.01 at most", got)
	}
}

// Weights far apart neither take the small backend's place nor the builder's time.
func TestMaglevWeights(t *testing.T) {
	weights := slices.Repeat([]int{1}, 500)
	weights[7] = maxWeight
	table := newMaglevTable(backendsOf(weights...), maglevSizes[0])
	count := make([]int, len(weights))
	for _, i := range table.entries {
		count[i]++
	}
	if most := slices.Max(count); most < 65_000 {
		t.Errorf("the one with all the weight has %d of 65537 entries", most)
	}
	backends := byID(backendsOf(7, 5, 3, 2, 1))
	table = newMaglevTable(backends, maglevSizes[0])
	count = make([]int, len(backends))
	for _, i := range table.entries {
		count[i]++
	}
	for i, b := range backends {
		if want := float64(b.Weight()) / 18 * 65_537; math.Abs(float64(count[i])-want) > 10 {
			t.Errorf("weight %d has %d entries, want %.0f", b.Weight(), count[i], want)
		}
	}
}

// goldenRing looks at all points.
func goldenRing(backends []*Backend, h uint64) *Backend {
	weights := weightsOf(backends)
	total := 0.0
	for _, w := range weights {
		total += float64(w)
	}
	var first, after *Backend
	var firstAt, afterAt uint64
	for i, b := range backends {
		points := int(math.Round(ringPoints * float64(len(backends)) * float64(weights[i]) / total))
		for k := range max(1, points) {
			at := mix(HashString(b.id), uint64(k))
			if first == nil || at < firstAt {
				first, firstAt = b, at
			}
			if at >= h && (after == nil || at < afterAt) {
				after, afterAt = b, at
			}
		}
	}
	if after == nil {
		return first
	}
	return after
}

func TestRingHashGolden(t *testing.T) {
	for _, weights := range [][]int{{1}, {1, 1}, {3, 2, 1}, {3, 3, 1}, {1_000_000, 1, 1}, slices.Repeat([]int{2}, 30)} {
		backends := backendsOf(weights...)
		ring := newRing(backends)
		hashes := []uint64{0, 1, math.MaxUint64, math.MaxUint64 - 1}
		for range 2000 {
			hashes = append(hashes, rand.Uint64())
		}
		for _, p := range ring.points[:min(500, len(ring.points))] {
			hashes = append(hashes, p.at-1, p.at, p.at+1)
		}
		for _, h := range hashes {
			if got, want := ring.find(h, filter{}), goldenRing(backends, h); got != want {
				t.Fatalf("weights %v, hash %#x: %v, want %v", weights, h, got, want)
			}
		}
	}
}

func TestRendezvousGolden(t *testing.T) {
	for _, weights := range [][]int{{1}, {1, 1, 1, 1}, {1, 2, 3}} {
		backends := backendsOf(weights...)
		_, table := Rendezvous{}.hashing(backends)
		for range 2000 {
			h := rand.Uint64()
			want := slices.MaxFunc(backends, func(a, b *Backend) int {
				score := func(x *Backend) float64 {
					u := (float64(mix(h, HashString(x.id))>>11) + 0.5) / (1 << 53)
					return -float64(x.Weight()) / math.Log(u)
				}
				if score(a) < score(b) {
					return -1
				}
				return 1
			})
			if got := table.find(h, filter{}); got != want {
				t.Fatalf("weights %v, hash %#x: %v, want %v", weights, h, got, want)
			}
		}
	}
}

// TestBoundedLoad puts all requests on few keys and ends none, then some: nobody
// may ever have more than its bound, and who has room keeps his keys.
func TestBoundedLoad(t *testing.T) {
	for _, over := range hashStrategies {
		for _, weights := range [][]int{{1}, {1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {4, 2, 1, 1}} {
			backends := backendsOf(weights...)
			sum := 0
			for _, w := range weights {
				sum += w
			}
			const factor = 1.25
			p := BoundedLoad{Over: over, Factor: factor}.Build(backends)
			free := over.Build(backends)
			kept, total := 0, 0
			var inFlight []*Backend
			for i := range 3000 {
				info := keyed1(rand.IntN(5))
				b := p.Pick(info)
				total++
				if limit := math.Ceil(factor * float64(total) * float64(b.Weight()) / float64(sum)); float64(b.inFlight.Add(1)) > limit {
					t.Fatalf("%T, weights %v: %v has %d of %d in flight, want %v at most", over, weights, b, b.InFlight(), total, limit)
				}
				if b == free.Pick(info) {
					kept++
				}
				inFlight = append(inFlight, b)
				if i > 1000 && i%2 == 0 {
					j := rand.IntN(len(inFlight))
					inFlight[j].inFlight.Add(-1)
					inFlight = slices.Delete(inFlight, j, j+1)
					total--
				}
			}
			if kept < 300 {
				t.Errorf("%T, weights %v: %d of 3000 requests went to the backend of their key", over, weights, kept)
			}
		}
		// Keys of equal heat keep their place if there is room.
		backends := backendsOf(1, 1, 1, 1)
		p, free := BoundedLoad{Over: over, Factor: 4}.Build(backends), over.Build(backends)
		for i := range 1000 {
			if b := p.Pick(keyed1(i)); b != free.Pick(keyed1(i)) {
				t.Fatalf("%T: key %d was moved though all are idle", over, i)
			}
		}
	}
}

// The count is not exact among many, but nearly so.
func TestBoundedLoadAmongMany(t *testing.T) {
	backends := backendsOf(slices.Repeat([]int{1}, 200)...)
	p := BoundedLoad{}.Build(backends)
	for range 50 * len(backends) {
		p.Pick(PickInfo{Key: "hot"}).inFlight.Add(1)
	}
	for i, b := range backends {
		if n := b.InFlight(); n > 63 { // 1.25 times 50, rounded up
			t.Errorf("backend %d has %d in flight, want 63 at most", i, n)
		}
	}
}
