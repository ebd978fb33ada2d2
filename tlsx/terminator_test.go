package tlsx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
	"github.com/palisade-go/palisade/internal/testcert"
)

func TestUnknownNamesGetAnAlert(t *testing.T) {
	ca := testcert.NewCA(t)
	rejected := make(chan rejection, 1)
	term := newTerminator(t, Config{
		Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"www.test", "*.wild.test", "192.0.2.1"}}))},
		Policies: []Policy{{Names: []string{"www.test", "*.wild.test", "uncertified.test", "192.0.2.1"}}},
		OnReject: collect(rejected),
	})
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, c := range []struct {
			name string
			ok   bool
		}{
			{"www.test", true}, {"WWW.TEST", true}, {"www.test.", true}, {"a.wild.test", true},
			{"192.0.2.1", true}, // sends no name; the listener's address
			{"wild.test", false}, {"a.b.wild.test", false}, {"other.test", false}, {"uncertified.test", false},
		} {
			r := shake(t, term.ServerConfig(), &tls.Config{ServerName: c.name, RootCAs: ca.Pool(), MaxVersion: version})
			if r.ok() != c.ok {
				t.Errorf("%s: %v / %v, want success %v", c.name, r.clientErr, r.serverErr, c.ok)
			}
			if c.ok {
				continue
			}
			wantAlert(t, r.clientErr, alertUnrecognizedName)
			if got := <-rejected; got.name != c.name || !errors.Is(got.err, ErrUnknownName) || got.remote == nil {
				t.Errorf("%s: OnReject got %+v", c.name, got)
			}
		}
	}
}

func TestNoNameAndNoPolicyForTheAddress(t *testing.T) {
	ca := testcert.NewCA(t)
	term := newTerminator(t, Config{
		Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"www.test", "192.0.2.1"}}))},
		Policies: []Policy{{Names: []string{"www.test"}}},
	})
	r := shake(t, term.ServerConfig(), &tls.Config{InsecureSkipVerify: true})
	wantAlert(t, r.clientErr, alertUnrecognizedName)
}

// TestNoNameIsNobodys asks a policy for every name for what is none: it gets an
// alert, and no source is asked for its own certificate.
func TestNoNameIsNobodys(t *testing.T) {
	ca := testcert.NewCA(t)
	rejected := make(chan rejection, 1)
	term := newTerminator(t, Config{Certs: []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"www.test"}}))}, OnReject: collect(rejected)})
	for _, name := range []string{"www test", "*.test", "www..test", "a/b", "user@www.test", "bücher.test"} {
		r := shake(t, term.ServerConfig(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if r.ok() {
			t.Errorf("%q got the certificate of %v", name, r.client.PeerCertificates[0].DNSNames)
			continue
		}
		wantAlert(t, r.clientErr, alertUnrecognizedName)
		if got := <-rejected; !errors.Is(got.err, ErrUnknownName) || got.name != "" {
			t.Errorf("%q: OnReject got %+v", name, got)
		}
	}
}

// TestSourcesGetNormalNames is the promise of CertSource.
func TestSourcesGetNormalNames(t *testing.T) {
	ca := testcert.NewCA(t)
	own := static(ca.Issue(testcert.Leaf{Names: []string{"www.test", "192.0.2.1"}}))
	var asked []string
	term := newTerminator(t, Config{Certs: []CertSource{CertFunc(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		asked = append(asked, hello.ServerName)
		return own.Certificate(hello)
	})}})
	for name, want := range map[string]string{"WWW.Test": "www.test", "192.0.2.1": "192.0.2.1", "www.test": "www.test"} {
		asked = nil
		if r := shake(t, term.ServerConfig(), &tls.Config{ServerName: name, RootCAs: ca.Pool()}); !r.ok() || len(asked) == 0 {
			t.Errorf("%s: asked %d times: %v / %v", name, len(asked), r.clientErr, r.serverErr)
		}
		if slices.ContainsFunc(asked, func(got string) bool { return got != want }) {
			t.Errorf("%s: the source was asked for %q, want %q", name, asked, want)
		}
	}
}

