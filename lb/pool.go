package lb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// PoolConfig configures a [Pool]. Its zero value is an empty pool without
// health checks.
type PoolConfig struct {
	// Backends are the servers at the start, 10,000 at most. Empty is allowed:
	// then there is no backend to pick until Set.
	Backends []BackendConfig
	// Strategy chooses among the backends. Nil means LeastRequest.
	Strategy Strategy
	// Health turns active checks on. Nil means none: every backend counts as
	// healthy.
	Health *HealthCheck
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
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("lb: PoolConfig.%s is negative (%d), want 0 for the default or more", d.name, d.value))
		}
	}
	if c.Health != nil {
		errs = append(errs, c.Health.validate())
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
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
	}
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

// Pool is a set of backends, their health and the connections to them. Create
// it with [NewPool]; it must be closed. It is safe for concurrent use, and Pick
// takes no lock beyond what the strategy takes.
//
// Requests go to the healthy backends. If there is none, they go to those that
// are not known yet; if there is none either, to all that do not drain, since a
// request that may fail is better than one that must.
type Pool struct {
	conf   PoolConfig
	checks *http.Transport // nil without health checks
	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the goroutines of the checks

	now atomic.Pointer[snapshot]

	mu        sync.Mutex // guards the rest, and the fields of a Backend that say so
	backends  []*Backend
	closed    bool
	pending   []StateChange
	notifying bool
}

// snapshot is what Pick needs. It does not change.
type snapshot struct {
	picker   Picker   // nil: nobody may get a request
	observer Observer // nil: the picker does not ask
	err      error    // what Pick returns if picker is nil
}

// NewPool returns a pool whose checks run. The error joins every mistake in
// conf.
func NewPool(conf PoolConfig) (*Pool, error) {
	err := conf.validate()
	parsed, parseErr := parseBackends(conf.Backends)
	if err = errors.Join(err, parseErr); err != nil {
		return nil, err
	}
	conf.setDefaults()
	conf.Backends = nil
	p := &Pool{conf: conf}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if conf.Health != nil {
		p.checks = p.newTransport()
		p.checks.DisableKeepAlives = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replace(parsed)
	return p, nil
}

// parsedBackend is a BackendConfig that was found right.
type parsedBackend struct {
	BackendConfig
	url *url.URL
}

func parseBackends(configs []BackendConfig) ([]parsedBackend, error) {
	if len(configs) > maxBackends {
		return nil, fmt.Errorf("lb: %d backends, want %d at most", len(configs), maxBackends)
	}
	var errs []error
	out := make([]parsedBackend, len(configs))
	seen := make(map[string]int, len(configs))
	for i, c := range configs {
		c, u, err := c.parse()
		if err != nil {
			errs = append(errs, fmt.Errorf("lb: backend %d: %w", i, err))
			continue
		}
		if first, ok := seen[c.ID]; ok {
			errs = append(errs, fmt.Errorf("lb: backend %d: ID is %q, which is backend %d's, want a unique one", i, c.ID, first))
		}
		seen[c.ID] = i
		out[i] = parsedBackend{c, u}
	}
	return out, errors.Join(errs...)
}

// Set replaces the backends by a whole new set, or by none of it if there is an
// error. A backend whose ID and URL stay keeps its connections, statistics,
// health and drain; its weight may change. One that goes gets no new requests,
// and those it has go on.
func (p *Pool) Set(backends []BackendConfig) error {
	parsed, err := parseBackends(backends)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	p.replace(parsed)
	return nil
}

// replace needs p.mu.
func (p *Pool) replace(parsed []parsedBackend) {
	old := make(map[string]*Backend, len(p.backends))
	for _, b := range p.backends {
		old[b.id] = b
	}
	next := make([]*Backend, len(parsed))
	for i, c := range parsed {
		b := old[c.ID]
		if b != nil && *b.url == *c.url {
			delete(old, c.ID)
		} else {
			b = p.add(c)
		}
		b.weight.Store(int64(c.Weight))
		next[i] = b
	}
	for _, b := range old {
		b.remove()
	}
	p.backends = next
	p.publish()
}

// add needs p.mu.
func (p *Pool) add(c parsedBackend) *Backend {
	b := &Backend{id: c.ID, url: c.url, transport: p.newTransport(), since: time.Now()}
	if p.conf.Health == nil {
		b.health.Store(int32(Healthy))
		return b
	}
	ctx, cancel := context.WithCancel(p.ctx)
	b.stopChecks = cancel
	p.wg.Go(func() { p.keepChecking(ctx, b) })
	return b
}

// remove needs the pool's mutex.
func (b *Backend) remove() {
	b.removed = true
	if b.stopChecks != nil {
		b.stopChecks()
	}
	// Connections that are in use now are closed when they fall idle.
	b.transport.CloseIdleConnections()
}

// publish makes the snapshot of the moment. It needs p.mu.
func (p *Pool) publish() {
	var tiers [Unhealthy + 1][]*Backend
	for _, b := range p.backends {
		if s := b.State(); s != Draining {
			tiers[s] = append(tiers[s], b)
		}
	}
	s := &snapshot{err: ErrNoBackend}
	for _, state := range []State{Healthy, Unknown, Unhealthy} {
		if len(tiers[state]) > 0 {
			s.picker = p.conf.Strategy.Build(tiers[state])
			s.observer, _ = s.picker.(Observer)
			break
		}
	}
	p.now.Store(s)
}

// Pick chooses a backend for a request and counts the request as in flight
// until the result's Done. [Proxy] calls it; so may others who send requests to
// backends. The error is [ErrNoBackend] or [ErrClosed].
func (p *Pool) Pick(info PickInfo) (Picked, error) {
	s := p.now.Load()
	if s.picker == nil {
		return Picked{}, s.err
	}
	b := s.picker.Pick(info)
	if b == nil || info.HasTried(b) {
		return Picked{}, ErrNoBackend
	}
	b.inFlight.Add(1)
	b.requests.Add(1)
	return Picked{backend: b, pool: p, observer: s.observer}, nil
}

// Status describes all backends, in the order in which they were set.
func (p *Pool) Status() []BackendStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]BackendStatus, len(p.backends))
	for i, b := range p.backends {
		out[i] = b.status()
	}
	return out
}

