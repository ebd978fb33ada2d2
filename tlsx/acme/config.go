package acme

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
)

// Config says what a [Source] gets and from whom. It is checked by [New].
type Config struct {
	// Names are the DNS names to get certificates for, one each. Empty is an
	// error unless there is OnDemand; so are IP addresses, and wildcards such as
	// "*.example.com" unless there is DNS.
	Names []string
	// Storage keeps certificates, keys and the account. Nil is an error. It is
	// the caller's, and is not closed.
	Storage certmagic.Storage
	// Directory is the URL of the authority's directory. Empty means Let's
	// Encrypt.
	Directory string
	// Email is where the authority may write to. Empty gives none.
	Email string
	// RootCAs verify the authority's own server. Nil means the system's.
	RootCAs *x509.CertPool
	// Account binds the ACME account to one that exists at the authority (RFC
	// 8555, section 7.3.4). Nil does not.
	Account *ExternalAccount
	// Profile is one of those that the authority offers, such as "shortlived".
	// Empty leaves the choice to it.
	Profile string
	// Fallbacks are asked in this order for a certificate that the authority
	// above does not issue. Nil means none.
	Fallbacks []Authority
	// DNS proves the names by DNS-01 (RFC 8555, section 8.4), and then no other
	// challenge is used. Nil does not.
	DNS *DNS
	// OnDemand also gets certificates for names that first turn up in a
	// handshake. Nil does not.
	OnDemand *OnDemand
	// HTTPPort is the local port that HTTPHandler is served on, and TLSALPNPort
	// the one of the tlsx.Terminator. Zero means 80 and 443, which are also the
	// ports the authority connects to; with others something must forward. If
	// nothing listens on the port when a challenge is on, it is listened on for
	// that long.
	HTTPPort, TLSALPNPort int
	// DisableHTTPChallenge and DisableTLSALPNChallenge leave one out, for when
	// the authority cannot reach its port. False uses both.
	DisableHTTPChallenge, DisableTLSALPNChallenge bool
	// OnEvent, if not nil, is called for each certificate obtained or renewed
	// and each attempt that failed. It must not block or call Close.
	OnEvent func(Event)
	// Logger gets changes of state. Nil means slog.Default().
	Logger *slog.Logger
}

// Authority is one that can be asked for certificates.
type Authority struct {
	// Directory is the URL of its directory. Empty is an error.
	Directory string
	// Email is where it may write to. Empty gives none.
	Email string
	// RootCAs verify its server. Nil means the system's.
	RootCAs *x509.CertPool
	// Account binds the ACME account to one that exists. Nil does not.
	Account *ExternalAccount
	// Profile is one of those that it offers. Empty leaves the choice to it.
	Profile string
}

// ExternalAccount is what an authority gives to its customers.
type ExternalAccount struct {
	// KeyID names the account. Empty is an error.
	KeyID string
	// MACKey is its key, in base64url. Empty is an error.
	MACKey string
}

// DNS says how to prove names by DNS records.
type DNS struct {
	// Provider sets and removes the records: one of the libdns packages. Nil is
	// an error.
	Provider certmagic.DNSProvider
	// Resolvers, as "host:port", find the zone and look for the record before
	// the authority is told. Nil means the system's.
	Resolvers []string
	// Propagation is how long to look for the record. Zero means two minutes;
	// negative does not look.
	Propagation time.Duration
}

// authorities are all that can be asked, in order.
func (c *Config) authorities() []Authority {
	first := Authority{Directory: c.Directory, Email: c.Email, RootCAs: c.RootCAs, Account: c.Account, Profile: c.Profile}
	return append([]Authority{first}, c.Fallbacks...)
}

func (a *Authority) validate() error {
	var errs []error
	if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		errs = append(errs, fmt.Errorf("acme: Config.Directory or Authority.Directory is %q, want an https URL", a.Directory))
	}
	if a.Account != nil && (a.Account.KeyID == "" || a.Account.MACKey == "") {
		errs = append(errs, fmt.Errorf("acme: ExternalAccount of %s lacks its KeyID or MACKey, want both", a.Directory))
	}
	return errors.Join(errs...)
}

// normalise replaces the names by their normal form and fills in defaults, or
// lists everything that is wrong.
func (c *Config) normalise() error {
	var errs []error
	if len(c.Names) == 0 && c.OnDemand == nil {
		errs = append(errs, errors.New("acme: Config.Names is empty, want DNS names"))
	}
	names := make([]string, 0, len(c.Names))
	for _, name := range c.Names {
		parent, wild := strings.CutPrefix(name, "*.")
		normal, ok := dnsName(parent)
		if wild {
			normal = "*." + normal
		}
		if !ok || wild && c.DNS == nil {
			errs = append(errs, fmt.Errorf("acme: Config.Names has %q, want a DNS name", name))
		}
		names = append(names, normal)
	}
	slices.Sort(names)
	c.Names = slices.Compact(names)
	if c.Storage == nil {
		errs = append(errs, errors.New("acme: Config.Storage is nil, want a place for keys and certificates"))
	}
	if c.Directory == "" {
		c.Directory = certmagic.LetsEncryptProductionCA
	}
	c.Fallbacks = slices.Clone(c.Fallbacks)
	for _, a := range c.authorities() {
		errs = append(errs, a.validate())
	}
	if c.DNS != nil && c.DNS.Provider == nil {
		errs = append(errs, errors.New("acme: DNS.Provider is nil, want one"))
	}
	if c.OnDemand != nil {
		errs = append(errs, c.OnDemand.validate())
	}
	for _, port := range []int{c.HTTPPort, c.TLSALPNPort} {
		if port < 0 || port > 65535 {
			errs = append(errs, fmt.Errorf("acme: Config.HTTPPort and TLSALPNPort are %d and %d, want 0 to 65535", c.HTTPPort, c.TLSALPNPort))
			break
		}
	}
	if c.DNS == nil && c.DisableHTTPChallenge && c.DisableTLSALPNChallenge {
		errs = append(errs, errors.New("acme: Config disables both challenges, want at least one"))
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return errors.Join(errs...)
}

// dnsName returns the normal form of a name: lower case, no trailing dot.
func dnsName(s string) (string, bool) {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if _, err := netip.ParseAddr(s); err == nil || len(s) > 253 {
		return "", false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return "", false
		}
	}
	return s, true
}

// EventKind is what happened to a certificate.
type EventKind uint8

const (
	// Obtained: there was no certificate before.
	Obtained EventKind = iota + 1
	// Renewed: it replaces one that would have expired.
	Renewed
	// Failed: an attempt did not succeed. There will be another.
	Failed
)

// String returns "obtained", "renewed" or "failed".
func (k EventKind) String() string {
	switch k {
	case Obtained:
		return "obtained"
	case Renewed:
		return "renewed"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// Event is something that happened to the certificate of a name.
type Event struct {
	Kind EventKind
	Name string
	// Err is why, if Kind is Failed.
	Err error
}
