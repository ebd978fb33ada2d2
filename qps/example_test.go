package qps_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/palisade-go/palisade/qps"
)

// get serves one request without a network.
func get(h http.Handler, target string) string {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", target, nil))
	return rec.Body.String()
}

func Example() {
	meter, err := qps.New(qps.Config{Server: "web1"})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /notes/{id}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "note %s", r.PathValue("id"))
	})
	handler := meter.Middleware(mux) // give this to http.Server

	for i := range 3 {
		get(handler, fmt.Sprintf("/notes/%d", i))
	}
	get(handler, "/notes/")

	for _, r := range meter.Snapshot().Routes {
		fmt.Printf("%s: %d requests, %d of them 4xx, %d bytes\n", r.Route, r.Requests(), r.Counts.Status4xx, r.BytesOut)
	}
	// Output:
	// GET /notes/{id}: 3 requests, 0 of them 4xx, 18 bytes
	// other: 1 requests, 1 of them 4xx, 19 bytes
}

// A proxy has no patterns, so it names its routes.
func ExampleSetRoute() {
	meter, err := qps.New(qps.Config{})
	if err != nil {
		log.Fatal(err)
	}
	handler := meter.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/") {
			qps.SetRoute(w, "api")
		} else {
			qps.SetRoute(w, "pages")
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	get(handler, "/api/notes")
	get(handler, "/api/users")
	get(handler, "/index.html")
	for _, r := range meter.Snapshot().Routes {
		if r.Requests() > 0 {
			fmt.Println(r.Method, r.Route, r.Requests())
		}
	}
	// Output:
	// GET api 2
	// GET pages 1
}

func ExampleMeter_Upstream() {
	meter, err := qps.New(qps.Config{})
	if err != nil {
		log.Fatal(err)
	}
	primary := meter.Upstream("mysql/primary")
	for i := range 10 {
		failed := i == 9
		primary.Observe(time.Duration(i+1)*time.Millisecond, failed)
	}
	u := meter.Snapshot().Upstreams[0]
	fmt.Printf("%s: %d calls, %d failed, median %v\n", u.Upstream, u.Requests(), u.Failed, u.Quantile(0.5).Round(100*time.Microsecond))
	// Output: mysql/primary: 10 calls, 1 failed, median 5ms
}

// One server fetches the snapshots of others as JSON and shows them all.
func ExampleWriteMetrics() {
	var snaps []qps.Snapshot
	for _, server := range []string{"web1", "web2"} {
		meter, err := qps.New(qps.Config{Server: server})
		if err != nil {
			log.Fatal(err)
		}
		get(meter.Middleware(http.NotFoundHandler()), "/")

		wire, err := json.Marshal(meter.Snapshot()) // at the other server
		if err != nil {
			log.Fatal(err)
		}
		var snap qps.Snapshot // here
		if err := json.Unmarshal(wire, &snap); err != nil {
			log.Fatal(err)
		}
		snaps = append(snaps, snap)
	}
	var text strings.Builder
	if err := qps.WriteMetrics(&text, snaps...); err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(text.String()) {
		if strings.Contains(line, "http_requests_total") && !strings.HasSuffix(line, " 0\n") {
			fmt.Print(line)
		}
	}
	// Output:
	// # HELP http_requests_total Requests that have ended, by class of status; aborted: the client left; panic: the handler panicked.
	// # TYPE http_requests_total counter
	// http_requests_total{server="web1",route="other",method="GET",code="4xx"} 1
	// http_requests_total{server="web2",route="other",method="GET",code="4xx"} 1
}

// Metrics of your own appear beside those of the Meter.
func ExampleMeter_MetricsHandler() {
	set := metrics.NewSet()
	meter, err := qps.New(qps.Config{Set: set})
	if err != nil {
		log.Fatal(err)
	}
	set.NewCounter("orders_total").Add(7)
	for line := range strings.Lines(get(meter.MetricsHandler(), "/metrics")) {
		if strings.HasPrefix(line, "orders_total") || strings.HasPrefix(line, "http_requests_overflow_total") {
			fmt.Print(line)
		}
	}
	// Output:
	// orders_total 7
	// http_requests_overflow_total 0
}

