package tlsx

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

func openCA(t *testing.T, dir string) *CA {
	t.Helper()
	ca, err := OpenCA(CAConfig{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func mustLeaf(t *testing.T, ca *CA, c LeafConfig) *LeafSource {
	t.Helper()
	s, err := ca.Leaf(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCAFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "ca")
	ca := openCA(t, dir)
	for name, want := range map[string]fs.FileMode{dir: fs.ModeDir | 0o700, filepath.Join(dir, authorityFile): 0o600, ca.RootFile(): 0o644} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOOS != "windows" && info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("the folder holds %v, %v, want two files", entries, err)
	}
	file, err := TrustFile(ca.RootFile(), nil)
	if err != nil || file.Roots().digest != ca.Roots().digest {
		t.Errorf("the root file holds another root: %v", err)
	}
	if strings.Contains(string(ca.RootPEM()), "KEY") {
		t.Error("RootPEM gives the key away")
	}
	root := ca.root.cert
	if !root.IsCA || !root.MaxPathLenZero || root.Subject.CommonName != "Palisade internal CA" || root.PublicKeyAlgorithm != x509.ECDSA {
		t.Errorf("root %+v", root.Subject)
	}
	if again := openCA(t, dir); again.Roots().digest != ca.Roots().digest {
		t.Error("opening again made another root")
	}
	if err := os.Remove(ca.RootFile()); err != nil {
		t.Fatal(err)
	}
	openCA(t, dir)
	if data, err := os.ReadFile(ca.RootFile()); err != nil || !bytes.Equal(data, ca.RootPEM()) {
		t.Errorf("the root file was not made again: %v", err)
	}
}

// TestCopiedFolderIsTheSameAuthority is how several hosts share one.
func TestCopiedFolderIsTheSameAuthority(t *testing.T) {
	here, there := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	ca := openCA(t, here)
	if err := os.CopyFS(there, os.DirFS(here)); err != nil {
		t.Fatal(err)
	}
	cert, err := mustLeaf(t, openCA(t, there), LeafConfig{ID: "web1"}).Certificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := verifyChain(chainOf(cert.Leaf), ca.Roots(), usage); err != nil {
			t.Error(err)
		}
	}
}

const raceDir = "PALISADE_TEST_CA_DIR"

// TestOneRootPerFolder has goroutines and processes open the same empty folder
// at once.
func TestOneRootPerFolder(t *testing.T) {
	if dir := os.Getenv(raceDir); dir != "" {
		os.Stdout.Write(openCA(t, dir).RootPEM()) // in a child
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "ca")
	roots := make([][]byte, 12)
	var wg sync.WaitGroup
	for i := range roots {
		wg.Go(func() {
			if i >= 4 {
				roots[i] = openCA(t, dir).RootPEM()
				return
			}
			child := exec.CommandContext(t.Context(), self, "-test.run=^TestOneRootPerFolder$")
			child.Env = append(os.Environ(), raceDir+"="+dir)
			out, err := child.Output()
			if err != nil {
				t.Error(err)
			}
			end := []byte("-----END CERTIFICATE-----\n")
			before, _, _ := bytes.Cut(out, end)
			roots[i] = append(before, end...)
		})
	}
	wg.Wait()
	for i, root := range roots {
		if !bytes.Equal(root, roots[0]) {
			t.Errorf("opener %d has another root", i)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, rootFile)); err != nil || !bytes.Equal(data, roots[0]) {
		t.Errorf("%s has another root: %v", rootFile, err)
	}
}

func TestOpenCARefuses(t *testing.T) {
	for _, c := range []CAConfig{{}, {Dir: t.TempDir(), TrustDomain: "UPPER"}, {Dir: t.TempDir(), TrustDomain: "a/b"}, {Dir: t.TempDir(), Leaf: -1}, {Dir: t.TempDir(), Name: strings.Repeat("n", 65)}} {
		if _, err := OpenCA(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
	dir := t.TempDir()
	openCA(t, dir)
	if _, err := OpenCA(CAConfig{Dir: dir, TrustDomain: "other.internal"}); err == nil {
		t.Error("a folder was opened under another trust domain")
	}
	good, err := os.ReadFile(filepath.Join(dir, authorityFile))
	if err != nil {
		t.Fatal(err)
	}
	leafCert, leafKey := testcert.EncodePEM(t, testcert.NewCA(t).Issue(testcert.Leaf{URIs: []string{"spiffe://palisade.internal"}}))
	other, err := newAuthority(&CAConfig{Name: "other", TrustDomain: "palisade.internal"})
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := bytes.Cut(good, []byte("-----BEGIN PRIVATE"))
	for name, data := range map[string][]byte{
		"empty": nil, "rubbish": []byte("rubbish"), "half": good[:len(good)/2], "without a key": before,
		"mismatched": append(slices.Clone(before), other[bytes.Index(other, []byte("-----BEGIN PRIVATE")):]...),
		"a leaf":     append(leafCert, leafKey...),
	} {
		if err := os.WriteFile(filepath.Join(dir, authorityFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenCA(CAConfig{Dir: dir}); err == nil {
			t.Errorf("an authority file that is %s was accepted", name)
		}
		if now, err := os.ReadFile(filepath.Join(dir, authorityFile)); err != nil || !bytes.Equal(now, data) {
			t.Errorf("an authority file that is %s was replaced: %v", name, err)
		}
	}
}

func TestLeaf(t *testing.T) {
	ca := openCA(t, t.TempDir())
	s := mustLeaf(t, ca, LeafConfig{ID: "web/1", Names: []string{"Web.Test.", "*.wild.test", "192.0.2.7", "2001:db8::7"}, CommonName: "Web 1"})
	leaf := s.Certificates()[0]
	if leaf.IsCA || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://palisade.internal/web/1" || ca.Identity("web/1") != leaf.URIs[0].String() || leaf.Subject.CommonName != "Web 1" {
		t.Errorf("leaf %v, URIs %v", leaf.Subject, leaf.URIs)
	}
	if !(PeerMatcher{URIs: []string{ca.Identity("web/1")}}).Match(leaf) {
		t.Error("Identity does not match the leaf")
	}
	for name, want := range map[string]bool{
		"web.test": true, "a.wild.test": true, "192.0.2.7": true, "2001:db8::7": true, "": true,
		"other.test": false, "wild.test": false, "192.0.2.8": false,
	} {
		cert, err := s.Certificate(&tls.ClientHelloInfo{ServerName: name})
		if err != nil || (cert != nil) != want {
			t.Errorf("Certificate(%q) = %v, %v, want one: %v", name, cert != nil, err, want)
		}
	}
	if leaf := mustLeaf(t, ca, LeafConfig{ID: "plain"}).Certificates()[0]; leaf.Subject.CommonName != "plain" {
		t.Errorf("common name %q, want the ID", leaf.Subject.CommonName)
	}
}

func TestLeafConfigIsChecked(t *testing.T) {
	ca := openCA(t, t.TempDir())
	for _, c := range []LeafConfig{
		{}, {ID: "/a"}, {ID: "a/"}, {ID: "a//b"}, {ID: ".."}, {ID: "a/../b"}, {ID: "a b"}, {ID: "a?b"}, {ID: "a%2Fb"}, {ID: strings.Repeat("a", 1025)},
		{Names: []string{""}}, {Names: []string{"a b"}}, {Names: []string{"*.192.0.2.1"}}, {Names: []string{"*"}},
		{ID: "a", CommonName: strings.Repeat("c", 65)}, {ID: "a", Lifetime: -1},
	} {
		if _, err := ca.Leaf(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
		if err := ca.IssueFiles(c, filepath.Join(t.TempDir(), "c"), filepath.Join(t.TempDir(), "k")); err == nil {
			t.Errorf("IssueFiles accepted %+v", c)
		}
	}
}

func TestLeafRenewsAtHalfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := openCA(t, t.TempDir())
		s := mustLeaf(t, ca, LeafConfig{ID: "a", Names: []string{"a.test"}})
		first := s.Certificates()[0]
		if d := time.Until(first.NotAfter); d != 24*time.Hour {
			t.Errorf("valid for %v, want 24h", d)
		}
		var told []CertEvent
		newTerminator(t, Config{Certs: []CertSource{s}, OnCert: func(e CertEvent) { told = append(told, e) }})
		time.Sleep(12*time.Hour*4/5 - time.Second)
		if s.Certificates()[0] != first {
			t.Error("renewed long before half its life")
		}
		time.Sleep(12*time.Hour/5 + time.Second)
		second := s.Certificates()[0]
		if len(told) != 1 || told[0] != (CertEvent{Kind: CertRenewed, Name: "a", NotAfter: second.NotAfter}) {
			t.Errorf("told %+v", told)
		}
		if second == first || !second.NotAfter.After(first.NotAfter) || slices.Equal(second.RawSubjectPublicKeyInfo, first.RawSubjectPublicKeyInfo) {
			t.Error("not renewed with a new key at half its life")
		}
		time.Sleep(30 * 24 * time.Hour) // nobody asked: it expired meanwhile
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if c := s.Certificates()[0]; time.Now().After(c.NotAfter) {
					t.Error("an expired certificate was served")
				}
			})
		}
		wg.Wait()
	})
}

