package lb

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

// overprovision is how much more than its share a backend is expected to bear:
// a level gives nothing away as long as its healthy backends times this make up
// for the unhealthy ones. The number is Envoy's.
const overprovision = 1.4

// snapshot is what Pick needs. It does not change.
type snapshot struct {
	tiers []tier // those that may get requests, in the order of preference
	err   error  // what Pick returns if there is no tier
}

// tier is a set of backends that are chosen from alike.
type tier struct {
	backends []*Backend
	weights  []int64 // that the picker was built with
	picker   Picker
	observer Observer // nil: the picker does not ask
	// until is the sum of the shares of the requests up to this tier's. A tier
	// with no share serves those that have been to all of the others.
	until float64
}

// pick returns nil if the request has been to all.
func (s *snapshot) pick(info PickInfo) (*Backend, Observer) {
	first := 0
	if s.tiers[0].until < 1 {
		for r := rand.Float64(); first < len(s.tiers)-1 && r >= s.tiers[first].until; {
			first++
		}
	}
	if b := s.tiers[first].picker.Pick(info); b != nil && !info.HasTried(b) {
		return b, s.tiers[first].observer
	}
	for i := range s.tiers {
		if i == first {
			continue
		}
		if b := s.tiers[i].picker.Pick(info); b != nil && !info.HasTried(b) {
			return b, s.tiers[i].observer
		}
	}
	return nil, nil
}

// level is the backends of one priority, in the pool's zone or away from it.
type level struct {
	priority int
	away     bool
	states   [Ejected + 1][]*Backend
	panics   bool
}

// known counts the backends whose health says something about the level.
func (l *level) known() int {
	return len(l.states[Healthy]) + len(l.states[Ejected]) + len(l.states[Unhealthy])
}

func (l *level) healthy() float64 {
	if n := l.known(); n > 0 {
		return float64(len(l.states[Healthy])) / float64(n)
	}
	return 0
}

// takes is the share of all requests that the level can take.
func (l *level) takes() float64 { return min(1, overprovision*l.healthy()) }

// candidates are the backends of the level that may get requests while any
// backend is healthy.
func (l *level) candidates() []*Backend {
	if l.panics {
		return slices.Concat(l.states[Healthy], l.states[Unknown], l.states[Ejected], l.states[Unhealthy])
	}
	return l.states[Healthy]
}

// levels sorts the backends. It needs p.mu.
func (p *Pool) levels() []*level {
	var all []*level
	for _, b := range p.backends {
		away := p.conf.Zone != "" && b.zone != p.conf.Zone
		i := slices.IndexFunc(all, func(l *level) bool { return l.priority == b.priority && l.away == away })
		if i < 0 {
			i = len(all)
			all = append(all, &level{priority: b.priority, away: away})
		}
		s := b.State()
		all[i].states[s] = append(all[i].states[s], b)
	}
	slices.SortFunc(all, func(a, b *level) int {
		switch {
		case a.priority != b.priority:
			return cmp.Compare(a.priority, b.priority)
		case a.away == b.away:
			return 0
		case b.away:
			return -1
		}
		return 1
	})
	return all
}

// publish makes the snapshot of the moment. It needs p.mu.
func (p *Pool) publish() {
	defer p.queue.wake() // as there may be a backend with room that was not there before
	p.setWeights()
	old, levels := p.now.Load(), p.levels()
	s := new(snapshot)
	sum := 0.0
	for _, l := range levels {
		sum += l.takes()
	}
	if sum == 0 {
		if backends := lastResort(levels); backends != nil {
			s.tiers = []tier{p.tier(old, backends, 1)}
		} else {
			s.err = ErrNoBackend
		}
		p.now.Store(s)
		return
	}
	// What no level can take is shared by all in proportion.
	scale, until := 1/min(1, sum), 0.0
	for _, l := range levels {
		l.panics = l.healthy() < p.conf.PanicThreshold && l.known() > 0 && (sum < 1 || len(levels) == 1)
		if backends := l.candidates(); len(backends) > 0 {
			until = min(1, until+l.takes()*scale)
			s.tiers = append(s.tiers, p.tier(old, backends, until))
		}
	}
	p.now.Store(s)
}

// lastResort returns the backends to use while none is healthy.
func lastResort(levels []*level) []*Backend {
	for _, state := range []State{Unknown, Ejected, Unhealthy} {
		for _, l := range levels {
			if len(l.states[state]) > 0 {
				return l.states[state]
			}
		}
	}
	return nil
}

// tier takes the picker over from the snapshot before if it chooses among the
// same: what it has learnt is not lost because of a change elsewhere, and a large
// table is not made again. It needs p.mu.
func (p *Pool) tier(old *snapshot, backends []*Backend, until float64) tier {
	weights := make([]int64, len(backends))
	for i, b := range backends {
		weights[i] = b.weight.Load()
	}
	if old != nil {
		for _, t := range old.tiers {
			if slices.Equal(t.backends, backends) && slices.Equal(t.weights, weights) {
				t.until = until
				return t
			}
		}
	}
	t := tier{backends: backends, weights: weights, picker: p.conf.Strategy.Build(backends), until: until}
	t.observer, _ = t.picker.(Observer)
	return t
}
