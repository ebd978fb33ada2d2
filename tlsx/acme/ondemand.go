package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
)

// OnDemand gets certificates for names that are not configured, in their first
// handshake, which waits. Anyone can ask for any name, so it is bounded; have
// tlsx.Config.Unknown bound what the asking itself costs.
type OnDemand struct {
	// Decide returns nil for a name that a certificate may be obtained for: one
	// that is known to belong here. It is asked for a new name, and again after
	// a failure. The context ends with the handshake. Nil is an error.
	Decide func(ctx context.Context, name string, remote net.Addr) error
	// Max is how many names there may be besides Config.Names. Zero means 1000.
	Max int
	// PerMinute is for how many names certificates may be ordered in a minute.
	// Those in the storage do not count. Zero means 10.
	PerMinute int
}

var (
	// ErrDenied is wrapped by the error of [Source.Certificate] for a name that
	// OnDemand.Decide refused.
	ErrDenied = errors.New("acme: no certificate on demand for this name")
	// ErrLimit is wrapped by the error of [Source.Certificate] for a name beyond
	// the limits of OnDemand.
	ErrLimit = errors.New("acme: limit of certificates on demand")
)

// demandRetry is how long a name is left alone after a failure.
const demandRetry = time.Minute

func (o *OnDemand) validate() error {
	var errs []error
	if o.Decide == nil {
		errs = append(errs, errors.New("acme: OnDemand.Decide is nil, want a function: without one anyone could order at your cost"))
	}
	if o.Max < 0 || o.PerMinute < 0 {
		errs = append(errs, fmt.Errorf("acme: OnDemand.Max and PerMinute are %d and %d, want nothing negative", o.Max, o.PerMinute))
	}
	return errors.Join(errs...)
}

// demanded are the names that came by handshakes.
type demanded struct {
	mu      sync.Mutex // guards the rest
	names   map[string]*demand
	window  time.Time // the minute of ordered
	ordered int
}

// demand is one name. Its err and until are set before done is closed, and fail
// while it is on its way.
type demand struct {
	fail  atomic.Pointer[context.CancelCauseFunc] // ends the attempt
	done  chan struct{}
	err   error
	until time.Time // after a failure: when to try again
}

// ready lists the names that have certificates.
func (d *demanded) ready() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for name, state := range d.names {
		select {
		case <-state.done:
			if state.err == nil {
				out = append(out, name)
			}
		default:
		}
	}
	return out
}

// onDemand returns when there is a certificate for a name, or why there is none.
func (s *Source) onDemand(hello *tls.ClientHelloInfo, name string) error {
	ctx := hello.Context()
	if ctx == nil { // of a hello that came by no handshake
		ctx = s.ctx
	}
	d := s.demand.find(name, time.Now())
	if d == nil {
		var remote net.Addr
		if hello.Conn != nil {
			remote = hello.Conn.RemoteAddr()
		}
		if err := s.conf.OnDemand.Decide(ctx, name, remote); err != nil {
			return fmt.Errorf("%w: %w", ErrDenied, err)
		}
		var err error
		if d, err = s.startDemand(name, s.stored(ctx, name)); err != nil {
			return err
		}
	}
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return fmt.Errorf("acme: %s: %w", name, context.Cause(ctx))
	case <-s.ctx.Done():
		return ErrClosed
	}
}

// stored says whether the cluster has a certificate already.
func (s *Source) stored(ctx context.Context, name string) bool {
	for _, issuer := range s.magic.Issuers {
		if s.conf.Storage.Exists(ctx, certmagic.StorageKeys.SiteCert(issuer.IssuerKey(), name)) {
			return true
		}
	}
	return false
}

// find returns the state of a name that is there, on its way, or failed lately.
func (d *demanded) find(name string, now time.Time) *demand {
	d.mu.Lock()
	defer d.mu.Unlock()
	state := d.names[name]
	if state == nil || state.over(now) {
		return nil
	}
	return state
}

// over says that a failure is so long ago that the name may be tried again.
func (d *demand) over(now time.Time) bool {
	select {
	case <-d.done:
		return d.err != nil && !now.Before(d.until)
	default:
		return false
	}
}

// startDemand begins to get a certificate, unless somebody else has meanwhile or
// a limit is reached.
func (s *Source) startDemand(name string, stored bool) (*demand, error) {
	limit, perMinute := s.conf.OnDemand.Max, s.conf.OnDemand.PerMinute
	if limit == 0 {
		limit = 1000
	}
	if perMinute == 0 {
		perMinute = 10
	}
	now := time.Now()
	s.mu.Lock() // before the other: nothing starts after Close
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, ErrClosed
	}
	d := &s.demand
	d.mu.Lock()
	defer d.mu.Unlock()
	if state := d.names[name]; state != nil && !state.over(now) {
		return state, nil
	}
	for other, state := range d.names {
		if state.over(now) {
			delete(d.names, other)
		}
	}
	if now.Sub(d.window) >= time.Minute {
		d.window, d.ordered = now, 0
	}
	if len(d.names) >= limit {
		return nil, fmt.Errorf("%w: %d names", ErrLimit, limit)
	}
	if !stored && d.ordered >= perMinute {
		return nil, fmt.Errorf("%w: %d orders in a minute", ErrLimit, perMinute)
	}
	if !stored {
		d.ordered++
	}
	if d.names == nil {
		d.names = make(map[string]*demand)
	}
	state := &demand{done: make(chan struct{})}
	d.names[name] = state
	s.running.Go(func() {
		defer close(state.done)
		if err := s.getOnDemand(name, state); err != nil {
			state.err, state.until = fmt.Errorf("acme: on demand: %w", err), time.Now().Add(demandRetry)
			s.conf.Logger.Warn("acme: no certificate on demand", "name", name, "err", err)
		}
	})
	return state, nil
}

// getOnDemand tries once; certmagic's maintenance renews what it got. It is not
// bound to the handshake: other handshakes wait, too.
func (s *Source) getOnDemand(name string, d *demand) error {
	ctx, cancel := context.WithTimeout(s.ctx, 3*time.Minute)
	defer cancel()
	// Of certmagic's two ways one retries for a month and the other may ask on
	// the terminal for an email address. So the first is ended by a failure,
	// which it reports as an event.
	attempt, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	d.fail.Store(&fail)
	if err := s.magic.ObtainCertAsync(attempt, name); err != nil {
		if cause := context.Cause(attempt); cause != nil {
			err = cause
		}
		return err
	}
	_, err := s.magic.CacheManagedCertificate(ctx, name)
	return err
}

// failed ends the attempt for a name, if one is on.
func (d *demanded) failed(name string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if state := d.names[name]; state != nil {
		if fail := state.fail.Load(); fail != nil {
			(*fail)(err)
		}
	}
}
