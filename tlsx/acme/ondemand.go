package acme

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"github.com/palisade-go/palisade/tlsx"
)

// OnDemand gets certificates for names that are not configured, in their first
// handshake, which waits. Anyone can ask for any name, so it is bounded; have
// tlsx.Config.Unknown bound what the asking itself costs. A name whose
// certificate has expired and could not be renewed is forgotten, and decided
// about again.
type OnDemand struct {
	// Decide returns nil for a name that a certificate may be obtained for: one
	// that is known to belong here. It is asked for a new name that Max has room
	// for, and again after a failure; that it let a name in is remembered for a
	// minute, or until there is a certificate. A name that it refused, for
	// whatever reason, tlsx.Config.Unknown remembers for a while. The context
	// ends with the handshake. Nil is an error.
	Decide func(ctx context.Context, name string, remote net.Addr) error
	// Max is how many names there may be besides Config.Names. Zero means 1000.
	Max int
	// PerMinute is for how many names certificates may be ordered in a minute.
	// Those in the storage do not count. Zero means 10.
	PerMinute int
}

var (
	// ErrDenied is wrapped by the error of [Source.Certificate] for a name that
	// OnDemand.Decide refused, beside tlsx.ErrUnknownName and Decide's own.
	ErrDenied = errors.New("acme: no certificate on demand for this name")
	// ErrLimit is wrapped by the error of [Source.Certificate] for a name beyond
	// the limits of OnDemand.
	ErrLimit = errors.New("acme: limit of certificates on demand")
)

// deniedError is why OnDemand.Decide refused a name.
type deniedError struct{ err error }

func (e *deniedError) Error() string { return ErrDenied.Error() + ": " + e.err.Error() }

// Unwrap says with tlsx.ErrUnknownName that there is no certificate, and will be
// none for now.
func (e *deniedError) Unwrap() []error { return []error{ErrDenied, tlsx.ErrUnknownName, e.err} }

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

// bounds are the limits with their defaults.
func (o *OnDemand) bounds() (most, perMinute int) {
	return cmp.Or(o.Max, 1000), cmp.Or(o.PerMinute, 10)
}

// onDemand returns when there is a certificate for a name, or why there is none.
func (s *Source) onDemand(ctx context.Context, hello *tls.ClientHelloInfo, name string) error {
	d := s.demand.find(name, time.Now())
	if d == nil {
		if s.ctx.Err() != nil {
			return ErrClosed
		}
		if err := s.letIn(ctx, hello, name); err != nil {
			return err
		}
		stored, err := s.load(ctx, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errDamaged) {
			return err
		}
		if d, err = s.startDemand(name, stored); err != nil {
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

// letIn returns nil for a name that Decide lets in, or has let in lately, and that
// no limit keeps out for now.
func (s *Source) letIn(ctx context.Context, hello *tls.ClientHelloInfo, name string) error {
	decided, err := s.demand.wait(name, s.conf.OnDemand, time.Now())
	if decided || err != nil {
		return err
	}
	var remote net.Addr
	if hello.Conn != nil {
		remote = hello.Conn.RemoteAddr()
	}
	if err := s.conf.OnDemand.Decide(ctx, name, remote); err != nil {
		if ctx.Err() != nil { // which refuses nobody: a client cannot have others refused by going away
			return fmt.Errorf("acme: %s: %w", name, context.Cause(ctx))
		}
		return &deniedError{err}
	}
	s.demand.remember(name, s.conf.OnDemand, time.Now())
	return nil
}

// startDemand begins to get a certificate, unless somebody else has meanwhile or
// a limit is reached. What the cluster has stored already takes no order.
func (s *Source) startDemand(name string, stored *held) (*demand, error) {
	now := time.Now()
	s.mu.Lock() // before the other: nothing starts after Close
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, ErrClosed
	}
	state, fresh, err := s.demand.admit(name, stored != nil, s.conf.OnDemand, now)
	if err != nil || !fresh {
		return state, err
	}
	s.running.Go(func() { s.getOnDemand(state, stored) })
	return state, nil
}

// getOnDemand tries once, and then keeps what it got. It is not bound to the
// handshake: other handshakes wait, too.
func (s *Source) getOnDemand(d *demand, stored *held) {
	if stored != nil {
		d.take(stored)
	}
	if h := d.current.Load(); h == nil || h.expired(time.Now()) {
		if err := s.attempt(d.kept); err != nil {
			s.fail(d.kept, err)
			d.err, d.until = fmt.Errorf("acme: on demand: %w", err), time.Now().Add(demandRetry)
			close(d.done)
			return
		}
	}
	close(d.done)
	s.keep(d.kept)
}
