package tlsx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a [Terminator] serves.
type Config struct {
	// Certs are asked for a certificate in this order; the first that has one
	// serves it. Empty is an error.
	Certs []CertSource
	// Policies say how. Empty means one policy without names: every name that
	// a source has a certificate for, Intermediate, no client authentication.
	Policies []Policy
	// Tickets shares session ticket keys with other Terminators whose policies
	// have the same IDs. Nil keeps them to this one.
	Tickets *SharedTickets
	// ECH hides the names that clients ask for. Nil does not.
	ECH *ECH
	// Unknown bounds what names cost that no source has. Nil asks the sources
	// every time.
	Unknown *UnknownNames
	// OnReject, if not nil, is called for each handshake that a policy refuses,
	// with the normal form of the name asked for. It must not block. What
	// crypto/tls refuses by itself, such as a client certificate of another
	// authority, is not among them.
	OnReject func(name string, remote net.Addr, err error)
	// OnCert, if not nil, is called when something happens to a certificate of a
	// source that tells: those of this package do, and that of tlsx/acme. It must
	// not block, may be called from several goroutines at once, and is called for
	// as long as the source exists.
	OnCert func(CertEvent)
	// Logger gets changes of state. Nil means slog.Default().
	Logger *slog.Logger
}

// Terminator accepts TLS under a list of policies. Create it with [New]. It is
// safe for concurrent use.
type Terminator struct {
	certs    []CertSource
	policies []*servedPolicy
	table    policyTable
	onReject func(string, net.Addr, error)
	logger   *slog.Logger
	tickets  *ticketKeys
	ech      *echKeys      // nil without
	unknown  *unknownNames // nil without
}

// servedPolicy is a policy with its present generation.
type servedPolicy struct {
	Policy
	mu  sync.Mutex // serialises the making of generations
	now atomic.Pointer[generation]
}

// generation is a policy compiled for one set of authorities and one period of
// ticket keys. It never changes.
type generation struct {
	roots  *Roots // nil without client authentication
	epoch  *ticketEpoch
	config *tls.Config
}

var (
	// ErrUnknownName is given to OnReject for a name that no policy covers or
	// that no source has a certificate for; where a source said why, it is wrapped
	// by that error. The client gets the alert unrecognized_name.
	ErrUnknownName = errors.New("tlsx: no policy and certificate for this name")
	// ErrUnauthorized is wrapped by the error given to OnReject when a client's
	// certificate is valid but Authorize refused it.
	ErrUnauthorized = errors.New("tlsx: client not authorized")
	// ErrRevoked is wrapped by the error given to OnReject when a client's
	// certificate, or one above it, has been revoked.
	ErrRevoked = errors.New("tlsx: certificate revoked")
)

// New returns a Terminator, or an error that lists everything wrong with the
// configuration.
func New(c Config) (*Terminator, error) {
	if len(c.Policies) == 0 {
		c.Policies = []Policy{{}}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	table, err := newPolicyTable(c.Policies)
	if len(c.Certs) == 0 || slices.Contains(c.Certs, nil) {
		err = errors.Join(fmt.Errorf("tlsx: Config.Certs is %v, want at least one source and none that is nil", c.Certs), err)
	}
	if c.Tickets != nil {
		err = errors.Join(err, c.Tickets.validate())
	}
	if c.ECH != nil {
		err = errors.Join(err, c.ECH.validate())
	}
	if c.Unknown != nil {
		err = errors.Join(err, c.Unknown.validate())
	}
	if err != nil {
		return nil, err
	}
	t := &Terminator{
		certs:    slices.Clone(c.Certs),
		table:    table,
		onReject: c.OnReject,
		logger:   c.Logger,
		tickets:  newTicketKeys(c.Tickets, c.Logger),
		ech:      newECHKeys(c.ECH),
		unknown:  newUnknownNames(c.Unknown),
	}
	for _, p := range c.Policies {
		p.Names, p.ALPN = slices.Clone(p.Names), slices.Clone(p.ALPN)
		if p.ALPN == nil {
			p.ALPN = []string{"h2", "http/1.1"}
		}
		if p.Client != nil {
			client := *p.Client
			p.Client = &client
		}
		s := &servedPolicy{Policy: p}
		if _, err := t.generationOf(s); err != nil {
			return nil, err
		}
		t.policies = append(t.policies, s)
	}
	for _, s := range c.Certs {
		if n, ok := s.(notifier); ok && c.OnCert != nil {
			n.Notify(c.OnCert)
		}
	}
	return t, nil
}

// ServerConfig returns the configuration for a server. It may be given to any
// number of servers; it must not be modified.
func (t *Terminator) ServerConfig() *tls.Config {
	c := emptyConfig()
	c.NextProtos = []string{"h2", "http/1.1"}
	c.GetConfigForClient = t.configFor
	t.ech.apply(c)
	return c
}

// Listener returns a listener that accepts TLS on ln.
func (t *Terminator) Listener(ln net.Listener) net.Listener {
	return tls.NewListener(ln, t.ServerConfig())
}

// emptyConfig has no certificate, which makes crypto/tls answer every client
// with the alert unrecognized_name. Without GetCertificate it would refuse the
// configuration as such. No ticket is good here either.
func emptyConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil },
		SessionTicketsDisabled: true,
	}
}

