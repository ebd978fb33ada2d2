package tlsx

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestCAInStorage(t *testing.T) {
	store := newMemStorage()
	open := func() *CA {
		ca, err := OpenCA(CAConfig{Storage: store, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	ca := open()
	if ca.RootFile() != "" {
		t.Errorf("root file %q", ca.RootFile())
	}
	if open().Roots().digest != ca.Roots().digest {
		t.Error("opening again made another root")
	}
	store.set(1, false)
	if _, err := OpenCA(CAConfig{Storage: store}); err == nil {
		t.Error("opened while the storage was down")
	}
	mustLeaf(t, ca, LeafConfig{ID: "a"}) // needs no storage
}

// TestIntermediates lives through several, on two hosts that share a storage
// which fails at times. What one host issues, the root alone verifies.
func TestIntermediates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStorage()
		var hosts []*CA
		var leaves []*LeafSource
		for range 2 {
			ca, err := OpenCA(CAConfig{Storage: store, Leaf: time.Hour, Intermediate: 8 * time.Hour, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			hosts, leaves = append(hosts, ca), append(leaves, mustLeaf(t, ca, LeafConfig{ID: "a", Names: []string{"a.test"}}))
		}
		root := hosts[0].root.cert
		if root.MaxPathLen != 1 {
			t.Errorf("path length %d", root.MaxPathLen)
		}
		signers := make(map[string]bool)
		for step := range 64 {
			store.set(0, false)
			if step%8 > 4 {
				store.set(1, false)
			}
			for i, l := range leaves {
				cert := l.load()
				if len(cert.Certificate) != 2 {
					t.Fatalf("chain of %d", len(cert.Certificate))
				}
				middle, err := x509.ParseCertificate(cert.Certificate[1])
				if err != nil {
					t.Fatal(err)
				}
				signers[string(middle.Raw)] = true
				if _, err := verifyChain(chainOf(cert.Leaf, middle), hosts[1-i].Roots(), x509.ExtKeyUsageClientAuth); err != nil {
					t.Errorf("step %d: %v", step, err)
				}
				if cert.Leaf.NotAfter.After(middle.NotAfter) {
					t.Error("the leaf outlives its authority")
				}
			}
			time.Sleep(30 * time.Minute)
		}
		// 32 hours, a new one about every four, and both hosts the same.
		if n := len(signers); n < 6 || n > 9 {
			t.Errorf("%d intermediates in 32 hours", n)
		}
	})
}

func TestIntermediatesAreChecked(t *testing.T) {
	dir := t.TempDir()
	openCA(t, dir)
	if _, err := OpenCA(CAConfig{Dir: dir, Intermediate: 48 * time.Hour}); err == nil {
		t.Error("a root without intermediates got one")
	}
	if _, err := OpenCA(CAConfig{Dir: t.TempDir(), Intermediate: 47 * time.Hour}); err == nil {
		t.Error("an intermediate shorter than two leaves was accepted")
	}
	// One that another root signed is not used.
	store := newMemStorage()
	conf := CAConfig{Storage: store, Intermediate: 48 * time.Hour, Logger: slog.New(slog.DiscardHandler)}
	if _, err := OpenCA(conf); err != nil {
		t.Fatal(err)
	}
	delete(store.values, authorityFile)
	if _, err := OpenCA(conf); err == nil {
		t.Error("another root's intermediate was used")
	}
}

func TestConstraints(t *testing.T) {
	for _, c := range []struct {
		limits []string
		leaf   LeafConfig
		ok     bool
	}{
		{[]string{"example.com", "10.0.0.0/8"}, LeafConfig{ID: "a", Names: []string{"www.example.com", "10.1.2.3"}}, true},
		{[]string{"example.com", "10.0.0.0/8"}, LeafConfig{Names: []string{"example.org"}}, false},
		{[]string{"example.com", "10.0.0.0/8"}, LeafConfig{Names: []string{"badexample.com"}}, false},
		{[]string{"example.com", "10.0.0.0/8"}, LeafConfig{Names: []string{"11.0.0.1"}}, false},
		{[]string{"example.com", "10.0.0.0/8"}, LeafConfig{Names: []string{"2001:db8::1"}}, false},
		{[]string{"example.com"}, LeafConfig{Names: []string{"10.1.2.3"}}, false},
		{[]string{"example.com"}, LeafConfig{Names: []string{"2001:db8::1"}}, false},
		{[]string{"2001:db8::/32"}, LeafConfig{Names: []string{"2001:db8::1"}}, true},
		{[]string{"2001:db8::/32"}, LeafConfig{Names: []string{"example.com"}}, false},
		{[]string{"2001:db8::/32"}, LeafConfig{ID: "a"}, true},
	} {
		for _, intermediate := range []time.Duration{0, 48 * time.Hour} {
			ca, err := OpenCA(CAConfig{Dir: t.TempDir(), Constrain: c.limits, Intermediate: intermediate, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			cert := mustLeaf(t, ca, c.leaf).load()
			var chain []*certificate
			for _, der := range cert.Certificate {
				parsed, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				chain = append(chain, parsed)
			}
			if _, err := verifyChain(chain, ca.Roots(), x509.ExtKeyUsageServerAuth); (err == nil) != c.ok {
				t.Errorf("%v, intermediate %v: %v: %v, want success %v", c.limits, intermediate, c.leaf, err, c.ok)
			}
		}
	}
	for _, bad := range []string{"", "10.0.0.1", "10.0.0.1/8", "a b", "*.example.com", "::/200"} {
		if _, err := OpenCA(CAConfig{Dir: t.TempDir(), Constrain: []string{bad}}); err == nil {
			t.Errorf("the limit %q was accepted", bad)
		}
	}
}

func csrOf(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root of all"}, DNSNames: []string{"victim.test"}, EmailAddresses: []string{"root@victim.test"}, IPAddresses: []net.IP{{192, 0, 2, 1}},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "palisade.internal", Path: "/balancer"}},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}, // CA:TRUE
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 2, 4}},          // keyCertSign
		},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// largeCSR is a request for an RSA key of so many bits, which makes verifying dear.
// Nobody has signed it.
func largeCSR(t *testing.T, bits int) []byte {
	t.Helper()
	key, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), bits-1, 1), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	raw := func(der []byte) asn1.RawValue { return asn1.RawValue{FullBytes: der} }
	info, err := asn1.Marshal(struct {
		Version                  int
		Subject, Key, Attributes asn1.RawValue
	}{0, raw([]byte{0x30, 0}), raw(key), raw([]byte{0xa0, 0})})
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{raw(info), pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue}, asn1.BitString{Bytes: make([]byte, bits/8), BitLength: bits / 8 * 8}})
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// TestLargeKeysAreNotTried: whether such a request is signed well costs too much to
// find out.
func TestLargeKeysAreNotTried(t *testing.T) {
	for bits, want := range map[int]string{rsaBitsMax + 1: "8193 bits", 1 << 16: "65536 bits", 2047: "2047 bits", rsaBitsMax: "verification error", 2048: "verification error"} {
		if _, err := parseCSR(largeCSR(t, bits)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a key of %d bits: %v, want %q", bits, err, want)
		}
	}
}

