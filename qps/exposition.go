package qps

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// bounds are the le bounds of the duration histograms in nanoseconds: each is
// the edge of a bucket, so that the counts are exact, and of all edges the one
// nearest to a round number.
var bounds = [...]uint64{
	98 << 10,  // 0.1 ms
	122 << 11, // 0.25 ms
	122 << 12, // 0.5 ms
	122 << 13, // 1 ms
	76 << 15,  // 2.5 ms
	76 << 16,  // 5 ms
	76 << 17,  // 10 ms
	95 << 18,  // 25 ms
	95 << 19,  // 50 ms
	95 << 20,  // 100 ms
	119 << 21, // 250 ms
	119 << 22, // 500 ms
	119 << 23, // 1 s
	75 << 25,  // 2.5 s
	75 << 26,  // 5 s
	75 << 27,  // 10 s
	112 << 28, // 30 s
	112 << 29, // 60 s
}

// WriteMetrics writes snapshots, of one server or of several, as one exposition
// in Prometheus text: every family once, with the samples of all servers. Two
// snapshots with the same Server are an error, and nothing is written.
func WriteMetrics(w io.Writer, snaps ...Snapshot) error {
	seen := make(map[string]bool, len(snaps))
	for _, s := range snaps {
		if seen[s.Server] {
			return fmt.Errorf("qps: two snapshots of server %q, want one of each", s.Server)
		}
		seen[s.Server] = true
	}
	t := newTails()
	e := exposition{w: w, buf: make([]byte, 0, 2*flushBytes), snaps: snaps, tails: &t}
	for _, s := range snaps {
		for i := range s.Routes {
			e.figures = append(e.figures, figuresOf(s.Server, &s.Routes[i]))
		}
	}
	return e.write()
}

// write writes everything.
func (e *exposition) write() error {
	e.routes()
	e.upstreams()
	e.listeners()
	e.slos()
	e.process()
	e.flush()
	if e.err != nil {
		return fmt.Errorf("qps: metrics: %w", e.err)
	}
	return nil
}

// flushBytes is how much is written at a time.
const flushBytes = 64 << 10

// exposition writes families. Most of what a scrape costs is spent on its lines,
// so these are appended to one buffer, and numbers and bounds make no strings.
type exposition struct {
	w       io.Writer
	buf     []byte
	err     error // the first of w, which gets nothing more
	open    bool  // OpenMetrics
	snaps   []Snapshot
	figures []figures // of the routes of snaps
	shown   []shown   // and of a Meter
	tails   *tails
	scratch [len(bounds) + 1]uint64
}

func (e *exposition) flush() {
	if e.err == nil && len(e.buf) > 0 {
		_, e.err = e.w.Write(e.buf)
	}
	e.buf = e.buf[:0]
}

// family writes the samples of one name. The lines that describe it come before
// the first, so a family without samples leaves no trace.
type family struct {
	*exposition
	name, kind, help string
	started          bool
}

func (e *exposition) family(name, kind, help string) *family {
	return &family{exposition: e, name: name, kind: kind, help: help}
}

// sample writes a line with a value that is a string.
func (f *family) sample(suffix, labels, value string) {
	f.begin(suffix, labels, "")
	f.buf = append(append(f.buf, value...), '\n')
}

// count writes a line with a whole number; the labels are given in two parts.
func (f *family) count(suffix, labels, more string, n uint64) {
	f.begin(suffix, labels, more)
	f.buf = append(strconv.AppendUint(f.buf, n, 10), '\n')
}

// describe makes room for lines, and comes before the first.
func (f *family) describe() {
	if len(f.buf) >= flushBytes {
		f.flush()
	}
	if f.started {
		return
	}
	f.started = true
	if f.open {
		f.buf = appendOpenFamily(f.buf, f.name, f.kind, f.help)
		return
	}
	f.buf = append(f.buf, "# HELP "+f.name+" "+f.help+"\n# TYPE "+f.name+" "+f.kind+"\n"...)
}

