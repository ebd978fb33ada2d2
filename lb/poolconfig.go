package lb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// PoolConfig configures a [Pool]. Its zero value is an empty pool without
// health checks.
type PoolConfig struct {
	// Backends are the servers at the start, 10,000 at most. Empty is allowed:
	// then there is no backend to pick until Set.
	Backends []BackendConfig
	// Resolver finds the backends, in place of those above, which are used until
	// its first answer. Nil means that they change by Set, Upsert and Remove only.
	Resolver Resolver
	// Strategy chooses among the backends. Nil means LeastRequest.
	Strategy Strategy
	// Health turns active checks on. Nil means none: every backend counts as
	// healthy.
	Health *HealthCheck
	// Outlier ejects backends that fail requests. Nil means that none is.
	Outlier *OutlierDetection
	// PanicThreshold is the share of healthy backends, 0 to 1, below which health
	// is not believed: requests go to all that do not drain. Where most seem to
	// be down, the checks may be wrong, or the few that are left may break down
	// under what the others cannot take. It applies to a priority and zone, and
	// only while the others cannot take all requests. 0 means never, as long as
	// one is healthy.
	PanicThreshold float64
	// SlowStart is how long a backend that joins the pool or becomes healthy takes
	// to come to its full weight, in steps from a twentieth on, so that its caches
	// and pools can fill. 0 means no time.
	SlowStart time.Duration
	// MaxInFlight is how many requests each backend may have at a time. What is
	// more goes to others, of the next priority if need be, and if all are full
	// waits. 0 means no limit.
	MaxInFlight int
	// AdaptiveLimit lowers what each backend may have at a time to what it can
	// work on. Nil means that MaxInFlight alone holds.
	AdaptiveLimit *AdaptiveLimit
	// MaxQueue is how many requests may wait for room under either limit. 0 means
	// 1,000, a negative number none.
	MaxQueue int
	// QueueTimeout is how long each of them may. 0 means 1 s.
	QueueTimeout time.Duration
	// Zone is where this pool is. Backends of the same Zone are used first.
	// Empty means that zones do not matter.
	Zone string
	// TLS is for https backends, requests and checks. It is cloned. Without a
	// ServerName the host of the URL is expected in the certificate. HTTP/2 is
	// spoken if NextProtos has "h2". Nil means the roots of the system and
	// HTTP/1.1.
	TLS *tls.Config
	// Dial connects to backends. Nil means TCP, as a net.Dialer does.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// DialTimeout bounds a connection's set-up, and its TLS handshake again.
	// 0 means 5 s.
	DialTimeout time.Duration
	// IdleConns is how many idle connections are kept to each backend. 0 means
	// 256.
	IdleConns int
	// IdleTimeout is how long a connection may idle. It should be below what the
	// backends allow, lest a request meets a connection that is being closed.
	// 0 means 55 s.
	IdleTimeout time.Duration
	// HeaderBytes is the largest response head that a backend may send. 0 means
	// 256 KiB.
	HeaderBytes int64
	// OnStateChange is called after each change of a backend's state, one at a
	// time and in order. It must not block, as checks wait for it, and must not
	// call Close. Nil means nobody is told.
	OnStateChange func(StateChange)
	// Logger gets the changes of state. Nil means slog.Default().
	Logger *slog.Logger
}

func (c *PoolConfig) validate() error {
	var errs []error
	for _, d := range []struct {
		name  string
		value int64
	}{
		{"DialTimeout", int64(c.DialTimeout)}, {"IdleConns", int64(c.IdleConns)},
		{"IdleTimeout", int64(c.IdleTimeout)}, {"HeaderBytes", c.HeaderBytes},
		{"SlowStart", int64(c.SlowStart)},
		{"MaxInFlight", int64(c.MaxInFlight)}, {"QueueTimeout", int64(c.QueueTimeout)},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("lb: PoolConfig.%s is negative (%d), want 0 for the default or more", d.name, d.value))
		}
	}
	if !(c.PanicThreshold >= 0 && c.PanicThreshold <= 1) {
		errs = append(errs, fmt.Errorf("lb: PoolConfig.PanicThreshold is %v, want 0 to 1", c.PanicThreshold))
	}
	if c.Health != nil {
		errs = append(errs, c.Health.validate())
	}
	if c.Outlier != nil {
		errs = append(errs, c.Outlier.validate())
	}
	if c.AdaptiveLimit != nil && c.MaxInFlight >= 0 {
		errs = append(errs, c.AdaptiveLimit.validate(c.MaxInFlight))
	}
	return errors.Join(errs...)
}

func (c *PoolConfig) setDefaults() {
	if c.Strategy == nil {
		c.Strategy = LeastRequest{}
	}
	if c.Health != nil {
		c.Health = new(c.Health.withDefaults())
	}
	if c.Outlier != nil {
		c.Outlier = new(c.Outlier.withDefaults())
	}
	if c.AdaptiveLimit != nil {
		c.AdaptiveLimit = new(c.AdaptiveLimit.withDefaults(c.MaxInFlight))
	}
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
	}
	setDefault(&c.MaxQueue, 1000)
	setDefault(&c.QueueTimeout, time.Second)
	if c.DialTimeout == 0 {
		c.DialTimeout = 5 * time.Second
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.IdleConns == 0 {
		c.IdleConns = 256
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = 55 * time.Second
	}
	if c.HeaderBytes == 0 {
		c.HeaderBytes = 256 << 10
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
}
