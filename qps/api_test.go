package qps

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// namesOf lists the names of the JSON form of a type, with those within behind a
// dot; a type with a form of its own is a leaf.
func namesOf(t reflect.Type, prefix string) (names []string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[Histogram]() || t == reflect.TypeFor[time.Time]() {
		return []string{prefix + " " + t.String()}
	}
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" && f.IsExported() {
			names = append(names, namesOf(f.Type, prefix+"."+name)...)
		}
	}
	return names
}

// TestNamesOfVersion1 holds the JSON form to what version 1 has: names may be added
// to it, and to this list, but none may go or change its type.
func TestNamesOfVersion1(t *testing.T) {
	got := namesOf(reflect.TypeFor[PeerSnapshot](), "")
	if SnapshotVersion != 1 {
		t.Fatalf("version %d needs a list of its own", SnapshotVersion)
	}
	for name := range strings.SplitSeq(strings.TrimSpace(namesOfVersion1), "\n") {
		if !slices.Contains(got, name) {
			t.Errorf("%s is gone", name)
		}
	}
	if n := strings.Count(namesOfVersion1, "\n") - 1; n != len(got) {
		t.Errorf("%d names, want %d:\n%s", len(got), n, strings.Join(got, "\n"))
	}
	h := Histogram{buckets: []bucketCount{{3, 2}, {70, 1}}, sum: 81}
	if text, err := json.Marshal(h); err != nil || string(text) != `{"sum_ns":81,"buckets":[[3,2],[70,1]]}` {
		t.Errorf("a histogram is %s, %v", text, err)
	}
}

// namesOfVersion1 are those of a PeerSnapshot, which has a Snapshot.
const namesOfVersion1 = `
.name string
.lost bool
.heard time.Time
.error string
.skew_ns time.Duration
.trip_ns time.Duration
.snapshot.version int
.snapshot.server string
.snapshot.at time.Time
.snapshot.routes.route string
.snapshot.routes.method string
.snapshot.routes.counts.1xx uint64
.snapshot.routes.counts.2xx uint64
.snapshot.routes.counts.3xx uint64
.snapshot.routes.counts.4xx uint64
.snapshot.routes.counts.5xx uint64
.snapshot.routes.counts.aborted uint64
.snapshot.routes.counts.panic uint64
.snapshot.routes.in_flight int64
.snapshot.routes.bytes_in uint64
.snapshot.routes.bytes_out uint64
.snapshot.routes.duration qps.Histogram
.snapshot.routes.window.second int64
.snapshot.routes.window.requests uint32
.snapshot.routes.window.errors uint32
.snapshot.routes.window.current uint32
.snapshot.routes.window.peak.second int64
.snapshot.routes.window.peak.requests uint64
.snapshot.routes.window.late uint64
.snapshot.upstreams.upstream string
.snapshot.upstreams.ok uint64
.snapshot.upstreams.failed uint64
.snapshot.upstreams.in_flight int64
.snapshot.upstreams.duration qps.Histogram
.snapshot.upstreams.window.second int64
.snapshot.upstreams.window.requests uint32
.snapshot.upstreams.window.errors uint32
.snapshot.upstreams.window.current uint32
.snapshot.upstreams.window.peak.second int64
.snapshot.upstreams.window.peak.requests uint64
.snapshot.upstreams.window.late uint64
.snapshot.listeners.listener string
.snapshot.listeners.accepted uint64
.snapshot.listeners.open int64
.snapshot.listeners.bytes_in uint64
.snapshot.listeners.bytes_out uint64
.snapshot.top.paths.total uint64
.snapshot.top.paths.rest uint64
.snapshot.top.paths.keys.key string
.snapshot.top.paths.keys.count uint64
.snapshot.top.paths.keys.error uint64
.snapshot.top.clients.total uint64
.snapshot.top.clients.rest uint64
.snapshot.top.clients.keys.key string
.snapshot.top.clients.keys.count uint64
.snapshot.top.clients.keys.error uint64
.snapshot.top.user_agents.total uint64
.snapshot.top.user_agents.rest uint64
.snapshot.top.user_agents.keys.key string
.snapshot.top.user_agents.keys.count uint64
.snapshot.top.user_agents.keys.error uint64
.snapshot.slos.slo string
.snapshot.slos.target float64
.snapshot.slos.requests uint64
.snapshot.slos.bad uint64
.snapshot.slos.burns.limit float64
.snapshot.slos.burns.long_ns time.Duration
.snapshot.slos.burns.short_ns time.Duration
.snapshot.slos.burns.long_rate float64
.snapshot.slos.burns.short_rate float64
.snapshot.slos.burns.firing bool
.snapshot.events.at time.Time
.snapshot.events.server string
.snapshot.events.kind string
.snapshot.events.text string
.snapshot.event_count uint64
.snapshot.overflow uint64
.snapshot.process.go_version string
.snapshot.process.goroutines int
.snapshot.process.heap_bytes uint64
.snapshot.process.gc_cycles uint64
.snapshot.process.gc_cpu_ns time.Duration
.snapshot.process.cpu_ns time.Duration
.snapshot.process.resident_bytes uint64
.snapshot.process.open_files int
.snapshot.process.max_files uint64
.snapshot.process.start time.Time
.snapshot.process.network_in uint64
.snapshot.process.network_out uint64
.snapshot.process.pressure_cpu_ns time.Duration
.snapshot.process.pressure_memory_ns time.Duration
.snapshot.process.pressure_io_ns time.Duration
`

// TestHeadersOfWhatIsServed: nobody keeps numbers, or takes one form for the other.
func TestHeadersOfWhatIsServed(t *testing.T) {
	m := newMeter(t, Config{})
	for _, c := range []struct {
		h                    http.Handler
		accept, kind, header string
	}{
		{m.SnapshotHandler(), "", "application/json", "Cache-Control: no-store"},
		{m.MetricsHandler(), "", textType, "Vary: Accept"},
		{m.MetricsHandler(), "application/openmetrics-text", openMetricsType, "Vary: Accept"},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept", c.accept)
		c.h.ServeHTTP(w, r)
		name, value, _ := strings.Cut(c.header, ": ")
		if w.Header().Get("Content-Type") != c.kind || w.Header().Get(name) != value {
			t.Errorf("%v, want %s and %s", w.Header(), c.kind, c.header)
		}
	}
}