func TestSignCSR(t *testing.T) {
	ca, err := OpenCA(CAConfig{Dir: t.TempDir(), Intermediate: 48 * time.Hour, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request := csrOf(t, key)
	chain, err := ca.SignCSR(request, LeafConfig{ID: "web1", Names: []string{"web1.test"}})
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(chain, keyPEM)
	if err != nil || len(pair.Certificate) != 2 {
		t.Fatalf("chain of %d: %v", len(pair.Certificate), err)
	}
	middle, err := x509.ParseCertificate(pair.Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifyChain(chainOf(pair.Leaf, middle), ca.Roots(), x509.ExtKeyUsageServerAuth); err != nil {
		t.Error(err)
	}
	if leaf := pair.Leaf; leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.URIs) != 1 || leaf.URIs[0].String() != ca.Identity("web1") || len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0 {
		t.Errorf("the request had its say: authority %v, usage %b, %v, %v, %v", leaf.IsCA, leaf.KeyUsage, leaf.URIs, leaf.IPAddresses, leaf.EmailAddresses)
	}
	if pair.Leaf.Subject.CommonName != "web1" || pair.Leaf.VerifyHostname("victim.test") == nil || pair.Leaf.VerifyHostname("web1.test") != nil {
		t.Errorf("the request had its say: %v, %v", pair.Leaf.Subject, pair.Leaf.DNSNames)
	}
	if _, err := ca.SignCSR(request, LeafConfig{}); err == nil {
		t.Error("a certificate for nobody was issued")
	}
	forged := bytes.Clone(request)
	block, _ := pem.Decode(forged)
	block.Bytes[len(block.Bytes)-1] ^= 1
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"a short RSA key": csrOf(t, weak), "another kind of PEM": bytes.ReplaceAll(request, []byte("CERTIFICATE REQUEST"), []byte("CERTIFICATE")), "text behind": append(bytes.Clone(request), 'x'),
		"nothing": nil, "rubbish": []byte("x"), "two": append(bytes.Clone(request), request...),
		"forged": pem.EncodeToMemory(block), "a certificate": chain, "a weak curve": csrOf(t, p224),
	} {
		if _, err := ca.SignCSR(bad, LeafConfig{ID: "x"}); err == nil {
			t.Errorf("%s was signed", name)
		}
	}
	if _, err := ca.SignCSR(bytes.ReplaceAll(request, []byte("CERTIFICATE REQUEST"), []byte("NEW CERTIFICATE REQUEST")), LeafConfig{ID: "x"}); err != nil {
		t.Errorf("as older programs have it: %v", err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{edKey, rsaKey} {
		if _, err := ca.SignCSR(csrOf(t, key), LeafConfig{ID: "x"}); err != nil {
			t.Errorf("%T: %v", key, err)
		}
	}
}

// FuzzParseCSR must not panic, nor accept what its own key has not signed.
func FuzzParseCSR(f *testing.F) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"a.test"}}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		csr, err := parseCSR(data)
		if err == nil && csr.CheckSignature() != nil {
			t.Error("accepted without a good signature")
		}
	})
}

// TestFolderOfBefore opens a folder as it was before there were intermediates.
func TestFolderOfBefore(t *testing.T) {
	dir := t.TempDir()
	data, err := newAuthority(&CAConfig{Name: "old", TrustDomain: "palisade.internal"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "authority.pem"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if ca := openCA(t, dir); ca.root.cert.Subject.CommonName != "old" {
		t.Errorf("root %v", ca.root.cert.Subject)
	}
}
