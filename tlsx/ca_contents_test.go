package tlsx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// limitsOf are the name constraints of a certificate as text.
func limitsOf(c *certificate) string {
	return fmt.Sprint(c.PermittedDNSDomainsCritical, c.PermittedDNSDomains, c.ExcludedDNSDomains, c.PermittedIPRanges, c.ExcludedIPRanges, c.PermittedURIDomains, c.ExcludedURIDomains)
}

// TestContentsOfCertificates compares what a verifier reads in the three kinds of
// certificates, beyond what crypto/x509 looks at.
func TestContentsOfCertificates(t *testing.T) {
	const signs = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	for _, limits := range [][]string{nil, {"example.com", "10.0.0.0/8"}, {"example.com"}, {"2001:db8::/32"}} {
		for _, intermediate := range []time.Duration{0, 50 * time.Hour} {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				ca, err := OpenCA(CAConfig{Dir: t.TempDir(), Name: strings.Repeat("n", 64), Constrain: limits, Intermediate: intermediate, Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				cert := mustLeaf(t, ca, LeafConfig{ID: "web/1", Names: []string{"www.example.com", "10.1.2.3"}, CommonName: "Web"}).load()
				root, leaf, signer := ca.root.cert, cert.Leaf, ca.root.cert
				if intermediate > 0 {
					if signer, err = x509.ParseCertificate(cert.Certificate[1]); err != nil {
						t.Fatal(err)
					}
				}
				for _, c := range []struct {
					name   string
					cert   *certificate
					usage  x509.KeyUsage
					life   time.Duration
					path   int // of a certificate that may sign: how many authorities below
					uri    string
					signer *certificate
				}{
					{"root", root, signs, rootLifetime, map[bool]int{true: 1}[intermediate > 0], "spiffe://palisade.internal", root},
					{"signer", signer, signs, map[bool]time.Duration{true: intermediate, false: rootLifetime}[intermediate > 0], 0, "spiffe://palisade.internal", root},
					{"leaf", leaf, x509.KeyUsageDigitalSignature, 24 * time.Hour, -1, "spiffe://palisade.internal/web/1", signer},
				} {
					key, ok := c.cert.PublicKey.(*ecdsa.PublicKey)
					if !ok || key.Curve != elliptic.P256() || c.cert.SignatureAlgorithm != x509.ECDSAWithSHA256 || c.cert.SerialNumber.BitLen() < 64 {
						t.Errorf("%s: key %T, signature %v, serial %v", c.name, c.cert.PublicKey, c.cert.SignatureAlgorithm, c.cert.SerialNumber)
					}
					if c.cert.KeyUsage != c.usage || c.cert.IsCA != (c.path >= 0) || !c.cert.BasicConstraintsValid && c.cert.IsCA || c.cert.IsCA && (c.cert.MaxPathLen != c.path || c.cert.MaxPathLenZero != (c.path == 0)) {
						t.Errorf("%s: usage %b, authority %v with paths of %d", c.name, c.cert.KeyUsage, c.cert.IsCA, c.cert.MaxPathLen)
					}
					if !c.cert.NotBefore.Equal(now.Add(-clockSkew)) || !c.cert.NotAfter.Equal(now.Add(c.life)) {
						t.Errorf("%s: from %v to %v, want from %v before to %v after", c.name, c.cert.NotBefore, c.cert.NotAfter, clockSkew, c.life)
					}
					if len(c.cert.URIs) != 1 || c.cert.URIs[0].String() != c.uri || !bytes.Equal(c.cert.RawIssuer, c.signer.RawSubject) || len(c.cert.RawSubject) < 10 {
						t.Errorf("%s: URIs %v, issuer %v", c.name, c.cert.URIs, c.cert.Issuer)
					}
				}
				if want := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}; !slices.Equal(leaf.ExtKeyUsage, want) || len(root.ExtKeyUsage) > 0 || len(signer.ExtKeyUsage) > 0 {
					t.Errorf("extended usages of the leaf %v, of its authorities %v and %v", leaf.ExtKeyUsage, signer.ExtKeyUsage, root.ExtKeyUsage)
				}
				if root.Subject.CommonName != strings.Repeat("n", 64) || leaf.Subject.CommonName != "Web" {
					t.Errorf("common names %q and %q", root.Subject.CommonName, leaf.Subject.CommonName)
				}
				want := map[int]string{
					0: "false [] [] [] [] [] []",
					2: "true [example.com] [] [10.0.0.0/8] [] [palisade.internal] []",
					1: map[bool]string{true: "true [example.com] [] [] [0.0.0.0/0 ::/0] [palisade.internal] []", false: "true [] [] [2001:db8::/32] [] [palisade.internal] []"}[slices.Contains(limits, "example.com")],
				}[len(limits)]
				for _, c := range chainOf(root, signer) {
					got := limitsOf(c) // in which an empty domain does not show
					if len(limits) == 1 && limits[0] != "example.com" {
						if !slices.Equal(c.ExcludedDNSDomains, []string{""}) { // all of them
							t.Errorf("%v: excluded domains %q, want the empty one", limits, c.ExcludedDNSDomains)
						}
					}
					if got != want {
						t.Errorf("%v: the limits of %v are %s, want %s", limits, c.Subject, got, want)
					}
				}
			})
		}
	}
}

