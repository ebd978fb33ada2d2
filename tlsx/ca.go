package tlsx

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// authorityFile holds the root's certificate and key. It is the one file
	// that says which root the folder has.
	authorityFile = "authority.pem"
	// rootFile holds the certificate alone, for those who are to trust it.
	rootFile = "root.pem"
	// rootLifetime is that of a new root.
	rootLifetime = 10 * 365 * 24 * time.Hour
	// clockSkew is by how much a certificate is valid before it is made, for
	// peers whose clock is behind.
	clockSkew = 5 * time.Minute
)

// CAConfig says where an internal authority lives. It is checked by [OpenCA].
type CAConfig struct {
	// Dir is the folder with the root, made with mode 0700 if it is missing.
	// Empty is an error.
	Dir string
	// Name is the common name of a new root. Empty means "Palisade internal CA".
	Name string
	// TrustDomain is the host of the spiffe:// URIs that name identities. Empty
	// means "palisade.internal". A folder keeps the one it was made with.
	TrustDomain string
	// Leaf is the lifetime of certificates. Zero means 24 hours.
	Leaf time.Duration
	// Logger gets changes of state. Nil means slog.Default().
	Logger *slog.Logger
}

// CA is an internal certificate authority: one P-256 root in a folder, which
// signs leaves directly. It is a [TrustSource] that trusts that root. Create it
// with [OpenCA]. It is safe for concurrent use, and needs no Close.
//
// Whoever can read the folder can become anyone whom the authority's
// certificates name. There is no revocation: leaves are short-lived instead.
type CA struct {
	dir         string
	trustDomain string
	lifetime    time.Duration
	logger      *slog.Logger
	cert        *x509.Certificate
	key         crypto.Signer
	roots       *Roots
}

// OpenCA opens the authority in a folder, and makes it first if there is none.
// Processes that open the same empty folder at once agree on one root. Copies
// of the folder on several hosts are the same authority.
func OpenCA(c CAConfig) (*CA, error) {
	if c.Name == "" {
		c.Name = "Palisade internal CA"
	}
	if c.TrustDomain == "" {
		c.TrustDomain = "palisade.internal"
	}
	if c.Leaf == 0 {
		c.Leaf = 24 * time.Hour
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	ca := &CA{dir: c.Dir, trustDomain: c.TrustDomain, lifetime: c.Leaf, logger: c.Logger}
	if err := ca.open(c.Name); err != nil {
		return nil, fmt.Errorf("tlsx: internal CA: %w", err)
	}
	return ca, nil
}

func (c *CAConfig) validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("tlsx: CAConfig.Dir is empty, want a folder"))
	}
	if len(c.Name) > 64 {
		errs = append(errs, fmt.Errorf("tlsx: CAConfig.Name is %q, want at most 64 bytes", c.Name))
	}
	if normal, err := normalName(c.TrustDomain); err != nil || normal != c.TrustDomain {
		errs = append(errs, fmt.Errorf("tlsx: CAConfig.TrustDomain is %q, want a host name in lower case", c.TrustDomain))
	}
	if c.Leaf < 0 {
		errs = append(errs, fmt.Errorf("tlsx: CAConfig.Leaf is %v, want a positive lifetime", c.Leaf))
	}
	return errors.Join(errs...)
}

// open loads the root. Making one and losing the race for the folder to another
// process ends in loading that one's root, so there is a single way to a root.
func (ca *CA) open(name string) error {
	if err := os.MkdirAll(ca.dir, 0o700); err != nil {
		return err
	}
	file := filepath.Join(ca.dir, authorityFile)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = newAuthority(name, ca.trustDomain); err != nil {
			return err
		}
		switch err = createFile(file, data, 0o600); {
		case err == nil:
			ca.logger.Info("tlsx: made a new internal CA", "dir", ca.dir)
		case !errors.Is(err, fs.ErrExist):
			return err
		}
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return err
	}
	if err := ca.load(data); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
		ca.logger.Warn("tlsx: the key of the internal CA is open to other users", "file", file, "mode", info.Mode().Perm())
	}
	if present, err := os.ReadFile(ca.RootFile()); err == nil && slices.Equal(present, ca.RootPEM()) {
		return nil // a folder that is read-only will do
	}
	return writeFile(ca.RootFile(), ca.RootPEM(), 0o644)
}

func (ca *CA) load(data []byte) error {
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	switch {
	case !ok:
		return errors.New("the key cannot sign")
	case time.Now().After(cert.NotAfter):
		return fmt.Errorf("the root expired on %s", cert.NotAfter.Format(time.RFC3339))
	case len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://"+ca.trustDomain:
		return fmt.Errorf("the root's trust domain is %v, want spiffe://%s", cert.URIs, ca.trustDomain)
	}
	roots, err := NewRoots(cert)
	if err != nil {
		return err
	}
	ca.cert, ca.key, ca.roots = cert, key, roots
	return nil
}

// newAuthority returns a new root, certificate and key, in PEM. It may sign
// leaves only, and carries its trust domain as SPIFFE's X.509-SVID, section 3,
// has it.
func newAuthority(name, trustDomain string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(rootLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return append(encodePEM(der), keyPEM...), nil
}

func encodePEM(certs ...[]byte) []byte {
	var out []byte
	for _, der := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Roots implements [TrustSource]: the authority's own root, and no other.
func (ca *CA) Roots() *Roots { return ca.roots }

// RootPEM returns the root's certificate in PEM.
func (ca *CA) RootPEM() []byte { return encodePEM(ca.cert.Raw) }

// RootFile is the path of a file with the root's certificate in PEM, for
// programs that are to trust it.
func (ca *CA) RootFile() string { return filepath.Join(ca.dir, rootFile) }

// Identity returns the URI of the identity with a path: the ID of a
// [LeafConfig], to be pinned in a [PeerMatcher].
func (ca *CA) Identity(path string) string {
	return "spiffe://" + ca.trustDomain + "/" + strings.TrimPrefix(path, "/")
}
