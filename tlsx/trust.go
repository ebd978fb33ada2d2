package tlsx

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// TrustSource has the authorities to trust at this moment. Implementations are
// safe for concurrent use and answer at once.
type TrustSource interface {
	// Roots returns the same pointer until the set changes.
	Roots() *Roots
}

// Roots is an immutable set of authorities, and as such a [TrustSource] that
// never changes. Create it with [NewRoots] or [ParseRoots].
type Roots struct {
	certs  []*x509.Certificate
	pool   *x509.CertPool
	digest [sha256.Size]byte
}

// NewRoots returns a set of authorities. An empty set is an error: it is far
// more often a mistake than a wish to trust nobody.
func NewRoots(certs ...*x509.Certificate) (*Roots, error) {
	if len(certs) == 0 {
		return nil, errors.New("tlsx: no authority in the set, want at least one")
	}
	r := &Roots{certs: slices.Clone(certs), pool: x509.NewCertPool()}
	h := sha256.New()
	for _, c := range certs {
		if !c.IsCA {
			return nil, fmt.Errorf("tlsx: certificate of %q is not an authority's", c.Subject)
		}
		r.pool.AddCert(c)
		sum := sha256.Sum256(c.Raw)
		h.Write(sum[:])
	}
	h.Sum(r.digest[:0])
	return r, nil
}

// ParseRoots reads authorities from PEM. Every block must be a certificate of
// an authority, and nothing but white space may stand between: a block that is
// damaged is an error, while pem.Decode would skip it.
func ParseRoots(data []byte) (*Roots, error) {
	const begin = "-----BEGIN "
	var certs []*x509.Certificate
	for data = bytes.TrimSpace(data); len(data) > 0; {
		if !bytes.HasPrefix(data, []byte(begin)) {
			return nil, errors.New("tlsx: authorities: text that is not PEM")
		}
		block, rest := pem.Decode(data)
		if block == nil || bytes.Count(data[:len(data)-len(rest)], []byte(begin)) != 1 {
			return nil, errors.New("tlsx: authorities: a damaged PEM block")
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, fmt.Errorf("tlsx: authorities: block of type %q with %d headers, want CERTIFICATE without", block.Type, len(block.Headers))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("tlsx: authorities: %w", err)
		}
		certs, data = append(certs, c), bytes.TrimSpace(rest)
	}
	return NewRoots(certs...)
}

// Roots returns r.
func (r *Roots) Roots() *Roots { return r }

// Pool returns a new pool with the authorities.
func (r *Roots) Pool() *x509.CertPool { return r.pool.Clone() }

// FileTrust is a set of authorities in a PEM file, watched for changes. Create
// it with [TrustFile]. It is safe for concurrent use, and needs no Close.
type FileTrust struct{ w *watched[Roots] }

// TrustFile loads authorities from a PEM file. A file that is missing or empty
// is an error now; later, the last good set stays. A nil logger means
// slog.Default().
func TrustFile(file string, logger *slog.Logger) (*FileTrust, error) {
	w, err := watch(logger, func(c [][]byte) (*Roots, error) { return ParseRoots(c[0]) }, file)
	if err != nil {
		return nil, err
	}
	return &FileTrust{w}, nil
}

// Roots implements [TrustSource].
func (f *FileTrust) Roots() *Roots { return f.w.load() }
