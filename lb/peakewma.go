package lb

import "time"

// PeakEWMA takes two backends at random, by weight, and gives the request to that
// whose requests are expected to be done earlier: its latency, times its requests
// in flight, relative to its weight. The latency is an average over 10 s of which
// a slower answer takes the place at once, so that trouble is seen at the first
// request that meets it and believed to be over bit by bit. Choose it for
// backends that stall now and then, behind several balancers; one balancer does
// better with [LeastRequest].
//
// An estimate fades while no new answer comes, and is forgotten after 10 s, so
// that a backend that was slow is tried again. One of which nothing is known is
// tried with one request, and else counts as a usual one. A failure counts as four times the latency there was. It
// is Finagle's load metric, with that of the pool at the start in place of a
// penalty. It is a value without state; what is known of a backend's latency
// stays with the backend.
type PeakEWMA struct{}

const peakWindow = 3 * time.Second

// Build implements [Strategy].
func (PeakEWMA) Build(backends []*Backend) Picker {
	p := &peakEWMA{sampler: newSampler(backends)}
	p.begin(backends, peakWindow, 1)
	p.peak = true
	return p
}

type peakEWMA struct {
	sampler
	slowness
}

func (p *peakEWMA) Pick(info PickInfo) *Backend {
	a, b := p.sampleTwo(info)
	if a == b {
		return a
	}
	now := p.clock.now()
	usual := max(1, p.usual.load(now).nanos)
	if p.cost(b, now, usual) < p.cost(a, now, usual) {
		return b
	}
	return a
}

func (p *peakEWMA) cost(b *Backend, now tick, usual float32) float32 {
	l, n := b.latency.load(now), b.inFlight.Load()
	switch {
	case l.nanos > 0:
		usual = l.faded(p.window)
	case n == 0:
		return 0 // or an idle pool might never learn of it
	}
	usual *= float32(n + 1)
	if w := b.weight.Load(); w != 1 { // a division costs
		usual /= float32(w)
	}
	return usual
}
