package qps

import "time"

// Upstream measures calls to something that this server depends on: a backend,
// a database, a service. [Meter.Upstream] returns it. It is safe for concurrent
// use.
type Upstream struct {
	m *Meter
	series
}

// Upstream returns the upstream of that name, always the same one. Names beyond
// Config.MaxRoutes share the upstream "other".
func (m *Meter) Upstream(name string) *Upstream {
	u, _ := m.upstreams.find(name)
	return u
}

// Observe records a call that has just ended: how long it took, and whether it
// failed. A negative duration counts as zero. Whether a call that the caller
// cancelled is recorded is for the caller to say; as a failure it is not.
func (u *Upstream) Observe(elapsed time.Duration, failed bool) {
	u.observe(u.m.picker.pick(), u.m.now(), elapsed, outcome(failed), 0)
}

// outcome is the class of a call.
func outcome(failed bool) class {
	if failed {
		return class5xx
	}
	return class2xx
}

func (u *Upstream) snapshot(name string, w Window) UpstreamSnapshot {
	r := u.series.snapshot(w)
	return UpstreamSnapshot{
		Upstream: name,
		OK:       r.Counts.Status2xx,
		Failed:   r.Counts.Status5xx,
		InFlight: r.InFlight,
		Duration: r.Duration,
		Window:   r.Window,
	}
}
