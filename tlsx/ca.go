package tlsx

import (
	"context"
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
	// authorityFile holds the root's certificate and key. It is the one value
	// that says which root a folder or storage has.
	authorityFile = "authority.pem"
	// rootFile holds the certificate alone, for those who are to trust it.
	rootFile = "root.pem"
	// rootLifetime is that of a new root.
	rootLifetime = 10 * 365 * 24 * time.Hour
	// caStorageTimeout is how long the storage may take to answer.
	caStorageTimeout = 5 * time.Second
	// clockSkew is by how much a certificate is valid before it is made, for
	// peers whose clock is behind; and a revocation list before it says it is.
	clockSkew = 5 * time.Minute
)

// CAConfig says where an internal authority lives. It is checked by [OpenCA].
type CAConfig struct {
	// Dir is the folder with the root, made with mode 0700 if it is missing.
	// Empty is an error unless there is a Storage.
	Dir string
	// Storage keeps the authority instead of a folder. It gets to see the keys
	// as they are. Nil means DirStorage{Path: Dir}; with both it is an error.
	Storage Storage
	// Name is the common name of a new root. Empty means "Palisade internal CA".
	Name string
	// TrustDomain is the host of the spiffe:// URIs that name identities. Empty
	// means "palisade.internal". A folder keeps the one it was made with.
	TrustDomain string
	// Leaf is the lifetime of certificates. Zero means 24 hours.
	Leaf time.Duration
	// Intermediate is the lifetime of intermediate authorities, which sign the
	// leaves in the root's stead. A new one takes over at half of it, so it is
	// at least twice Leaf. Zero means none: the root signs. A root that was made
	// without cannot have them later.
	Intermediate time.Duration
	// Constrain limits what a new root, and everyone below it, can certify (RFC
	// 5280, section 4.2.1.10): domains, with the names below them, and address
	// ranges such as "10.0.0.0/8". Identities are limited to the trust domain
	// with it. Nil means no limits.
	Constrain []string
	// Logger gets changes of state. Nil means slog.Default().
	Logger *slog.Logger
}

// CA is an internal certificate authority: one P-256 root in a folder, which
// signs leaves itself or through intermediates. It is a [TrustSource] that
// trusts that root. Create it with [OpenCA]. It is safe for concurrent use, and
// needs no Close.
//
// Whoever can read the folder can become anyone whom the authority's
// certificates name. There is no revocation: leaves are short-lived instead.
type CA struct {
	dir          string // empty with a storage of the caller's
	storage      Storage
	trustDomain  string
	lifetime     time.Duration
	intermediate time.Duration
	logger       *slog.Logger
	root         *authority
	roots        *Roots
	issuing      issuing
}

// authority is a certificate that signs others, with its key. It is immutable.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
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
	ca := &CA{dir: c.Dir, storage: c.Storage, trustDomain: c.TrustDomain, lifetime: c.Leaf, intermediate: c.Intermediate, logger: c.Logger}
	if ca.storage == nil {
		ca.storage = DirStorage{Path: c.Dir}
	}
	err := ca.open(&c)
	if err == nil {
		_, err = ca.issuer(time.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("tlsx: internal CA: %w", err)
	}
	return ca, nil
}

func (c *CAConfig) validate() error {
	var errs []error
	if (c.Dir == "") == (c.Storage == nil) {
		errs = append(errs, fmt.Errorf("tlsx: CAConfig.Dir is %q and Storage a %T, want one of them", c.Dir, c.Storage))
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
	if c.Intermediate != 0 && c.Intermediate < 2*c.Leaf {
		errs = append(errs, fmt.Errorf("tlsx: CAConfig.Intermediate is %v, want at least twice the %v of Leaf", c.Intermediate, c.Leaf))
	}
	if _, err := parseConstraints(c.Constrain); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// open loads the root. Making one and losing the race for the folder to another
// process ends in loading that one's root, so there is a single way to a root.
func (ca *CA) open(c *CAConfig) error {
	ctx, cancel := context.WithTimeout(context.Background(), caStorageTimeout)
	defer cancel()
	data, err := ca.storage.Load(ctx, authorityFile)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = newAuthority(c); err != nil {
			return err
		}
		switch err = ca.storage.Swap(ctx, authorityFile, nil, data); {
		case err == nil:
			ca.logger.Info("tlsx: made a new internal CA", "dir", ca.dir)
		case !errors.Is(err, ErrConflict):
			return err
		}
		data, err = ca.storage.Load(ctx, authorityFile)
	}
	if err != nil {
		return err
	}
	if err := ca.load(data); err != nil {
		return fmt.Errorf("%s: %w", authorityFile, err)
	}
	if ca.dir == "" {
		return nil
	}
	file := filepath.Join(ca.dir, authorityFile)
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
		ca.logger.Warn("tlsx: the key of the internal CA is open to other users", "file", file, "mode", info.Mode().Perm())
	}
	if present, err := os.ReadFile(ca.RootFile()); err == nil && slices.Equal(present, ca.RootPEM()) {
		return nil // a folder that is read-only will do
	}
	return writeFile(ca.RootFile(), ca.RootPEM(), 0o644)
}

func (ca *CA) load(data []byte) error {
	root, err := parseAuthority(data)
	if err != nil {
		return err
	}
	cert := root.cert
	switch {
	case time.Now().After(cert.NotAfter):
		return fmt.Errorf("the root expired on %s", cert.NotAfter.Format(time.RFC3339))
	case len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://"+ca.trustDomain:
		return fmt.Errorf("the root's trust domain is %v, want spiffe://%s", cert.URIs, ca.trustDomain)
	case ca.intermediate != 0 && cert.MaxPathLenZero:
		return errors.New("the root was made without intermediates and cannot have them")
	}
	roots, err := NewRoots(cert)
	if err != nil {
		return err
	}
	ca.root, ca.roots = root, roots
	return nil
}

func parseAuthority(data []byte) (*authority, error) {
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	return &authority{cert, key}, nil
}

// newAuthority returns a new root, certificate and key, in PEM. It carries its
// trust domain as SPIFFE's X.509-SVID, section 3, has it.
func newAuthority(c *CAConfig) ([]byte, error) {
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: c.Name},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(rootLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: c.TrustDomain}},
	}
	if c.Intermediate > 0 {
		template.MaxPathLen = 1
	}
	if len(c.Constrain) > 0 {
		limits, err := parseConstraints(c.Constrain)
		if err != nil {
			return nil, err
		}
		limits.apply(template, c.TrustDomain)
	}
	return signAuthority(template, nil)
}

// signAuthority makes a key for an authority and signs it, nil for by itself.
func signAuthority(template *x509.Certificate, parent *authority) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if parent == nil {
		parent = &authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
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
func (ca *CA) RootPEM() []byte { return encodePEM(ca.root.cert.Raw) }

// RootFile is the path of a file with the root's certificate in PEM, for
// programs that are to trust it. It is empty for an authority without a Dir.
func (ca *CA) RootFile() string {
	if ca.dir == "" {
		return ""
	}
	return filepath.Join(ca.dir, rootFile)
}

// Identity returns the URI of the identity with a path: the ID of a
// [LeafConfig], to be pinned in a [PeerMatcher].
func (ca *CA) Identity(path string) string {
	return "spiffe://" + ca.trustDomain + "/" + strings.TrimPrefix(path, "/")
}
