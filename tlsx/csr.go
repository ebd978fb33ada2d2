package tlsx

import (
	"bytes"
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
// decision alone, in c.
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
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("tlsx: certificate request: %w", err)
	}
	switch key := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve.Params().BitSize < 256 {
			return nil, fmt.Errorf("tlsx: certificate request: key on %s, want at least P-256", key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if key.N.BitLen() < 2048 {
			return nil, fmt.Errorf("tlsx: certificate request: RSA key of %d bits, want at least 2048", key.N.BitLen())
		}
	default:
		return nil, fmt.Errorf("tlsx: certificate request: key %T, want ECDSA, Ed25519 or RSA", key)
	}
	return csr, nil
}