// TestNewKeepsItsOwnCopy changes what New was given.
func TestNewKeepsItsOwnCopy(t *testing.T) {
	ca := testcert.NewCA(t)
	alice := ca.Issue(testcert.Leaf{CommonName: "alice"})
	c := Config{
		Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"a.test"}}))},
		Policies: []Policy{{Names: []string{"a.test"}, ALPN: []string{"one"}, Client: &ClientAuth{Mode: Required, Roots: rootsOf(t, ca), Authorize: func(context.Context, *Identity) error { return errors.New("denied") }}}},
	}
	term := newTerminator(t, c)
	c.Policies[0].Client.Authorize, c.Policies[0].Client.Mode = nil, Optional
	c.Policies[0].Names[0], c.Policies[0].ALPN[0], c.Certs[0] = "b.test", "two", CertFunc(nil)
	client := &tls.Config{ServerName: "a.test", RootCAs: ca.Pool(), NextProtos: []string{"one"}, Certificates: []tls.Certificate{alice}}
	if r := shake(t, term.ServerConfig(), client); !errors.Is(r.serverErr, ErrUnauthorized) || r.client.NegotiatedProtocol != "one" {
		t.Errorf("protocol %q, %v, want one, refused by Authorize", r.client.NegotiatedProtocol, r.serverErr)
	}
	if r := shake(t, term.ServerConfig(), &tls.Config{ServerName: "a.test", RootCAs: ca.Pool()}); r.ok() {
		t.Error("a client without a certificate was let in")
	}
}

// TestSomeChallengeProtocolIsNone has a client that speaks other protocols, too,
// which is no validator (RFC 8737, section 3): it is served as everybody.
func TestSomeChallengeProtocolIsNone(t *testing.T) {
	ca := testcert.NewCA(t)
	term := newTerminator(t, Config{Certs: []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"a.test"}}))}})
	r := shake(t, term.ServerConfig(), &tls.Config{ServerName: "a.test", RootCAs: ca.Pool(), NextProtos: []string{acmeALPN, "http/1.1"}})
	if !r.ok() || r.client.NegotiatedProtocol != "http/1.1" {
		t.Errorf("protocol %q: %v / %v", r.client.NegotiatedProtocol, r.clientErr, r.serverErr)
	}
}

func TestSourcesInOrder(t *testing.T) {
	ca := testcert.NewCA(t)
	wrong := ca.Issue(testcert.Leaf{CommonName: "wrong", Names: []string{"a.test", "b.test", "c.test"}})
	broken := CertFunc(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &wrong, errors.New("broken") })
	first := ca.Issue(testcert.Leaf{CommonName: "first", Names: []string{"a.test"}})
	second := ca.Issue(testcert.Leaf{CommonName: "second", Names: []string{"a.test", "b.test"}})
	rejected := make(chan rejection, 1)
	term := newTerminator(t, Config{Certs: []CertSource{broken, static(first), static(second)}, OnReject: collect(rejected)})
	for name, want := range map[string]string{"a.test": "first", "b.test": "second"} {
		r := shake(t, term.ServerConfig(), &tls.Config{ServerName: name, RootCAs: ca.Pool()})
		if !r.ok() || r.client.PeerCertificates[0].Subject.CommonName != want {
			t.Errorf("%s: %v / %v, want the certificate %q", name, r.clientErr, r.serverErr, want)
		}
	}
	if r := shake(t, term.ServerConfig(), &tls.Config{ServerName: "c.test", RootCAs: ca.Pool()}); r.ok() || errors.Is((<-rejected).err, ErrUnknownName) {
		t.Error("the error of a source was not reported")
	}
}

// TestClientAuth shows each kind of client to each kind of policy.
func TestClientAuth(t *testing.T) {
	serverCA, clientCA, otherCA := testcert.NewCA(t), testcert.NewCA(t), testcert.NewCA(t)
	alice := clientCA.Issue(testcert.Leaf{CommonName: "alice"})
	mallory := clientCA.Issue(testcert.Leaf{CommonName: "mallory"})
	stranger := otherCA.Issue(testcert.Leaf{CommonName: "alice"})
	serverOnly := clientCA.Issue(testcert.Leaf{CommonName: "alice", Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	deny := errors.New("not alice")
	var contexts []context.Context
	onlyAlice := func(ctx context.Context, id *Identity) error {
		if ctx.Err() != nil {
			t.Error("the context of a handshake that goes on has ended")
		}
		contexts = append(contexts, ctx)
		if id.CommonName != "alice" {
			return deny
		}
		return nil
	}
	roots := rootsOf(t, clientCA)
	rejected := make(chan rejection, 8)
	term := newTerminator(t, Config{
		Certs: []CertSource{static(serverCA.Issue(testcert.Leaf{Names: []string{"optional.test", "required.test", "alice.test"}}))},
		Policies: []Policy{
			{Names: []string{"optional.test"}, Client: &ClientAuth{Roots: roots}},
			{Names: []string{"required.test"}, Client: &ClientAuth{Mode: Required, Roots: roots}},
			{Names: []string{"alice.test"}, Client: &ClientAuth{Mode: Required, Roots: roots, Authorize: onlyAlice}},
		},
		OnReject: collect(rejected),
	})
	for _, c := range []struct {
		name                              string
		cert                              *tls.Certificate
		optional, required, authorization bool
	}{
		{"none", nil, true, false, false},
		{"alice", &alice, true, true, true},
		{"mallory", &mallory, true, true, false},
		{"other authority", &stranger, false, false, false},
		{"server certificate", &serverOnly, false, false, false},
	} {
		for server, want := range map[string]bool{"optional.test": c.optional, "required.test": c.required, "alice.test": c.authorization} {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				client := &tls.Config{ServerName: server, RootCAs: serverCA.Pool(), MaxVersion: version}
				if c.cert != nil {
					client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert, nil }
				}
				if r := shake(t, term.ServerConfig(), client); r.ok() != want {
					t.Errorf("%s at %s, %s: %v / %v, want success %v", c.name, server, tls.VersionName(version), r.clientErr, r.serverErr, want)
				}
			}
		}
	}
	if len(contexts) != 4 || slices.ContainsFunc(contexts, func(ctx context.Context) bool { return ctx.Err() == nil }) {
		t.Errorf("Authorize was asked %d times, want 4, each with a context that ends with the handshake", len(contexts))
	}
	close(rejected)
	n := 0
	for r := range rejected {
		if n++; !errors.Is(r.err, ErrUnauthorized) || !errors.Is(r.err, deny) || r.name != "alice.test" || r.remote == nil {
			t.Errorf("OnReject got %+v", r)
		}
	}
	if n != 2 {
		t.Errorf("OnReject was called %d times, want once per version", n)
	}
}