func (t *Terminator) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	name := helloName(hello)
	challenge := slices.Equal(hello.SupportedProtos, []string{acmeALPN})
	subject := name
	if challenge {
		subject = challengeSubject(name)
	}
	i := t.table.find(subject)
	if name == "" || i < 0 {
		t.reject(name, hello, ErrUnknownName)
		return emptyConfig(), nil
	}
	asked := *hello
	asked.ServerName = name
	if challenge {
		return t.challengeFor(&asked), nil
	}
	p := t.policies[i]
	gen, err := t.generationOf(p)
	if err != nil {
		t.reject(name, hello, err)
		return nil, err
	}
	cert, err := t.lookUp(&asked)
	if err != nil && !errors.Is(err, ErrUnknownName) && !errors.Is(err, ErrUnknownFlood) {
		t.reject(name, hello, err)
		return nil, err
	}
	if cert == nil {
		t.reject(name, hello, err)
		return emptyConfig(), nil
	}
	if p.Client == nil {
		return gen.config, nil
	}
	// VerifyConnection is not told whose connection it verifies.
	c := gen.config.Clone()
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		err := authorize(hello.Context(), p, gen.roots, cs)
		if err != nil {
			t.reject(name, hello, err)
		}
		return err
	}
	return c, nil
}

// helloName is the normal form of the name asked for; without one, the address
// connected to. It is empty for a name that is none.
func helloName(hello *tls.ClientHelloInfo) string {
	if hello.ServerName != "" {
		name, err := normalName(hello.ServerName)
		if err != nil {
			return ""
		}
		return name
	}
	if hello.Conn == nil {
		return ""
	}
	name, err := normalAddr(hello.Conn.LocalAddr())
	if err != nil {
		return ""
	}
	return name
}

// lookUp is certificate within the bounds for unknown names. It returns either a
// certificate or an error.
func (t *Terminator) lookUp(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	var remote net.Addr
	if hello.Conn != nil {
		remote = hello.Conn.RemoteAddr()
	}
	for {
		turn, err := t.unknown.mayAsk(hello.ServerName, remote, time.Now())
		if err != nil {
			return nil, err
		}
		if turn == nil {
			break
		}
		select {
		case <-turn:
		case <-hello.Context().Done():
			return nil, context.Cause(hello.Context())
		}
	}
	said := answerFailed
	defer func() { t.unknown.learn(hello.ServerName, said, time.Now()) }() // also after a panic
	cert, err := t.certificate(hello)
	if cert == nil && err == nil {
		err = ErrUnknownName
	}
	switch {
	case err == nil:
		said = answerHad
	case errors.Is(err, ErrUnknownName):
		said = answerNone
	}
	return cert, err
}

// certificate asks the sources in their order. An error of one is not the end:
// the next may have a certificate. That some have none is said only if none
// failed otherwise.
func (t *Terminator) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	var failed, none []error
	for _, s := range t.certs {
		cert, err := s.Certificate(hello)
		switch {
		case errors.Is(err, ErrUnknownName):
			none = append(none, err)
		case err != nil:
			failed = append(failed, err)
		case cert != nil:
			return cert, nil
		}
	}
	if len(failed) > 0 {
		return nil, errors.Join(failed...)
	}
	return nil, errors.Join(none...)
}

func (t *Terminator) reject(name string, hello *tls.ClientHelloInfo, err error) {
	if t.onReject == nil {
		return
	}
	var remote net.Addr
	if hello.Conn != nil {
		remote = hello.Conn.RemoteAddr()
	}
	t.onReject(name, remote, err)
}

