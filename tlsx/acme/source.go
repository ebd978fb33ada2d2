package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

var (
	// ErrClosed is returned by Obtain when the Source is closed.
	ErrClosed = errors.New("acme: source closed")
	// ErrExpired is wrapped by the error of [Source.Certificate] for a name whose
	// certificate has expired and could not be renewed in time.
	ErrExpired = errors.New("acme: certificate expired")
)

// Source gets and renews certificates. Create it with [New]; it works from
// Start or Obtain until Close. It is a tlsx.CertSource and safe for concurrent
// use.
type Source struct {
	conf        Config
	authorities []*authority // in the order in which they are asked
	staging     *authority   // nil without
	names       map[string]*kept
	demand      demanded
	listeners   listeners

	challenges sync.Map // challengeKey to acme.Challenge, those that are on here
	tokens     tokens   // those that are on elsewhere in the cluster
	httpDoor   door
	tlsDoor    door

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	mu      sync.Mutex // guards started, and that nothing starts after Close
	started bool
	running sync.WaitGroup
}

// New returns a Source, or an error that lists everything wrong with the
// configuration. It does not connect to anyone yet.
func New(c Config) (*Source, error) {
	if err := c.normalise(); err != nil {
		return nil, err
	}
	s := &Source{conf: c, names: make(map[string]*kept, len(c.Names))}
	for _, name := range c.Names {
		s.names[name] = newKept(name)
	}
	s.tokens.making = make(chan struct{}, 1)
	s.httpDoor = door{port: c.HTTPPort, serve: serveHTTPDoor}
	s.tlsDoor = door{port: c.TLSALPNPort, serve: serveTLSDoor}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, a := range c.authorities() {
		s.authorities = append(s.authorities, s.newAuthority(a))
	}
	if c.Staging != nil {
		s.staging = s.newAuthority(*c.Staging)
	}
	return s, nil
}

// everyone lists the authorities that may have challenges on.
func (s *Source) everyone() []*authority {
	if s.staging == nil {
		return s.authorities
	}
	return append(slices.Clip(s.authorities), s.staging)
}

// Start begins to obtain certificates for all names, or to load them from the
// storage, and keeps at it in the background. It returns at once, and does
// nothing after the first time or after Close.
func (s *Source) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.ctx.Err() != nil {
		return
	}
	s.started = true
	for _, k := range s.names {
		s.running.Go(func() { s.keep(k) })
	}
}

// Obtain is [Source.Start], and waits until all names have certificates. When
// ctx ends first, the error wraps its cause and the last failure of each name
// that is missing; the attempts go on in the background.
func (s *Source) Obtain(ctx context.Context) error {
	s.Start()
	for _, name := range s.conf.Names {
		select {
		case <-s.names[name].ready:
		case <-s.ctx.Done():
			return ErrClosed
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("acme: %w", context.Cause(ctx)), s.missing())
		}
	}
	return nil
}

// missing says which names have no certificate, and why not if that is known.
func (s *Source) missing() error {
	var errs []error
	for _, name := range s.conf.Names {
		k := s.names[name]
		select {
		case <-k.ready:
			continue
		default:
		}
		if err := k.lastErr.Load(); err != nil {
			errs = append(errs, fmt.Errorf("acme: no certificate for %s: %w", name, *err))
		} else {
			errs = append(errs, fmt.Errorf("acme: no certificate for %s yet", name))
		}
	}
	return errors.Join(errs...)
}

// Certificate implements tlsx.CertSource, and also fits
// tls.Config.GetCertificate. It answers TLS-ALPN-01 challenges. For names that
// are not configured, or have no certificate yet, it has none; with
// Config.OnDemand, the handshake of a new name waits for one. An expired
// certificate is never returned: where there is no other the error wraps
// ErrExpired.
func (s *Source) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name, ok := normalName(hello.ServerName)
	if !ok {
		return nil, nil
	}
	ctx := hello.Context()
	if ctx == nil { // of a hello that came by no handshake
		ctx = s.ctx
	}
	if slices.Equal(hello.SupportedProtos, []string{challengeALPN}) {
		return s.challengeCertificate(ctx, name)
	}
	k := s.find(name)
	if k == nil {
		if _, err := netip.ParseAddr(name); err == nil || s.conf.OnDemand == nil {
			return nil, nil
		}
		if err := s.onDemand(ctx, hello, name); err != nil {
			return nil, err
		}
		if k = s.find(name); k == nil {
			return nil, nil // it was closed meanwhile
		}
	}
	h, err := s.valid(ctx, k)
	if h == nil || err != nil {
		return nil, err
	}
	return &h.pair, nil
}

// find returns the name's own state or that of the wildcard above it, nil for a
// name that there is no certificate for.
func (s *Source) find(name string) *kept {
	if k := s.names[name]; k != nil {
		return k
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		if k := s.names["*."+parent]; k != nil {
			return k
		}
	}
	return s.demand.ready(name)
}

// challengeable says whether a challenge can be on for a configured name.
func (s *Source) challengeable(name string) bool {
	if s.names[name] != nil {
		return true
	}
	return slices.ContainsFunc(s.conf.Names, func(n string) bool { return reverseOf(n) == name })
}

// all lists the names that are kept, those on demand first.
func (s *Source) all() []*kept {
	out := s.demand.all()
	for _, name := range s.conf.Names {
		out = append(out, s.names[name])
	}
	return out
}

// Certificates returns the certificates held now, one for each name that has
// one.
func (s *Source) Certificates() []*x509.Certificate {
	var out []*x509.Certificate
	for _, k := range s.all() {
		if h := k.current.Load(); h != nil {
			out = append(out, h.leaf())
		}
	}
	return out
}

// Renewal says when a certificate that is held will be renewed, and within which
// window the authority suggested that (RFC 9773); the window is zero where it
// did not.
func (s *Source) Renewal(cert *x509.Certificate) (at, start, end time.Time) {
	for _, k := range s.all() {
		if h := k.current.Load(); h != nil && h.leaf().Equal(cert) {
			r := h.plan()
			return r.at, r.window.start, r.window.end
		}
	}
	return at, start, end
}

// Close ends all attempts and the renewal of certificates, and waits for their
// goroutines. Certificates that are there can still be served. It is
// idempotent, and always returns nil.
func (s *Source) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.running.Wait()
	for _, a := range s.everyone() {
		a.transport.CloseIdleConnections()
	}
	return nil
}
