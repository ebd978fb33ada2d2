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
//     pattern of http.ServeMux or what [SetRoute] says. [Meter.RoundTripper],
//     [Meter.Connector] and [Meter.Track] take calls to backends, databases and
//     anything else, as those of an [Upstream]. [Meter.Listener] takes
//     connections, [Meter.Event] what happens once.
//   - [Snapshot] is what a Meter has recorded, to be read, shown, and sent to
//     another server as JSON by [Meter.SnapshotHandler]. [RouteSnapshot] and
//     [UpstreamSnapshot] tell rates, error ratios and quantiles; [Window] and
//     [Histogram] are what these are computed from.
//   - [Fleet] polls the snapshots of other servers, and [Merge] adds them up.
//   - [SLO] is an objective to watch; an [Alert] says that its error budget burns
//     too fast.
//   - [Meter.MetricsHandler] serves Prometheus text or OpenMetrics, [Push] sends
//     it, and [WriteMetrics] writes that of several servers as one.
//   - [Counter], [Gauge], [Recorder] and [TopK] stand alone, without a Meter.
//
// # What the numbers mean
//
// Each with its error, and with what an event pays for it.
//
//   - Counts: no request is lost or counted twice, whatever the number of
//     processors. Error: none. Cost: none for those that ended in 2xx, which are
//     counted with their duration, one addition for others.
//   - Rates over 1 to 300 seconds: the number of events in whole seconds that are
//     over, each event in the second in which it ended; nothing decays or is
//     estimated. Seconds are those of the wall clock at the time of [New] and
//     advance with the monotonic clock. Error: none, but for the events that
//     Window.Late counts, which were recorded more than eight minutes late. Cost:
//     one compare-and-swap, and a second one if the event is an error.
//   - Peak: the busiest whole second since the beginning. Error: none for one
//     server; of merged servers it is exact for the last five minutes. Cost: none,
//     it is found when it is asked for.
//   - Quantiles: those since the beginning, within 0.78 %, of merged servers too.
//     The le bounds of the exported histograms are edges of the internal buckets,
//     so their counts are exact; that is why they are not round numbers. The sum
//     is exact. Cost: one addition, which counts in a bucket and adds up at once,
//     no logarithm.
//   - Most frequent keys: each with the most it can be off, at most the number of
//     events divided by 32 times Config.TopK. Cost: a mutex of the processor and
//     a map lookup for each of three keys.
//   - Burn rates: exact to the request and the second. Cost: as of a
//     rate, for each SLO that a request counts for.
//   - In flight, open connections: exact once nothing moves; a snapshot of busy
//     ones may be a few requests apart in its parts. Cost: an addition at the
//     beginning and one at the end.
//   - Bytes: those that handlers read and wrote, exact to the byte. Cost: an
//     addition for what was read; none for up to 16 MiB that were written, which
//     the end of being in flight counts, but under a mux, where it is another
//     route's.
//
// A 5xx status and a panic are errors. A 4xx status is not, and neither is a
// client that left.
//
// # What it costs
//
// Every processor counts in memory of its own, so that processors do not wait
// for each other. A request finds its place once, and takes one allocation of 80
// bytes, two readings of the clock, a lookup of its route, and five atomic writes,
// all but one to memory that no other processor uses: those above, and one that
// makes sure it is recorded once. It takes a mutex when it is the first of a
// second on its processor, and waits for it only if no other processor has
// counted in that second yet. TestCosts in the package's tests prints what this
// amounts to.
//
// A scrape looks again at the routes that had a request since the last one, there
// at the powers of two that a duration was in, and changes the digits of their
// numbers where they stand in the text that it has kept. It makes no garbage to
// speak of, and sleeps for a moment after every 5 ms of reading, for requests
// to run. BenchmarkScrape prints what 1,000 routes take, settled and all changed, and
// BenchmarkScrapeShift how requests feel it.
//
// Memory is bounded: routes beyond Config.MaxRoutes are counted as "other", and
// so are methods beyond the standard nine. A route of one method takes half a
// KiB per processor that serves it, a little more than that for each power of two
// that its durations span there, as much again for those that did not end in 2xx, and
// half a KiB for each minute of the last eight in which it was used, twice that if
// it failed. Scraping keeps the text of each, about 4 KiB, and 16 MiB at most.
//
// # Limits
//
// Quantiles are not those of a window; Prometheus computes them for any window
// from the exported buckets. Durations include the time that a stream, such as
// server-sent events, or a hijacked connection was open; give those a route of
// their own. Bytes are counted when a request ends, and without heads; those of
// connections are in [Meter.Listener]. The history of SLOs ends with the process,
// and their burn rates are those of one server. Exemplars are those of requests,
// one for each bucket of a route, which another may replace after a second.
//
// A Meter does not guard what it shows: put [Meter.MetricsHandler] and
// [Meter.SnapshotHandler] where only operators and servers reach them.
package qps
