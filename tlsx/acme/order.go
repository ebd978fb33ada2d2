package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

const (
	// attemptLeast and attemptMost bound how long one attempt may take at all
	// authorities together; in between it is what is left of the certificate.
	attemptLeast, attemptMost = 30 * time.Second, 10 * time.Minute
	// ariTimeout is for the question when to renew.
	ariTimeout = 10 * time.Second
	// ariLeast is how often the authority is asked that, at most.
	ariLeast = time.Minute
	// ariUsual is how often it is asked if it does not say.
	ariUsual = 6 * time.Hour
)

// refused says whether an authority said no, as opposed to one that could not be
// reached, is overloaded or lost count of its nonces.
func refused(err error) bool {
	problem, ok := errors.AsType[acme.Problem](err)
	if !ok || problem.Status >= 500 {
		return false
	}
	switch problem.Type {
	case acme.ProblemTypeBadNonce, acme.ProblemTypeServerInternal, acme.ProblemTypeRateLimited:
		return false
	}
	return true
}

// obtain orders a certificate from the authorities in turn.
func (s *Source) obtain(ctx context.Context, name string, replaces *held) (*held, error) {
	if s.staging != nil && replaces == nil {
		if err := s.rehearse(ctx, name); err != nil {
			return nil, err
		}
	}
	var errs []error
	for i, a := range s.authorities {
		h, err := s.obtainFrom(ctx, a, name, replaces, len(s.authorities)-i)
		if err == nil {
			return h, nil
		}
		errs = append(errs, s.explain(a, name, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// rehearse orders a certificate from the staging authority and throws it away.
// Only what it refuses counts: one that cannot be reached is no reason to stay
// without a certificate.
func (s *Source) rehearse(ctx context.Context, name string) error {
	_, err := s.obtainFrom(ctx, s.staging, name, nil, 1+len(s.authorities))
	if refused(err) {
		return fmt.Errorf("acme: staging: %w", s.explain(s.staging, name, err))
	}
	if err != nil {
		s.conf.Logger.Warn("acme: staging could not be asked first", "name", name, "err", err)
	}
	return nil
}

// obtainFrom orders from one of several authorities that are left, and takes its
// share of the time only.
func (s *Source) obtainFrom(ctx context.Context, a *authority, name string, replaces *held, left int) (*held, error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(left))
		defer cancel()
	}
	if err := a.pace.wait(ctx); err != nil {
		return nil, err
	}
	var h *held
	var err error
	for range 2 {
		var acct acme.Account
		if acct, err = a.open(ctx); err != nil {
			break
		}
		h, err = a.order(ctx, acct, name, replaces)
		if problem, ok := errors.AsType[acme.Problem](err); !ok || problem.Type != acme.ProblemTypeAccountDoesNotExist {
			break
		}
		s.conf.Logger.Warn("acme: the authority does not know our account, making a new one", "authority", a.Directory)
		if err = errors.Join(err, a.forget(ctx, acct)); err != nil && ctx.Err() != nil {
			break
		}
	}
	if err != nil && !refused(err) {
		a.transport.CloseIdleConnections() // the next attempt begins with a new one
	}
	return h, err
}

// order is one order (RFC 8555, section 7.4), always for a new key.
func (a *authority) order(ctx context.Context, acct acme.Account, name string, replaces *held) (*held, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := acmez.NewCSR(key, []string{name})
	if err != nil {
		return nil, err
	}
	params, err := acmez.OrderParametersFromCSR(acct, csr)
	if err != nil {
		return nil, err
	}
	params.Profile = a.Profile
	// Renewals that say so are exempt from rate limits (RFC 9773, section 5),
	// but an authority knows its own certificates only.
	if replaces != nil && replaces.meta.CA == a.Directory && replaces.meta.Account == acct.Location {
		params.Replaces = replaces.leaf()
	}
	chains, err := a.client.ObtainCertificate(ctx, params)
	if err != nil {
		return nil, err
	}
	if len(chains) == 0 {
		return nil, fmt.Errorf("acme: %s sent no certificate for %s", a.Directory, name)
	}
	pem, err := certmagic.PEMEncodePrivateKey(key)
	if err != nil {
		return nil, err
	}
	h, err := newHeld(name, a, chains[0].ChainPEM, pem, chains[0])
	if err != nil {
		return nil, fmt.Errorf("acme: %s: %w", a.Directory, err)
	}
	if h.expired(time.Now()) {
		return nil, fmt.Errorf("acme: %s sent a certificate for %s that expired on %s", a.Directory, name, h.leaf().NotAfter.Format(time.RFC3339))
	}
	return h, nil
}

// explain adds to an authority's refusal what can be done about it.
func (s *Source) explain(a *authority, name string, err error) error {
	err = fmt.Errorf("acme: %s: %w", a.Directory, err)
	problem, ok := errors.AsType[acme.Problem](err)
	if !ok || problem.Type != acme.ProblemTypeCAA {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, ariTimeout)
	defer cancel()
	if record, recordErr := s.caaRecord(ctx, a, name); recordErr == nil {
		err = fmt.Errorf("%w; a record that permits it: %s", err, record)
	}
	return err
}

// ask finds out when the authority would like a certificate to be renewed. One
// that cannot be asked, or does not say, leaves the schedule as it is.
func (s *Source) ask(h *held) {
	ctx, cancel := context.WithTimeout(s.ctx, ariTimeout)
	defer cancel()
	now := time.Now()
	info, err := h.from.client.GetRenewalInfo(ctx, h.leaf())
	if err != nil || !info.HasWindow() {
		h.schedule(h.renewal.Load().window, now.Add(ariUsual))
		return
	}
	w := window{info.SuggestedWindow.Start, info.SuggestedWindow.End}
	next := now.Add(ariUsual)
	if info.RetryAfter != nil {
		next = *info.RetryAfter
	}
	if least := now.Add(ariLeast); next.Before(least) {
		next = least
	}
	if most := now.Add(4 * ariUsual); next.After(most) {
		next = most
	}
	before := h.renewal.Load()
	h.schedule(w, next)
	if info.ExplanationURL != "" && before.window != w {
		s.conf.Logger.Info("acme: the authority explains when to renew", "names", strings.Join(h.leaf().DNSNames, ","), "url", info.ExplanationURL)
	}
}
