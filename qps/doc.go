// Package qps measures the traffic of a server, exact to the event: requests,
// errors, requests in flight, bytes and durations per route, as middleware
// around any http.Handler, and calls to whatever the server depends on.
//
//	meter, err := qps.New(qps.Config{Server: "web1"})
//	if err != nil { … }
//	mux := http.NewServeMux()
//	mux.HandleFunc("GET /notes/{id}", showNote)
//	admin.Handle("GET /metrics", meter.MetricsHandler())
//	http.ListenAndServe(addr, meter.Middleware(mux))
//
// # Which type when
//
//   - [Meter] records. [Meter.Middleware] does so for requests; the route is the
//     pattern of http.ServeMux or what [SetRoute] says. [Meter.Upstream] takes
//     calls to backends, databases and anything else.
//   - [Snapshot] is what a Meter has recorded, to be read, shown, and sent to
//     another server as JSON. [RouteSnapshot] and [UpstreamSnapshot] tell rates,
//     error ratios and quantiles; [Window] and [Histogram] are what these are
//     computed from.
//   - [Meter.MetricsHandler] serves Prometheus text, and [WriteMetrics] writes
//     that of several servers as one.
//
// # What is guaranteed
//
// No request takes a lock, and none is lost or counted twice. A rate is the
// number of events in whole seconds that are over, each event in the second in
// which it ended; nothing decays or is estimated. Seconds are those of the wall
// clock at the time of [New] and advance with the monotonic clock. A quantile
// is within 0.78 % of the exact one. The le bounds of the exported histograms
// are edges of the internal buckets, so their counts are exact too; that is why
// they are not round numbers.
//
// A 5xx status and a panic are errors. A 4xx status is not, and neither is a
// client that left.
//
// Memory is bounded: routes beyond Config.MaxRoutes are counted as "other", and
// so are methods beyond the standard nine. A route of one method takes 1.6 KiB
// and half a KiB for each power of two that its durations span.
//
// # Limits
//
// Quantiles are those since the Meter was created, not of a window; Prometheus
// computes them for any window from the exported buckets. Durations include the
// time that a stream, such as server-sent events, or a hijacked connection was
// open; give those a route of their own. Bytes are counted when a request ends,
// and without heads. Counters are shared by all processors and begin at zero
// when the process does.
//
// A Meter does not guard what it shows: put [Meter.MetricsHandler] and the JSON
// of snapshots where only operators and servers reach them.
package qps