// Drain keeps new requests from a backend; those it has go on, and its checks
// too. It stays so, through Set as well, until Resume. An ID that is not in the
// pool is an error.
func (p *Pool) Drain(id string) error { return p.setDraining(id, true) }

// Resume ends a drain. An ID that is not in the pool is an error.
func (p *Pool) Resume(id string) error { return p.setDraining(id, false) }

func (p *Pool) setDraining(id string, drain bool) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	i := slices.IndexFunc(p.backends, func(b *Backend) bool { return b.id == id })
	if i < 0 {
		p.mu.Unlock()
		return fmt.Errorf("lb: no backend %q in the pool", id)
	}
	b := p.backends[i]
	from := b.State()
	b.draining.Store(drain)
	p.changed(b, from, nil)
	p.mu.Unlock()
	p.notify()
	return nil
}

// Close ends the checks, the idle connections and the connections that were
// upgraded, which no Shutdown of an http.Server would end. Requests in flight go
// on; there are no new ones. It is idempotent.
func (p *Pool) Close() error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		for _, b := range p.backends {
			b.remove()
		}
		p.now.Store(&snapshot{err: ErrClosed})
		p.cancel()
	}
	p.mu.Unlock()
	p.wg.Wait()
	if p.checks != nil {
		p.checks.CloseIdleConnections()
	}
	return nil
}

// setHealth needs p.mu.
func (p *Pool) setHealth(b *Backend, to State, err error) {
	from := b.State()
	b.health.Store(int32(to))
	if to == Healthy {
		b.lastErr.Store(nil)
	}
	p.changed(b, from, err)
}

// changed publishes what b's state has become, if it is another than from, and
// queues the news. It needs p.mu.
func (p *Pool) changed(b *Backend, from State, err error) {
	to := b.State()
	if from == to {
		return
	}
	b.since = time.Now()
	p.publish()
	p.pending = append(p.pending, StateChange{Backend: b.id, From: from, To: to, Err: err, Time: b.since})
}

// notify tells of the changes that are queued. It holds no lock while it does,
// so that the hook may call the pool's methods; a call that comes while another
// is telling leaves its news to that one, which keeps their order.
func (p *Pool) notify() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.notifying {
		return
	}
	p.notifying = true
	defer func() { p.notifying = false }()
	for len(p.pending) > 0 {
		news := p.pending
		p.pending = nil
		p.tell(news)
	}
}

// tell gives up p.mu and takes it again, also if the hook panics.
func (p *Pool) tell(news []StateChange) {
	p.mu.Unlock()
	defer p.mu.Lock()
	for _, c := range news {
		level := slog.LevelInfo
		if c.To == Unhealthy {
			level = slog.LevelWarn
		}
		attrs := []slog.Attr{slog.String("backend", c.Backend), slog.String("from", c.From.String()), slog.String("to", c.To.String())}
		if c.Err != nil {
			attrs = append(attrs, slog.Any("err", c.Err))
		}
		p.conf.Logger.LogAttrs(context.Background(), level, "lb: backend changed", attrs...)
		if p.conf.OnStateChange != nil {
			p.conf.OnStateChange(c)
		}
	}
}
