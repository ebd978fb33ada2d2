package lb

// PowerOfTwoChoices takes two backends at random, by weight, and gives the
// request to that with fewer requests in flight, relative to its weight. Choose
// it for very many backends, or for several balancers which do not know each
// other's requests, so that they do not all run to the one that seems idle. It
// looks at no latency: [PeakEWMA] does. On one balancer [LeastRequest] does
// better. (Mitzenmacher, The power of two choices, 1996.) It is a value without
// state.
type PowerOfTwoChoices struct{}

// Build implements [Strategy].
func (PowerOfTwoChoices) Build(backends []*Backend) Picker {
	return &powerOfTwo{newSampler(backends)}
}

type powerOfTwo struct{ sampler }

func (p *powerOfTwo) Pick(info PickInfo) *Backend {
	a, b := p.sampleTwo(info)
	if a == b {
		return a
	}
	// a came first and b second, both at random, so that nobody is preferred
	// among equals.
	if b.inFlight.Load()*a.weight.Load() < a.inFlight.Load()*b.weight.Load() {
		return b
	}
	return a
}
