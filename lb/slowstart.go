package lb

import "time"

const (
	// slowStartSteps is in how many steps a backend comes to its full weight.
	slowStartSteps = 20
	// slowStartScale is what all weights are multiplied with while one of them is
	// on its way, so that a part of 1 can be told in whole numbers.
	slowStartScale = 100
	// slowStartLeast is the part of its weight with which a backend begins, in
	// hundredths. With nothing it would learn nothing.
	slowStartLeast = 5
)

// warmUp makes b begin with a small part of its weight. It needs p.mu.
func (p *Pool) warmUp(b *Backend) {
	if p.conf.SlowStart > 0 {
		b.warmSince = time.Now()
	}
}

// setWeights sets the weights that strategies see, and comes back when they will
// have changed. It needs p.mu.
func (p *Pool) setWeights() {
	now, warming := time.Now(), false
	for _, b := range p.backends {
		if !b.warmSince.IsZero() && now.Sub(b.warmSince) >= p.conf.SlowStart {
			b.warmSince = time.Time{}
		}
		warming = warming || !b.warmSince.IsZero()
	}
	for _, b := range p.backends {
		w := int64(b.share)
		if warming {
			w *= p.warmth(b, now)
		}
		b.weight.Store(w)
	}
	if warming && p.step == nil {
		p.step = time.AfterFunc(max(p.conf.SlowStart/slowStartSteps, time.Millisecond), p.warmer)
	}
}

// warmth is the part of its weight that b may have now, in hundredths.
func (p *Pool) warmth(b *Backend, now time.Time) int64 {
	if b.warmSince.IsZero() {
		return slowStartScale
	}
	steps := now.Sub(b.warmSince) * slowStartSteps / p.conf.SlowStart
	return max(slowStartLeast, int64(steps)*slowStartScale/slowStartSteps)
}

// warmer takes the next step.
func (p *Pool) warmer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step = nil
	if !p.closed {
		p.publish()
	}
}
