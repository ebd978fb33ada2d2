package tlsx

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
	"github.com/palisade-go/palisade/internal/testcert"
)

type certificate = x509.Certificate

func chainOf(certs ...*certificate) []*certificate { return certs }

// swapCert is a CertSource whose certificate a test replaces.
type swapCert struct {
	atomic.Pointer[tls.Certificate]
}

func (s *swapCert) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.Load(), nil }

// TestImpostors shows each kind of wrong server to each kind of pin.
func TestImpostors(t *testing.T) {
	ca, otherCA := testcert.NewCA(t), testcert.NewCA(t)
	web1 := []string{"spiffe://test/web1"}
	right := testcert.Leaf{Names: []string{"web.test", "192.0.2.1"}, URIs: web1}
	with := func(change func(*testcert.Leaf)) testcert.Leaf {
		l := right
		change(&l)
		return l
	}
	self := func() tls.Certificate {
		cert := ca.Issue(right)
		template := *cert.Leaf
		der, err := x509.CreateCertificate(nil, &template, &template, cert.Leaf.PublicKey, cert.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: cert.PrivateKey, Leaf: leaf}
	}
	byURI := Backend{Peer: PeerMatcher{URIs: web1}}
	byDNS := Backend{Peer: PeerMatcher{Names: []string{"web.test"}}}
	byHost := Backend{ServerName: "web.test"}
	byIP := Backend{ServerName: "192.0.2.1"}
	// Anyone can send along the certificate of another, which is no secret.
	borrowed := ca.Issue(testcert.Leaf{CommonName: "web2"})
	borrowed.Certificate = append(borrowed.Certificate, ca.Issue(right).Certificate[0])
	for _, c := range []struct {
		name                 string
		cert                 tls.Certificate
		uri, dns, host, byIP bool
	}{
		{"the right one sent along", borrowed, false, false, false, false},
		{"right", ca.Issue(right), true, true, true, true},
		{"wrong name", ca.Issue(with(func(l *testcert.Leaf) { l.Names = []string{"db.test"} })), true, false, false, false},
		{"wildcard", ca.Issue(with(func(l *testcert.Leaf) { l.Names = []string{"*.test"} })), true, false, true, false},
		{"other identity", ca.Issue(with(func(l *testcert.Leaf) { l.URIs = []string{"spiffe://test/web2"} })), false, true, true, true},
		{"no identity", ca.Issue(testcert.Leaf{CommonName: "web.test"}), false, false, false, false},
		{"client certificate", ca.Issue(with(func(l *testcert.Leaf) { l.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })), false, false, false, false},
		{"expired", ca.Issue(with(func(l *testcert.Leaf) { l.NotAfter = time.Now().Add(-time.Minute) })), false, false, false, false},
		{"not yet valid", ca.Issue(with(func(l *testcert.Leaf) { l.NotBefore = time.Now().Add(time.Minute) })), false, false, false, false},
		{"other authority", otherCA.Issue(right), false, false, false, false},
		{"self-signed", self(), false, false, false, false},
	} {
		for _, pin := range []struct {
			name string
			b    Backend
			want bool
		}{{"URI", byURI, c.uri}, {"DNS name", byDNS, c.dns}, {"host", byHost, c.host}, {"address", byIP, c.byIP}} {
			pin.b.Roots = rootsOf(t, ca)
			client, err := BackendTLS(pin.b)
			if err != nil {
				t.Fatal(err)
			}
			server := &tls.Config{Certificates: []tls.Certificate{c.cert}}
			if r := shake(t, server, client); (r.clientErr == nil) != pin.want {
				t.Errorf("%s, pinned by %s: %v, want success %v", c.name, pin.name, r.clientErr, pin.want)
			} else if c.name == "other identity" && pin.name == "URI" && !errors.Is(r.clientErr, ErrPeerIdentity) {
				t.Errorf("other identity: %v, want ErrPeerIdentity", r.clientErr)
			}
		}
	}
}

