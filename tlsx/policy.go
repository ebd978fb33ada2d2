package tlsx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Profile is a set of protocol versions and cipher suites, after Mozilla's
// recommendations for servers. Key exchange is left to the standard library,
// whose defaults include post-quantum hybrids.
type Profile uint8

const (
	// Intermediate, the zero value, is TLS 1.2 with forward secrecy and
	// authenticated encryption, and TLS 1.3.
	Intermediate Profile = iota
	// Modern is TLS 1.3 only.
	Modern
)

// String returns "intermediate" or "modern".
func (p Profile) String() string {
	switch p {
	case Intermediate:
		return "intermediate"
	case Modern:
		return "modern"
	}
	return fmt.Sprintf("Profile(%d)", uint8(p))
}

// ParseProfile is the inverse of [Profile.String].
func ParseProfile(s string) (Profile, error) {
	for _, p := range []Profile{Intermediate, Modern} {
		if p.String() == s {
			return p, nil
		}
	}
	return 0, fmt.Errorf("tlsx: profile %q, want intermediate or modern", s)
}

// apply sets the profile's versions and cipher suites. The suites are those of
// TLS 1.2; the ones of 1.3 cannot be chosen.
func (p Profile) apply(c *tls.Config) {
	c.MinVersion = tls.VersionTLS13
	if p == Intermediate {
		c.MinVersion = tls.VersionTLS12
		c.CipherSuites = []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		}
	}
}

// Mode says whether a client must show a certificate.
type Mode uint8

const (
	// Optional, the zero value: a client may show a certificate, which must
	// then be valid.
	Optional Mode = iota
	// Required: a client without a valid certificate is refused.
	Required
)

// ClientAuth is how clients of a [Policy] are authenticated.
type ClientAuth struct {
	// Mode is Optional or Required.
	Mode Mode
	// Roots are the authorities whose certificates are accepted. Nil is an
	// error: the system's authorities certify servers, not your clients.
	Roots TrustSource
	// Revoked, if not nil, is asked about the certificates of each client, for
	// full and for resumed handshakes alike.
	Revoked RevocationSource
	// Authorize, if not nil, decides about a client whose certificate is valid.
	// It runs for full and for resumed handshakes alike; an error refuses the
	// client. It is not called for a client without a certificate. The context
	// ends with the handshake.
	Authorize func(context.Context, *Identity) error
	// Version is of what Authorize decides, for servers that share tickets: under
	// another version a ticket is not resumed, and the client begins anew. Any
	// text; empty is a version, too.
	Version string
}

// Policy says how clients that ask for some names are served.
type Policy struct {
	// ID names the policy in logs and binds session tickets to it: no two may
	// share one. Empty means the names joined by commas.
	ID string
	// Names are what clients ask for: "www.example.com", "*.example.com" for
	// exactly one label, or an IP address for clients that send no name, which
	// is then the address they connected to. Empty means every name for which
	// a CertSource has a certificate; at most one policy can be that one.
	Names []string
	// Profile is Intermediate or Modern.
	Profile Profile
	// Client authenticates clients. Nil asks for no certificate.
	Client *ClientAuth
	// ALPN are the protocols offered, best first. Nil means h2 and http/1.1.
	ALPN []string
}

func (p *Policy) id() string {
	if p.ID != "" {
		return p.ID
	}
	return strings.Join(p.Names, ",")
}

// errBadName says that something cannot be the name of a server.
var errBadName = errors.New("not a host name or IP address")

// normalName is the one normaliser, for server names of TLS, Host fields and
// policies: lower case, without a trailing dot, IP addresses in their short
// form. Two names that a certificate treats as one become equal; anything that
// is neither a name nor an address is refused.
func normalName(s string) (string, error) {
	if ip, err := netip.ParseAddr(s); err == nil {
		if ip.Zone() != "" {
			return "", errBadName
		}
		return ip.Unmap().String(), nil
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if s == "" || len(s) > 253 {
		return "", errBadName
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return "", errBadName
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return "", errBadName
			}
		}
	}
	return s, nil
}

// normalHost is normalName for a Host field: it may have a port, and an IPv6
// address stands in brackets (RFC 3986, section 3.2.2).
func normalHost(host string) (string, error) {
	if rest, ok := strings.CutPrefix(host, "["); ok {
		address, port, ok := strings.Cut(rest, "]")
		if !ok || !strings.Contains(address, ":") || !validPort(port) {
			return "", errBadName
		}
		return normalName(address)
	}
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !validPort(host[i:]) {
			return "", errBadName
		}
		host = host[:i]
	}
	return normalName(host)
}

// validPort accepts nothing, and a colon with at most five digits.
func validPort(s string) bool {
	digits, ok := strings.CutPrefix(s, ":")
	return s == "" || ok && len(digits) <= 5 && strings.Trim(digits, "0123456789") == ""
}

// normalAddr is the normal form of the IP address of a connection's end.
func normalAddr(a net.Addr) (string, error) {
	if a == nil {
		return "", errBadName
	}
	return normalHost(a.String())
}

// policyTable finds the policy of a name.
type policyTable struct {
	exact    map[string]int
	wildcard map[string]int // "*.example.com" under "example.com"
	any      int            // -1: none
}

func newPolicyTable(policies []Policy) (policyTable, error) {
	t := policyTable{exact: make(map[string]int), wildcard: make(map[string]int), any: -1}
	ids := make(map[string]int)
	var errs []error
	for i, p := range policies {
		if other, ok := ids[p.id()]; ok {
			errs = append(errs, fmt.Errorf("tlsx: policies %d and %d both have the ID %q", other, i, p.id()))
		}
		ids[p.id()] = i
		if len(p.Names) == 0 {
			if t.any >= 0 {
				errs = append(errs, fmt.Errorf("tlsx: policies %d and %d both have no names, want at most one", t.any, i))
			}
			t.any = i
		}
		for _, name := range p.Names {
			into, bare := t.exact, name
			if parent, ok := strings.CutPrefix(name, "*."); ok {
				into, bare = t.wildcard, parent
			}
			normal, err := normalName(bare)
			if err != nil {
				errs = append(errs, fmt.Errorf("tlsx: policy %d: name %q: %w", i, name, err))
				continue
			}
			if other, ok := into[normal]; ok {
				errs = append(errs, fmt.Errorf("tlsx: policies %d and %d both have the name %q", other, i, name))
			}
			into[normal] = i
		}
		if p.Client != nil && p.Client.Roots == nil {
			errs = append(errs, fmt.Errorf("tlsx: policy %d: Client.Roots is nil, want the authorities of the clients", i))
		}
		if p.Profile > Modern || p.Client != nil && p.Client.Mode > Required {
			errs = append(errs, fmt.Errorf("tlsx: policy %d: profile %v or client mode not known", i, p.Profile))
		}
		if slices.Contains(p.ALPN, "") {
			errs = append(errs, fmt.Errorf("tlsx: policy %d: empty ALPN protocol", i))
		}
	}
	return t, errors.Join(errs...)
}

// find returns the index of the policy for a normal name, or -1.
func (t *policyTable) find(name string) int {
	if i, ok := t.exact[name]; ok {
		return i
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		if i, ok := t.wildcard[parent]; ok {
			return i
		}
	}
	return t.any
}
