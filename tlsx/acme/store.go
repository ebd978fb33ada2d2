package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// held is a certificate with its key. Only its renewal changes.
type held struct {
	pair    tls.Certificate
	from    *authority
	meta    acme.Certificate // what the authority said about it
	chain   []byte           // PEM
	key     []byte           // PEM
	lot     float64          // drawn for the time of its renewal
	renewal atomic.Pointer[renewal]
	revoked atomic.Bool // to be replaced at once, whatever the schedule says
}

// renewal is when a certificate is to be renewed.
type renewal struct {
	at     time.Time
	window window    // of the authority, zero without
	ask    time.Time // when to ask it again
}

func (h *held) leaf() *x509.Certificate { return h.pair.Leaf }

func (h *held) expired(now time.Time) bool { return now.After(h.leaf().NotAfter) }

// newHeld checks what an authority or the storage gave us for a name.
func newHeld(name string, from *authority, chain, key []byte, meta acme.Certificate) (*held, error) {
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, err
		}
	}
	if covered := slices.Contains(pair.Leaf.DNSNames, name) || pair.Leaf.VerifyHostname(name) == nil; !covered {
		return nil, fmt.Errorf("certificate for %v, not for %s", pair.Leaf.DNSNames, name)
	}
	h := &held{pair: pair, from: from, meta: meta, chain: chain, key: key, lot: rand.Float64()}
	h.schedule(window{}, time.Now())
	return h, nil
}

// plan is when to renew the certificate.
func (h *held) plan() *renewal {
	r := h.renewal.Load()
	if h.revoked.Load() {
		return &renewal{at: h.leaf().NotBefore, window: r.window, ask: r.ask}
	}
	return r
}

// schedule sets the time of renewal from the authority's window.
func (h *held) schedule(w window, ask time.Time) {
	h.renewal.Store(&renewal{at: renewAt(h.leaf(), w, h.lot), window: w, ask: ask})
}

// sitePlaces are the keys of a certificate as certmagic has them.
type sitePlaces struct{ key, cert, meta string }

func placesOf(a *authority, name string) sitePlaces {
	keys := certmagic.StorageKeys
	return sitePlaces{keys.SitePrivateKey(a.key, name), keys.SiteCert(a.key, name), keys.SiteMeta(a.key, name)}
}

// errDamaged is what the storage has but nobody can use, such as a certificate
// with another's key. It counts like nothing.
var errDamaged = errors.New("acme: stored certificate is damaged")

// load returns the newest certificate in the storage, of any authority. Without
// one, errors.Is(err, fs.ErrNotExist).
func (s *Source) load(ctx context.Context, name string) (*held, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	var newest *held
	var errs []error
	for _, a := range s.authorities {
		h, err := s.loadFrom(ctx, a, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case newest == nil || h.leaf().NotBefore.After(newest.leaf().NotBefore):
			newest = h
		}
	}
	if newest != nil {
		return newest, nil
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return nil, fmt.Errorf("acme: no certificate for %s in the storage: %w", name, fs.ErrNotExist)
}

func (s *Source) loadFrom(ctx context.Context, a *authority, name string) (*held, error) {
	places := placesOf(a, name)
	var parts [3][]byte
	for i, place := range []string{places.key, places.cert, places.meta} {
		data, err := s.conf.Storage.Load(ctx, place)
		if err != nil {
			return nil, fmt.Errorf("acme: %s: %w", place, err)
		}
		parts[i] = data
	}
	var resource certmagic.CertificateResource
	var meta acme.Certificate
	if err := json.Unmarshal(parts[2], &resource); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errDamaged, places.meta, err)
	}
	if len(resource.IssuerData) > 0 {
		if err := json.Unmarshal(resource.IssuerData, &meta); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errDamaged, places.meta, err)
		}
	}
	h, err := newHeld(name, a, parts[1], parts[0], meta)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errDamaged, places.cert, err)
	}
	return h, nil
}

// save stores a certificate. The three values cannot be stored as one: when one
// fails, those before it are put back as they were, as well as that can be done.
func (s *Source) save(ctx context.Context, name string, h *held) error {
	data, err := json.Marshal(h.meta)
	if err != nil {
		return err
	}
	meta, err := json.MarshalIndent(certmagic.CertificateResource{SANs: []string{name}, IssuerData: data}, "", "\t")
	if err != nil {
		return err
	}
	places := placesOf(h.from, name)
	type change struct {
		place    string
		old, new []byte
	}
	changes := []change{{places.key, nil, h.key}, {places.cert, nil, h.chain}, {places.meta, nil, meta}}
	for i := range changes {
		if changes[i].old, err = s.conf.Storage.Load(ctx, changes[i].place); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for i, c := range changes {
		if err = s.conf.Storage.Store(ctx, c.place, c.new); err == nil {
			continue
		}
		for _, c := range changes[:i] {
			if c.old != nil {
				err = errors.Join(err, s.conf.Storage.Store(ctx, c.place, c.old))
			}
		}
		return fmt.Errorf("acme: certificate for %s not stored: %w", name, err)
	}
	return nil
}

// withLock runs do while no other process of the cluster orders for the name.
// The lock is the one that certmagic uses.
func (s *Source) withLock(ctx context.Context, name string, do func() error) (err error) {
	lock := "issue_cert_" + name
	if err := s.conf.Storage.Lock(ctx, lock); err != nil {
		return fmt.Errorf("acme: lock for %s: %w", name, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
		defer cancel()
		if unlockErr := s.conf.Storage.Unlock(ctx, lock); unlockErr != nil {
			s.conf.Logger.Warn("acme: lock not released", "name", name, "err", unlockErr)
		}
	}()
	if leased, ok := s.conf.Storage.(certmagic.LockLeaseRenewer); ok {
		if err := leased.RenewLockLease(ctx, lock, attemptMost); err != nil {
			return fmt.Errorf("acme: lock for %s: %w", name, err)
		}
	}
	return do()
}