// TestBackendRotation replaces authorities and certificates of both sides under
// a client that resumes sessions.
func TestBackendRotation(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		oldCA, newCA := testcert.NewCA(t), testcert.NewCA(t)
		leaf := testcert.Leaf{URIs: []string{"spiffe://test/web1"}, Names: []string{"web.test"}}
		var serverRoots, clientRoots swapRoots
		var serverCert, clientCert swapCert
		serverRoots.Store(rootsOf(t, oldCA))
		clientRoots.Store(rootsOf(t, oldCA))
		serverCert.Store(new(oldCA.Issue(leaf)))
		clientCert.Store(new(oldCA.Issue(testcert.Leaf{CommonName: "one"})))
		term := newTerminator(t, Config{Certs: []CertSource{&serverCert}, Policies: []Policy{{Client: &ClientAuth{Mode: Required, Roots: &serverRoots}}}})
		client, err := BackendTLS(Backend{Roots: &clientRoots, Cert: &clientCert, Peer: PeerMatcher{URIs: leaf.URIs}, ServerName: "web.test"})
		if err != nil {
			t.Fatal(err)
		}
		client.MinVersion, client.MaxVersion = version, version
		visit := func(when string, ok, resumed bool) {
			t.Helper()
			if r := shake(t, term.ServerConfig(), client); r.ok() != ok || r.client.DidResume != resumed {
				t.Errorf("%s: resumed %v, want %v: %v / %v, want success %v", when, r.client.DidResume, resumed, r.clientErr, r.serverErr, ok)
			}
		}
		visit("first", true, false)
		visit("second", true, true)
		clientCert.Store(new(oldCA.Issue(testcert.Leaf{CommonName: "two"})))
		visit("new client certificate", true, false)
		visit("again", true, true)
		clientRoots.Store(rootsOf(t, newCA))
		visit("server still of the old authority", false, false)
		serverCert.Store(new(newCA.Issue(leaf)))
		visit("server of the new authority", true, false)
		serverRoots.Store(rootsOf(t, newCA))
		visit("client still of the old authority", false, false)
		clientCert.Store(new(newCA.Issue(testcert.Leaf{CommonName: "three"})))
		visit("all new", true, false)
		visit("all new again", true, true)
	})
}

// TestLateTicket reads the ticket of a connection after both sides have got other
// certificates: no session resumes in which the server still has its old one, which
// would fail as soon as the old authority is no longer trusted.
func TestLateTicket(t *testing.T) {
	for _, since := range []bool{false, true} { // whether there was a connection since the change
		oldCA, newCA := testcert.NewCA(t), testcert.NewCA(t)
		both, err := NewRoots(oldCA.Cert, newCA.Cert)
		if err != nil {
			t.Fatal(err)
		}
		var serverCert, clientCert swapCert
		issue := func(ca *testcert.CA) {
			serverCert.Store(new(ca.Issue(testcert.Leaf{Names: []string{"web.test"}})))
			clientCert.Store(new(ca.Issue(testcert.Leaf{CommonName: "balancer"})))
		}
		issue(oldCA)
		var clientRoots swapRoots
		clientRoots.Store(both)
		server := newTerminator(t, Config{Certs: []CertSource{&serverCert}, Policies: []Policy{{Client: &ClientAuth{Mode: Required, Roots: both}}}}).ServerConfig()
		client, err := BackendTLS(Backend{Roots: &clientRoots, Cert: &clientCert, ServerName: "web.test"})
		if err != nil {
			t.Fatal(err)
		}
		late := openUnread(t, server, client)
		issue(newCA)
		if since {
			if r := shake(t, server, client); !r.ok() || r.client.DidResume {
				t.Fatalf("first after the change: resumed %v: %v / %v", r.client.DidResume, r.clientErr, r.serverErr)
			}
		}
		if _, err := io.ReadFull(late, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		r := shake(t, server, client)
		if !r.ok() || r.client.DidResume != since || r.client.PeerCertificates[0].CheckSignatureFrom(newCA.Cert) != nil {
			t.Errorf("after the late ticket: resumed %v, want %v, by the server's new certificate: %v / %v", r.client.DidResume, since, r.clientErr, r.serverErr)
		}
		clientRoots.Store(rootsOf(t, newCA))
		if r := shake(t, server, client); !r.ok() {
			t.Errorf("with the new authority alone: %v / %v", r.clientErr, r.serverErr)
		}
	}
}

// openUnread connects a client, which reads nothing after the handshake. The
// server has written a byte.
func openUnread(t *testing.T, server, client *tls.Config) *tls.Conn {
	t.Helper()
	ln := memnet.Listen("192.0.2.1:443")
	t.Cleanup(func() { ln.Close() })
	raw, err := ln.DialContext(t.Context(), "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		_, err := tls.Server(accepted, server).Write([]byte("x"))
		served <- err
	}()
	conn := tls.Client(raw, client)
	t.Cleanup(func() { conn.Close() })
	if err := errors.Join(conn.Handshake(), <-served); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestSessionsAreDropped: crypto/tls puts nil in the place of a session that a
// server did not like.
func TestSessionsAreDropped(t *testing.T) {
	ca := testcert.NewCA(t)
	client, err := BackendTLS(Backend{Roots: rootsOf(t, ca), ServerName: "web.test"})
	if err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{Names: []string{"web.test"}})}}
	for i := range 2 {
		if r := shake(t, server, client); !r.ok() || r.client.DidResume != (i == 1) {
			t.Fatalf("visit %d: resumed %v: %v", i, r.client.DidResume, r.clientErr)
		}
	}
	client.ClientSessionCache.Put("web.test", nil)
	if r := shake(t, server, client); !r.ok() || r.client.DidResume {
		t.Errorf("resumed %v a session that was dropped: %v", r.client.DidResume, r.clientErr)
	}
}

