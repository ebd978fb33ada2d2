package qps

import (
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// maxExemplar is how long a trace id may be: with its name, what the labels of an
// exemplar may have in OpenMetrics 1.0.
const maxExemplar = 128 - len("trace_id")

// exemplar is one request that fell into a bucket.
type exemplar struct {
	trace   string
	elapsed time.Duration
	at      int64 // nanoseconds of Unix time
}

// exemplars has the last one of each bucket of the exported histogram, and of
// what is beyond them. Its zero value works; it is safe for concurrent use.
type exemplars struct {
	buckets atomic.Pointer[[len(bounds) + 1]atomic.Pointer[exemplar]]
}

// add keeps a request as the example of its bucket, unless there is one that is
// younger than a second: what is kept costs an allocation.
func (e *exemplars) add(trace string, elapsed time.Duration, at int64) {
	buckets := e.buckets.Load()
	if buckets == nil {
		e.buckets.CompareAndSwap(nil, new([len(bounds) + 1]atomic.Pointer[exemplar]))
		buckets = e.buckets.Load()
	}
	slot := &buckets[sort.Search(len(bounds), func(i int) bool { return uint64(max(elapsed, 0)) <= bounds[i] })]
	if old := slot.Load(); old == nil || at-old.at >= int64(time.Second) {
		slot.Store(&exemplar{strings.Clone(trace), elapsed, at})
	}
}

// exemplars are what OpenMetrics writes behind samples, by the samples' names and
// labels.
func (m *Meter) exemplars() map[string]string {
	if m.traceID == nil {
		return nil
	}
	found := make(map[string]string)
	for name, r := range m.routes.all() {
		for i := range r.methods {
			s := r.methods[i].Load()
			if s == nil {
				continue
			}
			buckets := s.exemplars.buckets.Load()
			if buckets == nil {
				continue
			}
			series := "http_request_duration_seconds_bucket{" + labels("server", m.server, "route", name, "method", methodNames[i])
			for b := range buckets {
				if e := buckets[b].Load(); e != nil {
					found[series+`,le="`+upTo(b)+`"}`] = e.String()
				}
			}
		}
	}
	return found
}

// upTo is the upper bound of a bucket.
func upTo(bucket int) string {
	if bucket == len(bounds) {
		return "+Inf"
	}
	return seconds(bounds[bucket])
}

func (e *exemplar) String() string {
	at := strconv.FormatInt(e.at/1e9, 10) + "." + strconv.FormatInt(1000+e.at/1e6%1000, 10)[1:]
	return " # {" + labels("trace_id", e.trace) + "} " + seconds(uint64(max(e.elapsed, 0))) + " " + at
}

// TraceParent returns the trace id of a request's traceparent field (W3C Trace
// Context, section 3.2), and "" if it has none that is valid. It is meant for
// [Config].TraceID.
func TraceParent(r *http.Request) string {
	values := r.Header["Traceparent"]
	if len(values) != 1 {
		return ""
	}
	v := values[0]
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' || v[:2] == "ff" ||
		len(v) > 55 && (v[:2] == "00" || v[55] != '-') {
		return ""
	}
	if !isLowerHex(v[:2]) || !isLowerHex(v[3:35]) || !isLowerHex(v[36:52]) || !isLowerHex(v[53:55]) {
		return ""
	}
	if strings.Trim(v[3:35], "0") == "" || strings.Trim(v[36:52], "0") == "" {
		return ""
	}
	return v[3:35]
}

func isLowerHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// isTrace says whether a trace id can be shown.
func isTrace(id string) bool {
	return id != "" && len(id) <= maxExemplar && utf8.ValidString(id)
}
