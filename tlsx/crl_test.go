package tlsx

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// crlOf returns an authority's list, good for an hour.
func crlOf(tb testing.TB, ca *testcert.CA, extra []pkix.Extension, revoked ...*big.Int) []byte {
	tb.Helper()
	return changedCRL(tb, ca, func(l *x509.RevocationList) {
		l.ExtraExtensions = extra
		for _, serial := range revoked {
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Now()})
		}
	})
}

// TestRevokedClient has its certificate revoked while it holds a ticket.
func TestRevokedClient(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		synctest.Test(t, func(t *testing.T) {
			ca := testcert.NewCA(t)
			alice, bob := ca.Issue(testcert.Leaf{CommonName: "alice"}), ca.Issue(testcert.Leaf{CommonName: "bob"})
			file := filepath.Join(t.TempDir(), "crl.pem")
			replace(t, file, crlOf(t, ca, nil))
			crl, err := CRLFile(file, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			term := newTerminator(t, Config{
				Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"a.test"}}))},
				Policies: []Policy{{Client: &ClientAuth{Mode: Required, Roots: rootsOf(t, ca), Revoked: crl}}},
			})
			visit := func(cert *tls.Certificate, sessions tls.ClientSessionCache, want error) {
				t.Helper()
				r := shake(t, term.ServerConfig(), ticketClient(version, "a.test", cert, sessions))
				if want == nil && !r.ok() || want != nil && (r.clientErr == nil || !errors.Is(r.serverErr, want)) {
					t.Errorf("%s: %v / %v, want %v", cert.Leaf.Subject, r.clientErr, r.serverErr, want)
				}
			}
			aliceSessions, bobSessions := new(oneSession), new(oneSession)
			visit(&alice, aliceSessions, nil)
			visit(&bob, bobSessions, nil)
			replace(t, file, crlOf(t, ca, nil, alice.Leaf.SerialNumber))
			time.Sleep(seenAfter)
			visit(&alice, aliceSessions, ErrRevoked)
			visit(&alice, nil, ErrRevoked)
			visit(&bob, bobSessions, nil)
			replace(t, file, []byte("rubbish"))
			time.Sleep(seenAfter)
			visit(&alice, nil, ErrRevoked)
			visit(&bob, bobSessions, nil)
			time.Sleep(time.Hour)
			if r := shake(t, term.ServerConfig(), ticketClient(version, "a.test", &bob, bobSessions)); r.ok() {
				t.Error("an expired list lets clients in")
			}
		})
	})
}

func TestCRLFile(t *testing.T) {
	ca, other := testcert.NewCA(t), testcert.NewCA(t)
	leaf := ca.Issue(testcert.Leaf{}).Leaf
	good := crlOf(t, ca, nil, leaf.SerialNumber)
	critical := func(id ...int) []pkix.Extension {
		return []pkix.Extension{{Id: asn1.ObjectIdentifier(id), Critical: true, Value: []byte{2, 1, 1}}}
	}
	file := filepath.Join(t.TempDir(), "crl.pem")
	for name, bad := range map[string][]byte{
		"empty": nil, "rubbish": []byte("x"), "half": good[:len(good)/2], "text after": append(slices.Clone(good), 'x'), "a certificate": ca.PEM(),
		"text before": append([]byte("x\n"), good...), "text between": slices.Concat(good, []byte("x\n"), good), "damaged before a good one": slices.Concat(good[:len(good)/2], []byte("\n"), good),
		"of another type": bytes.ReplaceAll(good, []byte("X509 CRL"), []byte("CERTIFICATE LIST")), "with a header": bytes.Replace(good, []byte("-----\n"), []byte("-----\nA: b\n\n"), 1),
		"expired": expiredCRL(t, ca), "of other authorities' certificates": indirectCRL(t, ca),
		"of later": changedCRL(t, ca, func(l *x509.RevocationList) { l.ThisUpdate = time.Now().Add(6 * time.Minute) }),
		"a delta":  crlOf(t, ca, critical(2, 5, 29, 27)), "a partial list": crlOf(t, ca, critical(2, 5, 29, 28)),
	} {
		replace(t, file, bad)
		if _, err := CRLFile(file, nil); err == nil {
			t.Errorf("a file that is %s was accepted", name)
		}
	}
	// Both authorities have the same name, so only signatures tell whose is which.
	replace(t, file, slices.Concat(crlOf(t, other, nil), []byte("\n"), good))
	crl, err := CRLFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := crl.Revoked(leaf, ca.Cert); !errors.Is(err, ErrRevoked) {
			t.Errorf("revoked: %v", err)
		}
		if err := crl.Revoked(ca.Issue(testcert.Leaf{}).Leaf, ca.Cert); err != nil {
			t.Errorf("not revoked: %v", err)
		}
		if err := crl.Revoked(leaf, other.Cert); err != nil {
			t.Errorf("the same serial of another authority: %v", err)
		}
	}
	stranger := testcert.NewCA(t)
	if err := crl.Revoked(stranger.Issue(testcert.Leaf{}).Leaf, stranger.Cert); err == nil || errors.Is(err, ErrRevoked) {
		t.Errorf("an authority without a list: %v", err)
	}
}

