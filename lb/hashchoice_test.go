package lb

import (
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"testing"
)

// TestHashStrategiesTakeTheirKey: requests with the same key go to the same
// backend, and what is no part of it means nothing.
func TestHashStrategiesTakeTheirKey(t *testing.T) {
	backends := backendsOf(slices.Repeat([]int{1}, 10)...)
	for _, c := range []struct {
		byIP, byPath Strategy
	}{
		{RingHash{}, RingHash{Key: KeyPath}},
		{Maglev{}, Maglev{Key: KeyPath}},
		{Rendezvous{}, Rendezvous{Key: KeyPath}},
		{BoundedLoad{Factor: 100}, BoundedLoad{Over: RingHash{Key: KeyPath}, Factor: 100}},
	} {
		for _, by := range []struct {
			name           string
			s              Strategy
			remote, target string
		}{{"address", c.byIP, "192.0.2.%d:1", "/same"}, {"path", c.byPath, "192.0.2.1:1", "/%d"}} {
			p := by.s.Build(backends)
			got := make(map[*Backend]bool)
			for i := range 200 {
				r := httptest.NewRequest("GET", "/", nil)
				r.RemoteAddr = fmt.Sprintf("192.0.2.%d:1", i)
				r.URL.Path = fmt.Sprint("/", i)
				other := r.Clone(t.Context())
				if by.name == "path" {
					other.RemoteAddr = "198.51.100.7:9"
				} else {
					other.URL.Path = "/other"
				}
				b := p.Pick(PickInfo{Request: r})
				if also := p.Pick(PickInfo{Request: other}); also != b {
					t.Fatalf("%T by %s: a request went to %v, and another of the same key to %v", by.s, by.name, b, also)
				}
				got[b] = true
			}
			if len(got) != len(backends) {
				t.Errorf("%T by %s: 200 keys went to %d backends of 10", by.s, by.name, len(got))
			}
		}
	}
}

// TestMaglevTableIsTheSameInAnyOrder looks at all entries, as two orders make
// few of them differ.
func TestMaglevTableIsTheSameInAnyOrder(t *testing.T) {
	for _, weights := range [][]int{{1, 2, 3, 4}, slices.Repeat([]int{1}, 50)} {
		backends := backendsOf(weights...)
		reversed := slices.Clone(backends)
		slices.Reverse(reversed)
		a, b := newMaglevTable(backends, maglevSizes[0]), newMaglevTable(reversed, maglevSizes[0])
		for i := range a.entries {
			if a.backends[a.entries[i]] != b.backends[b.entries[i]] {
				t.Fatalf("weights %v: entry %d depends on the order", weights, i)
			}
		}
	}
}

// Build is given the pool's own list, which is no strategy's to sort.
func TestBuildLeavesItsListAlone(t *testing.T) {
	backends := backendsOf(1, 2, 3, 4)
	slices.Reverse(backends)
	for _, s := range []Strategy{RingHash{}, Maglev{}, Rendezvous{}, BoundedLoad{}, First{}, RoundRobin{}, WeightedRoundRobin{}, LeastRequest{}} {
		given := slices.Clone(backends)
		s.Build(given)
		if !slices.Equal(given, backends) {
			t.Errorf("%T made %v of %v", s, given, backends)
		}
	}
}

// TestSecondChoiceIsThatOfTheOthers: whoever is passed over might as well not be
// there, so that a backend's keys are where they will be when it is removed.
func TestSecondChoiceIsThatOfTheOthers(t *testing.T) {
	for _, s := range []HashStrategy{RingHash{}, Rendezvous{}} {
		backends := backendsOf(slices.Repeat([]int{1}, 10)...)
		p := s.Build(backends)
		without := make(map[*Backend]Picker)
		for i, b := range backends {
			without[b] = s.Build(slices.Delete(slices.Clone(backends), i, i+1))
		}
		for i := range 2000 {
			info := keyed1(i)
			first := p.Pick(info)
			want := without[first].Pick(info)
			if info.Tried = []*Backend{first}; p.Pick(info) != want {
				t.Fatalf("%T: key %d goes to %v after %v, and to %v without it", s, i, p.Pick(info), first, want)
			}
		}
	}
}

