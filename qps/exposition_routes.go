package qps

import "strconv"

// routeFamily is a family of which every route has samples.
type routeFamily struct{ name, kind, help string }

const (
	familyRequests = iota
	familyInFlight
	familyBytesIn
	familyBytesOut
	familyPeak
	familyLate
	familyDuration
	routeFamilyCount
)

var routeFamilies = [routeFamilyCount]routeFamily{
	familyRequests: {"http_requests_total", "counter", "Requests that have ended, by class of status; aborted: the client left; panic: the handler panicked."},
	familyInFlight: {"http_requests_in_flight", "gauge", "Requests that have not ended."},
	familyBytesIn:  {"http_request_bytes_total", "counter", "Bytes of request bodies that handlers read."},
	familyBytesOut: {"http_response_bytes_total", "counter", "Bytes of response bodies that handlers wrote."},
	familyPeak:     {"http_requests_peak_per_second", "gauge", "Requests in the busiest whole second since the beginning."},
	familyLate:     {"http_requests_late_total", "counter", "Requests recorded too late to be part of any rate."},
	familyDuration: {"http_request_duration_seconds", "histogram", "Time from the request to the end of its handler, or of its hijacked connection."},
}

// routes writes what each route has.
func (e *exposition) routes() {
	for i := range routeFamilies {
		if i == familyDuration {
			e.perServer("http_requests_overflow_total", "counter", "Requests counted as route other because there were too many routes.",
				func(s Snapshot) string { return decimal(s.Overflow) })
		}
		f := e.family(routeFamilies[i].name, routeFamilies[i].kind, routeFamilies[i].help)
		for j := range e.figures {
			f.describe()
			f.buf = e.figures[j].append(f.buf, i, e.tails)
		}
		for j := range e.shown {
			f.describe()
			if part := e.shown[j].lines.family(i); i == familyDuration && e.open {
				f.buf = e.shown[j].exemplars.append(f.buf, part)
			} else {
				f.buf = append(f.buf, part...)
			}
		}
	}
}

// figures are the numbers of a route that are written.
type figures struct {
	labels   string
	counts   [classCount]uint64
	inFlight int64
	in, out  uint64
	peak     uint64
	late     uint64
	upTo     [len(bounds) + 1]uint64 // how many took no longer than a bound; of the last, all
	sum      uint64                  // nanoseconds
	// Of those of a Meter also what is no number by itself: which part of the 2xx
	// has been counted by durations, and of the sum, apart from them.
	ok, rest uint64
}

func figuresOf(server string, r *RouteSnapshot) figures {
	f := figures{
		labels: labels("server", server, "route", r.Route, "method", r.Method),
		counts: r.Counts.each(), inFlight: r.InFlight, in: r.BytesIn, out: r.BytesOut,
		peak: r.Window.Peak.Requests, late: r.Window.Late, sum: r.Duration.sum,
	}
	r.Duration.upTo(f.upTo[:0], bounds[:])
	f.upTo[len(bounds)] = r.Duration.Count()
	return f
}

// append writes the samples of one family.
func (f *figures) append(b []byte, family int, t *tails) []byte {
	name := routeFamilies[family].name
	switch family {
	case familyRequests:
		return appendEach(b, name, "{", f.labels, t.code[:], f.counts[:])
	case familyDuration:
		return t.appendHistogram(b, name, f.labels, f.upTo[:], f.sum)
	}
	b = appendStem(b, name, "{", f.labels, "} ")
	switch family {
	case familyInFlight:
		b = strconv.AppendInt(b, f.inFlight, 10)
	case familyBytesIn:
		b = strconv.AppendUint(b, f.in, 10)
	case familyBytesOut:
		b = strconv.AppendUint(b, f.out, 10)
	case familyPeak:
		b = strconv.AppendUint(b, f.peak, 10)
	case familyLate:
		b = strconv.AppendUint(b, f.late, 10)
	}
	return append(b, '\n')
}

// tails are how samples of histograms and classes go on behind the labels of
// their route.
type tails struct {
	le   [len(bounds) + 1]string
	code [classCount]string
}

func newTails() (t tails) {
	for i := range t.le {
		t.le[i] = `le="` + upTo(i) + `"} `
	}
	for c, name := range classNames {
		t.code[c] = `code="` + name + `"} `
	}
	return t
}

func (t *tails) appendHistogram(b []byte, name, labels string, upTo []uint64, sum uint64) []byte {
	b = appendEach(b, name, "_bucket{", labels, t.le[:], upTo)
	b = append(appendSeconds(appendStem(b, name, "_sum{", labels, "} "), sum), '\n')
	return append(strconv.AppendUint(appendStem(b, name, "_count{", labels, "} "), upTo[len(upTo)-1], 10), '\n')
}

func appendStem(b []byte, name, suffix, labels, end string) []byte {
	return append(append(append(append(b, name...), suffix...), labels...), end...)
}

// appendEach writes lines that differ in their last label and in the number only.
func appendEach(b []byte, name, suffix, labels string, last []string, n []uint64) []byte {
	begin := len(b)
	b = appendStem(b, name, suffix, labels, ",")
	end := len(b)
	for i, label := range last {
		if i > 0 {
			b = append(b, b[begin:end]...)
		}
		b = append(strconv.AppendUint(append(b, label...), n[i], 10), '\n')
	}
	return b
}
