package lb

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	maxWeight   = 1_000_000
	maxBackends = 10_000
	maxIDLength = 256
	maxPriority = 127
)

// BackendConfig describes a server. It is plain data.
type BackendConfig struct {
	// ID names the server in status, events and logs, and is unique in a pool.
	// Empty means the host of URL.
	ID string `json:"id,omitempty"`
	// URL is "http://host:port", "https://host:port", or "h2c://host:port" for
	// HTTP/2 without TLS. A path other than "/", a query and user information are
	// errors: requests keep their own path. "tcp://host:port" and
	// "udp://host:port" are for [TCPProxy] and [UDPProxy] only, and need a port.
	URL string `json:"url"`
	// Weight is the server's share of the requests, relative to the others'.
	// 0 means 1; 1,000,000 at most.
	Weight int `json:"weight,omitempty"`
	// Priority says in which order backends are used: those of 0 first, and those
	// of a higher number, 127 at most, as far as the ones before them fail.
	Priority int `json:"priority,omitempty"`
	// Zone is where the server is. Within a priority, those in the pool's own
	// Zone are used first. Empty means nowhere, which is no zone's.
	Zone string `json:"zone,omitempty"`
}

// parse checks the description and returns its normal form: ID and Weight are
// set. The error joins every mistake.
func (c BackendConfig) parse() (BackendConfig, *url.URL, error) {
	u, err := parseBackendURL(c.URL)
	if c.ID == "" && u != nil {
		c.ID = u.Host
	}
	var errs []error
	if err != nil {
		errs = append(errs, err)
	}
	if len(c.ID) > maxIDLength || strings.ContainsFunc(c.ID, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		errs = append(errs, fmt.Errorf("ID is %q, want at most %d bytes and no control characters", c.ID, maxIDLength))
	}
	if c.Weight < 0 || c.Weight > maxWeight {
		errs = append(errs, fmt.Errorf("weight is %d, want 0 to %d", c.Weight, maxWeight))
	}
	if c.Priority < 0 || c.Priority > maxPriority {
		errs = append(errs, fmt.Errorf("priority is %d, want 0 to %d", c.Priority, maxPriority))
	}
	if c.Weight == 0 {
		c.Weight = 1
	}
	return c, u, errors.Join(errs...)
}

func parseBackendURL(s string) (*url.URL, error) {
	bad := func(want string) (*url.URL, error) { return nil, fmt.Errorf("URL is %q, want %s", s, want) }
	u, err := url.Parse(s)
	switch {
	case err != nil && strings.Contains(s, "@"):
		// What cannot be parsed may hold a password, which no error may show.
		return nil, errors.New("URL cannot be parsed, want http://host:port or https://host:port")
	case err != nil:
		return bad("http://host:port or https://host:port")
	case u.User != nil:
		return nil, fmt.Errorf("URL is %q, want no user information", u.Redacted())
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != schemeH2C && !isLayer4(u):
		return bad("the scheme http or https, or h2c, tcp or udp")
	case u.Opaque != "" || u.Hostname() == "":
		return bad("a host, as in " + u.Scheme + "://host:port")
	case u.Path != "" && u.Path != "/":
		return bad("no path")
	case u.RawQuery != "" || u.ForceQuery:
		return bad("no query")
	case u.Fragment != "" || strings.HasSuffix(s, "#"):
		return bad("no fragment")
	case isLayer4(u) && u.Port() == "":
		return bad("a port, as in " + u.Scheme + "://host:port")
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad("a port from 1 to 65535")
		}
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}, nil
}

