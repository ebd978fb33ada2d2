package acme

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/miekg/dns"

	"github.com/palisade-go/palisade/internal/pebbletest"
	"github.com/palisade-go/palisade/tlsx"
)

// TestAddresses gets certificates for an IP address by both challenges, and
// serves one to a client that sends no name.
func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		name string
		conf Config
	}{{"HTTP-01", Config{DisableTLSALPNChallenge: true}}, {"TLS-ALPN-01", Config{DisableHTTPChallenge: true}}} {
		t.Run(c.name, func(t *testing.T) {
			p := pebbletest.Start(t, pebbletest.Config{})
			c.conf.Names, c.conf.Storage = []string{"127.0.0.1"}, &certmagic.FileStorage{Path: t.TempDir()}
			s, _ := newSource(t, p, c.conf)
			// The policy is that of the address, which a validator asks for by another name.
			term := terminator(t, tlsx.Config{Certs: []tlsx.CertSource{s}, Policies: []tlsx.Policy{{Names: []string{"127.0.0.1"}}}})
			serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
			serve(t, term.Listener(listen(t, p.TLSPort)), http.NotFoundHandler())
			obtain(t, s)
			conn, err := tls.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.TLSPort)), &tls.Config{RootCAs: p.Roots(t)})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if ips := conn.ConnectionState().PeerCertificates[0].IPAddresses; len(ips) != 1 || ips[0].String() != "127.0.0.1" {
				t.Errorf("certificate for %v", ips)
			}
		})
	}
}

func TestReverseName(t *testing.T) {
	for _, ip := range []string{"192.0.2.33", "::ffff:192.0.2.33", "2001:db8::567:89ab", "::1"} {
		want, err := dns.ReverseAddr(netip.MustParseAddr(ip).Unmap().String())
		if err != nil {
			t.Fatal(err)
		}
		if got := reverseOf(ip); got+"." != want {
			t.Errorf("%s: %q, want %q", ip, got, want)
		}
	}
	if got := reverseOf("a.test"); got != "" {
		t.Errorf("a name: %q", got)
	}
}

// TestDoors gets certificates in a program that has no servers yet.
func TestDoors(t *testing.T) {
	for _, http := range []bool{true, false} {
		p := pebbletest.Start(t, pebbletest.Config{})
		s, _ := newSource(t, p, Config{
			Names: []string{"a.test", "b.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()},
			DisableTLSALPNChallenge: http, DisableHTTPChallenge: !http,
		})
		obtain(t, s)
		for _, port := range []int{p.HTTPPort, p.TLSPort} {
			if conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
				conn.Close()
				t.Errorf("port %d is still open", port)
			}
		}
	}
}

// TestPersistentDNS proves names by records that were there before.
func TestPersistentDNS(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{})
	s, events := newSource(t, p, Config{
		Names: []string{"a.test", "*.b.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()},
		PersistentDNS: &PersistentDNS{Resolver: p.DNS()},
	})
	s.Start()
	// The failures say which records to set.
	records := make(map[string]string)
	for len(records) < 2 {
		e := <-events
		if !errors.Is(e.Err, ErrNoRecord) {
			t.Fatalf("event %+v", e)
		}
		_, rest, _ := strings.Cut(e.Err.Error(), "want ")
		name, rest, _ := strings.Cut(rest, " IN TXT \"")
		value, _, _ := strings.Cut(rest, "\"")
		records[e.Name] = value
		if err := p.SetTXT(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.HasSuffix(records["*.b.test"], "policy=wildcard") || strings.Contains(records["a.test"], "wildcard") {
		t.Errorf("records %q", records)
	}
	obtain(t, s)
	if cert, err := s.Certificate(&tls.ClientHelloInfo{ServerName: "x.b.test", Conn: nowhere{}}); err != nil || cert == nil {
		t.Errorf("below the wildcard: %v, %v", cert != nil, err)
	}
}

func TestPersistPermits(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		record     string
		wild, want bool
	}{
		{"ca.test; accounturi=https://ca.test/1", false, true},
		{"CA.test ;accounturi=https://ca.test/1;policy=wildcard", true, true},
		{"ca.test; accounturi=https://ca.test/1", true, false},
		{"ca.test; accounturi=https://ca.test/2", false, false},
		{"other.test; accounturi=https://ca.test/1", false, false},
		{"ca.test", false, false},
		{"ca.test; accounturi=https://ca.test/1; persistUntil=1800000001", false, true},
		{"ca.test; accounturi=https://ca.test/1; persistUntil=1799999999", false, false},
		{"ca.test; accounturi=https://ca.test/1; persistUntil=soon", false, false},
	} {
		if got := persistPermits(c.record, "ca.test", "https://ca.test/1", c.wild, now); got != c.want {
			t.Errorf("%q, wildcard %v: %v", c.record, c.wild, got)
		}
	}
}
