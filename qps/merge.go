package qps

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Merge adds the snapshots of several servers up, as if one Meter had recorded
// all. Counts, histograms and seconds lose nothing, so that quantiles and rates
// of the result are those of all requests together, never averages.
//
// Seconds are matched by the clocks of the servers. A window ends with the last
// second that is over for all servers that have the route; what some of them
// have counted since is left out of it, but not of any total. The peak is that of
// the seconds in the window, or that of one server alone if this was higher. SLOs
// stay with their server: a burn rate is no sum.
func Merge(snaps ...Snapshot) Snapshot {
	out := Snapshot{Version: SnapshotVersion}
	type key struct{ name, method string }
	routes := make(map[key]RouteSnapshot)
	upstreams := make(map[string]UpstreamSnapshot)
	listeners := make(map[string]ListenerSnapshot)
	var tops [3][]TopList
	shown := 0
	for i, s := range snaps {
		if i == 0 || s.At.Before(out.At) {
			out.At = s.At
		}
		for _, r := range s.Routes {
			k := key{r.Route, r.Method}
			have, ok := routes[k]
			routes[k] = mergeRoutes(have, r, ok)
		}
		for _, u := range s.Upstreams {
			have, ok := upstreams[u.Upstream]
			upstreams[u.Upstream] = mergeUpstreams(have, u, ok)
		}
		for _, l := range s.Listeners {
			have := listeners[l.Listener]
			listeners[l.Listener] = ListenerSnapshot{
				Listener: l.Listener, Accepted: have.Accepted + l.Accepted, Open: have.Open + l.Open,
				BytesIn: have.BytesIn + l.BytesIn, BytesOut: have.BytesOut + l.BytesOut,
			}
		}
		if s.Top != nil {
			for j, l := range []TopList{s.Top.Paths, s.Top.Clients, s.Top.UserAgents} {
				tops[j] = append(tops[j], l)
				shown = max(shown, len(l.Keys))
			}
		}
		out.Events = append(out.Events, s.Events...)
		out.EventCount += s.EventCount
		out.Overflow += s.Overflow
		out.Process = mergeProcesses(out.Process, s.Process, i > 0)
	}
	for _, r := range routes {
		out.Routes = append(out.Routes, r)
	}
	for _, u := range upstreams {
		out.Upstreams = append(out.Upstreams, u)
	}
	for _, l := range listeners {
		out.Listeners = append(out.Listeners, l)
	}
	out.sort()
	if tops[0] != nil {
		out.Top = &TopSnapshot{Paths: mergeTop(shown, tops[0]), Clients: mergeTop(shown, tops[1]), UserAgents: mergeTop(shown, tops[2])}
	}
	slices.SortStableFunc(out.Events, func(a, b Event) int { return a.At.Compare(b.At) })
	out.Events = out.Events[max(len(out.Events)-maxEvents, 0):]
	return out
}

func mergeRoutes(a, b RouteSnapshot, ok bool) RouteSnapshot {
	if !ok {
		return b
	}
	a.Counts = a.Counts.merge(b.Counts)
	a.InFlight += b.InFlight
	a.BytesIn = addCapped(a.BytesIn, b.BytesIn)
	a.BytesOut = addCapped(a.BytesOut, b.BytesOut)
	a.Duration = a.Duration.Merge(b.Duration)
	a.Window = mergeWindows(a.Window, b.Window)
	return a
}

func (c Counts) merge(d Counts) Counts {
	return Counts{
		Status1xx: addCapped(c.Status1xx, d.Status1xx), Status2xx: addCapped(c.Status2xx, d.Status2xx),
		Status3xx: addCapped(c.Status3xx, d.Status3xx), Status4xx: addCapped(c.Status4xx, d.Status4xx),
		Status5xx: addCapped(c.Status5xx, d.Status5xx), Aborted: addCapped(c.Aborted, d.Aborted),
		Panic: addCapped(c.Panic, d.Panic),
	}
}

func mergeUpstreams(a, b UpstreamSnapshot, ok bool) UpstreamSnapshot {
	if !ok {
		return b
	}
	a.OK = addCapped(a.OK, b.OK)
	a.Failed = addCapped(a.Failed, b.Failed)
	a.InFlight += b.InFlight
	a.Duration = a.Duration.Merge(b.Duration)
	a.Window = mergeWindows(a.Window, b.Window)
	return a
}

// Merge returns the distribution of the durations of both, exactly: buckets are
// the same everywhere.
func (h Histogram) Merge(other Histogram) Histogram {
	out := Histogram{sum: h.sum + other.sum}
	a, b := h.buckets, other.buckets
	for len(a) > 0 && len(b) > 0 {
		switch cmp.Compare(a[0].index, b[0].index) {
		case -1:
			out.buckets, a = append(out.buckets, a[0]), a[1:]
		case 1:
			out.buckets, b = append(out.buckets, b[0]), b[1:]
		default:
			out.buckets = append(out.buckets, bucketCount{a[0].index, addCapped(a[0].count, b[0].count)})
			a, b = a[1:], b[1:]
		}
	}
	out.buckets = append(append(out.buckets, a...), b...)
	return out
}

// addCapped keeps counts that nobody can have counted from wrapping around.
func addCapped(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

func mergeWindows(a, b Window) Window {
	second := min(a.Second, b.Second)
	w := Window{Second: second, Late: a.Late + b.Late}
	var requests, errs [windowSeconds]uint32
	for _, v := range []Window{a, b} {
		// How many of its newest seconds are not over for the other.
		ahead := v.Second - second
		switch {
		case ahead == 0:
			w.Current += v.Current
		default:
			w.Current += countAt(v.Requests, ahead-1)
		}
		for i := range requests {
			requests[i] += countAt(v.Requests, int64(i)+ahead)
			errs[i] += countAt(v.Errors, int64(i)+ahead)
		}
		w.Peak.raise(v.Peak)
	}
	w.Requests, w.Errors = trim(requests[:]), trim(errs[:])
	for i, n := range w.Requests {
		w.Peak.raise(Peak{Second: second - 1 - int64(i), Requests: uint64(n)})
	}
	return w
}

func countAt(counts []uint32, i int64) uint32 {
	if i < 0 || i >= int64(len(counts)) {
		return 0
	}
	return counts[i]
}

// trim drops the zeros at the end.
func trim(counts []uint32) []uint32 {
	n := len(counts)
	for n > 0 && counts[n-1] == 0 {
		n--
	}
	return append([]uint32(nil), counts[:n]...)
}

// mergeProcesses adds what can be added.
func mergeProcesses(a, b ProcessSnapshot, ok bool) ProcessSnapshot {
	if !ok {
		return b
	}
	if a.GoVersion != b.GoVersion {
		a.GoVersion = ""
	}
	a.Goroutines += b.Goroutines
	a.HeapBytes += b.HeapBytes
	a.CPU += b.CPU
	a.ResidentBytes += b.ResidentBytes
	a.OpenFiles += b.OpenFiles
	a.MaxFiles = 0
	a.Start = time.Time{}
	return a
}