// challengeCert is what an ACME client shows to the validator.
func challengeCert(t *testing.T, ca *testcert.CA, name string) tls.Certificate {
	t.Helper()
	cert := ca.Issue(testcert.Leaf{Names: []string{name}})
	template := *cert.Leaf
	template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}, Critical: true, Value: []byte{4, 0}}}
	der, err := x509.CreateCertificate(nil, &template, ca.Cert, cert.Leaf.PublicKey, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: cert.PrivateKey}
}

// TestChallengeIsNoWayIn offers acme-tls/1 to a policy that requires client
// certificates: a validator sees the challenge certificate, and nobody gets a
// connection.
func TestChallengeIsNoWayIn(t *testing.T) {
	ca := testcert.NewCA(t)
	challenge := challengeCert(t, ca, "a.test")
	pending, rejected := true, make(chan rejection, 1)
	source := CertFunc(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if pending && slices.Equal(hello.SupportedProtos, []string{"acme-tls/1"}) && hello.ServerName == "a.test" {
			return &challenge, nil
		}
		return nil, nil
	})
	term := newTerminator(t, Config{
		Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"a.test"}})), source},
		Policies: []Policy{{Names: []string{"a.test"}, Client: &ClientAuth{Mode: Required, Roots: rootsOf(t, ca)}}},
		OnReject: collect(rejected),
	})
	validator := &tls.Config{ServerName: "a.test", InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}}
	r := shake(t, term.ServerConfig(), validator)
	if len(r.client.PeerCertificates) != 1 || !slices.Equal(r.client.PeerCertificates[0].Raw, challenge.Certificate[0]) || r.client.NegotiatedProtocol != "acme-tls/1" {
		t.Errorf("the validator saw %d certificates, protocol %q: %v", len(r.client.PeerCertificates), r.client.NegotiatedProtocol, r.clientErr)
	}
	if !errors.Is(r.serverErr, errChallengeOver) || r.clientErr == nil {
		t.Errorf("the connection goes on: %v / %v", r.clientErr, r.serverErr)
	}
	pending = false
	r = shake(t, term.ServerConfig(), validator)
	wantAlert(t, r.clientErr, alertUnrecognizedName)
	if got := <-rejected; got.name != "a.test" || !errors.Is(got.err, ErrUnknownName) {
		t.Errorf("OnReject got %+v", got)
	}
	if isChallenge(new(tls.Certificate)) || isChallenge(&tls.Certificate{Certificate: [][]byte{{1}}}) {
		t.Error("what is no certificate is a challenge")
	}
}

func TestChallengeSubject(t *testing.T) {
	for name, want := range map[string]string{
		"33.2.0.192.in-addr.arpa": "192.0.2.33",
		"b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": "2001:db8::567:89ab",
		"a.test":                 "a.test",
		"2.0.192.in-addr.arpa":   "2.0.192.in-addr.arpa",
		"x.2.0.192.in-addr.arpa": "x.2.0.192.in-addr.arpa",
		"1.ip6.arpa":             "1.ip6.arpa",
		"b-a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa":  "b-a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
		"b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.x.ip6.arpa":  "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.x.ip6.arpa",
		"ba.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.1.ip6.arpa": "ba.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.1.ip6.arpa",
	} {
		if got := challengeSubject(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestHTTP2AndHTTP1(t *testing.T) {
	ca := testcert.NewCA(t)
	term := newTerminator(t, Config{Certs: []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"a.test"}}))}})
	ln := memnet.Listen("192.0.2.1:443")
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Proto", r.Proto) })}
	go srv.Serve(term.Listener(ln))
	defer srv.Close()
	for _, h2 := range []bool{true, false} {
		tr := &http.Transport{DialContext: ln.DialContext, TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}, ForceAttemptHTTP2: h2}
		res, err := (&http.Client{Transport: tr}).Get("https://a.test/")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		tr.CloseIdleConnections()
		if want := map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"}[h2]; res.Header.Get("Proto") != want {
			t.Errorf("served %s, want %s", res.Header.Get("Proto"), want)
		}
	}
}