// TestIssuerAtHalfLife is about when an intermediate is replaced, and what signs
// while it cannot be.
func TestIssuerAtHalfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStorage()
		var log bytes.Buffer
		ca, err := OpenCA(CAConfig{Storage: store, Leaf: time.Hour, Intermediate: 8 * time.Hour, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		first := ca.issuing.current.Load()
		issuer := func() *authority {
			t.Helper()
			a, err := ca.issuer(time.Now())
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		time.Sleep(4*time.Hour - time.Second)
		if issuer() != first {
			t.Error("replaced before half of its life")
		}
		store.set(1, false)
		time.Sleep(time.Second)
		logged := lines(&log)
		if issuer() != first || lines(&log) != logged+1 {
			t.Errorf("at half of its life, without storage: not the old one, or no complaint:\n%s", &log)
		}
		time.Sleep(4*time.Hour - time.Second)
		if issuer() != first {
			t.Error("the old one did not stay until its end")
		}
		time.Sleep(time.Second)
		if a, err := ca.issuer(time.Now()); !errors.Is(err, errStorage) {
			t.Errorf("an expired intermediate signs, or its storage is not to blame: %v, %v", a != nil, err)
		}
		if _, err := ca.Leaf(LeafConfig{ID: "a"}); !errors.Is(err, errStorage) {
			t.Errorf("issued without an authority: %v", err)
		}
		store.set(0, false)
		second := issuer()
		if second == first || !second.cert.NotAfter.Equal(time.Now().Add(8*time.Hour)) {
			t.Errorf("the new one ends at %v", second.cert.NotAfter)
		}
		calls := store.calls
		if issuer() != second || store.calls != calls {
			t.Error("the storage is asked for what is there")
		}
		// Near the root's end the last one stays: it is as long as one can be.
		time.Sleep(time.Until(ca.root.cert.NotAfter) - time.Hour)
		last := issuer()
		if !last.cert.NotAfter.Equal(ca.root.cert.NotAfter) || issuer() != last {
			t.Errorf("the last one ends at %v, the root at %v, or is replaced at each use", last.cert.NotAfter, ca.root.cert.NotAfter)
		}
		time.Sleep(time.Hour - time.Second)
		if issuer() != last {
			t.Error("the last one was replaced")
		}
		time.Sleep(time.Second)
		if _, err := ca.Leaf(LeafConfig{ID: "a"}); err == nil {
			t.Error("issued by an authority that has expired")
		}
		store.values = make(map[string][]byte) // as of another host, which has to make one
		if _, err := ca.agreeIssuer(time.Now()); err == nil {
			t.Error("an expired root made an intermediate")
		}
	})
}