// Backend is a live server of a [Pool]: its identity, its load and its health.
// A Pool makes it from a [BackendConfig] and keeps it for as long as ID and URL
// stay. It is safe for concurrent use; its methods take no lock.
type Backend struct {
	id        string
	url       *url.URL
	transport transport

	weight   atomic.Int64
	inFlight atomic.Int64
	limit    atomic.Int64 // of inFlight; 0 means none
	requests atomic.Uint64
	failures atomic.Uint64
	health   atomic.Int32 // Unknown, Healthy or Unhealthy
	draining atomic.Bool
	lastErr  atomic.Pointer[string]
	latency  estimate // of the strategies that look at it
	conduct  conduct
	limiter  *limiter // nil without an AdaptiveLimit

	// The rest is guarded by the pool's mutex.
	share      int // the weight that was configured
	priority   int
	zone       string
	warmSince  time.Time // zero: it has its full weight
	since      time.Time
	good, bad  int // checks in a row
	removed    bool
	stopChecks context.CancelFunc // nil without checks
}

// ID returns the name of the backend, unique in its pool.
func (b *Backend) ID() string { return b.id }

// URL returns a copy of the backend's address.
func (b *Backend) URL() *url.URL { u := *b.url; return &u }

// Weight returns the backend's share of the requests, 1 or more, relative to the
// others'. While a backend is in its slow start, all weights are a multiple of
// what was configured, and its own is smaller than that.
func (b *Backend) Weight() int { return int(b.weight.Load()) }

// InFlight returns the number of requests that were sent to the backend and
// have not ended.
func (b *Backend) InFlight() int64 { return b.inFlight.Load() }

// State returns the backend's state now.
func (b *Backend) State() State {
	if b.draining.Load() {
		return Draining
	}
	s := State(b.health.Load())
	if s == Healthy && b.conduct.ejected.Load() {
		return Ejected
	}
	return s
}

// String returns the ID.
func (b *Backend) String() string { return b.id }

func (b *Backend) noteError(err error) {
	if err != nil {
		b.lastErr.Store(new(err.Error()))
	}
}

// BackendStatus is what a [Pool] knows about a backend at one moment. It is
// plain data and reads well as JSON.
type BackendStatus struct {
	ID       string `json:"id"`
	URL      string `json:"url"`
	Weight   int    `json:"weight"`
	Priority int    `json:"priority,omitempty"`
	Zone     string `json:"zone,omitempty"`
	State    State  `json:"state"`
	InFlight int64  `json:"in_flight"`
	// Limit is how many requests may be in flight now: MaxInFlight, or what
	// AdaptiveLimit makes of it. 0 means that there is no limit.
	Limit int64 `json:"limit,omitempty"`
	// BaseLatency is what AdaptiveLimit takes for the latency without load. 0
	// means that it is not known.
	BaseLatency time.Duration `json:"base_latency_ns,omitempty"`
	// Requests counts what was sent to the backend, every attempt of a retried
	// request included.
	Requests uint64 `json:"requests"`
	// Failures counts those of Requests that got no response, or half of one. A
	// response is no failure, whatever its status.
	Failures uint64 `json:"failures"`
	// LastError is the newest failure of a request or check. Empty means none
	// since the backend became healthy.
	LastError string `json:"last_error,omitempty"`
	// Since is when the state became what it is.
	Since time.Time `json:"since"`
	// Circuit is open while the backend is ejected, and half-open from then until
	// it has served a request.
	Circuit Circuit `json:"circuit"`
	// FailuresInARow are those that OutlierDetection counts.
	FailuresInARow int64 `json:"failures_in_a_row,omitempty"`
	// EjectedUntil is when an ejection ends. Zero means that there is none.
	EjectedUntil time.Time `json:"ejected_until,omitzero"`
}

func (b *Backend) status() BackendStatus {
	s := BackendStatus{
		ID: b.id, URL: b.url.String(), Weight: b.share, State: b.State(), InFlight: b.InFlight(),
		Requests: b.requests.Load(), Failures: b.failures.Load(), Since: b.since,
		Priority: b.priority, Zone: b.zone, EjectedUntil: b.conduct.until,
		Circuit: b.conduct.circuit(), FailuresInARow: b.conduct.inARow.Load(),
		Limit: b.limit.Load(), BaseLatency: b.limiter.baseLatency(),
	}
	if msg := b.lastErr.Load(); msg != nil {
		s.LastError = *msg
	}
	return s
}
