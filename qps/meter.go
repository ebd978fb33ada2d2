package qps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
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
	// MaxRoutes is how many routes, and as many upstreams and listeners, are told
	// apart; what comes beyond is counted as "other". Zero means 512; 4096 at most.
	MaxRoutes int
	// TopK is how many of the most frequent paths, clients and user agents are
	// told. Zero means none, and that they are not followed; 100 at most.
	TopK int
	// SLOs are objectives to watch: none by default, 16 at most. An SLO takes up
	// to 2 MiB, most of it after days of traffic.
	SLOs []SLO
	// OnAlert is called when an alert begins or ends, by the goroutine that
	// watches the SLOs: it must return soon and must not call Close. Nil means
	// that alerts are only logged.
	OnAlert func(Alert)
	// StateFile is where everything but SLOs is saved within each second and by Close,
	// and read from by New, so that counters go on after a restart: a killed
	// process loses a second at most, one that calls Close after its servers have
	// shut down loses nothing. The file belongs to one Meter; beside it there is
	// one with ".new" at its end while it is written. A file that is no state of
	// this Server, or that cannot be written, is an error. Empty means that nothing is saved.
	StateFile string
	// TraceID says to which trace a request belongs, so that OpenMetrics can name
	// one for each bucket of a histogram (an exemplar). It is asked as a request
	// begins; an empty or unusable id, which has more than 120 bytes or is no
	// UTF-8, is none. [TraceParent] reads the W3C's field. Nil means that there are
	// no exemplars.
	TraceID func(*http.Request) string
	// Push sends the metrics somewhere, and for the last time when the Meter is
	// closed. It is cloned. Nil sends nothing.
	Push *Push
	// Logger takes alerts and failures to save and to push. Nil means slog.Default().
	Logger *slog.Logger
	// Set is the set that [Meter.MetricsHandler] writes. Metrics of your own
	// in it appear beside those of the Meter, whose names they must not have.
	// A set belongs to one Meter. Nil means a new one.
	Set *metrics.Set
}

// Meter measures the traffic of one server. Create it with [New]. It is safe
// for concurrent use. It starts goroutines only if there are SLOs, a state
// file or a Push, and only then needs a [Meter.Close].
type Meter struct {
	server    string
	set       *metrics.Set
	routes    *table[route]
	upstreams *table[Upstream]
	listeners *table[connections]
	picker    picker
	overflow  atomic.Uint64
	top       *top // nil: not followed
	base      time.Time
	baseNanos int64     // base as Unix time
	started   time.Time // the process
	timeline  timeline
	watcher   watcher
	tasks     background
	stateFile string // empty: none
	traceID   func(*http.Request) string
	saved     sync.Once
	scraper   scraper
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
	if c.TopK < 0 || c.TopK > mostTop {
		errs = append(errs, fmt.Errorf("qps: Config.TopK is %d, want 0 to %d", c.TopK, mostTop))
	}
	if len(c.SLOs) > mostSLOs {
		errs = append(errs, fmt.Errorf("qps: %d SLOs, want %d at most", len(c.SLOs), mostSLOs))
	}
	for i, s := range c.SLOs {
		errs = append(errs, s.check())
		if slices.ContainsFunc(c.SLOs[:i], func(t SLO) bool { return t.Name == s.Name }) {
			errs = append(errs, fmt.Errorf("qps: two SLOs are called %q", cut(s.Name)))
		}
	}
	if c.Push != nil {
		errs = append(errs, c.Push.check())
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
	m := &Meter{scraper: scraper{tails: newTails()}, server: c.Server, set: c.Set, stateFile: c.StateFile, traceID: c.TraceID, base: time.Now()}
	m.baseNanos, m.started = m.base.UnixNano(), processStart()
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	m.watcher = watcher{onAlert: c.OnAlert, logger: c.Logger, now: m.now}
	for _, s := range c.SLOs {
		m.watcher.objectives = append(m.watcher.objectives, newObjective(s, m.now()))
	}
	m.routes = newTable(c.MaxRoutes, m.newRoute)
	m.upstreams = newTable(c.MaxRoutes, func(string) *Upstream { return &Upstream{m: m} })
	m.listeners = newTable(c.MaxRoutes, newConnections)
	if c.TopK > 0 {
		t, err := newTop(c.TopK)
		if err != nil {
			return nil, err
		}
		m.top = &t
	}
	if m.stateFile != "" {
		if err := m.load(); err != nil {
			return nil, err
		}
	}
	// The set has no way to report a failed write; the handler's client sees it.
	m.set.RegisterMetricsWriter(func(w io.Writer) {
		if o, ok := w.(*openWriter); ok {
			_ = m.scrape(o.to, true)
		} else {
			_ = m.scrape(w, false)
		}
	})
	if m.stateFile != "" {
		// A file that cannot be written is better known now than by the log.
		if err := m.save(); err != nil {
			return nil, err
		}
	}
	var run []func(context.Context)
	if len(c.SLOs) > 0 {
		run = append(run, m.watcher.run)
	}
	if m.stateFile != "" {
		run = append(run, m.keep)
	}
	if c.Push != nil {
		run = append(run, newPusher(*c.Push, m.set.WritePrometheus, m.changes("pushing the metrics")).run)
	}
	m.tasks.start(run...)
	return m, nil
}

// changes returns what logs when something that is done again and again begins to
// fail, and when it works again. It is for one goroutine.
func (m *Meter) changes(what string) func(err error) {
	failing := false
	return func(err error) {
		if (err != nil) != failing {
			failing = err != nil
			m.watcher.logger.Warn("qps: "+what, "failing", failing, "err", err)
		}
	}
}

// Close ends the watching of SLOs, saves the state and pushes for the last time;
// its error is that of saving. Recording goes on. It may be called more than once,
// and waits for OnAlert to return.
func (m *Meter) Close() (err error) {
	m.tasks.stop()
	if m.stateFile != "" {
		m.saved.Do(func() { err = m.save() })
	}
	return err
}

func (m *Meter) newRoute(name string) *route {
	r := &route{name: name}
	for _, o := range m.watcher.objectives {
		if o.covers(name) {
			r.objectives = append(r.objectives, o)
		}
	}
	return r
}

// now is the time in nanoseconds of Unix time. It follows the monotonic clock
// from the wall clock's time when the Meter was created, so that a clock that is
// set back never counts into a second that is over.
func (m *Meter) now() int64 { return m.baseNanos + int64(time.Since(m.base)) }

func (m *Meter) time() time.Time { return time.Unix(0, m.now()).UTC() }

// MetricsHandler serves the metrics as Prometheus text, or as OpenMetrics 1.0 to
// those that prefer it, with exemplars if there is [Config].TraceID. Guard it:
// routes and rates are not for the public.
func (m *Meter) MetricsHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Accept")
		if wantsOpenMetrics(r.Header) {
			m.writeOpenMetrics(w)
			return
		}
		w.Header().Set("Content-Type", textType)
		m.set.WritePrometheus(w)
	})
}