func (f *family) begin(suffix, labels, more string) {
	f.describe()
	f.buf = append(append(f.buf, f.name...), suffix...)
	if labels != "" || more != "" {
		f.buf = append(append(f.buf, '{'), labels...)
		if labels != "" && more != "" {
			f.buf = append(f.buf, ',')
		}
		f.buf = append(append(f.buf, more...), '}')
	}
	f.buf = append(f.buf, ' ')
}

func (f *family) histogram(labels string, h Histogram) {
	n := h.upTo(f.scratch[:0], bounds[:])
	f.describe()
	f.buf = f.tails.appendHistogram(f.buf, f.name, labels, append(n, h.Count()), h.sum)
}

func (e *exposition) eachUpstream(do func(u UpstreamSnapshot, labels string)) {
	for _, s := range e.snaps {
		for _, u := range s.Upstreams {
			do(u, labels("server", s.Server, "upstream", u.Upstream))
		}
	}
}

func (e *exposition) upstreams() {
	f := e.family("upstream_requests_total", "counter", "Calls to upstreams, by result.")
	e.eachUpstream(func(u UpstreamSnapshot, labels string) {
		f.count("", labels, `result="ok"`, u.OK)
		f.count("", labels, `result="failed"`, u.Failed)
	})
	f = e.family("upstream_requests_in_flight", "gauge", "Calls to upstreams that have not ended.")
	e.eachUpstream(func(u UpstreamSnapshot, labels string) { f.sample("", labels, strconv.FormatInt(u.InFlight, 10)) })
	f = e.family("upstream_request_duration_seconds", "histogram", "Time that calls to upstreams took.")
	e.eachUpstream(func(u UpstreamSnapshot, labels string) { f.histogram(labels, u.Duration) })
}

func (e *exposition) listeners() {
	for _, c := range []struct {
		name, kind, help string
		value            func(ListenerSnapshot) string
	}{
		{"listener_connections_total", "counter", "Connections that were accepted.", func(l ListenerSnapshot) string { return decimal(l.Accepted) }},
		{"listener_connections_open", "gauge", "Connections that have not been closed.", func(l ListenerSnapshot) string { return strconv.FormatInt(l.Open, 10) }},
		{"listener_receive_bytes_total", "counter", "Bytes received from accepted connections.", func(l ListenerSnapshot) string { return decimal(l.BytesIn) }},
		{"listener_transmit_bytes_total", "counter", "Bytes sent to accepted connections.", func(l ListenerSnapshot) string { return decimal(l.BytesOut) }},
	} {
		f := e.family(c.name, c.kind, c.help)
		for _, s := range e.snaps {
			for _, l := range s.Listeners {
				f.sample("", labels("server", s.Server, "listener", l.Listener), c.value(l))
			}
		}
	}
}

// perServer writes one sample per snapshot; an empty value is left out.
func (e *exposition) perServer(name, kind, help string, value func(Snapshot) string) {
	f := e.family(name, kind, help)
	for _, s := range e.snaps {
		if v := value(s); v != "" {
			f.sample("", labels("server", s.Server), v)
		}
	}
}

