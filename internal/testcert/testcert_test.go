package testcert

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestIssue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := NewCA(t)
		cert := ca.Issue(Leaf{CommonName: "web1", Names: []string{"web1.test", "127.0.0.2"}, URIs: []string{"spiffe://test/web1"}, NotAfter: time.Now().Add(time.Hour)})
		opts := x509.VerifyOptions{Roots: ca.Pool(), DNSName: "web1.test", KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if _, err := cert.Leaf.Verify(opts); err != nil {
			t.Errorf("fresh leaf: %v", err)
		}
		if err := cert.Leaf.VerifyHostname("127.0.0.2"); err != nil {
			t.Error(err)
		}
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: NewCA(t).Pool()}); err == nil {
			t.Error("verified under another authority")
		}
		time.Sleep(2 * time.Hour)
		if _, err := cert.Leaf.Verify(opts); err == nil {
			t.Error("verified after its end")
		}
		chain, key := EncodePEM(t, cert)
		if _, err := tls.X509KeyPair(chain, key); err != nil {
			t.Errorf("its PEM form: %v", err)
		}
	})
}
