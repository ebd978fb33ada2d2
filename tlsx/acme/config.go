package acme

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
)

// Config says what a [Source] gets and from whom. It is checked by [New].
type Config struct {
	// Names are the DNS names and IP addresses (RFC 8738) to get certificates
	// for, one each. Empty is an error unless there is OnDemand; so are wildcards
	// such as "*.example.com" unless there is DNS or PersistentDNS, and addresses
	// if there is. Let's Encrypt certifies addresses under the profile
	// "shortlived".
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
	// Staging has a name that has no certificate yet tried there first, and
	// ordered in earnest only once that has succeeded, so that mistakes do not
	// count where failures are limited; LetsEncryptStaging is the one for Let's
	// Encrypt. Nil goes straight ahead.
	Staging *Authority
	// OrdersPerMinute bounds the orders at each authority, after ten at once.
	// Zero means 60.
	OrdersPerMinute int
	// DNS proves the names by DNS-01 (RFC 8555, section 8.4), and then no other
	// challenge is used. Nil does not.
	DNS *DNS
	// PersistentDNS proves the names by DNS-PERSIST-01, and then no other
	// challenge is used. Nil does not; with DNS it is an error.
	PersistentDNS *PersistentDNS
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
	// OnEvent, if not nil, is called for each certificate obtained, renewed or
	// revoked, each attempt that failed and each certificate that is about to
	// expire. It must not block or call Close, and may be called from several
	// goroutines at once. tlsx.Config.OnCert hears the same.
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

func (e *ExternalAccount) clone() *ExternalAccount {
	if e == nil {
		return nil
	}
	return new(*e)
}

// LetsEncryptStaging is the directory of Let's Encrypt's authority for tries,
// whose certificates nobody trusts.
const LetsEncryptStaging = certmagic.LetsEncryptStagingCA

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
	byDNS := c.DNS != nil || c.PersistentDNS != nil
	for _, name := range c.Names {
		normal, ok := certName(name)
		_, err := netip.ParseAddr(normal)
		if wild := strings.HasPrefix(normal, "*."); !ok || wild && !byDNS || err == nil && byDNS {
			errs = append(errs, fmt.Errorf("acme: Config.Names has %q, want a DNS name or an IP address, a wildcard with DNS only and an address without", name))
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
	c.Account = c.Account.clone()
	c.Fallbacks = slices.Clone(c.Fallbacks)
	for i := range c.Fallbacks {
		c.Fallbacks[i].Account = c.Fallbacks[i].Account.clone()
	}
	for _, a := range c.authorities() {
		errs = append(errs, a.validate())
	}
	if c.Staging != nil {
		c.Staging = new(*c.Staging)
		c.Staging.Account = c.Staging.Account.clone()
		errs = append(errs, c.Staging.validate())
	}
	errs = append(errs, c.normaliseDNS())
	if c.OrdersPerMinute < 0 {
		errs = append(errs, fmt.Errorf("acme: Config.OrdersPerMinute is %d, want a positive number", c.OrdersPerMinute))
	}
	if c.OrdersPerMinute == 0 {
		c.OrdersPerMinute = 60
	}
	if c.OnDemand != nil {
		c.OnDemand = new(*c.OnDemand)
		errs = append(errs, c.OnDemand.validate())
	}
	for _, port := range []int{c.HTTPPort, c.TLSALPNPort} {
		if port < 0 || port > 65535 {
			errs = append(errs, fmt.Errorf("acme: Config.HTTPPort and TLSALPNPort are %d and %d, want 0 to 65535", c.HTTPPort, c.TLSALPNPort))
			break
		}
	}
	c.HTTPPort, c.TLSALPNPort = cmp.Or(c.HTTPPort, 80), cmp.Or(c.TLSALPNPort, 443)
	if !byDNS && c.DisableHTTPChallenge && c.DisableTLSALPNChallenge {
		errs = append(errs, errors.New("acme: Config disables both challenges, want at least one"))
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return errors.Join(errs...)
}

// normaliseDNS checks the ways to prove names by the DNS, and copies them.
func (c *Config) normaliseDNS() error {
	var errs []error
	if c.DNS != nil {
		c.DNS = new(*c.DNS)
		c.DNS.Resolvers = slices.Clone(c.DNS.Resolvers)
		if c.DNS.Provider == nil {
			errs = append(errs, errors.New("acme: DNS.Provider is nil, want one"))
		}
	}
	if c.PersistentDNS != nil {
		c.PersistentDNS = new(*c.PersistentDNS)
		if c.DNS != nil {
			errs = append(errs, errors.New("acme: Config has both DNS and PersistentDNS, want one of them"))
		}
		if server := c.PersistentDNS.Resolver; server != "" {
			if _, _, err := net.SplitHostPort(server); err != nil {
				errs = append(errs, fmt.Errorf("acme: PersistentDNS.Resolver is %q, want host:port", server))
			}
		}
	}
	return errors.Join(errs...)
}

// certName is normalName for what a certificate can be for: "*." may come before
// a name.
func certName(s string) (string, bool) {
	parent, wild := strings.CutPrefix(s, "*.")
	normal, ok := normalName(parent)
	if !wild {
		return normal, ok
	}
	if _, err := netip.ParseAddr(normal); err == nil || !ok {
		return "", false
	}
	return "*." + normal, true
}

// normalName returns the normal form of a name, lower case without a trailing
// dot, or of an IP address.
func normalName(s string) (string, bool) {
	if ip, err := netip.ParseAddr(s); err == nil {
		if ip.Zone() != "" {
			return "", false
		}
		return ip.Unmap().String(), true
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if len(s) > 253 {
		return "", false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return "", false
		}
	}
	return s, true
}
