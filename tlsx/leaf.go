package tlsx

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// renewRetry is how long a renewal that failed is left alone.
const renewRetry = 10 * time.Second

// LeafConfig says whom a certificate of a [CA] names. At least one of ID,
// Names and CommonName must be set.
type LeafConfig struct {
	// ID is the path of the identity, such as "balancer" or "web/1": the
	// certificate has the URI spiffe://<trust domain>/<ID>. Letters, digits,
	// '.', '-', '_', and '/' between segments. Empty means no URI.
	ID string
	// Names are DNS names, "*.example.com" for one label, and IP addresses.
	// Nil means none: such a certificate serves no name, but may prove an ID.
	Names []string
	// CommonName is for people to read. Empty means ID.
	CommonName string
	// Lifetime is how long the certificate is valid. Zero means CAConfig.Leaf;
	// it never outlives the authority that signs it.
	Lifetime time.Duration
}

// LeafSource is a certificate of a [CA] that renews itself: it is a
// [CertSource], for servers and for clients. Its keys exist in memory only.
// Create it with [CA.Leaf]. It is safe for concurrent use, and needs no Close:
// renewal happens in the first use after half the lifetime, or up to a tenth of
// it before, so that the leaves of a cluster are not all renewed at once.
type LeafSource struct {
	ca       *CA
	template x509.Certificate
	lifetime time.Duration
	current  atomic.Pointer[issuedLeaf]
	mu       sync.Mutex // held by the one who renews
	listeners
}

// issuedLeaf is one certificate of a LeafSource. Only retry changes.
type issuedLeaf struct {
	cert  *tls.Certificate
	renew time.Time
	retry atomic.Int64 // Unix nanoseconds before which not to try again
}

// Leaf issues a certificate that renews itself.
func (ca *CA) Leaf(c LeafConfig) (*LeafSource, error) {
	template, lifetime, err := ca.leafTemplate(c)
	if err != nil {
		return nil, err
	}
	s := &LeafSource{ca: ca, template: template, lifetime: lifetime}
	if err := s.renew(time.Now()); err != nil {
		return nil, fmt.Errorf("tlsx: internal CA: %w", err)
	}
	return s, nil
}

// IssueFiles issues a certificate into PEM files with mode 0600, for a program
// outside the process. The files hold all that the program has to send, which is
// everything but the root. Nothing renews them, but issuing again replaces them
// by renames, which [Files] notices.
func (ca *CA) IssueFiles(c LeafConfig, certFile, keyFile string) error {
	template, lifetime, err := ca.leafTemplate(c)
	if err != nil {
		return err
	}
	cert, err := ca.issue(template, lifetime, time.Now())
	if err != nil {
		return fmt.Errorf("tlsx: internal CA: %w", err)
	}
	key, err := encodeKey(cert.PrivateKey)
	if err != nil {
		return fmt.Errorf("tlsx: internal CA: %w", err)
	}
	if err := errors.Join(writeFile(keyFile, key, 0o600), writeFile(certFile, encodePEM(cert.Certificate...), 0o600)); err != nil {
		return fmt.Errorf("tlsx: internal CA: %w", err)
	}
	return nil
}

// leafTemplate checks a LeafConfig and turns it into what is the same in every
// certificate issued for it.
func (ca *CA) leafTemplate(c LeafConfig) (x509.Certificate, time.Duration, error) {
	template := x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	var errs []error
	if c.ID == "" && len(c.Names) == 0 && c.CommonName == "" {
		errs = append(errs, errors.New("tlsx: LeafConfig has no ID, Names or CommonName, want at least one"))
	}
	if c.ID != "" {
		if !validPath(c.ID) {
			errs = append(errs, fmt.Errorf("tlsx: LeafConfig.ID is %q, want segments of letters, digits, '.', '-' and '_' with '/' between", c.ID))
		}
		template.URIs = []*url.URL{{Scheme: "spiffe", Host: ca.trustDomain, Path: "/" + c.ID}}
	}
	for _, name := range c.Names {
		wild, bare := "", name
		if parent, ok := strings.CutPrefix(name, "*."); ok {
			wild, bare = "*.", parent
		}
		normal, err := normalName(bare)
		ip, ipErr := netip.ParseAddr(normal)
		switch {
		case err != nil || ipErr == nil && wild != "":
			errs = append(errs, fmt.Errorf("tlsx: LeafConfig.Names: %q: %w", name, errBadName))
		case ipErr == nil:
			template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
		default:
			template.DNSNames = append(template.DNSNames, wild+normal)
		}
	}
	cn := c.CommonName
	if cn == "" && len(c.ID) <= 64 {
		cn = c.ID
	}
	if len(cn) > 64 {
		errs = append(errs, fmt.Errorf("tlsx: LeafConfig.CommonName is %q, want at most 64 bytes", cn))
	}
	template.Subject = pkix.Name{CommonName: cn}
	if c.Lifetime < 0 {
		errs = append(errs, fmt.Errorf("tlsx: LeafConfig.Lifetime is %v, want a positive one", c.Lifetime))
	}
	if c.Lifetime == 0 {
		c.Lifetime = ca.lifetime
	}
	return template, c.Lifetime, errors.Join(errs...)
}

