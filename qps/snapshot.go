package qps

import (
	"cmp"
	"slices"
	"time"
)

// SnapshotVersion is the version of the JSON form of a [Snapshot].
const SnapshotVersion = 1

// Snapshot is what a [Meter] had recorded at one moment. It shares nothing with
// the Meter and does not change. As JSON it loses nothing, so that one server
// can show what others have measured.
//
// Requests are recorded while a snapshot is taken, so its parts may be a few
// requests apart. Within a [Histogram] the count is the sum of the buckets.
type Snapshot struct {
	// Version is SnapshotVersion.
	Version int `json:"version"`
	// Server is Config.Server.
	Server string `json:"server,omitempty"`
	// At is the time of the snapshot by the Meter's clock, in UTC.
	At time.Time `json:"at"`
	// Routes are sorted by route and method. A route "other" that no request
	// has used is left out.
	Routes []RouteSnapshot `json:"routes,omitempty"`
	// Upstreams are sorted by name, likewise.
	Upstreams []UpstreamSnapshot `json:"upstreams,omitempty"`
	// Listeners are sorted by name, likewise.
	Listeners []ListenerSnapshot `json:"listeners,omitempty"`
	// Top is nil without Config.TopK.
	Top *TopSnapshot `json:"top,omitempty"`
	// SLOs are in the order of Config.SLOs.
	SLOs []SLOSnapshot `json:"slos,omitempty"`
	// Events are the newest, in the order in which they happened; EventCount is
	// how many there have been.
	Events     []Event `json:"events,omitempty"`
	EventCount uint64  `json:"event_count,omitempty"`
	// Overflow counts the requests under "other" that had another route, for
	// which Config.MaxRoutes left no room.
	Overflow uint64 `json:"overflow,omitempty"`
	// Process is the state of the whole process.
	Process ProcessSnapshot `json:"process"`
}

// Counts are numbers of requests by how they ended.
type Counts struct {
	// Status1xx counts connections that changed to another protocol, such as
	// WebSocket: 101, or hijacked without a status.
	Status1xx uint64 `json:"1xx,omitempty"`
	Status2xx uint64 `json:"2xx,omitempty"`
	Status3xx uint64 `json:"3xx,omitempty"`
	Status4xx uint64 `json:"4xx,omitempty"`
	// Status5xx also counts codes above 599.
	Status5xx uint64 `json:"5xx,omitempty"`
	// Aborted counts requests without a complete answer that were nobody's
	// failure: the client left, the status was 499, or the handler panicked
	// with http.ErrAbortHandler.
	Aborted uint64 `json:"aborted,omitempty"`
	// Panic counts requests whose handler panicked otherwise.
	Panic uint64 `json:"panic,omitempty"`
}

func (c Counts) each() [classCount]uint64 {
	return [classCount]uint64{c.Status1xx, c.Status2xx, c.Status3xx, c.Status4xx, c.Status5xx, c.Aborted, c.Panic}
}

// RouteSnapshot is one method of one route.
type RouteSnapshot struct {
	Route string `json:"route"`
	// Method is one of the nine standard ones or "other".
	Method string `json:"method"`
	// Counts are the requests that have ended.
	Counts Counts `json:"counts"`
	// InFlight is the number of requests that have not.
	InFlight int64 `json:"in_flight,omitempty"`
	// BytesIn and BytesOut are bytes of bodies that handlers read and wrote,
	// and all bytes of hijacked connections, of requests that have ended.
	BytesIn  uint64 `json:"bytes_in,omitempty"`
	BytesOut uint64 `json:"bytes_out,omitempty"`
	// Duration has the time from request to end.
	Duration Histogram `json:"duration"`
	// Window has the last minute. Its errors are 5xx and panics.
	Window Window `json:"window"`
}

// Requests returns the number of requests that have ended.
func (r RouteSnapshot) Requests() uint64 {
	var n uint64
	for _, c := range r.Counts.each() {
		n += c
	}
	return n
}

// Rate is [Window.Rate]: requests per second over whole seconds.
func (r RouteSnapshot) Rate(window time.Duration) float64 { return r.Window.Rate(window) }

// ErrorRatio is [Window.ErrorRatio]: the share of 5xx and panics.
func (r RouteSnapshot) ErrorRatio(window time.Duration) float64 { return r.Window.ErrorRatio(window) }

// Quantile is [Histogram.Quantile] of all requests since the beginning.
func (r RouteSnapshot) Quantile(q float64) time.Duration { return r.Duration.Quantile(q) }

