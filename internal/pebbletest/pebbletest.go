// Package pebbletest runs Pebble, the small ACME server of Let's Encrypt, with
// its DNS server beside it, for tests of ACME clients.
//
// Every name resolves to 127.0.0.1, where Pebble validates challenges on the
// ports that the test chose, for real.
package pebbletest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// Config says where challenges are answered.
type Config struct {
	HTTPPort int // of HTTP-01
	TLSPort  int // of TLS-ALPN-01
}

// Server is a running Pebble. It ends with the test.
type Server struct {
	Directory string         // URL of the ACME directory
	CAFile    string         // PEM file with the authority of the server itself
	CA        *x509.CertPool // the same
	manage    string
	client    *http.Client
}

// programs are the commands that have to be there.
var programs = [...]string{"pebble", "pebble-challtestsrv"}

// Start runs Pebble until the test ends. Where it is not installed it skips the
// test, or fails it if PALISADE_REQUIRE_ALL is 1.
func Start(tb testing.TB, c Config) *Server {
	tb.Helper()
	var paths [len(programs)]string
	for i, name := range programs {
		paths[i] = find(tb, name)
	}
	dir := tb.TempDir()
	ca := testcert.NewCA(tb)
	chain, key := testcert.EncodePEM(tb, ca.Issue(testcert.Leaf{CommonName: "pebble", Names: []string{"127.0.0.1"}}))
	s := &Server{CAFile: filepath.Join(dir, "ca.pem"), CA: ca.Pool()}
	for name, data := range map[string][]byte{"ca.pem": ca.PEM(), "cert.pem": chain, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	ports := freePorts(tb, 4)
	acme, dns := local(ports[0]), local(ports[2])
	s.Directory, s.manage = "https://"+acme+"/dir", "https://"+local(ports[1])
	conf, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress":           acme,
		"managementListenAddress": local(ports[1]),
		"certificate":             filepath.Join(dir, "cert.pem"),
		"privateKey":              filepath.Join(dir, "key.pem"),
		"httpPort":                c.HTTPPort,
		"tlsPort":                 c.TLSPort,
	}})
	if err != nil {
		tb.Fatal(err)
	}
	confFile := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(confFile, conf, 0o600); err != nil {
		tb.Fatal(err)
	}
	run(tb, paths[1], "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-dns01", dns, "-management", local(ports[3]), "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "")
	run(tb, paths[0], "-config", confFile, "-dnsserver", dns)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.CA}}
	tb.Cleanup(tr.CloseIdleConnections)
	s.client = &http.Client{Transport: tr, Timeout: 5 * time.Second}
	s.waitUntilUp(tb)
	return s
}

// Roots returns the authorities that certify what Pebble issues.
func (s *Server) Roots(tb testing.TB) *x509.CertPool {
	tb.Helper()
	pem, err := s.get(s.manage + "/roots/0")
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		tb.Fatalf("pebbletest: no certificate in %q", pem)
	}
	return pool
}

func (s *Server) get(url string) ([]byte, error) {
	res, err := s.client.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, res.Status)
	}
	return body, err
}

func (s *Server) waitUntilUp(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := s.get(s.Directory)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tb.Fatalf("pebbletest: not up after 20 s: %v", err)
		}
	}
}

// find looks on PATH and where test.sh installs programs.
func find(tb testing.TB, name string) string {
	tb.Helper()
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	if cache, err := os.UserCacheDir(); err == nil {
		p := filepath.Join(cache, "palisade", "bin", name)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	if os.Getenv("PALISADE_REQUIRE_ALL") == "1" {
		tb.Fatalf("%s is not installed and nothing may be skipped", name)
	}
	tb.Skipf("%s is not installed", name)
	return ""
}

// run starts a program that is killed when the test ends, and shows what it
// said if the test fails.
func run(tb testing.TB, path string, args ...string) {
	tb.Helper()
	var out lockedBuffer
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if tb.Failed() {
			tb.Logf("output of %s:\n%s", filepath.Base(path), out.String())
		}
	})
}

// lockedBuffer keeps a program's output while the program still writes it.
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

func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// freePorts finds ports below the kernel's ephemeral range, so that no outgoing
// connection takes one between this look and the server's bind.
func freePorts(tb testing.TB, n int) []int {
	tb.Helper()
	var ports []int
	for port := 26000 + os.Getpid()%3000; len(ports) < n; port++ {
		if port > 32000 {
			tb.Fatal("pebbletest: no free port")
		}
		tcp, err := net.Listen("tcp", local(port))
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", local(port))
		tcp.Close()
		if err != nil {
			continue
		}
		udp.Close()
		ports = append(ports, port)
	}
	return ports
}