// TestTheLastFewShare: when nearly all have been tried, or the one that has
// nearly all of the points, the keys are not all for one of the others.
func TestTheLastFewShare(t *testing.T) {
	for _, c := range []struct {
		s       HashStrategy
		weights []int
		left    [2]int
	}{
		{RingHash{}, slices.Repeat([]int{1}, 100), [2]int{25, 75}},
		{Maglev{}, slices.Repeat([]int{1}, 100), [2]int{25, 75}},
		{Rendezvous{}, slices.Repeat([]int{1}, 100), [2]int{25, 75}},
		{RingHash{}, []int{1, 1, 1_000_000}, [2]int{0, 1}},
	} {
		backends := backendsOf(c.weights...)
		backends = byID(backends)
		p := c.s.Build(backends)
		var tried []*Backend
		for i, b := range backends {
			if i != c.left[0] && i != c.left[1] {
				tried = append(tried, b)
			}
		}
		got := make(map[*Backend]int)
		const keys = 2000
		for i := range keys {
			info := keyed1(i)
			info.Tried = tried
			got[p.Pick(info)]++
		}
		for _, i := range c.left {
			if n := got[backends[i]]; n < keys/5 {
				t.Errorf("%T: of %d backends two are left, and %v of them gets %d of %d keys", c.s, len(backends), backends[i], n, keys)
			}
		}
	}
}

// goldenBoundedLoad goes along a key's order of preference to the first that
// has room, in whole numbers: the bound is quarters/4 of its share, rounded up.
func goldenBoundedLoad(order []*Backend, tried []*Backend, quarters int) *Backend {
	total, sum := 1, 0
	for _, b := range order {
		total += int(b.InFlight())
		sum += b.Weight()
	}
	var spare *Backend
	for _, b := range order {
		if slices.Contains(tried, b) {
			continue
		}
		if limit := (quarters*total*b.Weight() + 4*sum - 1) / (4 * sum); int(b.InFlight())+1 <= limit {
			return b
		}
		if spare == nil {
			spare = b
		}
	}
	return spare
}

func TestBoundedLoadGolden(t *testing.T) {
	for _, over := range hashStrategies {
		for _, c := range []struct {
			factor   float64
			quarters int
		}{{0, 5}, {0.5, 5}, {1, 4}, {1.25, 5}, {2, 8}} {
			// The sums are powers of 2, so that no bound is off by a rounding.
			for _, weights := range [][]int{{1, 1}, {4, 2, 1, 1}, slices.Repeat([]int{1}, 8)} {
				backends := backendsOf(weights...)
				p, free := BoundedLoad{Over: over, Factor: c.factor}.Build(backends), over.Build(backends)
				for i := range 300 {
					for _, b := range backends {
						b.inFlight.Store(rand.Int64N(12))
					}
					info := keyed1(i)
					var order []*Backend
					for range backends {
						order = append(order, free.Pick(PickInfo{Key: info.Key, Tried: order}))
					}
					for _, b := range backends {
						if rand.IntN(4) == 0 {
							info.Tried = append(info.Tried, b)
						}
					}
					if got, want := p.Pick(info), goldenBoundedLoad(order, info.Tried, c.quarters); got != want {
						t.Fatalf("%T, factor %v, weights %v: %v, want %v of %v", over, c.factor, weights, got, want, order)
					}
				}
			}
		}
	}
}

// TestBoundedLoadLearnsOfChanges: among many, the loads are not counted each
// time, but what was counted is not believed when it says that nobody has room,
// and not for long in any case.
func TestBoundedLoadLearnsOfChanges(t *testing.T) {
	backends := backendsOf(slices.Repeat([]int{1}, 32)...)
	load := func(n int64) {
		for _, b := range backends {
			b.inFlight.Store(n)
		}
	}
	hot := PickInfo{Key: "hot"}
	for range 20 {
		load(0)
		p := BoundedLoad{Over: Rendezvous{}}.Build(backends)
		first := p.Pick(hot)
		p = BoundedLoad{Over: Rendezvous{}}.Build(backends)
		load(10)
		first.inFlight.Store(40)
		if b := p.Pick(hot); b == first {
			t.Fatalf("%v has 40 in flight, the others 10, and gets another", b)
		}
	}
	load(100)
	p := BoundedLoad{}.Build(backends)
	first := p.Pick(hot)
	load(0)
	first.inFlight.Store(50)
	n := 0
	for range 200 {
		if p.Pick(hot) == first {
			n++
		}
	}
	if n > 50 {
		t.Errorf("%d of 200 requests went to the one backend that is not idle", n)
	}
}
