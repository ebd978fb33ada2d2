package acme

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// lookAgain is how often the storage is looked at for what other processes of
// the cluster did, unless a certificate's life is so short that a tenth of it is
// less.
const lookAgain = time.Hour

// lookMissing is the same for a name that has no certificate.
const lookMissing = time.Minute

// kept is a name whose certificate is kept valid.
type kept struct {
	name    string
	current atomic.Pointer[held] // nil until there is a certificate
	lastErr atomic.Pointer[error]
	ready   chan struct{} // closed once there is a valid certificate
	once    sync.Once
	kick    chan struct{}        // has the keeper look at once
	looked  atomic.Int64         // at the storage by a handshake, in Unix nanoseconds
	unsaved atomic.Pointer[held] // issued, but the storage did not take it

	// The rest is the keeper's.
	failures int
	retry    time.Time // after a failure: no attempt before
	look     time.Time // when to look at the storage
	warned   *held     // that its certificate expires
	demanded bool      // on demand: given up when it expires
}

func newKept(name string) *kept {
	return &kept{name: name, ready: make(chan struct{}), kick: make(chan struct{}, 1)}
}

// take serves what was found in the storage, unless it is older than what is
// served already. The one issued last counts, which need not be the one that
// expires last.
func (k *kept) take(h *held) {
	if old := k.current.Load(); old == nil || h.leaf().NotBefore.After(old.leaf().NotBefore) {
		k.serve(h)
	}
}

func (k *kept) serve(h *held) {
	k.current.Store(h)
	if !h.expired(time.Now()) {
		k.once.Do(func() { close(k.ready) })
	}
}