// TestCRLOfLater puts lists into place that are made in the future: by a clock that
// is ahead, and well before their time, until which the one before counts.
func TestCRLOfLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testcert.NewCA(t)
		first, second := ca.Issue(testcert.Leaf{}).Leaf, ca.Issue(testcert.Leaf{}).Leaf
		file := filepath.Join(t.TempDir(), "crl.pem")
		later := func(by time.Duration, revoked *x509.Certificate) []byte {
			return changedCRL(t, ca, func(l *x509.RevocationList) {
				l.ThisUpdate, l.NextUpdate = time.Now().Add(by), time.Now().Add(3*time.Hour)
				l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: revoked.SerialNumber, RevocationTime: time.Now()}}
			})
		}
		replace(t, file, later(4*time.Minute, first))
		crl, err := CRLFile(file, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("by a clock that is ahead: %v", err)
		}
		replace(t, file, later(time.Hour, second))
		for _, c := range []struct {
			wait    time.Duration
			revoked *x509.Certificate
		}{{seenAfter, first}, {50 * time.Minute, first}, {5 * time.Minute, second}} {
			time.Sleep(c.wait)
			for _, cert := range []*x509.Certificate{first, second} {
				if err := crl.Revoked(cert, ca.Cert); errors.Is(err, ErrRevoked) != (cert == c.revoked) || err != nil && cert != c.revoked {
					t.Errorf("%v later the first certificate %v: %v", c.wait, cert == first, err)
				}
			}
		}
	})
}

// expiredCRL is good until now.
func expiredCRL(tb testing.TB, ca *testcert.CA) []byte {
	return changedCRL(tb, ca, func(l *x509.RevocationList) { l.ThisUpdate, l.NextUpdate = time.Now().Add(-time.Hour), time.Now() })
}

// indirectCRL has an entry that says whose certificate it means (RFC 5280, section
// 5.3.3).
func indirectCRL(tb testing.TB, ca *testcert.CA) []byte {
	return changedCRL(tb, ca, func(l *x509.RevocationList) {
		l.RevokedCertificateEntries = []x509.RevocationListEntry{{
			SerialNumber: big.NewInt(1), RevocationTime: time.Now(), ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0}}},
		}}
	})
}

func changedCRL(tb testing.TB, ca *testcert.CA, change func(*x509.RevocationList)) []byte {
	tb.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	change(list)
	der, err := x509.CreateRevocationList(rand.Reader, list, &x509.Certificate{RawSubject: ca.Cert.RawSubject, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign}, ca.Key)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// askedRevocation notes what it is asked, and has one certificate revoked.
type askedRevocation struct {
	asked   [][2]*certificate
	revoked *certificate
}

func (a *askedRevocation) Revoked(cert, issuer *certificate) error {
	a.asked = append(a.asked, [2]*certificate{cert, issuer})
	if cert == a.revoked {
		return ErrRevoked
	}
	return nil
}

// TestWholeChainIsChecked: an intermediate that was taken back takes those below it
// along.
func TestWholeChainIsChecked(t *testing.T) {
	ca := testcert.NewCA(t)
	chain := chainOf(ca.Issue(testcert.Leaf{}).Leaf, ca.Issue(testcert.Leaf{}).Leaf, ca.Issue(testcert.Leaf{}).Leaf, ca.Cert)
	want := [][2]*certificate{{chain[0], chain[1]}, {chain[1], chain[2]}, {chain[2], chain[3]}}
	source := new(askedRevocation)
	if err := checkRevoked(source, chain); err != nil || !slices.Equal(source.asked, want) {
		t.Errorf("asked %d times, %v, want each certificate but the root with its issuer", len(source.asked), err)
	}
	for i, c := range chain[:3] {
		if err := checkRevoked(&askedRevocation{revoked: c}, chain); !errors.Is(err, ErrRevoked) {
			t.Errorf("certificate %d of the chain revoked: %v", i, err)
		}
	}
}

// FuzzParseCRLs must not panic, nor accept nothing.
func FuzzParseCRLs(f *testing.F) {
	ca := testcert.NewCA(f)
	f.Add(crlOf(f, ca, nil, big.NewInt(7)))
	f.Add(slices.Concat(crlOf(f, ca, nil), crlOf(f, ca, nil, big.NewInt(1), big.NewInt(2))))
	f.Add([]byte("-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lists, err := parseCRLs(data, time.Now())
		if err == nil && len(lists.lists) == 0 {
			t.Error("accepted without a list")
		}
		if err == nil && lists.check(ca.Cert, ca.Cert, lists.lists[0].crl.NextUpdate) == nil && len(lists.lists) == 1 {
			t.Error("an expired list was used")
		}
	})
}