func ExampleWindow() {
	// Ten seconds ago nothing, then 5 requests per second, two of which failed.
	w := qps.Window{Requests: []uint32{5, 5, 5, 5}, Errors: []uint32{0, 2}}
	fmt.Println(w.Rate(time.Second), w.Rate(10*time.Second), w.ErrorRatio(10*time.Second))
	// Output: 5 2 0.1
}

func ExampleHistogram() {
	h := qps.Histogram{}
	if err := json.Unmarshal([]byte(`{"sum_ns":70,"buckets":[[9,3],[39,1]]}`), &h); err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.Count(), h.Sum(), h.Quantile(0.5), h.Quantile(0.99))
	// Output: 4 70ns 10ns 40ns
}

func ExampleCounter() {
	var drops qps.Counter
	drops.Inc()
	shard := drops.Shard() // once, for a loop that counts much
	for range 1000 {
		shard.Inc()
	}
	fmt.Println(drops.Value())
	// Output: 1001
}

func ExampleGauge() {
	var depth qps.Gauge
	depth.Set(10)
	depth.Add(-2.5)
	fmt.Println(depth.Value())
	// Output: 7.5
}

func ExampleRecorder() {
	var waits qps.Recorder
	for i := range 100 {
		waits.Record(time.Duration(i+1) * time.Millisecond)
	}
	h := waits.Histogram()
	fmt.Println(h.Count(), h.Quantile(0.99).Round(time.Millisecond))
	// Output: 100 99ms
}

func ExampleTopK() {
	talkers, err := qps.NewTopK(2)
	if err != nil {
		log.Fatal(err)
	}
	for i := range 100 {
		talkers.Add("192.0.2.1")
		if i%2 == 0 {
			talkers.Add("192.0.2.2")
		}
		if i%10 == 0 {
			talkers.Add("192.0.2.3")
		}
	}
	for _, k := range talkers.List().Keys {
		fmt.Println(k.Key, k.Count, "±", k.Error)
	}
	// Output:
	// 192.0.2.1 100 ± 0
	// 192.0.2.2 50 ± 0
}

func ExampleMeter_Track() {
	meter, err := qps.New(qps.Config{})
	if err != nil {
		log.Fatal(err)
	}
	send := func() (err error) {
		call := meter.Track("mail")
		defer func() { call.Done(err) }()
		return errors.New("mailbox full")
	}
	fmt.Println(send(), meter.Snapshot().Upstreams[0].Failed)
	// Output: mailbox full 1
}

func ExampleMeter_RoundTripper() {
	backend := httptest.NewServer(http.NotFoundHandler())
	defer backend.Close()
	meter, err := qps.New(qps.Config{})
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: meter.RoundTripper("backend", backend.Client().Transport)}
	defer client.CloseIdleConnections()
	resp, err := client.Get(backend.URL)
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(meter.Snapshot().Upstreams[0].OK)
	// Output: 1
}

// An outage that lasts uses up the error budget: the alert comes when both
// windows of a rule say so.
func ExampleSLO() {
	alerts := make(chan qps.Alert, 8)
	meter, err := qps.New(qps.Config{
		SLOs:    []qps.SLO{{Name: "availability", Target: 0.999}},
		OnAlert: func(a qps.Alert) { alerts <- a },
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer meter.Close()
	get(meter.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
	})), "/")
	a := <-alerts
	fmt.Printf("%s burns %.0f times too fast, the limit is %v\n", a.SLO, a.Burn.LongRate, a.Burn.Limit)
	// Output: availability burns 1000 times too fast, the limit is 14.4
}

func ExampleMerge() {
	var snaps []qps.Snapshot
	for i := range 2 {
		meter, err := qps.New(qps.Config{})
		if err != nil {
			log.Fatal(err)
		}
		for range 50 {
			meter.Upstream("db").Observe(time.Duration(1+99*i)*time.Millisecond, false)
		}
		snaps = append(snaps, meter.Snapshot())
	}
	db := qps.Merge(snaps...).Upstreams[0]
	fmt.Println(db.Requests(), db.Quantile(0.5).Round(time.Millisecond), db.Quantile(0.51).Round(time.Millisecond))
	// Output: 100 1ms 100ms
}

