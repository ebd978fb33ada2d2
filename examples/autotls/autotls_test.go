package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/leaktest"
	"github.com/palisade-go/palisade/internal/pebbletest"
	"github.com/palisade-go/palisade/internal/testcert"
)

// certmagic's storage looks every five seconds whether a lock is still held.
func TestMain(m *testing.M) {
	if os.Getenv("AUTOTLS_TEST_MAIN") != "" {
		main()
	}
	leaktest.Main(m, "certmagic.keepLockfileFresh")
}

// lockedBuffer is written by the program and read by the test.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start runs the program until the test ends, and waits until it says a word.
func start(t *testing.T, word string, args ...string) *lockedBuffer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out := new(lockedBuffer)
	done := make(chan int, 1)
	go func() { done <- run(ctx, args, out, out) }()
	t.Cleanup(func() {
		cancel()
		if code := <-done; code != 0 {
			t.Errorf("exit status %d:\n%s", code, out)
		}
	})
	for deadline := time.Now().Add(time.Minute); !strings.Contains(out.String(), word); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) || len(done) > 0 {
			t.Fatalf("never said %q:\n%s", word, out)
		}
	}
	return out
}

// site makes a folder to serve, with a link that leads out of it.
func site(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret.txt")
	for name, data := range map[string]string{filepath.Join(dir, "hello.txt"): "hello", secret: "secret"} {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(secret, filepath.Join(dir, "link.txt")); err != nil {
		t.Logf("no symbolic links here: %v", err)
	}
	return dir
}

func freePort(t *testing.T) int {
	t.Helper()
	for port := 20000 + os.Getpid()%9000; port < 32000; port++ {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// fetch asks for a path at a port under a name.
func fetch(t *testing.T, port int, name, path string, conf *tls.Config) (int, string, error) {
	t.Helper()
	res, body, err := ask(t, port, name, "", path, conf)
	if err != nil {
		return 0, "", err
	}
	return res.StatusCode, body + res.Header.Get("Location"), nil
}

// ask is fetch with a Host of its own, unless that is empty.
func ask(t *testing.T, port int, name, host, path string, conf *tls.Config) (*http.Response, string, error) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: conf, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", port))
	}}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	scheme := "https"
	if conf == nil {
		scheme = "http"
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", fmt.Sprintf("%s://%s:%d%s", scheme, name, port, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	res, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// TestFilesAndClients serves with a certificate from files, and tells clients
// who they are.
func TestFilesAndClients(t *testing.T) {
	ca, clientCA := testcert.NewCA(t), testcert.NewCA(t)
	dir := t.TempDir()
	path := func(name string, data []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	chain, key := testcert.EncodePEM(t, ca.Issue(testcert.Leaf{Names: []string{"www.test"}}))
	cert, keyFile, clients := path("cert.pem", chain), path("key.pem", key), path("clients.pem", clientCA.PEM())
	alice := clientCA.Issue(testcert.Leaf{CommonName: "alice", URIs: []string{"spiffe://test/alice"}})
	mallory := clientCA.Issue(testcert.Leaf{CommonName: "mallory\nURIs        spiffe://test/alice"})
	for _, required := range []bool{false, true} {
		t.Run(fmt.Sprintf("required %v", required), func(t *testing.T) {
			port := freePort(t)
			mode := map[bool]string{false: "optional", true: "required"}[required]
			start(t, "serving", "-cert", cert, "-key", keyFile, "-client-ca", clients, "-client-mode", mode, "-profile", "modern",
				"-listen", fmt.Sprintf("127.0.0.1:%d", port), "-http", "", "-dir", site(t))
			anonymous := &tls.Config{RootCAs: ca.Pool()}
			named := &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{alice}}
			if _, body, err := fetch(t, port, "www.test", "/whoami", named); err != nil || !strings.Contains(body, "CN=alice") || !strings.Contains(body, "spiffe://test/alice") {
				t.Errorf("alice: %q, %v", body, err)
			}
			posing := &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{mallory}}
			if _, body, err := fetch(t, port, "www.test", "/whoami", posing); err != nil || !strings.Contains(body, "mallory") || strings.Contains(body, "\nURIs        spiffe") {
				t.Errorf("a name of two lines: %q, %v", body, err)
			}
			if status, body, err := fetch(t, port, "www.test", "/whoami", anonymous); (err != nil) != required || err == nil && (status != 200 || !strings.HasPrefix(body, "nobody")) {
				t.Errorf("anonymous: %d %q, %v", status, body, err)
			}
			if _, body, err := fetch(t, port, "www.test", "/hello.txt", named); err != nil || body != "hello" {
				t.Errorf("the file: %q, %v", body, err)
			}
			if status, body, err := fetch(t, port, "www.test", "/link.txt", named); err != nil || status != 404 || strings.Contains(body, "secret") {
				t.Errorf("a link out of the folder: %d %q, %v", status, body, err)
			}
			if _, _, err := fetch(t, port, "other.test", "/", &tls.Config{InsecureSkipVerify: true}); err == nil {
				t.Error("another name was served")
			}
			old := &tls.Config{RootCAs: ca.Pool(), MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{alice}}
			if _, _, err := fetch(t, port, "www.test", "/", old); err == nil {
				t.Error("TLS 1.2 was served under the modern profile")
			}
		})
	}
}

// TestInternal trusts the authority whose file the program names.
func TestInternal(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	port := freePort(t)
	plain := port + 1
	out := start(t, "serving", "-internal", "-listen", fmt.Sprintf("127.0.0.1:%d", port), "-http", fmt.Sprintf("127.0.0.1:%d", plain), "-dir", site(t))
	_, rest, _ := strings.Cut(out.String(), "authority to trust: ")
	file, _, _ := strings.Cut(rest, "\n")
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	if _, body, err := fetch(t, port, "localhost", "/hello.txt", &tls.Config{RootCAs: pool}); err != nil || body != "hello" {
		t.Errorf("the file: %q, %v", body, err)
	}
	if res, _, err := ask(t, port, "localhost", "other.test", "/hello.txt", &tls.Config{RootCAs: pool}); err != nil || res.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("another host: %v, %v", res, err)
	}
	if res, _, err := ask(t, port, "localhost", "", "/", &tls.Config{RootCAs: pool}); err != nil || res.Header.Get("Strict-Transport-Security") != "" {
		t.Errorf("HSTS for a host of one's own tries: %v, %v", res, err)
	}
	if status, body, err := fetch(t, plain, "localhost", "/hello.txt", nil); err != nil || status != 308 || !strings.HasSuffix(body, fmt.Sprintf("https://localhost:%d/hello.txt", port)) {
		t.Errorf("over HTTP: %d %q, %v", status, body, err)
	}
}