func TestRequireSNIMatch(t *testing.T) {
	ca := testcert.NewCA(t)
	term := newTerminator(t, Config{
		Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"a.test"}}))},
		Policies: []Policy{{Names: []string{"a.test", "192.0.2.1"}}, {Names: []string{"b.test"}}},
	})
	h := term.RequireSNIMatch(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, c := range []struct {
		sni, host, local string
		want             int
	}{
		{"a.test", "a.test", "", 200}, {"a.test", "A.TEST.:443", "", 200}, {"A.test", "a.test:8443", "", 200},
		{"a.test", "b.test", "", 421}, {"a.test", "x.a.test", "", 421}, {"a.test", "", "", 421}, {"a.test", "192.0.2.1", "", 421},
		{"", "a.test", "192.0.2.1:443", 200}, {"", "192.0.2.1", "192.0.2.1:443", 200},
		{"a b", "b.test", "", 421}, {"a b", "a b", "", 421}, // what no handshake of ours would bring
		{"", "b.test", "192.0.2.1:443", 421}, {"", "a.test", "192.0.2.9:443", 421}, {"", "c.test", "192.0.2.9:443", 421}, {"", "a.test", "", 421},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.Host, r.TLS = c.host, &tls.ConnectionState{ServerName: c.sni}
		if c.local != "" {
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, memnet.Listen(c.local).Addr()))
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("SNI %q, Host %q, local %q: %d, want %d", c.sni, c.host, c.local, w.Code, c.want)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://anything/", nil))
	if w.Code != 200 {
		t.Errorf("without TLS: %d", w.Code)
	}
}

func TestCertEventKind(t *testing.T) {
	for kind, want := range map[CertEventKind]string{
		CertIssued: "issued", CertRenewed: "renewed", CertFailed: "failed", CertExpiring: "expiring", CertRevoked: "revoked", 99: "CertEventKind(99)",
	} {
		if kind.String() != want {
			t.Errorf("%d: %q, want %q", kind, kind, want)
		}
	}
}

// plannedSource tells when it renews.
type plannedSource struct {
	CertSource
	leaf *certificate
}

func (p plannedSource) Certificates() []*x509.Certificate { return chainOf(p.leaf) }

func (p plannedSource) Renewal(c *x509.Certificate) (at, start, end time.Time) {
	return c.NotBefore.Add(1), c.NotBefore.Add(2), c.NotBefore.Add(3)
}

func TestCertificatesSoonestFirst(t *testing.T) {
	dir := t.TempDir()
	ca, err := OpenCA(CAConfig{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	long, err := ca.Leaf(LeafConfig{Names: []string{"long.test", "192.0.2.1"}, Lifetime: rootLifetime / 2})
	if err != nil {
		t.Fatal(err)
	}
	short, err := ca.Leaf(LeafConfig{Names: []string{"short.test"}})
	if err != nil {
		t.Fatal(err)
	}
	planned := plannedSource{static(tls.Certificate{}), testcert.NewCA(t).Issue(testcert.Leaf{Names: []string{"planned.test"}, NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour)}).Leaf}
	blind := CertFunc(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil })
	infos := newTerminator(t, Config{Certs: []CertSource{planned, blind, long, short}}).Certificates()
	if len(infos) == 3 {
		at := planned.leaf.NotBefore
		if got, want := infos[2], (CertInfo{Names: []string{"planned.test"}, Issuer: "CN=palisade test CA", NotBefore: at, NotAfter: planned.leaf.NotAfter, Renew: at.Add(1), WindowStart: at.Add(2), WindowEnd: at.Add(3)}); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
		if !infos[0].Renew.IsZero() || !infos[0].WindowStart.IsZero() || !infos[0].WindowEnd.IsZero() {
			t.Errorf("a plan from nowhere: %+v", infos[0])
		}
		infos[2].Names[0] = "changed"
		if planned.leaf.DNSNames[0] != "planned.test" {
			t.Error("the certificate changed with what Certificates returned")
		}
		infos = infos[:2]
	}
	if len(infos) != 2 || infos[0].Names[0] != "short.test" || !slices.Equal(infos[1].Names, []string{"long.test", "192.0.2.1"}) || infos[0].Issuer != "CN=Palisade internal CA" {
		t.Errorf("Certificates() = %+v", infos)
	}
}