// turningRoots returns another pointer to the same authorities from a number of
// calls on, as when a file has changed.
type turningRoots struct {
	before, after *Roots
	left          atomic.Int32
}

func (s *turningRoots) Roots() *Roots {
	if s.left.Add(-1) >= 0 {
		return s.before
	}
	return s.after
}

// TestChangeWithinResumption has the authorities change after a session was chosen
// and before it is verified: that the old certificate came with the session does
// not make it one that a server has shown since.
func TestChangeWithinResumption(t *testing.T) {
	oldCA, newCA := testcert.NewCA(t), testcert.NewCA(t)
	one, err := NewRoots(oldCA.Cert, newCA.Cert)
	if err != nil {
		t.Fatal(err)
	}
	two, err := NewRoots(newCA.Cert, oldCA.Cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := &turningRoots{before: one, after: two}
	client, err := BackendTLS(Backend{Roots: roots, ServerName: "web.test"})
	if err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{oldCA.Issue(testcert.Leaf{Names: []string{"web.test"}})}}
	roots.left.Store(1 << 20)
	if r := shake(t, server, client); !r.ok() {
		t.Fatal(r.clientErr)
	}
	roots.left.Store(1) // the choice of the session
	if r := shake(t, server, client); !r.ok() || !r.client.DidResume {
		t.Fatalf("resumed %v: %v", r.client.DidResume, r.clientErr)
	}
	if r := shake(t, server, client); !r.ok() || r.client.DidResume {
		t.Errorf("resumed %v what began before the change: %v", r.client.DidResume, r.clientErr)
	}
	if r := shake(t, server, client); !r.ok() || !r.client.DidResume {
		t.Errorf("resumed %v what began after the change: %v", r.client.DidResume, r.clientErr)
	}
}

// TestShownIsBounded: of ever new certificates only the latest count.
func TestShownIsBounded(t *testing.T) {
	c := newSessionCache(Backend{Roots: rootsOf(t, testcert.NewCA(t))})
	for i := range 3 * sessionsMax {
		c.show([]byte{byte(i), byte(i >> 8)})
		c.show([]byte{byte(i), byte(i >> 8)})
	}
	for range 3 * sessionsMax { // one that is shown again takes nobody's place
		c.show([]byte{byte(3*sessionsMax - 1), byte((3*sessionsMax - 1) >> 8)})
	}
	if c.shown[0][0] != byte(2*sessionsMax) {
		t.Errorf("the first certificate is %v", c.shown[0])
	}
	if n := len(c.shown); n != sessionsMax || c.shown[n-1][0] != byte(3*sessionsMax-1) {
		t.Errorf("%d certificates, the last %v, want %d", n, c.shown[n-1], sessionsMax)
	}
}

// TestResumedServerIsVerified is about verifyBackend alone, without the session
// cache that forgets sessions when the authorities change.
func TestResumedServerIsVerified(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		ca, otherCA := testcert.NewCA(t), testcert.NewCA(t)
		var roots swapRoots
		roots.Store(rootsOf(t, ca))
		client, err := BackendTLS(Backend{Roots: &roots, ServerName: "web.test"})
		if err != nil {
			t.Fatal(err)
		}
		client.MinVersion, client.MaxVersion, client.ClientSessionCache = version, version, new(oneSession)
		server := &tls.Config{Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{Names: []string{"web.test"}})}}
		for i := range 2 {
			if r := shake(t, server, client); !r.ok() || r.client.DidResume != (i == 1) {
				t.Fatalf("visit %d: resumed %v: %v", i, r.client.DidResume, r.clientErr)
			}
		}
		roots.Store(rootsOf(t, otherCA))
		if r := shake(t, server, client); r.clientErr == nil {
			t.Errorf("resumed %v with a server of an authority that is not trusted any more", r.client.DidResume)
		}
		roots.Store(nil)
		if r := shake(t, server, client); r.clientErr == nil {
			t.Error("connected without any authorities")
		}
	})
}

