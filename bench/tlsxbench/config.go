package tlsxbench

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"embed"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"text/template"
	"time"
)

//go:embed config
var configs embed.FS

// configData is what the programs are started with.
type configData struct {
	Dir     string // for files of its own
	Listen  string
	Mutual  bool   // clients must show a certificate
	Backend string // host and port; answers by itself if empty
	Encrypt bool   // mutual TLS to the backend
	Root    bool   // this process is root's
	Name    string // of the server
	Answer  string
	certFiles
}

// render writes the configuration of a rival to its folder.
func (c configData) render(name string) (path string, err error) {
	text, err := configs.ReadFile("config/" + name)
	if err != nil {
		return "", err
	}
	t, err := template.New(name).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, c); err != nil {
		return "", err
	}
	path = filepath.Join(c.Dir, name)
	return path, os.WriteFile(path, b.Bytes(), 0o600)
}

// certFiles are the authority and the certificate of the server, which is also
// what a proxy shows to its backend.
type certFiles struct {
	CA, Cert, Key string
	Both          string // certificate and key, as HAProxy wants them
}

const serverName = "bench.example"

// certs are the certificates of a run, all with P-256 keys.
type certs struct {
	certFiles
	server, client tls.Certificate
	chained        tls.Certificate // of a client, with the intermediate authority that signed it
	pool           *x509.CertPool
}

// newCerts makes an authority, and under it a certificate of the server, one of a
// client, as an internal CA of tlsx issues it by default, and one of a client as
// CAConfig.Intermediate has it.
func newCerts(dir string) (*certs, error) {
	ca, err := newCert(&x509.Certificate{
		Subject: pkix.Name{CommonName: "bench authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	if err != nil {
		return nil, err
	}
	uses := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	leaf := func(name string, issuer *tls.Certificate) (tls.Certificate, error) {
		return newCert(&x509.Certificate{
			Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, ExtKeyUsage: uses, KeyUsage: x509.KeyUsageDigitalSignature,
		}, issuer)
	}
	middle, err := newCert(&x509.Certificate{
		Subject: pkix.Name{CommonName: "bench intermediate"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, &ca)
	if err != nil {
		return nil, err
	}
	server, err1 := leaf(serverName, &ca)
	client, err2 := leaf("client.example", &ca)
	chained, err3 := leaf("client.example", &middle)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	chained.Certificate = append(chained.Certificate, middle.Certificate...)
	c := &certs{server: server, client: client, chained: chained, pool: x509.NewCertPool()}
	c.pool.AddCert(ca.Leaf)
	c.certFiles = certFiles{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "both.pem")}
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		return nil, err
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	certPEM, keyPEM := block("CERTIFICATE", server.Certificate[0]), block("PRIVATE KEY", key)
	return c, errors.Join(
		os.WriteFile(c.CA, block("CERTIFICATE", ca.Certificate[0]), 0o600),
		os.WriteFile(c.Cert, certPEM, 0o600), os.WriteFile(c.Key, keyPEM, 0o600),
		os.WriteFile(c.Both, append(certPEM, keyPEM...), 0o600))
}

// newCert issues a certificate by another, or by itself.
func newCert(template *x509.Certificate, issuer *tls.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent, signer := template, any(key)
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}, err
}

// clientConfig is a client's, which believes nobody but the server itself: to
// verify a chain each time would only keep the load from coming. It shows the
// certificates given, if any.
func (c *certs) clientConfig(shown ...tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates: shown,
		ServerName:   serverName, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 || !bytes.Equal(cs.PeerCertificates[0].Raw, c.server.Certificate[0]) {
				return errors.New("tlsxbench: another server")
			}
			return nil
		},
	}
}
