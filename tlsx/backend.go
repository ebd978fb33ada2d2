package tlsx

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// Backend says how to connect to a server and what it must prove. It is checked
// by [BackendTLS].
type Backend struct {
	// Roots are the authorities that may certify the server. Nil is an error.
	Roots TrustSource
	// Cert has the certificate that is shown to the server. Nil shows none.
	Cert CertSource
	// Peer pins the server's identity: any other certificate of the same
	// authorities is refused. The zero value pins nothing; then ServerName must
	// be set.
	Peer PeerMatcher
	// ServerName is the name sent in the handshake and, if Peer is zero, the
	// one that the certificate must cover. Empty sends the host dialed.
	ServerName string
	// Profile is Intermediate or Modern.
	Profile Profile
	// ALPN are the protocols offered. Nil offers http/1.1.
	ALPN []string
}

// ErrPeerIdentity is wrapped by the handshake error for a server whose
// certificate is valid but not the pinned one.
var ErrPeerIdentity = errors.New("tlsx: not the pinned peer")

// BackendTLS returns the client configuration for connections to a server. It
// verifies the server in VerifyConnection, against the authorities of that
// moment and for resumed sessions too, and shows the certificate of that moment,
// so that both can change under a live pool of connections. Connections that
// are open stay as they are.
func BackendTLS(b Backend) (*tls.Config, error) {
	b.ALPN = slices.Clone(b.ALPN)
	b.Peer.URIs, b.Peer.Names = slices.Clone(b.Peer.URIs), slices.Clone(b.Peer.Names)
	if err := b.validate(); err != nil {
		return nil, err
	}
	sessions := newSessionCache(b)
	c := &tls.Config{
		ServerName: b.ServerName,
		NextProtos: b.ALPN,
		// Verification is verifyBackend's alone: crypto/tls can verify against
		// fixed roots only.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			err := verifyBackend(b, cs)
			if err == nil && !cs.DidResume {
				sessions.show(cs.PeerCertificates[0].Raw)
			}
			return err
		},
		ClientSessionCache: sessions,
	}
	b.Profile.apply(c)
	if c.NextProtos == nil {
		c.NextProtos = []string{"http/1.1"}
	}
	if b.Cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := b.Cert.Certificate(&tls.ClientHelloInfo{})
			if err == nil && cert == nil {
				err = errors.New("tlsx: the source has no client certificate")
			}
			return cert, err
		}
	}
	return c, nil
}

func (b *Backend) validate() error {
	var errs []error
	if b.Roots == nil {
		errs = append(errs, errors.New("tlsx: Backend.Roots is nil, want the authorities of the servers"))
	}
	if b.Peer.isZero() && b.ServerName == "" {
		errs = append(errs, errors.New("tlsx: Backend.Peer and Backend.ServerName are both empty, want what the server must prove"))
	}
	if b.ServerName != "" {
		if _, err := normalName(b.ServerName); err != nil {
			errs = append(errs, fmt.Errorf("tlsx: Backend.ServerName is %q: %w", b.ServerName, err))
		}
	}
	if b.Profile > Modern {
		errs = append(errs, fmt.Errorf("tlsx: Backend.Profile is %v, want Intermediate or Modern", b.Profile))
	}
	if slices.Contains(b.ALPN, "") {
		errs = append(errs, fmt.Errorf("tlsx: Backend.ALPN is %q, want no empty protocol", b.ALPN))
	}
	return errors.Join(errs...)
}

// verifyBackend is all that stands between a proxy and an impostor.
func verifyBackend(b Backend, cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("tlsx: the server showed no certificate")
	}
	roots := b.Roots.Roots()
	if roots == nil {
		return errors.New("tlsx: no authorities for servers")
	}
	if _, err := verifyChain(cs.PeerCertificates, roots, x509.ExtKeyUsageServerAuth); err != nil {
		return fmt.Errorf("tlsx: server certificate: %w", err)
	}
	leaf := cs.PeerCertificates[0]
	if !b.Peer.isZero() {
		if !b.Peer.Match(leaf) {
			return fmt.Errorf("%w: certificate of %s", ErrPeerIdentity, leaf.Subject)
		}
		return nil
	}
	if err := leaf.VerifyHostname(b.ServerName); err != nil {
		return fmt.Errorf("tlsx: server certificate: %w", err)
	}
	return nil
}