// TestInternalNames has the internal authority certify what the flags say.
func TestInternalNames(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	port := freePort(t)
	start(t, "serving", "-internal", "-domain", "One.test, *.two.test", "-domain", "three.test.", "-listen", fmt.Sprintf("127.0.0.1:%d", port), "-http", "", "-dir", site(t))
	for name, served := range map[string]bool{"one.test": true, "a.two.test": true, "three.test": true, "two.test": false, "localhost": false} {
		if _, body, err := fetch(t, port, name, "/hello.txt", &tls.Config{InsecureSkipVerify: true}); (err == nil && body == "hello") != served {
			t.Errorf("%s: %q, %v", name, body, err)
		}
	}
}

// TestACME gets its certificate from a real ACME server.
func TestACME(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{}) // found by the user's own HOME
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	start(t, "are there", "-domain", "one.test", "-domain", "two.test", "-acme-directory", p.Directory, "-acme-ca", p.CAFile, "-email", "admin@one.test",
		"-listen", fmt.Sprintf("127.0.0.1:%d", p.TLSPort), "-http", fmt.Sprintf("127.0.0.1:%d", p.HTTPPort), "-dir", site(t))
	if status, body, err := fetch(t, p.HTTPPort, "one.test", "/hello.txt", nil); err != nil || status != 308 || !strings.HasSuffix(body, fmt.Sprintf("https://one.test:%d/hello.txt", p.TLSPort)) {
		t.Errorf("over HTTP: %d %q, %v", status, body, err)
	}
	for _, name := range []string{"one.test", "two.test"} {
		res, body, err := ask(t, p.TLSPort, name, "", "/hello.txt", &tls.Config{RootCAs: p.Roots(t)})
		if err != nil || body != "hello" || res.Header.Get("Strict-Transport-Security") != "max-age=31536000" {
			t.Errorf("%s: %q, %v, %v", name, body, res, err)
		}
	}
}

