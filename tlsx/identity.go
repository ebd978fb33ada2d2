package tlsx

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"slices"
)

// Identity is who a client proved to be with a certificate that was verified.
// It must not be modified.
type Identity struct {
	// Certificate is the client's certificate.
	Certificate *x509.Certificate
	// Chain are the intermediate authorities between the client's certificate
	// and the root that vouches for it, as far as they are known.
	Chain []*x509.Certificate
	// Subject is the distinguished name, such as "CN=alice,O=Example". It is
	// for people to read; decide by URIs, DNSNames or Fingerprint.
	Subject string
	// CommonName is the CN of the subject.
	CommonName string
	// DNSNames and URIs are the subject alternative names.
	DNSNames []string
	URIs     []string
	// Fingerprint is the SHA-256 of the certificate in lower-case hexadecimal.
	Fingerprint string
}

// newIdentity describes the client that a certificate and its intermediates
// prove.
func newIdentity(certs []*x509.Certificate) *Identity {
	leaf := certs[0]
	sum := sha256.Sum256(leaf.Raw)
	id := &Identity{
		Certificate: leaf,
		Chain:       slices.Clone(certs[1:]),
		Subject:     leaf.Subject.String(),
		CommonName:  leaf.Subject.CommonName,
		DNSNames:    leaf.DNSNames,
		Fingerprint: hex.EncodeToString(sum[:]),
	}
	for _, u := range leaf.URIs {
		id.URIs = append(id.URIs, u.String())
	}
	return id
}

type identityKey struct{}

// IdentityFrom returns the verified identity of the client whose request the
// context belongs to, as [Receiver] found it. It is the same whether the client
// connected directly, through a proxy that sets Client-Cert, or through one that
// sends a PROXY protocol header; only the last cannot tell the Chain.
func IdentityFrom(ctx context.Context) (*Identity, bool) {
	id, ok := ctx.Value(identityKey{}).(*Identity)
	return id, ok
}

// PeerIdentity returns the identity of whoever made the connection that the
// request came over: behind a proxy that is the proxy. It is false without TLS
// and for a peer without a verified certificate.
func PeerIdentity(r *http.Request) (*Identity, bool) {
	certs := verifiedCerts(r.TLS)
	if certs == nil {
		return nil, false
	}
	return newIdentity(certs), true
}

// verifiedCerts is the peer's certificate and its intermediates, nil without a
// verified one. It takes the chain that was verified: what a peer sends along need
// not belong to it. The root is left out, as RFC 9440, section 2.3 allows.
func verifiedCerts(cs *tls.ConnectionState) []*x509.Certificate {
	if cs == nil || len(cs.VerifiedChains) == 0 || len(cs.VerifiedChains[0]) == 0 {
		return nil
	}
	chain := cs.VerifiedChains[0]
	return chain[:max(1, len(chain)-1)]
}

// PeerMatcher says which certificates are the peer's that is meant. A
// certificate matches if it has one of the URIs or one of the Names as subject
// alternative name, byte for byte; the zero value matches none. The common name
// and wildcards do not count.
type PeerMatcher struct {
	// URIs are such as those of CA.Identity. Nil means none.
	URIs []string
	// Names are DNS names. Nil means none.
	Names []string
}

// Match says whether the certificate is the peer's. It does not verify the
// certificate.
func (m PeerMatcher) Match(c *x509.Certificate) bool {
	for _, u := range c.URIs {
		if slices.Contains(m.URIs, u.String()) {
			return true
		}
	}
	return slices.ContainsFunc(c.DNSNames, func(n string) bool { return slices.Contains(m.Names, n) })
}

func (m PeerMatcher) isZero() bool { return len(m.URIs) == 0 && len(m.Names) == 0 }
