package tlsx

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// seenAfter is how soon a change of files is to be served.
const seenAfter = 250 * time.Millisecond

type pair struct{ cert, key []byte }

func pairOf(t *testing.T, ca *testcert.CA, l testcert.Leaf) pair {
	t.Helper()
	cert, key := testcert.EncodePEM(t, ca.Issue(l))
	return pair{cert, key}
}

// replace puts new content in place as programs do: under another name first.
func replace(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func lines(b *bytes.Buffer) int { return strings.Count(b.String(), "\n") }

func TestFilesFollowChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testcert.NewCA(t)
		one, two := pairOf(t, ca, testcert.Leaf{CommonName: "one", Names: []string{"a.test"}}), pairOf(t, ca, testcert.Leaf{CommonName: "two", Names: []string{"b.test"}})
		expired := pairOf(t, ca, testcert.Leaf{CommonName: "expired", NotAfter: time.Now().Add(-time.Second)})
		dir := t.TempDir()
		certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		replace(t, certFile, one.cert)
		replace(t, keyFile, one.key)
		var log bytes.Buffer
		s, err := Files(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		var told []CertEventKind
		newTerminator(t, Config{Certs: []CertSource{s}, OnCert: func(e CertEvent) {
			if e.Name != certFile || (e.Err != nil) != (e.Kind == CertFailed) || !e.NotAfter.Equal(s.w.current.Load().Leaf.NotAfter) {
				t.Errorf("event %+v", e)
			}
			told = append(told, e.Kind)
		}})
		check := func(when, want string, logged int) {
			t.Helper()
			for range 3 {
				time.Sleep(seenAfter)
				if got := s.Certificates()[0].Subject.CommonName; got != want {
					t.Errorf("%s: %q is served, want %q", when, got, want)
				}
			}
			if len(told) != logged {
				t.Errorf("%s: told %v", when, told)
			}
			if n := lines(&log); n != logged {
				t.Errorf("%s: %d log lines, want %d:\n%s", when, n, logged, &log)
			}
		}
		check("unchanged", "one", 0)
		replace(t, certFile, two.cert)
		check("torn pair", "one", 1)
		replace(t, keyFile, two.key)
		check("whole pair", "two", 2)
		replace(t, certFile, two.cert[:len(two.cert)/2])
		check("half a file", "two", 3)
		replace(t, certFile, nil)
		check("empty", "two", 4)
		os.Remove(certFile)
		check("missing", "two", 5)
		replace(t, certFile, nil)
		check("empty as before", "two", 5)
		os.Remove(certFile)
		check("missing again", "two", 6)
		replace(t, certFile, expired.cert)
		replace(t, keyFile, expired.key)
		check("expired", "two", 7)
		replace(t, certFile, one.cert)
		replace(t, keyFile, one.key)
		check("good again", "one", 8)
		if told[0] != CertFailed || told[1] != CertRenewed || told[7] != CertRenewed {
			t.Errorf("told %v", told)
		}
		for name, want := range map[string]bool{"a.test": true, "b.test": false, "": true} {
			if cert, err := s.Certificate(&tls.ClientHelloInfo{ServerName: name}); err != nil || (cert != nil) != want {
				t.Errorf("Certificate(%q) = %v, %v", name, cert != nil, err)
			}
		}
	})
}

// TestEarlyCertificate has a pair put in place an hour before it is valid: it is
// complained about once, and served when its time comes.
func TestEarlyCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testcert.NewCA(t)
		now, early := pairOf(t, ca, testcert.Leaf{CommonName: "now"}), pairOf(t, ca, testcert.Leaf{CommonName: "early", NotBefore: time.Now().Add(time.Hour)})
		dir := t.TempDir()
		certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		replace(t, certFile, early.cert)
		replace(t, keyFile, early.key)
		if _, err := Files(certFile, keyFile, nil); err == nil {
			t.Error("a pair that is not valid yet was accepted at the start")
		}
		replace(t, certFile, now.cert)
		replace(t, keyFile, now.key)
		var log bytes.Buffer
		s, err := Files(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		replace(t, certFile, early.cert)
		replace(t, keyFile, early.key)
		check := func(when, want string, logged int) {
			t.Helper()
			for range 3 {
				time.Sleep(seenAfter)
				if got := s.Certificates()[0].Subject.CommonName; got != want || lines(&log) != logged {
					t.Errorf("%s: %q is served, want %q, after the log:\n%s", when, got, want, &log)
				}
			}
		}
		check("early", "now", 1)
		time.Sleep(59 * time.Minute)
		check("a minute before", "now", 1)
		time.Sleep(time.Minute)
		check("in time", "early", 2)
	})
}

func TestFilesAtStart(t *testing.T) {
	ca := testcert.NewCA(t)
	one, two := pairOf(t, ca, testcert.Leaf{}), pairOf(t, ca, testcert.Leaf{})
	expired := pairOf(t, ca, testcert.Leaf{NotAfter: time.Now().Add(-time.Second)})
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if _, err := Files(certFile, keyFile, nil); err == nil {
		t.Error("missing files were accepted")
	}
	for name, p := range map[string]pair{"mismatched": {one.cert, two.key}, "expired": expired, "empty": {}, "swapped": {one.key, one.cert}} {
		replace(t, certFile, p.cert)
		replace(t, keyFile, p.key)
		if _, err := Files(certFile, keyFile, nil); err == nil {
			t.Errorf("a pair that is %s was accepted", name)
		}
	}
}

func TestTrustFileFollowsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := testcert.NewCA(t), testcert.NewCA(t)
		leaf, _ := testcert.EncodePEM(t, one.Issue(testcert.Leaf{}))
		file := filepath.Join(t.TempDir(), "roots.pem")
		if _, err := TrustFile(file, nil); err == nil {
			t.Error("a missing file was accepted")
		}
		replace(t, file, nil)
		if _, err := TrustFile(file, nil); err == nil {
			t.Error("an empty file was accepted")
		}
		replace(t, file, one.PEM())
		trust, err := TrustFile(file, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		first := trust.Roots()
		for _, bad := range [][]byte{nil, []byte("rubbish"), leaf, one.PEM()[:100], append([]byte("x"), two.PEM()...)} {
			replace(t, file, bad)
			time.Sleep(seenAfter)
			if trust.Roots() != first {
				t.Errorf("%.20q replaced good roots", bad)
			}
		}
		replace(t, file, one.PEM())
		time.Sleep(seenAfter)
		if trust.Roots().digest != first.digest {
			t.Error("the same file holds other roots")
		}
		replace(t, file, two.PEM())
		time.Sleep(seenAfter)
		second := trust.Roots()
		if !slices.Equal(second.certs[0].Raw, two.Cert.Raw) || second != trust.Roots() {
			t.Error("new roots were not seen, or not by the same pointer twice")
		}
	})
}

func TestParseRoots(t *testing.T) {
	one, two := testcert.NewCA(t).PEM(), testcert.NewCA(t).PEM()
	damaged := slices.Clone(one)
	damaged[len(damaged)/2] = '!'
	leaf, key := testcert.EncodePEM(t, testcert.NewCA(t).Issue(testcert.Leaf{}))
	for _, c := range []struct {
		name string
		data []byte
		want int // 0 is an error
	}{
		{"one", one, 1},
		{"two", slices.Concat(one, []byte("\n \n"), two), 2},
		{"CRLF", bytes.ReplaceAll(one, []byte("\n"), []byte("\r\n")), 1},
		{"empty", nil, 0}, {"blank", []byte(" \n"), 0},
		{"text before", slices.Concat([]byte("text\n"), one), 0},
		{"text between", slices.Concat(one, []byte("text\n"), two), 0},
		{"text after", slices.Concat(one, []byte("text\n")), 0},
		{"damaged first", slices.Concat(damaged, two), 0},
		{"damaged last", slices.Concat(one, damaged), 0},
		{"cut off", slices.Concat(one, two[:len(two)/2]), 0},
		{"first without its end", slices.Concat(one[:len(one)/2], []byte("\n"), two), 0},
		{"of another type", bytes.ReplaceAll(one, []byte("CERTIFICATE"), []byte("TRUSTED CERTIFICATE")), 0},
		{"leaf", leaf, 0}, {"key", slices.Concat(one, key), 0},
	} {
		roots, err := ParseRoots(c.data)
		if (err == nil) != (c.want > 0) || err == nil && len(roots.certs) != c.want {
			t.Errorf("%s: %v, want %d authorities", c.name, err, c.want)
		}
	}
}

// FuzzParseRoots checks that a set that is accepted encodes to what was read.
func FuzzParseRoots(f *testing.F) {
	one, two := testcert.NewCA(f).PEM(), testcert.NewCA(f).PEM()
	f.Add(one)
	f.Add(slices.Concat(one, two))
	f.Add(slices.Concat(one, []byte("x"), two))
	f.Add(slices.Concat(one[:200], two))
	f.Add(bytes.Replace(one, []byte("-----\n"), []byte("-----\nA: b\n\n"), 1))
	squash := func(b []byte) []byte {
		return bytes.Join(bytes.Fields(b), nil)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		roots, err := ParseRoots(data)
		if err != nil {
			return
		}
		var out []byte
		for _, c := range roots.certs {
			out = append(out, encodePEM(c.Raw)...)
		}
		if !bytes.Equal(squash(out), squash(data)) {
			t.Errorf("%q was accepted, but encodes to %q", data, out)
		}
		if again, err := ParseRoots(out); err != nil || again.digest != roots.digest {
			t.Errorf("its own encoding: %v", err)
		}
	})
}

func TestNewRootsKeepsItsOwnCopy(t *testing.T) {
	one, two := testcert.NewCA(t), testcert.NewCA(t)
	certs := chainOf(one.Cert, two.Cert)
	roots, err := NewRoots(certs...)
	if err != nil {
		t.Fatal(err)
	}
	certs[0] = two.Cert
	if roots.certs[0] != one.Cert {
		t.Error("the set changed with the caller's slice")
	}
	swapped, err := NewRoots(two.Cert, one.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if roots.digest == rootsOf(t, one).digest || roots.digest == rootsOf(t, two).digest || rootsOf(t, one).digest == rootsOf(t, two).digest || roots.digest == swapped.digest {
		t.Error("different sets have the same digest")
	}
}

func TestRootsPoolIsACopy(t *testing.T) {
	one, two := testcert.NewCA(t), testcert.NewCA(t)
	roots := rootsOf(t, one)
	roots.Pool().AddCert(two.Cert)
	if !roots.Pool().Equal(one.Pool()) || !roots.pool.Equal(one.Pool()) {
		t.Error("the set changed with a pool it gave away")
	}
}
