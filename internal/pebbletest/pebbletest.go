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
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// Config says on which ports of 127.0.0.1 challenges are answered. Zero means
// one that is free.
type Config struct {
	HTTPPort int // of HTTP-01
	TLSPort  int // of TLS-ALPN-01
	// Env is added to the server's environment, such as
	// "PEBBLE_WFE_NONCEREJECT=50". Nil adds nothing.
	Env []string
	// Validity is that of certificates. Zero leaves it to the server.
	Validity time.Duration
	// Accounts are the external accounts, key IDs with MAC keys in base64url, of
	// which a client must show one. Nil asks for none.
	Accounts map[string]string
	// CAAIdentities are the names by which CAA records know the server. Nil
	// leaves them to it.
	CAAIdentities []string
}

// Server is a running Pebble. It ends with the test.
type Server struct {
	Config
	Directory string         // URL of the ACME directory
	CAFile    string         // PEM file with the authority of the server itself
	CA        *x509.CertPool // the same
	manage    string
	manageDNS string
	dns       string
	client    *http.Client
	process   *os.Process
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
	s := &Server{Config: c, CAFile: filepath.Join(dir, "ca.pem"), CA: ca.Pool()}
	for name, data := range map[string][]byte{"ca.pem": ca.PEM(), "cert.pem": chain, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	ports := freePorts(tb, 6)
	if s.HTTPPort == 0 {
		s.HTTPPort = ports[4]
	}
	if s.TLSPort == 0 {
		s.TLSPort = ports[5]
	}
	acme, dns := local(ports[0]), local(ports[2])
	s.Directory, s.manage = "https://"+acme+"/dir", "https://"+local(ports[1])
	s.manageDNS, s.dns = "http://"+local(ports[3]), dns
	settings := map[string]any{
		"listenAddress":           acme,
		"managementListenAddress": local(ports[1]),
		"certificate":             filepath.Join(dir, "cert.pem"),
		"privateKey":              filepath.Join(dir, "key.pem"),
		"httpPort":                s.HTTPPort,
		"tlsPort":                 s.TLSPort,
		"retryAfter":              map[string]int{"authz": 1, "order": 1},
	}
	if s.Validity > 0 {
		settings["profiles"] = map[string]any{"brief": map[string]any{"description": "for tests", "validityPeriod": int(s.Validity / time.Second)}}
	}
	if s.Accounts != nil {
		settings["externalAccountBindingRequired"], settings["externalAccountMACKeys"] = true, s.Accounts
	}
	if s.CAAIdentities != nil {
		settings["caaIdentities"] = s.CAAIdentities
	}
	conf, err := json.Marshal(map[string]any{"pebble": settings})
	if err != nil {
		tb.Fatal(err)
	}
	confFile := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(confFile, conf, 0o600); err != nil {
		tb.Fatal(err)
	}
	run(tb, nil, paths[1], "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-dnsserver", dns, "-management", local(ports[3]), "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "")
	s.process = run(tb, s.Env, paths[0], "-config", confFile, "-dnsserver", dns)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.CA}}
	tb.Cleanup(tr.CloseIdleConnections)
	s.client = &http.Client{Transport: tr, Timeout: 5 * time.Second}
	waitUntil(tb, func() error { return resolves(tb.Context(), dns) })
	waitUntil(tb, func() error { _, err := s.get(s.Directory); return err })
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

// Revoked says whether Pebble has revoked a certificate that it issued.
func (s *Server) Revoked(tb testing.TB, cert *x509.Certificate) bool {
	tb.Helper()
	data, err := s.get(s.manage + "/cert-status-by-serial/" + cert.SerialNumber.Text(16))
	if err != nil {
		tb.Fatal(err)
	}
	var answer struct{ Status string }
	if err := json.Unmarshal(data, &answer); err != nil {
		tb.Fatal(err)
	}
	return answer.Status == "Revoked"
}

// DNS is the address of the DNS server.
func (s *Server) DNS() string { return s.dns }

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

// resolves checks that the DNS server answers as Pebble needs it.
func resolves(ctx context.Context, dns string) error {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", dns)
	}}
	addrs, err := resolver.LookupNetIP(ctx, "ip4", "any.test.")
	if err == nil && (len(addrs) != 1 || addrs[0].String() != "127.0.0.1") {
		err = fmt.Errorf("any.test is %v", addrs)
	}
	return err
}

func waitUntil(tb testing.TB, ready func() error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
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

// SetTXT adds a TXT record to the DNS server, and ClearTXT removes all of a name.
func (s *Server) SetTXT(name, value string) error {
	return s.tellDNS("/set-txt", map[string]string{"host": name, "value": value})
}

// ClearTXT undoes SetTXT.
func (s *Server) ClearTXT(name string) error {
	return s.tellDNS("/clear-txt", map[string]string{"host": name})
}

func (s *Server) tellDNS(path string, what map[string]string) error {
	body, err := json.Marshal(what)
	if err != nil {
		return err
	}
	res, err := s.client.Post(s.manageDNS+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, res.Status)
	}
	return nil
}

// run starts a program that is killed when the test ends, and shows what it
// said if the test fails.
func run(tb testing.TB, env []string, path string, args ...string) *os.Process {
	tb.Helper()
	var out lockedBuffer
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0")
	cmd.Env = append(cmd.Env, env...)
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
	return cmd.Process
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
// connection takes one between this look and the server's bind. They are drawn
// by lot, for tests that run side by side.
func freePorts(tb testing.TB, n int) []int {
	tb.Helper()
	var ports []int
	for range 1000 {
		port := 15000 + rand.IntN(17000)
		tcp, err := net.Listen("tcp", local(port))
		if err != nil {
			continue
		}
		if slices.Contains(ports, port) {
			tcp.Close()
			continue
		}
		udp, err := net.ListenPacket("udp", local(port))
		tcp.Close()
		if err != nil {
			continue
		}
		udp.Close()
		if ports = append(ports, port); len(ports) == n {
			return ports
		}
	}
	tb.Fatal("pebbletest: no free port")
	return nil
}