// generationOf returns the policy's generation for the authorities of this
// moment, with ticket keys of this moment.
func (t *Terminator) generationOf(p *servedPolicy) (*generation, error) {
	roots, err := p.roots()
	if err != nil {
		return nil, err
	}
	epoch := t.tickets.now()
	if gen := p.now.Load(); gen != nil && gen.roots == roots && gen.epoch == epoch {
		return gen, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Both may have moved on while this waited, and must not go back.
	if roots, err = p.roots(); err != nil {
		return nil, err
	}
	epoch = t.tickets.now()
	gen := p.now.Load()
	if gen != nil && gen.roots == roots && gen.epoch == epoch {
		return gen, nil
	}
	next := &generation{roots: roots, epoch: epoch, config: t.compile(p, roots, epoch)}
	if gen != nil && gen.roots != roots {
		t.logger.Info("tlsx: client authorities changed", "policy", p.id())
	}
	p.now.Store(next)
	return next, nil
}

// roots returns the authorities of this moment, nil without client
// authentication.
func (p *servedPolicy) roots() (*Roots, error) {
	if p.Client == nil {
		return nil, nil
	}
	roots := p.Client.Roots.Roots()
	if roots == nil {
		return nil, fmt.Errorf("tlsx: policy %q: no authorities for clients", p.id())
	}
	return roots, nil
}

// version is that of the decision about clients.
func (p *servedPolicy) version() string {
	if p.Client == nil {
		return ""
	}
	return p.Client.Version
}

func (t *Terminator) compile(p *servedPolicy, roots *Roots, epoch *ticketEpoch) *tls.Config {
	c := &tls.Config{
		NextProtos: p.ALPN,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			asked := *hello
			asked.ServerName = helloName(hello)
			return t.certificate(&asked)
		},
	}
	p.Profile.apply(c)
	t.ech.apply(c)
	bindNames(c)
	c.SetSessionTicketKeys(epoch.keys(p.id(), roots, p.version()))
	if p.Client != nil {
		c.ClientCAs = roots.pool
		c.ClientAuth = tls.VerifyClientCertIfGiven
		if p.Client.Mode == Required {
			c.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	return c
}

// authorize runs in full and in resumed handshakes. In a resumed one it looks at
// the chain again: what crypto/tls did about it was in the past.
func authorize(ctx context.Context, p *servedPolicy, roots *Roots, cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		if p.Client.Mode == Required {
			return errors.New("tlsx: no client certificate")
		}
		return nil
	}
	if len(cs.VerifiedChains) == 0 {
		return errors.New("tlsx: client certificate not verified")
	}
	chain := cs.VerifiedChains[0]
	if cs.DidResume {
		if chain = stillGood(cs.VerifiedChains, roots, time.Now()); chain == nil {
			return errors.New("tlsx: client certificate: no chain that has not expired and ends in an authority of now")
		}
	}
	if err := checkRevoked(p.Client.Revoked, chain); err != nil {
		return err
	}
	if p.Client.Authorize == nil {
		return nil
	}
	if err := p.Client.Authorize(ctx, newIdentity(verifiedCerts(&cs))); err != nil {
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	return nil
}

// stillGood returns a chain of those that were verified when a session began, and
// that have been sealed in its ticket since, which is good now; nil if there is
// none. What can change are the time and the authorities. Signatures, usages and
// constraints cannot: verifying them again would cost most of what resuming
// saves.
func stillGood(chains [][]*x509.Certificate, roots *Roots, now time.Time) []*x509.Certificate {
	for _, chain := range chains {
		root := chain[len(chain)-1]
		outside := func(c *x509.Certificate) bool { return now.Before(c.NotBefore) || now.After(c.NotAfter) }
		if slices.ContainsFunc(roots.certs, root.Equal) && !slices.ContainsFunc(chain, outside) {
			return chain
		}
	}
	return nil
}

// verifyChain verifies a peer's certificates now, for a use, against roots.
func verifyChain(certs []*x509.Certificate, roots *Roots, usage x509.ExtKeyUsage) ([][]*x509.Certificate, error) {
	opts := x509.VerifyOptions{Roots: roots.pool, Intermediates: x509.NewCertPool(), CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	return certs[0].Verify(opts)
}