// validPath says whether s, with a slash before it, is the path of a SPIFFE ID
// (SPIFFE-ID, section 2.2), which needs no escapes in a URI.
func validPath(s string) bool {
	if len(s) > 1024 {
		return false
	}
	for segment := range strings.SplitSeq(s, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
		for _, c := range []byte(segment) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(".-_", rune(c)) {
				return false
			}
		}
	}
	return true
}

func (ca *CA) issue(template x509.Certificate, lifetime time.Duration, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	chain, err := ca.sign(template, key.Public(), lifetime, now)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

// sign returns a leaf and the intermediate that it needs, if there is one.
func (ca *CA) sign(template x509.Certificate, public crypto.PublicKey, lifetime time.Duration, now time.Time) ([][]byte, error) {
	signer, err := ca.issuer(now)
	if err != nil {
		return nil, err
	}
	template.NotBefore, template.NotAfter = now.Add(-clockSkew), now.Add(lifetime)
	if end := signer.cert.NotAfter; template.NotAfter.After(end) {
		template.NotAfter = end
	}
	if !template.NotAfter.After(now) {
		return nil, fmt.Errorf("the root expired on %s", signer.cert.NotAfter.Format(time.RFC3339))
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, signer.cert, public, signer.key)
	if err != nil {
		return nil, err
	}
	if signer == ca.root {
		return [][]byte{der}, nil
	}
	return [][]byte{der, signer.cert.Raw}, nil
}

// renew is called by the holder of mu, or before anyone else has s.
func (s *LeafSource) renew(now time.Time) error {
	cert, err := s.ca.issue(s.template, s.lifetime, now)
	if err != nil {
		return err
	}
	half := cert.Leaf.NotAfter.Sub(now) / 2
	s.current.Store(&issuedLeaf{cert: cert, renew: now.Add(half - time.Duration(mathrand.Float64()*float64(half)/5))})
	return nil
}

// Notify has a function called for each renewal, and each that failed. It must
// not block.
func (s *LeafSource) Notify(f func(CertEvent)) { s.add(f) }

// load returns the certificate of this moment. While one caller renews, the
// others go on with the old one, unless that has expired: then they wait.
func (s *LeafSource) load() *tls.Certificate {
	now := time.Now()
	cur := s.current.Load()
	if now.Before(cur.renew) || now.UnixNano() < cur.retry.Load() {
		return cur.cert
	}
	if now.Before(cur.cert.Leaf.NotAfter) {
		if !s.mu.TryLock() {
			return cur.cert
		}
	} else {
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	if cur = s.current.Load(); now.Before(cur.renew) || now.UnixNano() < cur.retry.Load() {
		return cur.cert
	}
	if err := s.renew(now); err != nil {
		cur.retry.Store(now.Add(renewRetry).UnixNano())
		s.ca.logger.Warn("tlsx: internal CA: certificate not renewed, the old one stays", "subject", s.template.Subject, "expires", cur.cert.Leaf.NotAfter, "err", err)
		s.tell(CertEvent{Kind: CertFailed, Name: s.template.Subject.CommonName, NotAfter: cur.cert.Leaf.NotAfter, Err: err})
	} else {
		s.tell(CertEvent{Kind: CertRenewed, Name: s.template.Subject.CommonName, NotAfter: s.current.Load().cert.Leaf.NotAfter})
	}
	return s.current.Load().cert
}

// Certificate implements [CertSource]: it has a certificate for the names that
// the certificate covers, and for a hello without a name.
func (s *LeafSource) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert := s.load()
	if hello.ServerName != "" && cert.Leaf.VerifyHostname(hello.ServerName) != nil {
		return nil, nil
	}
	return cert, nil
}

// Certificates returns the certificate of this moment.
func (s *LeafSource) Certificates() []*x509.Certificate {
	return []*x509.Certificate{s.load().Leaf}
}
