package acme

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

// challengeALPN is the protocol of TLS-ALPN-01, RFC 8737.
const challengeALPN = "acme-tls/1"

// defaultRestart is how long after certmagic gave up on a name it is tried
// again. It has retried for 30 days by then, unless the storage failed.
const defaultRestart = time.Minute

// ErrClosed is returned by Obtain when the Source is closed.
var ErrClosed = errors.New("acme: source closed")

// Source gets and renews certificates. Create it with [New]; it works from
// Start or Obtain until Close. It is a tlsx.CertSource and safe for concurrent
// use.
type Source struct {
	conf   Config
	cache  *certmagic.Cache
	magic  *certmagic.Config     // obtains and renews
	serve  *certmagic.Config     // answers handshakes, which are not logged
	issuer *certmagic.ACMEIssuer // the first of those asked
	names  map[string]*nameState // immutable
	demand demanded

	restart time.Duration // defaultRestart, but in tests

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
	s := &Source{conf: c, names: make(map[string]*nameState, len(c.Names)), restart: defaultRestart}
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
	s.magic.Issuers = nil // not certmagic's own
	for _, a := range c.authorities() {
		s.magic.Issuers = append(s.magic.Issuers, s.newIssuer(a, logger))
	}
	s.issuer = s.magic.Issuers[0].(*certmagic.ACMEIssuer)
	s.serve.Issuers = s.magic.Issuers
	magic.Store(s.magic)
	return s, nil
}

// email is what certmagic is told. For an empty address it would take one that
// it has seen elsewhere in the process, or, while another node of the cluster
// registers without one, the name of that account's folder ("default"), which no
// authority accepts. A blank is not empty, and certmagic trims it.
func (a Authority) email() string { return cmp.Or(strings.TrimSpace(a.Email), " ") }

// newIssuer makes one of the issuers that certmagic asks in turn.
func (s *Source) newIssuer(a Authority, logger *zap.Logger) *certmagic.ACMEIssuer {
	template := certmagic.ACMEIssuer{
		CA:                      a.Directory,
		Email:                   a.email(),
		Agreed:                  true,
		TrustedRoots:            a.RootCAs,
		Profile:                 a.Profile,
		AltHTTPPort:             s.conf.HTTPPort,
		AltTLSALPNPort:          s.conf.TLSALPNPort,
		DisableHTTPChallenge:    s.conf.DisableHTTPChallenge,
		DisableTLSALPNChallenge: s.conf.DisableTLSALPNChallenge,
		Logger:                  logger,
	}
	if a.Account != nil {
		template.ExternalAccount = &acme.EAB{KeyID: a.Account.KeyID, MACKey: a.Account.MACKey}
	}
	if d := s.conf.DNS; d != nil {
		timeout := max(-1, d.Propagation) // for which certmagic knows one negative value
		template.DNS01Solver = &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{
			DNSProvider: d.Provider, Resolvers: slices.Clone(d.Resolvers), PropagationTimeout: timeout, Logger: logger,
		}}
	}
	return certmagic.NewACMEIssuer(s.magic, template)
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
			s.conf.Logger.Warn("acme: no certificate", "name", name, "again_in", s.restart, "err", err)
		}
		timer := time.NewTimer(s.restart)
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
		s.demand.failed(name, err)
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
// are not configured, or have no certificate yet, it has none; with
// Config.OnDemand, the handshake of a new name waits for one.
func (s *Source) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name, ok := dnsName(hello.ServerName)
	if !ok || !s.covers(name) && s.conf.OnDemand == nil {
		return nil, nil
	}
	challenge := slices.Equal(hello.SupportedProtos, []string{challengeALPN})
	if challenge && (hello.Conn == nil || s.conf.DisableTLSALPNChallenge) {
		return nil, nil
	}
	if !challenge && len(s.cache.AllMatchingCertificates(name)) == 0 {
		if s.covers(name) {
			return nil, nil
		}
		if err := s.onDemand(hello, name); err != nil {
			return nil, err
		}
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

// covers says whether a name is configured, or below a wildcard that is.
func (s *Source) covers(name string) bool {
	if s.names[name] != nil {
		return true
	}
	_, parent, ok := strings.Cut(name, ".")
	return ok && s.names["*."+parent] != nil
}

// Certificates returns the certificates held now, one for each name that has
// one.
func (s *Source) Certificates() []*x509.Certificate {
	var out []*x509.Certificate
	for _, name := range append(s.demand.ready(), s.conf.Names...) {
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
	// Another process of the cluster may be getting one on demand.
	name, ok := dnsName(host)
	return ok && (s.conf.OnDemand != nil || s.names[name] != nil)
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
