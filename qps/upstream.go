package qps

import (
	"sync/atomic"
	"time"
)

// Upstream measures calls to something that this server depends on: a backend,
// a database, a service. [Meter.Upstream] returns it. It is safe for concurrent
// use.
type Upstream struct {
	m      *Meter
	flow   flow
	ok     atomic.Uint64
	failed atomic.Uint64
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
	u.flow.observe(u.m.now(), elapsed, failed)
	if failed {
		u.failed.Add(1)
	} else {
		u.ok.Add(1)
	}
}

func (u *Upstream) snapshot(name string) UpstreamSnapshot {
	return UpstreamSnapshot{
		Upstream: name,
		OK:       u.ok.Load(),
		Failed:   u.failed.Load(),
		Duration: u.flow.duration.snapshot(),
		Window:   u.flow.window(u.m.now),
	}
}
