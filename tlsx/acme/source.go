package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// challengeALPN is the protocol of TLS-ALPN-01, RFC 8737.
const challengeALPN = "acme-tls/1"

// restart is how long after certmagic gave up on a name it is tried again. It
// has retried for 30 days by then, unless the storage failed.
const restart = time.Minute

// ErrClosed is returned by Obtain when the Source is closed.
var ErrClosed = errors.New("acme: source closed")

// Source gets and renews certificates. Create it with [New]; it works from
// Start or Obtain until Close. It is a tlsx.CertSource and safe for concurrent
// use.
type Source struct {
	conf   Config
	cache  *certmagic.Cache
	magic  *certmagic.Config // obtains and renews
	serve  *certmagic.Config // answers handshakes, which are not logged
	issuer *certmagic.ACMEIssuer
	names  map[string]*nameState // immutable

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	mu      sync.Mutex // guards started, and that nothing starts after Close
	started bool
	closing sync.Once
	running sync.WaitGroup
}

// nameState is how far a name has come.
type nameState struct {
	ready   chan struct{} // closed once there is a certificate
	once    sync.Once
	lastErr atomic.Pointer[error]
}

// New returns a Source, or an error that lists everything wrong with the
// configuration. It does not connect to anyone yet.
func New(c Config) (*Source, error) {
	if err := c.normalise(); err != nil {
		return nil, err
	}
	s := &Source{conf: c, names: make(map[string]*nameState, len(c.Names))}
	for _, name := range c.Names {
		s.names[name] = &nameState{ready: make(chan struct{})}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	logger := zap.New(slogCore{handler: c.Logger.Handler()})
	// The cache starts a goroutine that asks for the configuration, which in
	// turn needs the cache.
	var magic atomic.Pointer[certmagic.Config]
	s.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic.Load(), nil },
		Logger:           logger,
	})
	s.magic = s.newConfig(logger)
	s.magic.OnEvent = s.onEvent
	s.serve = s.newConfig(zap.NewNop())
	s.issuer = certmagic.NewACMEIssuer(s.magic, certmagic.ACMEIssuer{
		CA:                      c.Directory,
		Email:                   c.Email,
		Agreed:                  true,
		TrustedRoots:            c.RootCAs,
		AltHTTPPort:             c.HTTPPort,
		AltTLSALPNPort:          c.TLSALPNPort,
		DisableHTTPChallenge:    c.DisableHTTPChallenge,
		DisableTLSALPNChallenge: c.DisableTLSALPNChallenge,
		Logger:                  logger,
	})
	s.magic.Issuers = []certmagic.Issuer{s.issuer}
	s.serve.Issuers = s.magic.Issuers
	magic.Store(s.magic)
	return s, nil
}

// newConfig fills a configuration so that none of certmagic's package-level
// defaults takes effect.
func (s *Source) newConfig(logger *zap.Logger) *certmagic.Config {
	magic := certmagic.New(s.cache, certmagic.Config{
		RenewalWindowRatio: certmagic.DefaultRenewalWindowRatio,
		KeySource:          certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		Storage:            s.conf.Storage,
		Logger:             logger,
	})
	magic.OnEvent, magic.ShouldEmitFunc, magic.OnDemand, magic.LocalCache = nil, nil, nil, nil
	magic.DefaultServerName, magic.FallbackServerName = "", ""
	return magic
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
	for name, state := range s.names {
		s.running.Go(func() { s.manage(name, state) })
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
		state := s.names[name]
		select {
		case <-state.ready:
			continue
		default:
		}
		if err := state.lastErr.Load(); err != nil {
			errs = append(errs, fmt.Errorf("acme: no certificate for %s: %w", name, *err))
		} else {
			errs = append(errs, fmt.Errorf("acme: no certificate for %s yet", name))
		}
	}
	return errors.Join(errs...)
}

// manage runs until a name has a certificate; from then on certmagic's
// maintenance renews it. certmagic retries by itself, but not when its storage
// fails.
func (s *Source) manage(name string, state *nameState) {
	for {
		err := s.magic.ObtainCertAsync(s.ctx, name) // waits and retries, despite its name
		if err == nil {
			err = s.magic.ManageAsync(s.ctx, []string{name})
		}
		if err != nil && s.ctx.Err() == nil {
			state.lastErr.Store(&err)
			s.conf.Logger.Warn("acme: no certificate", "name", name, "again_in", restart, "err", err)
		}
		timer := time.NewTimer(restart)
		select {
		case <-state.ready:
		case <-s.ctx.Done():
		case <-timer.C:
			continue
		}
		timer.Stop()
		return
	}
}

// onEvent hears from certmagic.
func (s *Source) onEvent(_ context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	renewal, _ := data["renewal"].(bool)
	switch event {
	case "cached_managed_cert":
		names, _ := data["sans"].([]string)
		for _, name := range names {
			if state := s.names[name]; state != nil {
				state.once.Do(func() { close(state.ready) })
			}
		}
	case "cert_obtained":
		kind := Obtained
		if renewal {
			kind = Renewed
		}
		s.conf.Logger.Info("acme: certificate "+kind.String(), "name", name)
		s.tell(Event{Kind: kind, Name: name})
	case "cert_failed":
		err, _ := data["error"].(error)
		if state := s.names[name]; state != nil && err != nil {
			state.lastErr.Store(&err)
		}
		s.tell(Event{Kind: Failed, Name: name, Err: err})
	}
	return nil
}

func (s *Source) tell(e Event) {
	if s.conf.OnEvent != nil {
		s.conf.OnEvent(e)
	}
}

// Certificate implements tlsx.CertSource, and also fits
// tls.Config.GetCertificate. It answers TLS-ALPN-01 challenges. For names that
// are not configured, or have no certificate yet, it has none.
func (s *Source) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name, ok := dnsName(hello.ServerName)
	if !ok || s.names[name] == nil {
		return nil, nil
	}
	challenge := slices.Equal(hello.SupportedProtos, []string{challengeALPN})
	if challenge && (hello.Conn == nil || s.conf.DisableTLSALPNChallenge) {
		return nil, nil
	}
	if !challenge && len(s.cache.AllMatchingCertificates(name)) == 0 {
		return nil, nil
	}
	cert, err := s.serve.GetCertificate(hello)
	if err != nil && challenge {
		return nil, nil // no challenge is on; strangers may ask for one at will
	}
	if err != nil {
		return nil, fmt.Errorf("acme: %w", err)
	}
	return cert, nil
}

// Certificates returns the certificates held now, one for each name that has
// one.
func (s *Source) Certificates() []*x509.Certificate {
	var out []*x509.Certificate
	for _, name := range s.conf.Names {
		for _, c := range s.cache.AllMatchingCertificates(name) {
			out = append(out, c.Leaf)
		}
	}
	return out
}

// HTTPHandler answers HTTP-01 challenges (RFC 8555, section 8.3) for the
// configured names and passes everything else to next.
func (s *Source) HTTPHandler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if certmagic.LooksLikeHTTPChallenge(r) && s.hasHost(r.Host) && s.issuer.HandleHTTPChallenge(w, r) {
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Source) hasHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	name, ok := dnsName(host)
	return ok && s.names[name] != nil
}

// Close ends all attempts and the renewal of certificates, and waits for their
// goroutines. Certificates that are there can still be served. It is
// idempotent, and always returns nil.
func (s *Source) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.cancel()
		s.mu.Unlock()
		s.running.Wait()
		s.cache.Stop()
	})
	return nil
}
