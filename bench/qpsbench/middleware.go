package qpsbench

import (
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/palisade-go/palisade/bench/internal/measure"
	"github.com/palisade-go/palisade/qps"
)

const (
	bareHandler    = "no metrics"
	clockReads     = "two readings of the clock"
	oursMiddleware = "palisade Middleware"
	promThree      = "promhttp, in-flight, duration and counter"
	otelMiddleware = "otelhttp, no tracer"
)

// nowhere is a ResponseWriter that keeps nothing.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n *nowhere) WriteHeader(int)             {}

// serving returns an operation that has h serve a request.
func serving(name string, h http.Handler) measure.Operation {
	return measure.Operation{Name: name, Prepare: func() func() {
		r := httptest.NewRequest(http.MethodGet, "/hello", nil)
		r.Pattern = "GET /hello"
		w := &nowhere{header: make(http.Header)}
		return func() { h.ServeHTTP(w, r) }
	}}
}

func middlewares() ([]measure.Operation, error) {
	body := []byte("hello")
	bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })
	meter, err := qps.New(qps.Config{})
	if err != nil {
		return nil, err
	}
	base := time.Now()
	return []measure.Operation{
		serving(bareHandler, bare),
		{Name: clockReads, Prepare: func() func() {
			var sum time.Duration
			return func() {
				sum += time.Since(base)
				sum += time.Since(base)
			}
		}},
		serving(oursMiddleware, meter.Middleware(bare)),
		serving(promThree, prom(bare)),
		serving("VictoriaMetrics, bound handles", victoria(bare)),
		serving(otelMiddleware, otelhttp.NewHandler(bare, "hello",
			otelhttp.WithMeterProvider(sdk.NewMeterProvider(sdk.WithReader(sdk.NewManualReader()))),
			otelhttp.WithTracerProvider(noop.NewTracerProvider()))),
	}, nil
}

// prom is the three layers that promhttp's documentation puts on each other.
func prom(next http.Handler) http.Handler {
	inFlight := prometheus.NewGauge(prometheus.GaugeOpts{Name: "in_flight"})
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "duration"}, []string{"code", "method"})
	count := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests"}, []string{"code", "method"})
	return promhttp.InstrumentHandlerInFlight(inFlight,
		promhttp.InstrumentHandlerDuration(duration, promhttp.InstrumentHandlerCounter(count, next)))
}

// victoria is what a careful user of VictoriaMetrics' library writes.
func victoria(next http.Handler) http.Handler {
	set := metrics.NewSet()
	count, failed, duration := set.NewCounter("requests"), set.NewCounter("failed"), set.NewHistogram("duration")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := statusWriter{ResponseWriter: w, status: http.StatusOK}
		begin := time.Now()
		next.ServeHTTP(&s, r)
		duration.UpdateDuration(begin)
		count.Inc()
		if s.status >= 500 {
			failed.Inc()
		}
	})
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}
