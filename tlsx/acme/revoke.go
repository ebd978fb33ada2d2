package acme

import (
	"context"
	"errors"
	"fmt"

	"github.com/mholt/acmez/v3/acme"
)

// Reason says why a certificate is revoked (RFC 5280, section 5.3.1). Public
// authorities accept those below from subscribers.
type Reason int

const (
	// Unspecified is no reason in particular.
	Unspecified Reason = acme.ReasonUnspecified
	// KeyCompromise: somebody else may have the key.
	KeyCompromise Reason = acme.ReasonKeyCompromise
	// Superseded: there is a new certificate.
	Superseded Reason = acme.ReasonSuperseded
	// CessationOfOperation: the name is not in use any more.
	CessationOfOperation Reason = acme.ReasonCessationOfOperation
)

// Revoke gets a new certificate for a name, with a new key, and has the
// authority revoke the one that was served so far. That happens also if there is
// no new one: then the revoked one is served on until the attempts, which go on,
// succeed. A new one that the storage does not take is an error, served all the
// same and stored later. After Close it returns ErrClosed.
func (s *Source) Revoke(ctx context.Context, name string, reason Reason) error {
	normal, ok := certName(name)
	k := s.names[normal]
	if ok && k == nil {
		k = s.demand.ready(normal)
	}
	if k == nil || k.current.Load() == nil {
		return fmt.Errorf("acme: no certificate for %q to revoke", name)
	}
	s.mu.Lock() // nothing starts after Close
	if s.ctx.Err() != nil {
		s.mu.Unlock()
		return ErrClosed
	}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	ctx, cancel := context.WithTimeout(ctx, attemptMost)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	old := k.current.Load()
	var replaced error
	err := s.withLock(ctx, k.name, func() error {
		var h *held
		if h, replaced = s.obtain(ctx, k.name, old); replaced == nil {
			k.serve(h)
			s.conf.Logger.Info("acme: certificate renewed", "name", k.name, "expires", h.leaf().NotAfter)
			s.tell(Event{Kind: Renewed, Name: k.name, NotAfter: h.leaf().NotAfter})
			k.unsaved.Store(nil)
			if replaced = s.save(ctx, k.name, h); replaced != nil {
				k.unsaved.Store(h) // for the keeper to try again
			}
		} else {
			old.revoked.Store(true)
		}
		return s.revoke(ctx, old, reason)
	})
	k.wake()
	if err == nil {
		s.conf.Logger.Info("acme: certificate revoked", "name", k.name, "serial", old.leaf().SerialNumber)
		s.tell(Event{Kind: Revoked, Name: k.name, NotAfter: old.leaf().NotAfter})
	}
	return errors.Join(replaced, err)
}

func (s *Source) revoke(ctx context.Context, h *held, reason Reason) error {
	acct, err := h.from.open(ctx)
	if err != nil {
		return err
	}
	if err := h.from.client.RevokeCertificate(ctx, acct, h.leaf(), nil, int(reason)); err != nil {
		return fmt.Errorf("acme: %s: %w", h.from.Directory, err)
	}
	return nil
}
