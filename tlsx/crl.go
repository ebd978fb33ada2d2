package tlsx

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// RevocationSource knows which certificates their authorities have taken back.
// Implementations are safe for concurrent use and answer at once.
type RevocationSource interface {
	// Revoked returns nil for a certificate that is good. Its issuer is the
	// authority that was found to have signed it. Any error refuses the client;
	// it wraps ErrRevoked if the authority has taken the certificate back.
	Revoked(cert, issuer *x509.Certificate) error
}

// checkRevoked asks about all of a verified chain but the root.
func checkRevoked(source RevocationSource, chain []*x509.Certificate) error {
	if source == nil {
		return nil
	}
	for i, issuer := range chain[1:] {
		if err := source.Revoked(chain[i], issuer); err != nil {
			return err
		}
	}
	return nil
}

// FileCRL is a [RevocationSource] from revocation lists (RFC 5280, section 5) in
// a PEM file, watched for changes: a new version counts within 250 ms of its
// rename. It fails closed: certificates of an authority that has no list in the
// file, or one that has expired, are refused. Create it with [CRLFile]. It is
// safe for concurrent use, and needs no Close.
type FileCRL struct{ w *watched[revocationLists] }

// CRLFile loads revocation lists from a PEM file, of any number of authorities
// with one list each. A file that is missing, damaged or has an expired list is
// an error now; later, the last good lists stay until they expire. So is one with
// a list that says it is made more than five minutes from now, until that time has
// come: what it will say may not hold yet, and what the last one says still does.
// A nil logger means slog.Default().
func CRLFile(file string, logger *slog.Logger) (*FileCRL, error) {
	w, err := watch(logger, func(c [][]byte) (*revocationLists, error) { return parseCRLs(c[0], time.Now()) }, file)
	if err != nil {
		return nil, err
	}
	return &FileCRL{w}, nil
}

// Revoked implements [RevocationSource].
func (f *FileCRL) Revoked(cert, issuer *x509.Certificate) error {
	return f.w.load().check(cert, issuer, time.Now())
}

// revocationLists are the lists of several authorities.
type revocationLists struct{ lists []*revocationList }

// revocationList is one authority's. Only vouched changes.
type revocationList struct {
	crl     *x509.RevocationList
	serials map[string]bool
	vouched atomic.Pointer[x509.Certificate] // the authority that signed it
}

// parseCRLs reads complete lists. Those that are not, or need what is not known
// here, are refused by their critical extensions.
func parseCRLs(data []byte, now time.Time) (*revocationLists, error) {
	const begin = "-----BEGIN "
	out := new(revocationLists)
	for data = bytes.TrimSpace(data); len(data) > 0; {
		block, rest := pem.Decode(data)
		if block == nil || !bytes.HasPrefix(data, []byte(begin)) || bytes.Count(data[:len(data)-len(rest)], []byte(begin)) != 1 || block.Type != "X509 CRL" || len(block.Headers) > 0 {
			return nil, errors.New("tlsx: revocation lists: want PEM blocks of type X509 CRL only")
		}
		list, err := newRevocationList(block.Bytes, now)
		if err != nil {
			return nil, fmt.Errorf("tlsx: revocation lists: %w", err)
		}
		out.lists, data = append(out.lists, list), bytes.TrimSpace(rest)
	}
	if len(out.lists) == 0 {
		return nil, errors.New("tlsx: revocation lists: none")
	}
	return out, nil
}

func newRevocationList(der []byte, now time.Time) (*revocationList, error) {
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	if !now.Before(crl.NextUpdate) {
		return nil, fmt.Errorf("the list of %s expired on %s", crl.Issuer, crl.NextUpdate.Format(time.RFC3339))
	}
	// RFC 5280, section 6.3.3 leaves this to us. The allowance is for lists that are
	// put into place at once, by the clock of another host.
	if from := crl.ThisUpdate.Add(-clockSkew); now.Before(from) {
		return nil, &tooEarlyError{"the list of " + crl.Issuer.String(), from}
	}
	extensions := slices.Clone(crl.Extensions)
	list := &revocationList{crl: crl, serials: make(map[string]bool, len(crl.RevokedCertificateEntries))}
	for _, e := range crl.RevokedCertificateEntries {
		list.serials[string(e.SerialNumber.Bytes())] = true
		extensions = append(extensions, e.Extensions...)
	}
	for _, e := range extensions {
		if e.Critical {
			return nil, fmt.Errorf("the list of %s has the critical extension %s", crl.Issuer, e.Id)
		}
	}
	return list, nil
}

func (l *revocationLists) check(cert, issuer *x509.Certificate, now time.Time) error {
	for _, list := range l.lists {
		if !list.isOf(issuer) {
			continue
		}
		if !now.Before(list.crl.NextUpdate) {
			return fmt.Errorf("tlsx: the revocation list of %s expired on %s", issuer.Subject, list.crl.NextUpdate.Format(time.RFC3339))
		}
		if list.serials[string(cert.SerialNumber.Bytes())] {
			return fmt.Errorf("%w: %s, serial %x", ErrRevoked, cert.Subject, cert.SerialNumber)
		}
		return nil
	}
	return fmt.Errorf("tlsx: no revocation list of %s", issuer.Subject)
}

// isOf verifies the signature the first time it is asked about an authority.
func (l *revocationList) isOf(issuer *x509.Certificate) bool {
	if !bytes.Equal(l.crl.RawIssuer, issuer.RawSubject) {
		return false
	}
	if known := l.vouched.Load(); known != nil && known.Equal(issuer) {
		return true
	}
	if l.crl.CheckSignatureFrom(issuer) != nil {
		return false
	}
	l.vouched.Store(issuer)
	return true
}