// TestIssuersAgree has another host be first, and storages that fail.
func TestIssuersAgree(t *testing.T) {
	storage := &raceStorage{memStorage: newMemStorage()}
	ca, err := OpenCA(CAConfig{Storage: storage, Leaf: time.Hour, Intermediate: 8 * time.Hour, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	theirs, err := ca.newIssuer(now)
	if err != nil {
		t.Fatal(err)
	}
	want, err := ca.parseIssuer(theirs)
	if err != nil {
		t.Fatal(err)
	}
	delete(storage.values, issuingFile)
	storage.others, storage.swaps = [][]byte{theirs}, 0
	if got, err := ca.agreeIssuer(now); err != nil || !got.cert.Equal(want.cert) || storage.swaps != 1 {
		t.Errorf("after another was first: %v, %d swaps, want the other's", err, storage.swaps)
	}
	old, err := ca.newIssuer(now.Add(-7 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	storage.values[issuingFile], storage.swaps = old, 0
	for range swapTries + 1 {
		storage.others = append(storage.others, old)
	}
	// What others store is the old one again, which counts as no change.
	if got, err := ca.agreeIssuer(now); err != nil || !ca.fresh(got, now) || storage.swaps != 1 {
		t.Errorf("%v after %d swaps, want a new one after one", err, storage.swaps)
	}
	storage.others, storage.err, storage.swaps = nil, errStorage, 0
	storage.values[issuingFile] = old
	if _, err := ca.agreeIssuer(now); !errors.Is(err, errStorage) || storage.swaps != 1 {
		t.Errorf("%v after %d swaps, want the storage's error after one", err, storage.swaps)
	}
	storage.set(1, false)
	storage.swaps = 0
	if _, err := ca.agreeIssuer(now); !errors.Is(err, errStorage) || storage.swaps != 0 {
		t.Errorf("%v after %d swaps of what could not be loaded", err, storage.swaps)
	}
}

// TestCAFolderIsLookedAfter is about the modes of the folder's files, and about the
// copy of the root.
func TestCAFolderIsLookedAfter(t *testing.T) {
	dir := t.TempDir()
	ca := openCA(t, dir)
	open := func() int {
		t.Helper()
		var log bytes.Buffer
		if _, err := OpenCA(CAConfig{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))}); err != nil {
			t.Fatal(err)
		}
		return lines(&log)
	}
	if runtime.GOOS != "windows" {
		for mode, want := range map[os.FileMode]int{0o600: 0, 0o400: 0, 0o640: 1, 0o604: 1, 0o602: 1, 0o660: 1} {
			if err := os.Chmod(filepath.Join(dir, authorityFile), mode); err != nil {
				t.Fatal(err)
			}
			if n := open(); n != want {
				t.Errorf("mode %v: %d complaints, want %d", mode, n, want)
			}
		}
	}
	before, err := os.Stat(ca.RootFile())
	if err != nil {
		t.Fatal(err)
	}
	open()
	if after, err := os.Stat(ca.RootFile()); err != nil || !os.SameFile(before, after) {
		t.Errorf("a root file that is right was written again: %v", err)
	}
	replace(t, ca.RootFile(), openCA(t, t.TempDir()).RootPEM())
	open()
	if data, err := os.ReadFile(ca.RootFile()); err != nil || !bytes.Equal(data, ca.RootPEM()) {
		t.Errorf("another root's file was left there: %v", err)
	}
	for _, path := range []string{"web/1", "/web/1"} {
		if got := ca.Identity(path); got != "spiffe://palisade.internal/web/1" {
			t.Errorf("Identity(%q) = %s", path, got)
		}
	}
}

// TestCAConfigIsCheckedBeforeTheFolder has everything but the mistake in order.
func TestCAConfigIsCheckedBeforeTheFolder(t *testing.T) {
	dir := t.TempDir()
	openCA(t, dir)
	for _, c := range []CAConfig{
		{Dir: dir, Storage: newMemStorage()}, {Dir: dir, Constrain: []string{"a b"}}, {Dir: dir, Leaf: -1}, {Dir: dir, Name: strings.Repeat("n", 65)}, {Dir: dir, Intermediate: -1},
		{Storage: newMemStorage(), TrustDomain: "UPPER"}, {Storage: newMemStorage(), TrustDomain: "dot.test."}, {Storage: newMemStorage(), TrustDomain: "a b"},
	} {
		c.Logger = slog.New(slog.DiscardHandler)
		if _, err := OpenCA(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// TestLeafEvents has a leaf outlive its root, with many callers at once: each
// attempt is told about once, with what is served and why.
func TestLeafEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := openCA(t, t.TempDir())
		s := mustLeaf(t, ca, LeafConfig{CommonName: "by name alone"})
		var told [2][]CertEvent
		for i := range told {
			s.Notify(func(e CertEvent) { told[i] = append(told[i], e) })
		}
		callers := func() *certificate {
			done := make(chan *certificate)
			for range 8 {
				go func() { done <- s.load().Leaf }()
			}
			first := <-done
			for range 7 {
				if again := <-done; again != first {
					t.Error("callers at the same time got different certificates")
				}
			}
			return first
		}
		time.Sleep(25 * time.Hour) // it has expired: all wait for one
		second := callers()
		time.Sleep(time.Until(ca.root.cert.NotAfter) - time.Hour)
		third := callers()
		time.Sleep(2 * time.Hour)
		callers()
		time.Sleep(renewRetry - 1)
		callers()
		time.Sleep(time.Nanosecond)
		callers()
		for i, events := range told {
			if len(events) != 4 || events[0] != (CertEvent{Kind: CertRenewed, Name: "by name alone", NotAfter: second.NotAfter}) || events[1] != (CertEvent{Kind: CertRenewed, Name: "by name alone", NotAfter: third.NotAfter}) {
				t.Fatalf("listener %d was told %+v", i, events)
			}
			for _, e := range events[2:] {
				if e.Kind != CertFailed || e.Name != "by name alone" || !e.NotAfter.Equal(third.NotAfter) || e.Err == nil {
					t.Errorf("listener %d was told %+v", i, e)
				}
			}
		}
	})
}

// TestNobodyWaitsForARenewal has a caller come while another renews a certificate
// that is still good.
func TestNobodyWaitsForARenewal(t *testing.T) {
	s := mustLeaf(t, openCA(t, t.TempDir()), LeafConfig{ID: "a"})
	old := s.current.Load()
	due := &issuedLeaf{cert: old.cert, renew: time.Now().Add(-time.Second)}
	s.current.Store(due)
	s.mu.Lock()
	got := make(chan *certificate, 1)
	go func() { got <- s.load().Leaf }()
	select {
	case leaf := <-got:
		if leaf != old.cert.Leaf {
			t.Error("got another certificate")
		}
	case <-time.After(time.Minute):
		t.Error("waits for the renewal of another")
	}
	s.mu.Unlock()
	if s.load().Leaf == old.cert.Leaf {
		t.Error("not renewed")
	}
}

func TestLeafNames(t *testing.T) {
	ca := openCA(t, t.TempDir())
	long := strings.Repeat("a", 65)
	if leaf := mustLeaf(t, ca, LeafConfig{ID: long}).load().Leaf; leaf.Subject.CommonName != "" || leaf.URIs[0].Path != "/"+long {
		t.Errorf("an ID of 65 bytes gave the common name %q and the URI %v", leaf.Subject.CommonName, leaf.URIs)
	}
	if leaf := mustLeaf(t, ca, LeafConfig{ID: long[1:]}).load().Leaf; leaf.Subject.CommonName != long[1:] {
		t.Errorf("an ID of 64 bytes gave the common name %q", leaf.Subject.CommonName)
	}
	if leaf := mustLeaf(t, ca, LeafConfig{CommonName: "name"}).load().Leaf; leaf.Subject.CommonName != "name" || len(leaf.URIs)+len(leaf.DNSNames)+len(leaf.IPAddresses) > 0 {
		t.Errorf("a common name alone gave %v %v", leaf.Subject, leaf.URIs)
	}
	if leaf := mustLeaf(t, ca, LeafConfig{ID: "a", Lifetime: time.Hour}).load().Leaf; leaf.NotAfter.Sub(leaf.NotBefore) != time.Hour+clockSkew {
		t.Errorf("valid for %v", leaf.NotAfter.Sub(leaf.NotBefore))
	}
}
