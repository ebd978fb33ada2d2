package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Pool is a set of backends, their health and the connections to them. Create
// it with [NewPool]; it must be closed. It is safe for concurrent use, and Pick
// takes no lock beyond what the strategy takes.
//
// Requests go to the healthy backends. If there is none, they go to those that
// are not known yet; if there is none either, to those that are ejected, and at
// last to the unhealthy ones, since a request that may fail is better than one
// that must.
//
// Backends of a lower Priority, and within it those of the pool's own Zone, come
// first. As long as some 70 % of them are healthy they get all requests; below,
// the ones that come next get a share that grows with what is missing, so that
// those that are left are not overrun.
type Pool struct {
	conf   PoolConfig
	checks *http.Transport // nil without health checks
	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the goroutines

	now   atomic.Pointer[snapshot]
	byID  sync.Map // from ID to *Backend
	queue queue
	// measuring is until when, in Unix nanoseconds, a backend may be measured for
	// its adaptive limit and no other.
	measuring atomic.Int64

	mu        sync.Mutex // guards the rest, and the fields of a Backend that say so
	backends  []*Backend
	closed    bool
	step      *time.Timer // of a slow start; nil if nobody is in it
	pending   []StateChange
	notifying bool
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
	if conf.MaxInFlight > 0 || conf.AdaptiveLimit != nil {
		p.queue.most = max(0, conf.MaxQueue)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if conf.Health != nil {
		if p.checks = p.newTransport(); conf.Health.Probe == ProbeGRPC {
			p.checks = p.newGRPCTransport()
		}
		p.checks.DisableKeepAlives = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replace(parsed)
	if p.conf.Outlier != nil {
		p.wg.Go(p.keepComparing)
	}
	if p.conf.Resolver != nil {
		p.wg.Go(p.keepResolving)
	}
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

// Upsert adds backends, or changes those whose ID is in the pool already, as Set
// does, and leaves the others alone. If there is an error, nothing is changed.
func (p *Pool) Upsert(backends ...BackendConfig) error {
	parsed, err := parseBackends(backends)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	next := slices.Clone(p.backends)
	place := make(map[string]int, len(next))
	for i, b := range next {
		place[b.id] = i
	}
	for _, c := range parsed {
		if _, ok := place[c.ID]; !ok {
			place[c.ID] = len(next)
			next = append(next, nil)
		}
	}
	if len(next) > maxBackends {
		return fmt.Errorf("lb: %d backends, want %d at most", len(next), maxBackends)
	}
	for _, c := range parsed {
		i := place[c.ID]
		if old := next[i]; old == nil || !old.take(c) {
			next[i] = p.add(c)
			if old != nil {
				p.drop(old)
			}
		}
	}
	p.backends = next
	p.publish()
	return nil
}

// Remove takes backends out of the pool. They get no new requests, and those
// they have go on. An ID that is not in the pool is an error, and then nothing
// is changed.
func (p *Pool) Remove(ids ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	var errs []error
	for _, id := range ids {
		if _, err := p.find(id); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	next := make([]*Backend, 0, len(p.backends))
	for _, b := range p.backends {
		if slices.Contains(ids, b.id) {
			p.drop(b)
		} else {
			next = append(next, b)
		}
	}
	p.backends = next
	p.publish()
	return nil
}

// find needs p.mu.
func (p *Pool) find(id string) (*Backend, error) {
	i := slices.IndexFunc(p.backends, func(b *Backend) bool { return b.id == id })
	if i < 0 {
		return nil, fmt.Errorf("lb: no backend %q in the pool", id)
	}
	return p.backends[i], nil
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
		if b != nil && b.take(c) {
			delete(old, c.ID)
		} else {
			b = p.add(c)
		}
		next[i] = b
	}
	for _, b := range old {
		p.drop(b)
	}
	p.backends = next
	p.publish()
}

// take makes b what c describes, unless that is another server. It needs the
// pool's mutex.
func (b *Backend) take(c parsedBackend) bool {
	if *b.url != *c.url {
		return false
	}
	b.share, b.priority, b.zone = c.Weight, c.Priority, c.Zone
	return true
}

// add needs p.mu.
func (p *Pool) add(c parsedBackend) *Backend {
	b := &Backend{id: c.ID, url: c.url, transport: p.newBackendTransport(c.url), since: time.Now()}
	b.limit.Store(int64(p.conf.MaxInFlight))
	if p.conf.AdaptiveLimit != nil {
		b.limiter = newLimiter(*p.conf.AdaptiveLimit)
		b.limit.Store(int64(p.conf.AdaptiveLimit.Start))
	}
	b.take(c)
	p.byID.Store(b.id, b)
	if p.conf.Health == nil {
		b.health.Store(int32(Healthy))
		if len(p.backends) > 0 {
			p.warmUp(b)
		}
		return b
	}
	ctx, cancel := context.WithCancel(p.ctx)
	b.stopChecks = cancel
	p.wg.Go(func() { p.keepChecking(ctx, b) })
	return b
}

// drop needs p.mu.
func (p *Pool) drop(b *Backend) {
	b.removed = true
	p.byID.CompareAndDelete(b.id, b)
	if b.stopChecks != nil {
		b.stopChecks()
	}
	if b.conduct.back != nil {
		b.conduct.back.Stop()
	}
	// Connections that are in use now are closed when they fall idle.
	b.transport.CloseIdleConnections()
}

// Pick chooses a backend for a request and counts the request as in flight
// until the result's Done. It does not wait: if all backends have as many
// requests as MaxInFlight or AdaptiveLimit allow, the error is [ErrBusy]. It may also
// be [ErrNoBackend] or [ErrClosed].
func (p *Pool) Pick(info PickInfo) (Picked, error) {
	s := p.now.Load()
	if s.err != nil {
		return Picked{}, s.err
	}
	b, observer := s.pick(info)
	if b == nil {
		return Picked{}, ErrNoBackend
	}
	if !b.acquire() {
		return p.pickRoom(s, info, b, observer)
	}
	return Picked{backend: b, pool: p, observer: observer}, nil
}

// pickByID chooses a certain backend, past the strategy. The error is ErrBusy if
// that one is.
func (p *Pool) pickByID(id string, info PickInfo) (Picked, error) {
	v, ok := p.byID.Load(id)
	if !ok || p.now.Load().err != nil {
		return Picked{}, ErrNoBackend
	}
	b := v.(*Backend)
	// Unknown is taken too, lest a balancer that starts sends everyone elsewhere.
	if s := b.State(); s != Healthy && s != Unknown || info.HasTried(b) {
		return Picked{}, ErrNoBackend
	}
	if !b.acquire() {
		return Picked{}, ErrBusy
	}
	return Picked{backend: b, pool: p}, nil
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
	b, err := p.find(id)
	if err != nil {
		p.mu.Unlock()
		return err
	}
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
			p.drop(b)
		}
		if p.step != nil {
			p.step.Stop()
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
	if to == Healthy {
		p.warmUp(b)
	}
	p.publish()
	p.pending = append(p.pending, StateChange{Backend: b.id, From: from, To: to, Circuit: b.conduct.circuit(), Err: err, Time: b.since})
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
