package tlsx

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"
)

// CertSource has certificates. Implementations are safe for concurrent use and
// answer at once: they are asked in every handshake.
type CertSource interface {
	// Certificate returns the certificate for a hello, whose ServerName is in
	// normal form, and the IP address connected to if the client sent no name.
	// An empty ServerName asks for the source's own certificate, as when it is
	// used as a client. Nil without an error means that the source has none, and
	// so does an error that wraps ErrUnknownName, which says why.
	Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// CertFunc makes a function a [CertSource].
type CertFunc func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// Certificate calls f.
func (f CertFunc) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return f(hello) }

// FileSource is a certificate and key in PEM files, watched for changes: a new
// version is served within 250 ms of its rename. Create it with [Files]. It is
// safe for concurrent use, and needs no Close.
type FileSource struct {
	w *watched[tls.Certificate]
	listeners
}

// Files loads a certificate chain and its key. Files that are missing, do not
// match, have expired or are not valid yet are an error now; later, the last good
// pair stays, in the last case until the new one is valid. A nil logger means
// slog.Default().
func Files(certFile, keyFile string, logger *slog.Logger) (*FileSource, error) {
	w, err := watch(logger, parsePair, certFile, keyFile)
	if err != nil {
		return nil, err
	}
	f := &FileSource{w: w}
	w.changed = func(cert *tls.Certificate, err error) {
		e := CertEvent{Kind: CertRenewed, Name: certFile, NotAfter: cert.Leaf.NotAfter, Err: err}
		if err != nil {
			e.Kind = CertFailed
		}
		f.tell(e)
	}
	return f, nil
}

// Notify has a function called when the files have changed: for a pair that
// replaces the one before, and for one that cannot be used. It must not block.
func (f *FileSource) Notify(fn func(CertEvent)) { f.add(fn) }

func parsePair(contents [][]byte) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, err
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, err
		}
	}
	switch now := time.Now(); {
	case now.After(cert.Leaf.NotAfter):
		return nil, fmt.Errorf("certificate expired on %s", cert.Leaf.NotAfter.Format(time.RFC3339))
	case now.Before(cert.Leaf.NotBefore):
		return nil, &tooEarlyError{"certificate", cert.Leaf.NotBefore}
	}
	return &cert, nil
}

// Certificate implements [CertSource]: it has a certificate for the names that
// the certificate itself covers.
func (f *FileSource) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert := f.w.load()
	if hello.ServerName != "" && cert.Leaf.VerifyHostname(hello.ServerName) != nil {
		return nil, nil
	}
	return cert, nil
}

// Certificates returns the certificate served now.
func (f *FileSource) Certificates() []*x509.Certificate {
	return []*x509.Certificate{f.w.load().Leaf}
}
