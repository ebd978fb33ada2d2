package qps

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

func TestWantsOpenMetrics(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                                    false,
		"*/*":                                 false,
		"text/plain":                          false,
		"application/openmetrics-text":        true,
		"application/openmetrics-text;q=0":    false,
		"application/openmetrics-text;q=nine": false,
		"application/openmetrics-text; version=2.0.0": false,
		"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1": true,
		"application/openmetrics-text;q=0.4,text/plain;q=0.5": false,
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8, text/plain;q=0.5": true,
		"application/openmetrics-text;q=0.5,text/plain;q=0.5": true,
		"application/openmetrics-text;q=2,text/plain":         false,
		";;,": false,
	} {
		if got := wantsOpenMetrics(http.Header{"Accept": {accept}}); got != want {
			t.Errorf("%q: %v, want %v", accept, got, want)
		}
	}
}

func TestToOpenMetrics(t *testing.T) {
	const text = `plain_total{a="b c"} 7
# HELP hits_total Hits "so far".
# TYPE hits_total counter
hits_total{a="b"} 1
hits_total 2
# HELP hits
# TYPE hits counter
hits 3

# some words
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_bucket{le="1"} 1
took_seconds_bucket{le="+Inf"} 1
# TYPE x untyped
x 1
`
	const want = `plain_total{a="b c"} 7
# TYPE hits counter
# HELP hits Hits \"so far\".
hits_total{a="b"} 1
hits_total 2
# TYPE hits unknown
hits 3
# TYPE took_seconds histogram
# HELP took_seconds Time.
took_seconds_bucket{le="1"} 1
took_seconds_bucket{le="+Inf"} 1
# TYPE x unknown
x 1
# EOF
`
	got := string(toOpenMetrics([]byte(text)))
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestExemplars: of each bucket one request is named, in its second the first.
func TestExemplars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := metrics.NewSet()
		set.NewCounter(`orders_total{kind="book"}`).Add(7)
		m := newMeter(t, Config{Server: "web1", Set: set, TraceID: func(r *http.Request) string { return r.Header.Get("Trace") }})
		h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			SetRoute(w, "GET /")
			d, _ := time.ParseDuration(r.Header.Get("Take"))
			time.Sleep(d)
		}))
		serve := func(trace, take string) {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Trace", trace)
			r.Header.Set("Take", take)
			h.ServeHTTP(httptest.NewRecorder(), r)
		}
		serve("first", "20ms")
		serve("too soon", "21ms")
		serve("", "120ms")
		serve("\xff", "120ms")
		serve(strings.Repeat("x", maxExemplar+1), "120ms")
		serve(`quote"`, "90s")
		time.Sleep(time.Second)
		serve("minute", "2m")
		rec := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Header.Set("Accept", "application/openmetrics-text")
		m.MetricsHandler().ServeHTTP(rec, r)
		var named []string
		for line := range strings.Lines(rec.Body.String()) {
			if strings.Contains(line, " # ") {
				named = append(named, line)
			}
		}
		const series = `http_request_duration_seconds_bucket{server="web1",route="GET /",method="GET",le=`
		if len(named) != 2 || !strings.HasPrefix(named[0], series+`"0.02490368"} 2 # {trace_id="first"} 0.02 `) ||
			!strings.HasPrefix(named[1], series+`"+Inf"} 7 # {trace_id="minute"} 120 `) {
			t.Fatalf("got\n%s", strings.Join(named, ""))
		}
		if !strings.HasSuffix(named[0], " 946684800.020\n") {
			t.Errorf("%q, want the time of the request's end", named[0])
		}
		body := rec.Body.String()
		if !strings.HasSuffix(body, "\n# EOF\n") || !strings.Contains(body, "orders_total{kind=\"book\"} 7\n") ||
			!strings.Contains(body, "# TYPE http_requests counter\n") || rec.Header().Get("Content-Type") != openMetricsType {
			t.Errorf("%v\n%s", rec.Header(), body)
		}
	})
}

func TestTraceParent(t *testing.T) {
	const id, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for field, want := range map[string]string{
		"00-" + id + "-" + span + "-01":                      id,
		"00-" + id + "-" + span + "-00":                      id,
		"cc-" + id + "-" + span + "-01-later":                id,
		"cc-" + id + "-" + span + "-01later":                 "",
		"00-" + id + "-" + span + "-01-later":                "",
		"ff-" + id + "-" + span + "-01":                      "",
		"00-" + strings.ToUpper(id) + "-" + span + "-01":     "",
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01": "",
		"00-" + id + "-" + strings.Repeat("0", 16) + "-01":   "",
		"00-" + id + "-" + span + "-0":                       "",
		"00-" + id + "-" + span + "-0g":                      "",
		"00_" + id + "_" + span + "_01":                      "",
		"":                                                   "",
	} {
		if got := TraceParent(&http.Request{Header: http.Header{"Traceparent": {field}}}); got != want {
			t.Errorf("%q: %q, want %q", field, got, want)
		}
	}
	two := "00-" + id + "-" + span + "-01"
	if got := TraceParent(&http.Request{Header: http.Header{"Traceparent": {two, two}}}); got != "" {
		t.Errorf("two fields: %q, want none", got)
	}
}

// TestExemplarsAreInTheirBuckets: a bucket holds what does not exceed its bound.
func TestExemplarsAreInTheirBuckets(t *testing.T) {
	var e exemplars
	for i, bound := range bounds {
		e.add(fmt.Sprint("at ", i), time.Duration(bound), 0)
	}
	e.add(`"beyond"`, time.Duration(bounds[len(bounds)-1]+1), 0)
	for i := range bounds {
		if got, want := e.buckets.Load()[i].Load(), fmt.Sprint("at ", i); got == nil || got.trace != want {
			t.Errorf("bucket %d has %+v, want %s", i, got, want)
		}
	}
	if line := string(e.buckets.Load()[len(bounds)].Load().append(nil)); !strings.HasPrefix(line, ` # {trace_id="\"beyond\""} 60.1`) {
		t.Errorf("%s", line)
	}
}
