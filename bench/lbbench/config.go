package lbbench

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
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"text/template"
	"time"
)

//go:embed config
var configs embed.FS

// configData is what the configurations of the rivals are made from.
type configData struct {
	Dir          string // for files of its own
	Listen       string
	Backend      string
	Stream       bool   // forward TCP rather than HTTP
	StreamModule string // of nginx, if it is one of its own
	Root         bool   // this process is root's
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

// certFiles are the files of a certificate; all are empty for plain text.
type certFiles struct {
	Cert, Key string
	Both      string // one after the other, as HAProxy wants them
}

const serverName = "bench.example"

// newCert makes a certificate with a P-256 key, and the client's side of it.
func newCert(dir string) (certFiles, *tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certFiles{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return certFiles{}, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return certFiles{}, nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	f := certFiles{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), Both: filepath.Join(dir, "both.pem")}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(certPEM) {
		return certFiles{}, nil, fmt.Errorf("lbbench: the certificate cannot be read")
	}
	return f, &tls.Config{RootCAs: roots, ServerName: serverName}, errors.Join(
		os.WriteFile(f.Cert, certPEM, 0o600), os.WriteFile(f.Key, keyPEM, 0o600),
		os.WriteFile(f.Both, append(certPEM, keyPEM...), 0o600))
}
