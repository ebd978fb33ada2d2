package qps

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

const (
	defaultRoutes = 512
	mostRoutes    = 4096
)

// Config says how a [Meter] measures. Its zero value is ready to use.
type Config struct {
	// Server is the value of the label "server" of every metric, 256 bytes of
	// UTF-8 at most. Empty means that there is no such label.
	Server string
	// MaxRoutes is how many routes, and as many upstreams, are told apart; what
	// comes beyond is counted as "other". Zero means 512; 4096 at most.
	MaxRoutes int
	// Set is the set that [Meter.MetricsHandler] writes. Metrics of your own
	// in it appear beside those of the Meter, whose names they must not have.
	// A set belongs to one Meter. Nil means a new one.
	Set *metrics.Set
}

// Meter measures the traffic of one server. Create it with [New]. It is safe
// for concurrent use, starts no goroutine and needs no Close.
type Meter struct {
	server    string
	set       *metrics.Set
	routes    *table[route]
	upstreams *table[Upstream]
	overflow  atomic.Uint64
	base      time.Time
	baseNanos int64 // base as Unix time
}

// New returns a Meter. Its error names every mistake in the configuration.
func New(c Config) (*Meter, error) {
	var errs []error
	if !isLabel(c.Server) {
		errs = append(errs, fmt.Errorf("qps: Config.Server is %q, want at most %d bytes of UTF-8", cut(c.Server), maxLabel))
	}
	if c.MaxRoutes < 0 || c.MaxRoutes > mostRoutes {
		errs = append(errs, fmt.Errorf("qps: Config.MaxRoutes is %d, want 0 to %d", c.MaxRoutes, mostRoutes))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if c.MaxRoutes == 0 {
		c.MaxRoutes = defaultRoutes
	}
	if c.Set == nil {
		c.Set = metrics.NewSet()
	}
	m := &Meter{server: c.Server, set: c.Set, base: time.Now()}
	m.baseNanos = m.base.UnixNano()
	m.routes = newTable(c.MaxRoutes, newRoute)
	m.upstreams = newTable(c.MaxRoutes, func() *Upstream { return &Upstream{m: m} })
	// The set has no way to report a failed write; the handler's client sees it.
	m.set.RegisterMetricsWriter(func(w io.Writer) { _ = WriteMetrics(w, m.Snapshot()) })
	return m, nil
}

// now is the time in nanoseconds of Unix time. It follows the monotonic clock
// from the wall clock's time when the Meter was created, so that a clock that is
// set back never counts into a second that is over.
func (m *Meter) now() int64 { return m.baseNanos + int64(time.Since(m.base)) }

// MetricsHandler serves the metrics as Prometheus text. Guard it: routes and
// rates are not for the public.
func (m *Meter) MetricsHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		m.set.WritePrometheus(w)
	})
}
