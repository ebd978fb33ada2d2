package tlsx

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// SignCSR issues a certificate for a key that stays on another host: request is
// a certificate request (PKCS #10) in PEM, and the result the chain in PEM,
// without the root. Only the key is taken from the request, once its signature
// proves that the other has it. Whom the certificate names is the caller's
// decision alone, in c. Keys are ECDSA from P-256 on, Ed25519, or RSA of 2048 to
// 8192 bits.
func (ca *CA) SignCSR(request []byte, c LeafConfig) ([]byte, error) {
	template, lifetime, err := ca.leafTemplate(c)
	if err != nil {
		return nil, err
	}
	csr, err := parseCSR(request)
	if err != nil {
		return nil, err
	}
	chain, err := ca.sign(template, csr.PublicKey, lifetime, time.Now())
	if err != nil {
		return nil, fmt.Errorf("tlsx: internal CA: %w", err)
	}
	return encodePEM(chain...), nil
}

// parseCSR reads one request that is signed by its own key, which is one that a
// certificate may have.
func parseCSR(data []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(data)
	if block == nil || (block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST") || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("tlsx: not one certificate request in PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("tlsx: certificate request: %w", err)
	}
	// The key first: a large one would make its own signature costly to verify.
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, fmt.Errorf("tlsx: certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("tlsx: certificate request: %w", err)
	}
	return csr, nil
}

// rsaBitsMax is the largest RSA key that crypto/tls takes from a peer.
const rsaBitsMax = 8192

// checkKey refuses keys that are weak, and those that no peer would accept.
func checkKey(public crypto.PublicKey) error {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if key.Curve.Params().BitSize < 256 {
			return fmt.Errorf("key on %s, want at least P-256", key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < 2048 || n > rsaBitsMax {
			return fmt.Errorf("RSA key of %d bits, want 2048 to %d", n, rsaBitsMax)
		}
	default:
		return fmt.Errorf("key %T, want ECDSA, Ed25519 or RSA", key)
	}
	return nil
}
