package qps

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

func render(t testing.TB, snaps ...Snapshot) string {
	t.Helper()
	var buf bytes.Buffer
	if err := WriteMetrics(&buf, snaps...); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// sample is a line of an exposition.
type sample struct {
	name   string
	labels map[string]string
	value  float64
}

// parseSample reads a line by the grammar of the text format, with none of the
// writer's code.
func parseSample(line string) (sample, error) {
	s := sample{labels: make(map[string]string)}
	end := strings.IndexAny(line, "{ ")
	if end < 0 {
		return s, errors.New("no value")
	}
	s.name = line[:end]
	rest := line[end:]
	for rest[0] != ' ' {
		name, after, ok := strings.Cut(rest[1:], `="`)
		if !ok {
			return s, errors.New("label without a value")
		}
		var value strings.Builder
		i := 0
		for ; i < len(after) && after[i] != '"'; i++ {
			if after[i] != '\\' {
				value.WriteByte(after[i])
				continue
			}
			i++
			plain, ok := map[byte]byte{'\\': '\\', '"': '"', 'n': '\n'}[after[i]]
			if !ok {
				return s, fmt.Errorf(`escape \%c`, after[i])
			}
			value.WriteByte(plain)
		}
		s.labels[name] = value.String()
		rest = after[i+1:]
		if rest[0] == '}' {
			rest = rest[1:]
			break
		}
	}
	v, err := strconv.ParseFloat(strings.TrimPrefix(rest, " "), 64)
	s.value = v
	return s, err
}

// checkExposition parses a text and holds it to the rules: every family once,
// described before its samples, which stand together, and no series twice.
func checkExposition(t testing.TB, text string) []sample {
	t.Helper()
	var samples []sample
	family, kind := "", ""
	families, series := make(map[string]bool), make(map[string]bool)
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(rest, " ")
			if families[name] || help == "" {
				t.Errorf("family %s is there twice or has no help", name)
			}
			families[name] = true
			family, kind = name, ""
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "+family+" "); ok {
			kind = rest
			continue
		}
		s, err := parseSample(line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		base := s.name
		if kind == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, suffix)
			}
		}
		if base != family || kind == "" {
			t.Errorf("%q stands under family %q of type %q", line, family, kind)
		}
		id, _, _ := cutLast(line, " ")
		if series[id] {
			t.Errorf("series %s is there twice", id)
		}
		series[id] = true
		samples = append(samples, s)
	}
	return samples
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// TestExpositionSaysWhatTheSnapshotSays looks every number up again.
func TestExpositionSaysWhatTheSnapshotSays(t *testing.T) {
	s := busyMeter(t, "web1").Snapshot()
	got := make(map[string]float64)
	for _, sm := range checkExposition(t, render(t, s)) {
		if sm.labels["server"] != "web1" {
			t.Errorf("%s of server %q", sm.name, sm.labels["server"])
		}
		key := []string{sm.name}
		for _, name := range slices.Sorted(maps.Keys(sm.labels)) {
			if name != "server" {
				key = append(key, sm.labels[name])
			}
		}
		got[strings.Join(key, "|")] = sm.value
	}
	check := func(want float64, key ...string) {
		t.Helper()
		if v, ok := got[strings.Join(key, "|")]; !ok || v != want {
			t.Errorf("%q is %v (%v), want %v", key, v, ok, want)
		}
	}
	for _, r := range s.Routes {
		for i, n := range r.Counts.each() {
			check(float64(n), "http_requests_total", classNames[i], r.Method, r.Route)
		}
		check(float64(r.InFlight), "http_requests_in_flight", r.Method, r.Route)
		check(float64(r.BytesIn), "http_request_bytes_total", r.Method, r.Route)
		check(float64(r.BytesOut), "http_response_bytes_total", r.Method, r.Route)
		check(float64(r.Requests()), "http_request_duration_seconds_count", r.Method, r.Route)
		check(float64(r.Requests()), "http_request_duration_seconds_bucket", "+Inf", r.Method, r.Route)
		check(r.Duration.Sum().Seconds(), "http_request_duration_seconds_sum", r.Method, r.Route)
	}
	for _, u := range s.Upstreams {
		check(float64(u.OK), "upstream_requests_total", "ok", u.Upstream)
		check(float64(u.Failed), "upstream_requests_total", "failed", u.Upstream)
		check(float64(u.Requests()), "upstream_request_duration_seconds_count", u.Upstream)
	}
	for _, l := range s.Listeners {
		check(float64(l.Accepted), "listener_connections_total", l.Listener)
	}
	for _, o := range s.SLOs {
		for _, b := range o.Burns {
			check(b.LongRate, "slo_burn_rate", o.SLO, short(b.Long))
			check(b.ShortRate, "slo_burn_rate", o.SLO, short(b.Short))
		}
	}
	check(1, "timeline_events_total")
	check(float64(s.Overflow), "http_requests_overflow_total")
	check(1, "go_info", s.Process.GoVersion)
	check(float64(s.Process.MaxFiles), "process_max_fds")
}