func (e *exposition) process() {
	e.perServer("timeline_events_total", "counter", "Events on the timeline so far.", func(s Snapshot) string { return decimal(s.EventCount) })
	f := e.family("go_info", "gauge", "The version of Go that built the program.")
	for _, s := range e.snaps {
		if s.Process.GoVersion != "" {
			f.sample("", labels("server", s.Server, "version", s.Process.GoVersion), "1")
		}
	}
	for _, g := range []struct {
		name, help string
		value      func(ProcessSnapshot) uint64
	}{
		{"go_goroutines", "Goroutines that exist.", func(p ProcessSnapshot) uint64 { return uint64(max(p.Goroutines, 0)) }},
		{"go_memstats_heap_alloc_bytes", "Bytes of heap objects, live or not yet collected.", func(p ProcessSnapshot) uint64 { return p.HeapBytes }},
		{"process_resident_memory_bytes", "Resident memory of the process.", func(p ProcessSnapshot) uint64 { return p.ResidentBytes }},
		{"process_open_fds", "Open file descriptors.", func(p ProcessSnapshot) uint64 { return uint64(max(p.OpenFiles, 0)) }},
		{"process_max_fds", "Limit of open file descriptors.", func(p ProcessSnapshot) uint64 { return p.MaxFiles }},
		{"process_start_time_seconds", "Unix time at which the process was started.", func(p ProcessSnapshot) uint64 { return uint64(max(p.Start.Unix(), 0)) }},
	} {
		e.perServer(g.name, "gauge", g.help, func(s Snapshot) string {
			return nonzero(g.value(s.Process))
		})
	}
	for _, c := range []struct {
		name, help string
		value      func(ProcessSnapshot) string
	}{
		{"process_cpu_seconds_total", "User and system CPU time of the process.", func(p ProcessSnapshot) string { return elapsed(p.CPU) }},
		{"go_gc_cycles_total", "Garbage collections that have ended.", func(p ProcessSnapshot) string { return nonzero(p.GCCycles) }},
		{"go_gc_cpu_seconds_total", "CPU time of garbage collections, as estimated by the runtime.", func(p ProcessSnapshot) string { return elapsed(p.GCCPU) }},
		{"system_network_receive_bytes_total", "Bytes that the machine has received, without loopback.", func(p ProcessSnapshot) string { return nonzero(p.NetworkIn) }},
		{"system_network_transmit_bytes_total", "Bytes that the machine has sent, without loopback.", func(p ProcessSnapshot) string { return nonzero(p.NetworkOut) }},
		{"system_pressure_cpu_waiting_seconds_total", "Time in which something on the machine waited for a CPU.", func(p ProcessSnapshot) string { return elapsed(p.PressureCPU) }},
		{"system_pressure_memory_waiting_seconds_total", "Time in which something on the machine waited for memory.", func(p ProcessSnapshot) string { return elapsed(p.PressureMemory) }},
		{"system_pressure_io_waiting_seconds_total", "Time in which something on the machine waited for input or output.", func(p ProcessSnapshot) string { return elapsed(p.PressureIO) }},
	} {
		e.perServer(c.name, "counter", c.help, func(s Snapshot) string { return c.value(s.Process) })
	}
}

// nonzero leaves out what is not known.
func nonzero(n uint64) string {
	if n == 0 {
		return ""
	}
	return decimal(n)
}

func elapsed(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return seconds(uint64(d))
}

// labels joins pairs of names and values; an empty server is left out.
func labels(pairs ...string) string {
	var b strings.Builder
	size := 0
	for _, s := range pairs {
		size += len(s) + 2 // with quotes, equals sign and comma
	}
	b.Grow(size)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] == "server" && pairs[i+1] == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(pairs[i])
		b.WriteString(`="`)
		b.WriteString(escape(pairs[i+1]))
		b.WriteByte('"')
	}
	return b.String()
}

// escape writes a label value as the text format wants it: backslash, quote and
// newline escaped, and nothing else. That is not %q, which also escapes what
// is not printable, in ways that Prometheus does not read.
func escape(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if !strings.ContainsAny(s, "\\\"\n") {
		return s
	}
	var b strings.Builder
	for _, c := range []byte(s) {
		switch c {
		case '\\':
			b.WriteString(`\\`)
		case '"':
			b.WriteString(`\"`)
		case '\n':
			b.WriteString(`\n`)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// seconds writes nanoseconds as seconds without losing any.
func seconds(nanos uint64) string { return string(appendSeconds(nil, nanos)) }

func appendSeconds(b []byte, nanos uint64) []byte {
	b = strconv.AppendUint(b, nanos/1e9, 10)
	rest := nanos % 1e9
	if rest > 0 {
		b = append(b, '.')
	}
	for unit := uint64(1e8); rest > 0; unit /= 10 {
		b = append(b, '0'+byte(rest/unit))
		rest %= unit
	}
	return b
}
