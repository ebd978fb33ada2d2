package lb

import (
	"math/rand/v2"
	"slices"
)

// Random gives each request to a backend at random, in proportion to the
// weights. It knows nothing of loads and needs no memory that requests share, so
// that it is the cheapest with very many processors. Choose it for many short
// and equal requests, or many balancers that must not act in step; where loads
// matter, [PowerOfTwoChoices] costs one more look and does far better. It is a
// value without state.
type Random struct{}

// Build implements [Strategy].
func (Random) Build(backends []*Backend) Picker { return &random{newSampler(backends)} }

type random struct{ sampler }

func (r *random) Pick(info PickInfo) *Backend {
	b := r.sample()
	if info.HasTried(b) {
		return r.sampleUntried(info)
	}
	return b
}

// sampler chooses at random by weight, in constant time: it is Vose's form of
// Walker's alias method. It does not change.
type sampler struct {
	backends []*Backend
	slots    []aliasSlot // nil if the weights are equal
}

// aliasSlot belongs to the backend of its index below keep, and to another one
// at or above it.
type aliasSlot struct {
	keep  uint32
	other uint32
}

func weightsOf(backends []*Backend) []int64 {
	out := make([]int64, len(backends))
	for i, b := range backends {
		out[i] = b.weight.Load()
	}
	return out
}

func newSampler(backends []*Backend) sampler {
	weights := weightsOf(backends)
	if slices.Max(weights) == slices.Min(weights) {
		return sampler{backends: backends}
	}
	total := int64(0)
	for _, w := range weights {
		total += w
	}
	// Each slot has room for the mean weight. What a small backend leaves of its
	// slot, a large one fills. Weights count n-fold so that the mean is whole.
	n := int64(len(weights))
	slots := make([]aliasSlot, n)
	var small, large []int
	for i := range weights {
		weights[i] *= n
		slots[i] = aliasSlot{keep: 1<<32 - 1, other: uint32(i)}
		if weights[i] < total {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		slots[s] = aliasSlot{keep: uint32(float64(weights[s]) / float64(total) * (1 << 32)), other: uint32(l)}
		if weights[l] -= total - weights[s]; weights[l] < total {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	return sampler{backends, slots}
}

func (s *sampler) sample() *Backend {
	r := rand.Uint64()
	i := uint32(r >> 32 * uint64(len(s.backends)) >> 32)
	if s.slots != nil && uint32(r) >= s.slots[i].keep {
		i = s.slots[i].other
	}
	return s.backends[i]
}

// sampleTwo returns two backends that the request has not been to, by weight: the
// same one twice if there is no other, or if it has nearly all of the weight, and
// nil if there is none.
func (s *sampler) sampleTwo(info PickInfo) (*Backend, *Backend) {
	a, b := s.sampleAny()
	if len(info.Tried) == 0 {
		return a, b
	}
	if info.HasTried(a) {
		a = s.sampleUntried(info)
	}
	if info.HasTried(b) {
		b = a
	}
	return a, b
}

func (s *sampler) sampleAny() (*Backend, *Backend) {
	if n := uint64(len(s.backends)); s.slots == nil && n > 1 {
		r := rand.Uint64()
		i, j := r>>32*n>>32, r&(1<<32-1)*(n-1)>>32
		if j >= i {
			j++
		}
		return s.backends[i], s.backends[j]
	}
	a, b := s.sample(), s.sample()
	for range 3 {
		if a != b {
			break
		}
		b = s.sample()
	}
	return a, b
}

// sampleUntried chooses by weight among those that the request has not been to,
// or returns nil if there is none.
func (s *sampler) sampleUntried(info PickInfo) *Backend {
	total := int64(0)
	for _, b := range s.backends {
		if !info.HasTried(b) {
			total += b.weight.Load()
		}
	}
	if total == 0 {
		return nil
	}
	at := rand.Int64N(total)
	var last *Backend // the choice if a weight has shrunk meanwhile
	for _, b := range s.backends {
		if info.HasTried(b) {
			continue
		}
		if last = b; at < b.weight.Load() {
			return b
		}
		at -= b.weight.Load()
	}
	return last
}