func TestBucketsOfTheExposition(t *testing.T) {
	m := newMeter(t, Config{})
	for _, b := range bounds {
		m.Upstream("x").Observe(time.Duration(b), false)
		m.Upstream("x").Observe(time.Duration(b)+1, false)
	}
	i := 0
	for _, s := range checkExposition(t, render(t, m.Snapshot())) {
		if s.name != "upstream_request_duration_seconds_bucket" || s.labels["le"] == "+Inf" {
			continue
		}
		le, err := strconv.ParseFloat(s.labels["le"], 64)
		if err != nil || math.Round(le*1e9) != float64(bounds[i]) || s.value != float64(2*i+1) {
			t.Errorf("bucket le=%q has %v, want le %v ns with %d", s.labels["le"], s.value, bounds[i], 2*i+1)
		}
		i++
	}
	if i != len(bounds) {
		t.Errorf("%d buckets, want %d", i, len(bounds))
	}
}

func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("PALISADE_REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skipf("promtool is not installed: %v", err)
	}
	m := busyMeter(t, "web1")
	rec := httptest.NewRecorder()
	m.MetricsHandler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if got := rec.Header().Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	for name, text := range map[string]string{
		"MetricsHandler": rec.Body.String(),
		"WriteMetrics": render(t, busyMeter(t, "balancer").Snapshot(), m.Snapshot(),
			busyMeter(t, "web \"2\"\n").Snapshot()),
		"no label server": render(t, busyMeter(t, "").Snapshot()),
		"no traffic":      render(t, newMeter(t, Config{Server: "idle"}).Snapshot()),
	} {
		t.Run(name, func(t *testing.T) {
			checkExposition(t, text)
			cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
			cmd.Stdin = strings.NewReader(text)
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("promtool: %v\n%s", err, out)
			}
		})
	}
}

func TestUsersMetricsAppear(t *testing.T) {
	set := metrics.NewSet()
	m := newMeter(t, Config{Set: set})
	set.NewCounter(`orders_total{kind="book"}`).Add(7)
	rec := httptest.NewRecorder()
	m.MetricsHandler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{"orders_total{kind=\"book\"} 7\n", "\ngo_goroutines "} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("no %q in\n%s", want, rec.Body)
		}
	}
}

func TestWriteMetricsErrors(t *testing.T) {
	var buf bytes.Buffer
	if err := WriteMetrics(&buf, Snapshot{Server: "a"}, Snapshot{Server: "b"}, Snapshot{Server: "a"}); err == nil || buf.Len() > 0 {
		t.Errorf("two snapshots of one server: error %v, %d bytes written", err, buf.Len())
	}
	if err := WriteMetrics(&buf); err != nil || buf.Len() > 0 {
		t.Errorf("no snapshot: error %v, %d bytes written", err, buf.Len())
	}
	s := busyMeter(t, "a").Snapshot()
	if err := WriteMetrics(brokenWriter{}, s); !errors.Is(err, errBroken) {
		t.Errorf("error %v, want the writer's", err)
	}
	for i := range 200 {
		r := s.Routes[0]
		r.Route = fmt.Sprint(i)
		s.Routes = append(s.Routes, r)
	}
	if w := new(countsWrites); WriteMetrics(w, s) == nil || *w != 1 {
		t.Errorf("%d writes, want none after the first that failed", *w)
	}
}

type countsWrites int

func (w *countsWrites) Write([]byte) (int, error) {
	*w++
	return 0, errBroken
}

// TestUnknownIsLeftOut: what the system does not tell has no sample that says 0.
func TestUnknownIsLeftOut(t *testing.T) {
	text := render(t, Snapshot{Version: SnapshotVersion, Server: "a"})
	for _, family := range []string{"process_", "go_", "system_"} {
		if strings.Contains(text, family) {
			t.Errorf("%s in\n%s", family, text)
		}
	}
}

// TestHandMadeSnapshot: no label can break the text, even of a snapshot that no
// Meter made.
func TestHandMadeSnapshot(t *testing.T) {
	s := Snapshot{Server: "a\xff\"", Routes: []RouteSnapshot{{Route: "b\n}", Method: `c\`}}}
	for _, sm := range checkExposition(t, render(t, s)) {
		if sm.name == "http_requests_in_flight" {
			if want := map[string]string{"server": "a\uFFFD\"", "route": "b\n}", "method": `c\`}; !maps.Equal(sm.labels, want) {
				t.Errorf("labels %q, want %q", sm.labels, want)
			}
			return
		}
	}
	t.Error("no sample")
}

func FuzzLabels(f *testing.F) {
	for _, r := range hostileRoutes {
		f.Add(r, r)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		s, err := parseSample("x{" + labels("route", a, "method", b) + "} 1")
		want := map[string]string{"route": strings.ToValidUTF8(a, "\uFFFD"), "method": strings.ToValidUTF8(b, "\uFFFD")}
		if err != nil || !maps.Equal(s.labels, want) {
			t.Errorf("read %q, %v; want %q", s.labels, err, want)
		}
	})
}

func TestSeconds(t *testing.T) {
	for in, want := range map[uint64]string{
		0: "0", 1: "0.000000001", 1e9: "1", 1_500_000_000: "1.5", 76 << 16: "0.004980736", 1<<64 - 1: "18446744073.709551615",
	} {
		if got := seconds(in); got != want {
			t.Errorf("seconds(%d) = %q, want %q", in, got, want)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{5 * time.Minute: "5m", time.Hour: "1h", 72 * time.Hour: "72h", 90 * time.Second: "1m30s", 0: "0s", 10 * time.Second: "10s"} {
		if got := short(d); got != want {
			t.Errorf("short(%v) = %q, want %q", d, got, want)
		}
	}
}
