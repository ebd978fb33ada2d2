package tlsx

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"net/netip"
	"slices"
	"strings"
)

// acmeALPN is the protocol of TLS-ALPN-01 challenges, RFC 8737.
const acmeALPN = "acme-tls/1"

// errChallengeOver ends the connection of a validator in VerifyConnection.
var errChallengeOver = errors.New("tlsx: TLS-ALPN-01 challenge answered")

// challengeFor answers the validator of a certificate authority, which has no
// client certificate: no policy applies to it. So that nobody slips past client
// authentication by posing as one, only a certificate that is good for nothing
// else is shown, and the handshake never completes on this side. The validator
// has seen the certificate by then, as TLS 1.3 lets the server speak first;
// under 1.2 it would not have.
func (t *Terminator) challengeFor(hello *tls.ClientHelloInfo) *tls.Config {
	cert := t.challengeCertificate(hello)
	if cert == nil {
		t.reject(hello.ServerName, hello, ErrUnknownName)
		return emptyConfig()
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{acmeALPN},
		Certificates:           []tls.Certificate{*cert},
		SessionTicketsDisabled: true,
		VerifyConnection:       func(tls.ConnectionState) error { return errChallengeOver },
	}
}

func (t *Terminator) challengeCertificate(hello *tls.ClientHelloInfo) *tls.Certificate {
	for _, s := range t.certs {
		cert, err := s.Certificate(hello)
		if err == nil && cert != nil && isChallenge(cert) {
			return cert
		}
	}
	return nil
}

// isChallenge says whether a certificate has the critical extension
// id-pe-acmeIdentifier (RFC 8737, section 3), which makes everyone but a
// validator refuse it.
func isChallenge(cert *tls.Certificate) bool {
	leaf := cert.Leaf
	if leaf == nil {
		if len(cert.Certificate) == 0 {
			return false
		}
		var err error
		if leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return false
		}
	}
	return slices.ContainsFunc(leaf.UnhandledCriticalExtensions, func(id asn1.ObjectIdentifier) bool {
		return id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31})
	})
}

// challengeSubject is whom the name in a validator's hello stands for: for an IP
// address that is its name in the reverse zones of the DNS (RFC 8738, section
// 6), as a server name cannot be an address.
func challengeSubject(name string) string {
	if bare, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(bare, ".")
		slices.Reverse(parts)
		if ip, err := netip.ParseAddr(strings.Join(parts, ".")); err == nil && ip.Is4() {
			return ip.String()
		}
		return name
	}
	bare, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(bare) != 63 {
		return name
	}
	var b strings.Builder
	for i := len(bare) - 1; i >= 0; i -= 2 {
		if i < len(bare)-1 && bare[i+1] != '.' {
			return name
		}
		b.WriteByte(bare[i])
		if b.Len()%5 == 4 && i > 0 {
			b.WriteByte(':')
		}
	}
	if ip, err := netip.ParseAddr(b.String()); err == nil {
		return ip.String()
	}
	return name
}