// TestLeavesRenewApart has those that were issued at once renew one by one.
func TestLeavesRenewApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := openCA(t, t.TempDir())
		times := make(map[time.Duration]bool)
		for range 20 {
			at := time.Until(mustLeaf(t, ca, LeafConfig{ID: "a"}).current.Load().renew)
			if times[at] = true; at < 12*time.Hour*4/5 || at > 12*time.Hour {
				t.Errorf("renewed after %v of 24h", at)
			}
		}
		if len(times) < 15 {
			t.Errorf("%d times for 20 leaves", len(times))
		}
	})
}

// TestNobodyGetsAnExpiredLeaf has a caller come while another renews.
func TestNobodyGetsAnExpiredLeaf(t *testing.T) {
	s := mustLeaf(t, openCA(t, t.TempDir()), LeafConfig{ID: "a", Lifetime: time.Nanosecond})
	s.mu.Lock()
	got := make(chan *tls.Certificate, 1)
	go func() { got <- s.load() }()
	select {
	case <-got:
		t.Error("got the old certificate, which has expired")
	case <-time.After(20 * time.Millisecond):
	}
	s.lifetime = time.Hour
	s.mu.Unlock()
	if cert := <-got; !cert.Leaf.NotAfter.After(time.Now()) {
		t.Errorf("got a certificate that ended at %v", cert.Leaf.NotAfter)
	}
}