// wake has the keeper look at once.
func (k *kept) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// keep looks after a name until the Source is closed, or the certificate of a
// name on demand has expired and there is no other.
func (s *Source) keep(k *kept) {
	for {
		wait := s.tend(k)
		if h := k.current.Load(); k.demanded && h != nil && h.expired(time.Now()) && k.failures > 0 {
			s.demand.drop(k.name)
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-k.kick:
		case <-s.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// tend does what is due and returns how long there is nothing to do.
func (s *Source) tend(k *kept) time.Duration {
	now := time.Now()
	h := k.current.Load()
	if h == nil || !now.Before(h.plan().at) || !now.Before(k.look) {
		// Somebody else may have renewed it, and the storage is cheap to ask.
		if stored, err := s.load(s.ctx, k.name); err == nil {
			k.take(stored)
		} else if errors.Is(err, errDamaged) {
			s.conf.Logger.Warn("acme: certificate in the storage cannot be used", "name", k.name, "err", err)
		}
		k.look = now.Add(lookMissing)
		if h = k.current.Load(); h != nil {
			k.look = now.Add(min(lookAgain, lifeOf(h.leaf())/10))
		}
	}
	if late := k.unsaved.Load(); late != nil {
		s.saveLate(k, late)
	}
	if h != nil && now.Before(h.plan().at) {
		k.failures, k.retry = 0, time.Time{}
		if r := h.plan(); !now.Before(r.ask) {
			s.ask(h)
		}
		r := h.plan()
		return time.Until(earliest(k.look, r.at, r.ask))
	}
	if now.Before(k.retry) {
		return time.Until(earliest(k.look, k.retry))
	}
	err := s.attempt(k)
	if err == nil {
		k.failures, k.retry = 0, time.Time{}
		return 0
	}
	if s.ctx.Err() != nil {
		return time.Hour
	}
	return s.fail(k, err)
}

func earliest(times ...time.Time) time.Time { return slices.MinFunc(times, time.Time.Compare) }

// attempt gets a certificate, once in the cluster.
func (s *Source) attempt(k *kept) error {
	limit := attemptMost
	if h := k.current.Load(); h != nil {
		limit = min(limit, max(attemptLeast, time.Until(h.leaf().NotAfter)))
	}
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	return s.withLock(ctx, k.name, func() error {
		stored, err := s.load(ctx, k.name)
		switch {
		case err == nil:
			k.take(stored)
			if h := k.current.Load(); time.Now().Before(h.plan().at) {
				return nil // somebody else was first
			}
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errDamaged):
			return err // what it cannot load it will not store either
		}
		replaces := k.current.Load()
		if k.failures%3 == 2 {
			replaces = nil // in case the authority stumbles over that
		}
		h, err := s.obtain(ctx, k.name, replaces)
		if err != nil {
			return err
		}
		s.issued(k, h)
		if err := s.save(ctx, k.name, h); err != nil {
			k.unsaved.Store(h)
			s.conf.Logger.Warn("acme: a new certificate is served, but not stored yet", "name", k.name, "err", err)
		}
		return nil
	})
}

// issued takes a new certificate and tells about it.
func (s *Source) issued(k *kept, h *held) {
	kind := Obtained
	if k.current.Load() != nil {
		kind = Renewed
	}
	k.serve(h)
	k.failures = 0
	k.unsaved.Store(nil)
	s.conf.Logger.Info("acme: certificate "+kind.String(), "name", k.name, "expires", h.leaf().NotAfter)
	s.tell(Event{Kind: kind, Name: k.name, NotAfter: h.leaf().NotAfter})
}

// saveLate stores a certificate that the storage did not take before, unless it
// has a newer one.
func (s *Source) saveLate(k *kept, late *held) {
	ctx, cancel := context.WithTimeout(s.ctx, attemptLeast)
	defer cancel()
	err := s.withLock(ctx, k.name, func() error {
		stored, err := s.load(ctx, k.name)
		if err == nil && stored.leaf().NotBefore.After(late.leaf().NotBefore) {
			k.take(stored)
			return nil
		}
		return s.save(ctx, k.name, late)
	})
	if err != nil {
		k.look = time.Now().Add(backoff(4, false, 0, 0, rand.Float64()))
		return
	}
	k.unsaved.CompareAndSwap(late, nil)
	s.conf.Logger.Info("acme: the certificate is stored now", "name", k.name)
}

// fail tells about a failure and returns how long to wait.
func (s *Source) fail(k *kept, err error) time.Duration {
	k.failures++
	k.lastErr.Store(&err)
	now := time.Now()
	var life, left time.Duration
	event := Event{Kind: Failed, Name: k.name, Err: err}
	h := k.current.Load()
	if h != nil {
		event.NotAfter = h.leaf().NotAfter
		life, left = lifeOf(h.leaf()), h.leaf().NotAfter.Sub(now)
	}
	wait := backoff(k.failures, refused(err), life, left, rand.Float64())
	s.conf.Logger.Warn("acme: no certificate", "name", k.name, "again_in", wait.Round(time.Millisecond), "err", err)
	s.tell(event)
	if h != nil && k.warned != h && expiring(h.leaf(), now) {
		k.warned = h
		s.conf.Logger.Error("acme: certificate about to expire and not renewed", "name", k.name, "expires", event.NotAfter)
		event.Kind = Expiring
		s.tell(event)
	}
	k.retry = now.Add(wait)
	return min(wait, time.Until(k.look))
}

// lookLeast is how often handshakes look at the storage for a name whose
// certificate has expired, at most.
const lookLeast = time.Second

// valid returns a certificate that has not expired. Only the keeper of a process
// that stood still, or an authority out of reach, lets one expire; then what the
// storage has counts.
func (s *Source) valid(ctx context.Context, k *kept) (*held, error) {
	h, now := k.current.Load(), time.Now()
	if h == nil || !h.expired(now) {
		return h, nil
	}
	k.wake()
	if last := k.looked.Load(); now.UnixNano()-last >= int64(lookLeast) && k.looked.CompareAndSwap(last, now.UnixNano()) {
		if stored, err := s.load(ctx, k.name); err == nil {
			k.take(stored)
		}
	}
	if h = k.current.Load(); !h.expired(time.Now()) {
		return h, nil
	}
	return nil, fmt.Errorf("%w: %s, on %s", ErrExpired, k.name, h.leaf().NotAfter.Format(time.RFC3339))
}