// UpstreamSnapshot is one [Upstream].
type UpstreamSnapshot struct {
	Upstream string `json:"upstream"`
	// OK and Failed count the calls.
	OK     uint64 `json:"ok,omitempty"`
	Failed uint64 `json:"failed,omitempty"`
	// InFlight is the number of calls begun with [Upstream.Begin], [Meter.Track]
	// or [Meter.RoundTripper] that have not ended.
	InFlight int64     `json:"in_flight,omitempty"`
	Duration Histogram `json:"duration"`
	Window   Window    `json:"window"`
}

// Requests returns the number of calls.
func (u UpstreamSnapshot) Requests() uint64 { return u.OK + u.Failed }

// Rate is [Window.Rate]: calls per second over whole seconds.
func (u UpstreamSnapshot) Rate(window time.Duration) float64 { return u.Window.Rate(window) }

// ErrorRatio is [Window.ErrorRatio]: the share of failed calls.
func (u UpstreamSnapshot) ErrorRatio(window time.Duration) float64 {
	return u.Window.ErrorRatio(window)
}

// Quantile is [Histogram.Quantile] of all calls since the beginning.
func (u UpstreamSnapshot) Quantile(q float64) time.Duration { return u.Duration.Quantile(q) }

// ListenerSnapshot is the connections of the listeners of one name.
type ListenerSnapshot struct {
	Listener string `json:"listener"`
	// Accepted counts all connections, Open those that have not been closed.
	Accepted uint64 `json:"accepted,omitempty"`
	Open     int64  `json:"open,omitempty"`
	// BytesIn and BytesOut are what was received and sent so far.
	BytesIn  uint64 `json:"bytes_in,omitempty"`
	BytesOut uint64 `json:"bytes_out,omitempty"`
}

// Snapshot returns what has been recorded so far.
func (m *Meter) Snapshot() Snapshot {
	snap := m.apart((*series).window)
	snap.Routes = m.routeSnapshots()
	return snap
}

// apart is the snapshot apart from its routes. It has of the seconds of each
// upstream what window tells.
func (m *Meter) apart(window func(s *series, now func() int64) Window) Snapshot {
	now := m.now
	snap := Snapshot{
		Version:  SnapshotVersion,
		Server:   m.server,
		At:       m.time(),
		Overflow: m.overflow.Load(),
		Process:  readProcess(m.started),
	}
	if m.top != nil {
		snap.Top = m.top.snapshot()
	}
	for _, o := range m.watcher.objectives {
		state := *o.state.Load()
		state.Burns = slices.Clone(state.Burns)
		snap.SLOs = append(snap.SLOs, state)
	}
	snap.Events, snap.EventCount = m.timeline.snapshot()
	for name, u := range m.upstreams.all() {
		if us := u.snapshot(name, window(&u.series, now)); name != other || us.Requests() > 0 || us.InFlight != 0 {
			snap.Upstreams = append(snap.Upstreams, us)
		}
	}
	for name, l := range m.listeners.all() {
		if ls := l.snapshot(name); name != other || ls.Accepted > 0 {
			snap.Listeners = append(snap.Listeners, ls)
		}
	}
	return snap
}

func (m *Meter) routeSnapshots() []RouteSnapshot {
	all := make([]RouteSnapshot, 0, m.routes.len())
	for name, r := range m.routes.all() {
		for _, method := range sortedMethods {
			s := r.methods[method].Load()
			if s == nil {
				continue
			}
			rs := s.snapshot(s.window(m.now))
			rs.Route, rs.Method = name, methodNames[method]
			if name != other || rs.Requests() > 0 || rs.InFlight != 0 {
				all = append(all, rs)
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

func (s *Snapshot) sort() {
	slices.SortFunc(s.Routes, func(a, b RouteSnapshot) int {
		return cmp.Or(cmp.Compare(a.Route, b.Route), cmp.Compare(a.Method, b.Method))
	})
	slices.SortFunc(s.Upstreams, func(a, b UpstreamSnapshot) int { return cmp.Compare(a.Upstream, b.Upstream) })
	slices.SortFunc(s.Listeners, func(a, b ListenerSnapshot) int { return cmp.Compare(a.Listener, b.Listener) })
}

// snapshot adds the shards up.
func (s *series) snapshot(w Window) RouteSnapshot {
	h, ok := s.durations()
	c := [classCount]uint64{class2xx: ok}
	r := RouteSnapshot{Duration: h, Window: w}
	for sh := range s.shards.all() {
		for i := range c {
			c[i] += sh.classes[i].Load()
		}
		r.BytesIn += sh.bytesIn.Load()
	}
	s.mu.Lock()
	r.InFlight, r.BytesOut = s.flow()
	s.mu.Unlock()
	r.Counts = Counts{
		Status1xx: c[class1xx], Status2xx: c[class2xx], Status3xx: c[class3xx], Status4xx: c[class4xx],
		Status5xx: c[class5xx], Aborted: c[classAborted], Panic: c[classPanic],
	}
	return r
}