// TestLeafAtTheEndOfTheRoot lives through the last hours of an authority.
func TestLeafAtTheEndOfTheRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		ca := openCA(t, dir)
		var log bytes.Buffer
		ca.logger = slog.New(slog.NewTextHandler(&log, nil))
		time.Sleep(rootLifetime - time.Hour)
		s := mustLeaf(t, ca, LeafConfig{ID: "a"})
		last := s.Certificates()[0]
		if !last.NotAfter.Equal(ca.root.cert.NotAfter) {
			t.Errorf("the leaf ends at %v, the root at %v", last.NotAfter, ca.root.cert.NotAfter)
		}
		time.Sleep(2 * time.Hour)
		for _, complaints := range []int{1, 1, 2} {
			if complaints == 2 {
				time.Sleep(renewRetry)
			}
			if s.load() == nil || lines(&log) != complaints {
				t.Errorf("the old certificate did not stay, or not %d complaints:\n%s", complaints, &log)
			}
		}
		if _, err := ca.Leaf(LeafConfig{ID: "b"}); err == nil {
			t.Error("an expired root issued a leaf")
		}
		if _, err := OpenCA(CAConfig{Dir: dir}); err == nil {
			t.Error("an expired root was opened")
		}
	})
}

func TestIssueFiles(t *testing.T) {
	ca := openCA(t, t.TempDir())
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := ca.IssueFiles(LeafConfig{ID: "curl", Names: []string{"a.test"}}, certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{certFile, keyFile} {
		if info, err := os.Stat(f); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", f, info, err)
		}
	}
	files, err := Files(certFile, keyFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifyChain(files.Certificates(), ca.Roots(), x509.ExtKeyUsageClientAuth); err != nil {
		t.Error(err)
	}
	if err := ca.IssueFiles(LeafConfig{ID: "curl"}, filepath.Join(dir, "none", "c"), filepath.Join(dir, "none", "k")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a folder that does not exist: %v", err)
	}
}

func TestCreateFileNeverReplaces(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := createFile(name, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := createFile(name, []byte("second"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the second got %v", err)
	}
	if err := writeFile(name, []byte("third"), 0o644); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(name); string(data) != "third" {
		t.Errorf("%q, %v", data, err)
	}
	if left, err := os.ReadDir(filepath.Dir(name)); len(left) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
}