func TestBackendWithoutItsCertificate(t *testing.T) {
	ca := testcert.NewCA(t)
	roots := rootsOf(t, ca)
	none := CertFunc(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil })
	client, err := BackendTLS(Backend{Roots: roots, Cert: none, ServerName: "web.test"})
	if err != nil {
		t.Fatal(err)
	}
	term := newTerminator(t, Config{
		Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"web.test"}}))},
		Policies: []Policy{{Client: &ClientAuth{Roots: roots}}},
	})
	if r := shake(t, term.ServerConfig(), client); r.clientErr == nil {
		t.Error("connected anonymously, although a certificate is configured")
	}
}

func TestBackendTLSListsEveryMistake(t *testing.T) {
	_, err := BackendTLS(Backend{Profile: 7, ALPN: []string{""}})
	for _, want := range []string{"Backend.Roots", "Backend.Peer and Backend.ServerName", "Profile(7)", "Backend.ALPN"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not mention %q: %v", want, err)
		}
	}
	if _, err := BackendTLS(Backend{Roots: rootsOf(t, testcert.NewCA(t)), ServerName: "a b"}); !errors.Is(err, errBadName) {
		t.Errorf("ServerName: %v", err)
	}
}

func TestBackendTLSKeepsItsOwnCopy(t *testing.T) {
	ca := testcert.NewCA(t)
	b := Backend{Roots: rootsOf(t, ca), Peer: PeerMatcher{URIs: []string{"spiffe://test/web1"}, Names: []string{"web1.test"}}, ServerName: "web.test", ALPN: []string{"good"}}
	client, err := BackendTLS(b)
	if err != nil {
		t.Fatal(err)
	}
	b.Peer.URIs[0], b.Peer.Names[0], b.ALPN[0] = "spiffe://test/evil", "evil.test", "evil"
	for _, evil := range []testcert.Leaf{{URIs: []string{"spiffe://test/evil"}}, {Names: []string{"evil.test"}}} {
		server := &tls.Config{Certificates: []tls.Certificate{ca.Issue(evil)}}
		if r := shake(t, server, client); !errors.Is(r.clientErr, ErrPeerIdentity) {
			t.Errorf("the pin changed with the caller's slice: %v", r.clientErr)
		}
	}
	if client.NextProtos[0] != "good" {
		t.Errorf("the protocol changed with the caller's slice: %q", client.NextProtos)
	}
}

func TestBackendProfile(t *testing.T) {
	ca := testcert.NewCA(t)
	cert := ca.Issue(testcert.Leaf{Names: []string{"web.test"}})
	for profile, want := range map[Profile][]uint16{Intermediate: {tls.VersionTLS12, tls.VersionTLS13}, Modern: {tls.VersionTLS13}} {
		client, err := BackendTLS(Backend{Roots: rootsOf(t, ca), ServerName: "web.test", Profile: profile})
		if err != nil {
			t.Fatal(err)
		}
		for _, version := range []uint16{tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
			server := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10, MaxVersion: version}
			if r := shake(t, server, client); r.ok() != slices.Contains(want, version) {
				t.Errorf("%v with a server of %s: %v", profile, tls.VersionName(version), r.clientErr)
			}
		}
		weak := &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}
		if r := shake(t, weak, client); r.ok() {
			t.Errorf("%v with a server that has CBC suites only", profile)
		}
	}
}

func TestNoServerCertificate(t *testing.T) {
	b := Backend{Roots: rootsOf(t, testcert.NewCA(t)), ServerName: "web.test"}
	if err := verifyBackend(b, tls.ConnectionState{}); err == nil {
		t.Error("a server without a certificate was accepted")
	}
}

func TestPeerMatcher(t *testing.T) {
	cert := &x509.Certificate{DNSNames: []string{"*.test", "web.test"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "test", Path: "/web1"}}}
	cert.Subject.CommonName = "cn.test"
	for _, c := range []struct {
		m    PeerMatcher
		want bool
	}{
		{PeerMatcher{}, false},
		{PeerMatcher{URIs: []string{"spiffe://test/web1"}}, true},
		{PeerMatcher{URIs: []string{"spiffe://test/web"}}, false},
		{PeerMatcher{URIs: []string{"spiffe://test/WEB1"}}, false},
		{PeerMatcher{Names: []string{"web.test"}}, true},
		{PeerMatcher{Names: []string{"other.test"}}, false}, // "*.test" is not it
		{PeerMatcher{Names: []string{"cn.test"}}, false},
		{PeerMatcher{URIs: []string{"x"}, Names: []string{"web.test"}}, true},
	} {
		if got := c.m.Match(cert); got != c.want {
			t.Errorf("%+v: %v, want %v", c.m, got, c.want)
		}
	}
}