func ExampleFleet() {
	web, err := qps.New(qps.Config{Server: "web1"})
	if err != nil {
		log.Fatal(err)
	}
	admin := httptest.NewServer(web.SnapshotHandler()) // at the other server
	defer admin.Close()
	get(web.Middleware(http.NotFoundHandler()), "/")

	fleet, err := qps.NewFleet(qps.FleetConfig{Peers: []qps.Peer{{Name: "web1", URL: admin.URL}}, Client: admin.Client()})
	if err != nil {
		log.Fatal(err)
	}
	defer fleet.Close()
	for len(fleet.Snapshot().Merged.Routes) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println(fleet.Snapshot().Merged.Routes[0].Requests())
	// Output: 1
}

func ExampleMeter_Event() {
	meter, err := qps.New(qps.Config{})
	if err != nil {
		log.Fatal(err)
	}
	meter.Event("failover", "db2 is the primary")
	e := meter.Snapshot().Events[0]
	fmt.Println(e.Kind+":", e.Text)
	// Output: failover: db2 is the primary
}

// TestThreeServers is the arrangement that the package is made for: three
// servers measure, one shows.
func TestThreeServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var snaps []qps.Snapshot
		for i, server := range []string{"balancer", "web1", "web2"} {
			m, err := qps.New(qps.Config{Server: server})
			if err != nil {
				t.Fatal(err)
			}
			h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				qps.SetRoute(w, "notes")
				time.Sleep(10 * time.Millisecond)
				if r.URL.Path == "/bad" {
					w.WriteHeader(500)
				}
			}))
			for range 10 * (i + 1) {
				get(h, "/")
			}
			for range 10 * (i + 1) {
				get(h, "/bad")
			}
			time.Sleep(time.Second)
			wire, err := json.Marshal(m.Snapshot())
			if err != nil {
				t.Fatal(err)
			}
			var s qps.Snapshot
			if err := json.Unmarshal(wire, &s); err != nil {
				t.Fatal(err)
			}
			r := s.Routes[0]
			if want := float64(2 * (i + 1)); r.Route != "notes" || r.Rate(10*time.Second) != want || r.ErrorRatio(time.Minute) != 0.5 || r.InFlight != 0 {
				t.Errorf("%s: %q %v/s, %v errors, %d in flight; want %v/s", server, r.Route, r.Rate(10*time.Second), r.ErrorRatio(time.Minute), r.InFlight, want)
			}
			if p := r.Quantile(0.99); p < 9920*time.Microsecond || p > 10080*time.Microsecond {
				t.Errorf("%s: p99 %v, want 10ms", server, p)
			}
			snaps = append(snaps, s)
		}
		var text strings.Builder
		if err := qps.WriteMetrics(&text, snaps...); err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`(?m)^http_requests_total\{[^}]*server="web1"[^}]*\} [1-9]`).MatchString(text.String()) {
			t.Errorf("no requests of web1 in\n%s", text.String())
		}
		if n := strings.Count(text.String(), "# TYPE http_requests_total "); n != 1 {
			t.Errorf("family http_requests_total is there %d times", n)
		}
	})
}

// A request that carries a trace is named beside the bucket that it fell into,
// for those who ask for OpenMetrics.
func ExampleConfig_traceID() {
	meter, err := qps.New(qps.Config{TraceID: qps.TraceParent})
	if err != nil {
		log.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	meter.Middleware(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)

	scrape := httptest.NewRequest("GET", "/metrics", nil)
	scrape.Header.Set("Accept", "application/openmetrics-text")
	rec := httptest.NewRecorder()
	meter.MetricsHandler().ServeHTTP(rec, scrape)
	for line := range strings.Lines(rec.Body.String()) {
		if _, exemplar, ok := strings.Cut(line, " # "); ok {
			fmt.Println(exemplar[:strings.Index(exemplar, "}")+1])
		}
	}
	// Output: {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"}
}

// A server that nobody can reach sends its metrics itself.
func ExamplePush() {
	received := make(chan string, 1)
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		received <- r.Method + " " + r.URL.Path + ", " + r.Header.Get("Content-Encoding")
		w.WriteHeader(http.StatusNoContent)
	}))
	defer store.Close()
	meter, err := qps.New(qps.Config{
		Server: "web1",
		Push:   &qps.Push{URL: store.URL + "/api/v1/import/prometheus"},
	})
	if err != nil {
		log.Fatal(err)
	}
	meter.Close() // which pushes once more
	fmt.Println(<-received)
	// Output: POST /api/v1/import/prometheus, gzip
}
