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

	"github.com/caddyserver/certmagic"
)

// Config says what a [Source] gets and from whom. It is checked by [New].
type Config struct {
	// Names are the DNS names to get certificates for, one each. Empty is an
	// error; so are wildcards and IP addresses.
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

// normalise replaces the names by their normal form and fills in defaults, or
// lists everything that is wrong.
func (c *Config) normalise() error {
	var errs []error
	if len(c.Names) == 0 {
		errs = append(errs, errors.New("acme: Config.Names is empty, want DNS names"))
	}
	names := make([]string, 0, len(c.Names))
	for _, name := range c.Names {
		normal, ok := dnsName(name)
		if !ok {
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
	if u, err := url.Parse(c.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		errs = append(errs, fmt.Errorf("acme: Config.Directory is %q, want an https URL", c.Directory))
	}
	for _, port := range []int{c.HTTPPort, c.TLSALPNPort} {
		if port < 0 || port > 65535 {
			errs = append(errs, fmt.Errorf("acme: Config.HTTPPort and TLSALPNPort are %d and %d, want 0 to 65535", c.HTTPPort, c.TLSALPNPort))
			break
		}
	}
	if c.DisableHTTPChallenge && c.DisableTLSALPNChallenge {
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
