package qps

import (
	"bytes"
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
	buckets atomic.Pointer[exemplarBuckets]
}

type exemplarBuckets [len(bounds) + 1]atomic.Pointer[exemplar]

// add keeps a request as the example of its bucket, unless there is one that is
// younger than a second: what is kept costs an allocation.
func (e *exemplars) add(trace string, elapsed time.Duration, at int64) {
	buckets := e.buckets.Load()
	if buckets == nil {
		e.buckets.CompareAndSwap(nil, new(exemplarBuckets))
		buckets = e.buckets.Load()
	}
	slot := &buckets[sort.Search(len(bounds), func(i int) bool { return uint64(max(elapsed, 0)) <= bounds[i] })]
	if old := slot.Load(); old == nil || at-old.at >= int64(time.Second) {
		slot.Store(&exemplar{strings.Clone(trace), elapsed, at})
	}
}

// append writes the lines of a histogram, with the exemplars behind its buckets,
// which come first and in order.
func (e *exemplarBuckets) append(b, text []byte) []byte {
	if e == nil {
		return append(b, text...)
	}
	for i := range e {
		end := bytes.IndexByte(text, '\n')
		b = append(b, text[:end]...)
		if one := e[i].Load(); one != nil {
			b = one.append(b)
		}
		b, text = append(b, '\n'), text[end+1:]
	}
	return append(b, text...)
}

// upTo is the upper bound of a bucket.
func upTo(bucket int) string {
	if bucket == len(bounds) {
		return "+Inf"
	}
	return seconds(bounds[bucket])
}

func (e *exemplar) append(b []byte) []byte {
	b = append(append(append(b, ` # {trace_id="`...), escape(e.trace)...), `"} `...)
	b = append(appendSeconds(b, uint64(max(e.elapsed, 0))), ' ')
	b = append(strconv.AppendInt(b, e.at/1e9, 10), '.')
	millis := e.at / 1e6 % 1000
	return append(b, '0'+byte(millis/100), '0'+byte(millis/10%10), '0'+byte(millis%10))
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
