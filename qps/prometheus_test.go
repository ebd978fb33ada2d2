package qps

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// prometheus is a real one.
type prometheus struct{ base string }

// startPrometheus scrapes targets, each as a job of its name, once a second. It
// skips the test if the program is missing.
func startPrometheus(t *testing.T, targets map[string]string) *prometheus {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		if os.Getenv("PALISADE_REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skipf("prometheus is not installed: %v", err)
	}
	var conf bytes.Buffer
	conf.WriteString("global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n")
	for job, address := range targets {
		fmt.Fprintf(&conf, "- {job_name: %s, static_configs: [{targets: [%q]}]}\n", job, address)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, conf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	var out bytes.Buffer // read when the program has ended
	cmd := exec.Command(program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--enable-feature=exemplar-storage", "--log.level=warn")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("prometheus said:\n%s", out.String())
		}
	})
	return &prometheus{base: "http://" + address}
}

// get asks the HTTP API and decodes what is in "data".
func (p *prometheus) get(ctx context.Context, path string, query url.Values, data any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", p.base+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	answer := struct {
		Status string
		Error  string
		Data   any
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%s: %w", body, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", answer.Status, answer.Error)
	}
	return nil
}

// value is what an expression with one result amounts to.
func (p *prometheus) value(ctx context.Context, promql string) (float64, error) {
	var data struct {
		Result []struct{ Value [2]any }
	}
	if err := p.get(ctx, "/api/v1/query", url.Values{"query": {promql}}, &data); err != nil {
		return 0, err
	}
	if len(data.Result) != 1 {
		return 0, fmt.Errorf("%s: %d results", promql, len(data.Result))
	}
	return strconv.ParseFloat(fmt.Sprint(data.Result[0].Value[1]), 64)
}

// TestPrometheusAgrees has a real Prometheus scrape a Meter in both formats, and
// asks it for what the JSON says.
func TestPrometheusAgrees(t *testing.T) {
	m := newMeter(t, Config{Server: "web1", TraceID: TraceParent})
	metrics := m.MetricsHandler()
	scraped := httptest.NewServer(metrics)
	defer scraped.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Accept")
		metrics.ServeHTTP(w, r)
	}))
	defer plain.Close()
	p := startPrometheus(t, map[string]string{"open": scraped.Listener.Addr().String(), "text": plain.Listener.Addr().String()})
	defer http.DefaultClient.CloseIdleConnections()

	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		SetRoute(w, r.URL.Query().Get("route"))
		status, _ := strconv.Atoi(r.URL.Query().Get("status"))
		w.WriteHeader(status)
		fmt.Fprint(w, "hello")
	}))
	for i := range 300 {
		for _, route := range []string{"GET /fast", "GET /{id}", "quote\" \\ \n"} {
			status := []int{200, 200, 204, 404, 500}[i%5]
			r := httptest.NewRequest([]string{"GET", "POST"}[i%2], "/?"+url.Values{"route": {route}, "status": {strconv.Itoa(status)}}.Encode(), nil)
			r.Header.Set("Traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
			h.ServeHTTP(httptest.NewRecorder(), r)
		}
	}
	for i := range 50 {
		m.Upstream("db").Observe(time.Duration(i)*time.Millisecond, i%10 == 0)
	}
	s := roundTrip(t, m.Snapshot())
	var requests, errs, bytesOut, count, sum float64
	for _, r := range s.Routes {
		requests += float64(total(r.Counts))
		errs += float64(r.Counts.Status5xx)
		bytesOut += float64(r.BytesOut)
		count += float64(r.Duration.Count())
		sum += r.Duration.Sum().Seconds()
	}
	db := s.Upstreams[0]
	for _, job := range []string{"open", "text"} {
		for promql, n := range map[string]float64{
			`sum(http_requests_total{job="%s"})`:                                                      requests,
			`sum(http_requests_total{job="%s",code="5xx"})`:                                           errs,
			`sum(http_response_bytes_total{job="%s"})`:                                                bytesOut,
			`sum(http_request_duration_seconds_count{job="%s"})`:                                      count,
			`sum(http_request_duration_seconds_sum{job="%s"})`:                                        sum,
			`sum(http_request_duration_seconds_bucket{job="%s",le="+Inf"})`:                           count,
			`sum(http_requests_in_flight{job="%s"})`:                                                  0,
			`sum(http_requests_total{job="%s",route="quote\" \\ \n"})`:                                300,
			`upstream_requests_total{job="%s",upstream="db",result="failed"}`:                         float64(db.Failed),
			`upstream_requests_total{job="%s",upstream="db",result="ok"}`:                             float64(db.OK),
			`upstream_request_duration_seconds_sum{job="%s",upstream="db"}`:                           db.Duration.Sum().Seconds(),
			`count(count by (__name__) ({job="%s",__name__=~"http_.*"})) > bool 5`:                    1,
			`histogram_quantile(1, sum by (le) (upstream_request_duration_seconds_bucket{job="%s"}))`: float64(bounds[8]) / 1e9,
		} {
			within(t, func() error {
				got, err := p.value(t.Context(), fmt.Sprintf(promql, job))
				if err != nil {
					return err
				}
				if math.Abs(got-n) > 1e-9*math.Abs(n) {
					return fmt.Errorf("%s in job %s is %v, the snapshot says %v", promql, job, got, n)
				}
				return nil
			})
		}
	}
	within(t, func() error {
		var found []struct {
			Exemplars []struct{ Labels map[string]string }
		}
		now := time.Now()
		err := p.get(t.Context(), "/api/v1/query_exemplars", url.Values{
			"query": {`http_request_duration_seconds_bucket{job="open"}`},
			"start": {now.Add(-time.Minute).Format(time.RFC3339)}, "end": {now.Add(time.Minute).Format(time.RFC3339)},
		}, &found)
		if err != nil {
			return err
		}
		if len(found) == 0 || found[0].Exemplars[0].Labels["trace_id"] != trace {
			return fmt.Errorf("exemplars %v, want one of trace %s", found, trace)
		}
		return nil
	})
}

func total(c Counts) (n uint64) {
	for _, k := range c.each() {
		n += k
	}
	return n
}

// within fails the test if check still does after half a minute.
func within(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