// TestACMEOverHTTP has an authority that reaches the program at its HTTP port only.
func TestACMEOverHTTP(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{})
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	start(t, "are there", "-domain", "one.test", "-acme-directory", p.Directory, "-acme-ca", p.CAFile,
		"-listen", fmt.Sprintf("127.0.0.1:%d", freePort(t)), "-http", fmt.Sprintf("127.0.0.1:%d", p.HTTPPort), "-dir", site(t))
}

func TestFlagsAreChecked(t *testing.T) {
	dir := t.TempDir()
	// One that is taken by mistake must not find anybody's account.
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", dir)
	for _, args := range [][]string{
		{}, {"-internal"}, {"-dir", dir}, {"-dir", dir, "-internal", "extra"}, {"-dir", dir, "-cert", "c"}, {"-dir", dir, "-cert", "c", "-key", "k", "-internal"},
		{"-dir", dir, "-cert", "c", "-key", "k", "-domain", "a.test"}, {"-dir", dir, "-internal", "-email", "a@a.test"}, {"-dir", dir, "-internal", "-acme-ca", "f"}, {"-dir", dir, "-internal", "-acme-directory", "https://a.test/"}, {"-dir", dir, "-internal", "-client-mode", "required"},
		{"-dir", dir, "-internal", "-client-ca", "f", "-client-mode", "maybe"}, {"-dir", dir, "-internal", "-profile", "old"}, {"-dir", dir, "-internal", "-listen", "x"},
		{"-dir", dir, "-domain", ""}, {"-nonsense"}, {"-dir", dir, "-internal", "-listen", ""},
		{"-dir", dir, "-domain", "a b"}, {"-dir", dir, "-domain", "*.a.test"}, {"-dir", dir, "-internal", "-domain", "bücher.test"},
		{"-dir", dir, "-internal", "-domain", "a..test"}, {"-dir", dir, "-internal", "-domain", "*.*.test"}, {"-dir", dir, "-internal", "-domain", "fe80::1%lo"},
		{"-dir", dir, "-internal", "-domain", "-a.test"}, {"-dir", dir, "-internal", "-domain", "a-.test"}, {"-dir", dir, "-internal", "-domain", "*.127.0.0.1"},
		{"-dir", dir, "-internal", "-domain", strings.Repeat("a", 64)}, {"-dir", dir, "-internal", "-domain", strings.Repeat("a.", 127) + "a"}, {"-dir", dir, "-internal", "-domain", "256.1.1.1"}, {"-dir", dir, "-domain", "a.1."},
		{"-dir", dir, "-domain", "a.test", "-acme-directory", "http://127.0.0.1:1/dir"}, {"-dir", dir, "-domain", "a.test", "-acme-directory", "dir"},
		{"-dir", dir, "-domain", "a.test", "-email", "admin"}, {"-dir", dir, "-domain", "a.test", "-email", "A <a@a.test>"},
	} {
		var stderr bytes.Buffer
		if code := run(t.Context(), args, io.Discard, &stderr); code != 2 || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%q: exit status %d, %q", args, code, &stderr)
		}
	}
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"-h"}, io.Discard, &stderr); code != 0 || !strings.Contains(stderr.String(), "-client-mode") || !strings.Contains(stderr.String(), filepath.Join("palisade", "autotls")) {
		t.Errorf("-h: exit status %d, %q", code, &stderr)
	}
	for _, args := range [][]string{
		{"-dir", filepath.Join(dir, "none"), "-internal"}, {"-dir", dir, "-cert", "none", "-key", "none", "-listen", "127.0.0.1:0", "-http", ""},
	} {
		if code := run(t.Context(), args, io.Discard, io.Discard); code != 1 {
			t.Errorf("%q: exit status %d, want 1", args, code)
		}
	}
}
