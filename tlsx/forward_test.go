package tlsx

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/palisade-go/palisade/internal/memnet"
	"github.com/palisade-go/palisade/internal/testcert"
)

// seen is what the application behind the proxy is told about a request.
type seen struct {
	Identity    string // common name from IdentityFrom
	Fingerprint string
	Chain       int
	Fields      []string // names of header fields and trailers that look like an identity
	Trailers    []string // all names of trailers
}

func looksLikeIdentity(name string) bool {
	folded := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(name))
	return strings.Contains(folded, "clientcert")
}

func app(w http.ResponseWriter, r *http.Request) {
	var s seen
	if id, ok := IdentityFrom(r.Context()); ok {
		s.Identity, s.Fingerprint, s.Chain = id.CommonName, id.Fingerprint, len(id.Chain)
	}
	io.Copy(io.Discard, r.Body)
	for name := range r.Header {
		if looksLikeIdentity(name) {
			s.Fields = append(s.Fields, name)
		}
	}
	for name := range r.Trailer {
		s.Trailers = append(s.Trailers, name)
		if looksLikeIdentity(name) {
			s.Fields = append(s.Fields, "trailer "+name)
		}
	}
	json.NewEncoder(w).Encode(s)
}

// stack is a proxy with a server behind it: clients of clientCA come to edge,
// the proxy goes to behind over mutual TLS.
type stack struct {
	clientCA, innerCA *testcert.CA
	edge, behind      *memnet.Listener
	edgePool          *x509.CertPool
}

const balancerURI = "spiffe://test/balancer"

func newStack(t *testing.T, forward Forward, h2Behind bool) *stack {
	t.Helper()
	s := &stack{clientCA: testcert.NewCA(t), innerCA: testcert.NewCA(t), edge: memnet.Listen("192.0.2.1:443"), behind: memnet.Listen("192.0.2.2:443")}
	s.edgePool = s.innerCA.Pool()
	inner := rootsOf(t, s.innerCA)
	web := newTerminator(t, Config{
		Certs:    []CertSource{static(s.innerCA.Issue(testcert.Leaf{Names: []string{"web.test"}}))},
		Policies: []Policy{{Client: &ClientAuth{Roots: inner}}},
	})
	serve(t, web.Listener(s.behind), Receive(PeerMatcher{URIs: []string{balancerURI}}, http.HandlerFunc(app)))

	backend := Backend{Roots: inner, Cert: static(s.innerCA.Issue(testcert.Leaf{CommonName: "balancer", URIs: []string{balancerURI}})), ServerName: "web.test"}
	if h2Behind {
		backend.ALPN = []string{"h2"}
	}
	client, err := BackendTLS(backend)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: client, DialContext: s.behind.DialContext, ForceAttemptHTTP2: h2Behind}
	t.Cleanup(tr.CloseIdleConnections)
	target := &url.URL{Scheme: "https", Host: "web.test"}
	proxy := &httputil.ReverseProxy{
		Transport:      tr,
		ModifyResponse: forward.ModifyResponse,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(target)
			forward.Rewrite(pr)
		},
	}
	edge := newTerminator(t, Config{
		Certs:    []CertSource{static(s.innerCA.Issue(testcert.Leaf{Names: []string{"www.test"}}))},
		Policies: []Policy{{Client: &ClientAuth{Roots: rootsOf(t, s.clientCA)}}},
	})
	serve(t, edge.Listener(s.edge), proxy)
	return s
}

func serve(t *testing.T, ln net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
}

// clientTLS is the configuration of a client of the edge; cert may be nil.
func (s *stack) clientTLS(name string, cert *tls.Certificate) *tls.Config {
	c := &tls.Config{ServerName: name, RootCAs: s.edgePool}
	if cert != nil {
		c.Certificates = []tls.Certificate{*cert}
	}
	return c
}

// get makes a request with net/http, which keeps names of fields as they are
// given.
func (s *stack) get(t *testing.T, h2 bool, cert *tls.Certificate, change func(*http.Request)) seen {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: s.clientTLS("", cert), DialContext: s.edge.DialContext, ForceAttemptHTTP2: h2}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), "POST", "https://www.test/", io.MultiReader(strings.NewReader("body"))) // chunked
	if err != nil {
		t.Fatal(err)
	}
	change(r)
	res, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if (res.ProtoMajor == 2) != h2 {
		t.Fatalf("the edge spoke %s", res.Proto)
	}
	return readSeen(t, res)
}

func readSeen(t *testing.T, res *http.Response) seen {
	t.Helper()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%s: %s, %v", res.Status, body, err)
	}
	var got seen
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return got
}

// raw sends a request as bytes over TLS to one of the two servers.
func raw(t *testing.T, ln *memnet.Listener, conf *tls.Config, request string) *http.Response {
	t.Helper()
	plain, err := ln.DialContext(t.Context(), "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(plain, conf)
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestForgedFieldsNeverArrive sends another's certificate in each way there is,
// with a certificate of one's own and without.
func TestForgedFieldsNeverArrive(t *testing.T) {
	for _, h2Behind := range []bool{false, true} {
		s := newStack(t, Forward{Chain: true}, h2Behind)
		alice := s.clientCA.Issue(testcert.Leaf{CommonName: "alice"})
		victim := encodeCert(s.clientCA.Issue(testcert.Leaf{CommonName: "victim"}).Leaf.Raw)
		forgeries := map[string]func(*http.Request){
			"plain":      func(r *http.Request) { r.Header.Set("Client-Cert", victim) },
			"chain":      func(r *http.Request) { r.Header.Set("Client-Cert-Chain", victim) },
			"both":       func(r *http.Request) { r.Header.Set("Client-Cert", victim); r.Header.Set("Client-Cert-Chain", victim) },
			"duplicates": func(r *http.Request) { r.Header["Client-Cert"] = []string{victim, victim} },
			"xfcc":       func(r *http.Request) { r.Header.Set("X-Forwarded-Client-Cert", "Subject=CN=victim") },
			"Connection": func(r *http.Request) {
				r.Header.Set("Connection", "Client-Cert, Client-Cert-Chain")
				r.Header.Set("Client-Cert", victim)
			},
			"trailer": func(r *http.Request) {
				r.Trailer = http.Header{"Client-Cert": {victim}, "Client_cert": {victim}, "Kept": {"yes"}}
			},
			"none": func(*http.Request) {},
		}
		for _, spelling := range []string{"client-cert", "CLIENT-CERT", "cLiEnT-cErT", "Client_Cert", "client_cert", "CLIENT_CERT", "Client.Cert", "Client_Cert_Chain", "client-cert_chain", "X_Forwarded_Client_Cert"} {
			forgeries[spelling] = func(r *http.Request) { r.Header[spelling] = []string{victim} }
		}
		for name, forge := range forgeries {
			for _, h2 := range []bool{false, true} {
				if h2 && name == "Connection" {
					continue // not a field of HTTP/2; net/http would not send it
				}
				if got := s.get(t, h2, nil, forge); got.Identity != "" || len(got.Fields) > 0 {
					t.Errorf("%s, HTTP/2 %v and behind %v, anonymous: the application saw %+v", name, h2, h2Behind, got)
				}
				if got := s.get(t, h2, &alice, forge); got.Identity != "alice" || len(got.Fields) > 0 {
					t.Errorf("%s, HTTP/2 %v and behind %v, alice: the application saw %+v", name, h2, h2Behind, got)
				}
			}
		}
	}
}

// TestOnlyThePinnedProxyIsBelieved connects to the server behind directly.
func TestOnlyThePinnedProxyIsBelieved(t *testing.T) {
	s := newStack(t, Forward{}, false)
	victim := encodeCert(s.clientCA.Issue(testcert.Leaf{CommonName: "victim"}).Leaf.Raw)
	request := func(header string) string {
		return "GET / HTTP/1.1\r\nHost: web.test\r\n" + header + "\r\n"
	}
	balancer := s.innerCA.Issue(testcert.Leaf{CommonName: "balancer", URIs: []string{balancerURI}})
	other := s.innerCA.Issue(testcert.Leaf{CommonName: "balancer", URIs: []string{"spiffe://test/web1"}})
	for _, c := range []struct {
		name   string
		cert   *tls.Certificate
		header string
		want   string // "" is nobody, "400" that status
	}{
		{"proxy", &balancer, "Client-Cert: " + victim + "\r\n", "victim"},
		{"proxy, field spelled otherwise", &balancer, "CLIENT-CERT: " + victim + "\r\n", "victim"},
		{"proxy without a client", &balancer, "", ""},
		{"proxy, only an underscore", &balancer, "Client_Cert: " + victim + "\r\n", ""},
		{"proxy, two fields", &balancer, "Client-Cert: " + victim + "\r\nClient-Cert: " + victim + "\r\n", "400"},
		{"proxy, a list", &balancer, "Client-Cert: " + victim + ", " + victim + "\r\n", "400"},
		{"proxy, rubbish", &balancer, "Client-Cert: :AAAA:\r\n", "400"},
		{"proxy, empty", &balancer, "Client-Cert:\r\n", "400"},
		{"proxy, chain alone", &balancer, "Client-Cert-Chain: " + victim + "\r\n", "400"},
		{"other server of the same authority", &other, "Client-Cert: " + victim + "\r\n", "balancer"},
		{"nobody", nil, "Client-Cert: " + victim + "\r\n", ""},
		{"nobody, rubbish", nil, "Client-Cert: rubbish\r\n", ""},
	} {
		res := raw(t, s.behind, s.clientTLS("web.test", c.cert), request(c.header))
		if c.want == "400" {
			if res.StatusCode != 400 {
				t.Errorf("%s: %s, want 400", c.name, res.Status)
			}
			continue
		}
		got := readSeen(t, res)
		if got.Identity != c.want || len(got.Fields) > 0 {
			t.Errorf("%s: the application saw %+v, want %q", c.name, got, c.want)
		}
		if c.name == "other server of the same authority" && got.Fingerprint == "" {
			t.Errorf("%s: without a fingerprint", c.name)
		}
	}
}

// TestTrailers sends trailers to the server behind, announced and not.
func TestTrailers(t *testing.T) {
	s := newStack(t, Forward{}, false)
	conf := s.clientTLS("web.test", nil)
	for _, c := range []struct {
		announce string
		want     []string
	}{
		{"Trailer: Kept, Client-Cert, Client_Cert\r\n", []string{"Kept"}},
		{"Trailer: Kept\r\n", []string{"Kept"}},
		{"", nil},
	} {
		res := raw(t, s.behind, conf, "POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n"+c.announce+
			"\r\n4\r\nbody\r\n0\r\nKept: yes\r\nClient-Cert: forged\r\nclient_cert: forged\r\n\r\n")
		if got := readSeen(t, res); len(got.Fields) > 0 || !slices.Equal(got.Trailers, c.want) {
			t.Errorf("announced %q: the application saw %+v, want trailers %q", c.announce, got, c.want)
		}
	}
}

// TestSameIdentityDirectAndProxied is the promise of IdentityFrom.
func TestSameIdentityDirectAndProxied(t *testing.T) {
	s := newStack(t, Forward{Chain: true}, false)
	// An intermediate authority, so that there is a chain to carry.
	middle := s.clientCA.Issue(testcert.Leaf{})
	template := *middle.Leaf
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage, template.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	template.Subject.CommonName = "middle"
	der, err := x509.CreateCertificate(nil, &template, s.clientCA.Cert, middle.Leaf.PublicKey, s.clientCA.Key)
	if err != nil {
		t.Fatal(err)
	}
	middleCert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	aliceTemplate := *s.clientCA.Issue(testcert.Leaf{CommonName: "alice"}).Leaf
	alice := s.clientCA.Issue(testcert.Leaf{})
	if alice.Certificate[0], err = x509.CreateCertificate(nil, &aliceTemplate, middleCert, alice.Leaf.PublicKey, middle.PrivateKey); err != nil {
		t.Fatal(err)
	}
	if alice.Leaf, err = x509.ParseCertificate(alice.Certificate[0]); err != nil {
		t.Fatal(err)
	}
	junk := testcert.NewCA(t).Cert.Raw // sent along, but no part of the chain
	alice.Certificate = append(alice.Certificate, der, junk)

	proxied := s.get(t, false, &alice, func(*http.Request) {})
	direct := memnet.Listen("192.0.2.3:443")
	term := newTerminator(t, Config{
		Certs:    []CertSource{static(s.innerCA.Issue(testcert.Leaf{Names: []string{"www.test"}}))},
		Policies: []Policy{{Client: &ClientAuth{Roots: rootsOf(t, s.clientCA)}}},
	})
	serve(t, term.Listener(direct), Receive(PeerMatcher{URIs: []string{balancerURI}}, http.HandlerFunc(app)))
	got := readSeen(t, raw(t, direct, s.clientTLS("www.test", &alice), "GET / HTTP/1.1\r\nHost: www.test\r\n\r\n"))
	if fmt.Sprint(got) != fmt.Sprint(proxied) || got.Identity != "alice" || got.Chain != 1 {
		t.Errorf("direct %+v, through the proxy %+v", got, proxied)
	}
	if id := newIdentity(chainOf(alice.Leaf)); got.Fingerprint != id.Fingerprint || len(id.Fingerprint) != 64 {
		t.Errorf("fingerprint %q, want %q", got.Fingerprint, id.Fingerprint)
	}
}

// TestRewriteAlone is about what leaves the proxy, whoever receives it.
func TestRewriteAlone(t *testing.T) {
	out := httptest.NewRequestWithContext(t.Context(), "POST", "/", nil)
	out.Header = http.Header{"client_cert": {"x"}, "Client-Cert": {"x"}, "Kept": {"x"}}
	out.Trailer = http.Header{"Client-Cert": nil, "CLIENT_CERT_CHAIN": nil, "Kept": nil}
	Forward{}.Rewrite(&httputil.ProxyRequest{In: httptest.NewRequestWithContext(t.Context(), "POST", "/", nil), Out: out})
	if len(out.Header) != 1 || len(out.Trailer) != 1 {
		t.Errorf("header %v, trailer %v, want Kept alone", out.Header, out.Trailer)
	}
}

func TestVaryBecomesStar(t *testing.T) {
	for in, want := range map[string]string{
		"Client-Cert":                       "*",
		"Accept-Encoding, client-cert":      "*",
		"Accept-Encoding,Client-Cert-Chain": "*",
		"Accept-Encoding":                   "Accept-Encoding",
		"":                                  "",
	} {
		res := &http.Response{Header: http.Header{}}
		if in != "" {
			res.Header.Add("Vary", "Origin")
			res.Header.Add("Vary", in)
		}
		if err := (Forward{}).ModifyResponse(res); err != nil {
			t.Fatal(err)
		}
		got := res.Header.Values("Vary")
		if want == "*" && !slices.Equal(got, []string{"*"}) || want == "Accept-Encoding" && len(got) != 2 || want == "" && len(got) != 0 {
			t.Errorf("Vary: %q became %q", in, got)
		}
	}
}

func TestRefuseForged(t *testing.T) {
	h := RefuseForged(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, c := range []struct {
		header, trailer string
		want            int
	}{{"Client_cert", "", 400}, {"CLIENT-CERT-CHAIN", "", 400}, {"", "Client-Cert", 400}, {"Client-Certainty", "Client-Cer", 200}} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.Header[c.header], r.Trailer = []string{"x"}, http.Header{c.trailer: nil}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("header %q, trailer %q: %d, want %d", c.header, c.trailer, w.Code, c.want)
		}
	}
}

// lateTrailers is a body whose trailers become known when it is closed.
type lateTrailers struct {
	io.Reader
	trailer http.Header
}

func (l *lateTrailers) Close() error {
	l.trailer["Client-Cert"], l.trailer["Kept"] = []string{"forged"}, []string{"yes"}
	return nil
}

func TestTrailersAfterClose(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/", nil)
	r.Trailer = http.Header{"Client-Cert": nil, "Kept": nil}
	r.Body = &lateTrailers{strings.NewReader("body"), r.Trailer}
	Receive(PeerMatcher{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if len(r.Trailer) != 1 {
			t.Errorf("trailers announced %v, want Kept alone", r.Trailer)
		}
		r.Body.Close()
		if len(r.Trailer) != 1 || r.Trailer.Get("Kept") != "yes" {
			t.Errorf("trailers %v, want Kept alone", r.Trailer)
		}
	})).ServeHTTP(httptest.NewRecorder(), r)
}

func TestReceiveLeavesTheRequestAlone(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
	r.Header.Set("Client-Cert", "forged")
	Receive(PeerMatcher{}, http.HandlerFunc(func(_ http.ResponseWriter, inner *http.Request) {
		if len(inner.Header) != 0 {
			t.Errorf("header %v", inner.Header)
		}
	})).ServeHTTP(httptest.NewRecorder(), r)
	if r.Header.Get("Client-Cert") != "forged" {
		t.Error("the caller's header was changed")
	}
}

func TestIsIdentityFieldDoesNotAllocate(t *testing.T) {
	names := []string{"Client-Cert", "Client_Cert_Chain", "Accept-Encoding", "X-Forwarded-Client-Cert", "User-Agent1"}
	found := 0
	n := testing.AllocsPerRun(100, func() {
		for _, name := range names {
			if isIdentityField(name) {
				found++
			}
		}
	})
	if n != 0 || found != 3*101 { // one run to warm up
		t.Errorf("%v allocations, found %d", n, found)
	}
}

// FuzzIsIdentityField compares with a slower statement of the same.
func FuzzIsIdentityField(f *testing.F) {
	for _, s := range []string{"Client-Cert", "CLIENT_CERT_CHAIN", "x.forwarded-client_cert", "Client-Certs", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		folded := strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
				return r
			}
			return '-'
		}, strings.Map(func(r rune) rune {
			if r >= 'A' && r <= 'Z' {
				return r + 'a' - 'A'
			}
			return r
		}, name))
		want := slices.Contains([]string{"client-cert", "client-cert-chain", "x-forwarded-client-cert"}, folded)
		if ascii := len(folded) == len(name); ascii && isIdentityField(name) != want {
			t.Errorf("isIdentityField(%q) = %v", name, !want)
		}
	})
}

// FuzzParseIdentity checks that whatever is accepted encodes to what was read.
func FuzzParseIdentity(f *testing.F) {
	ca := testcert.NewCA(f)
	leaf, root := encodeCert(ca.Issue(testcert.Leaf{CommonName: "alice"}).Leaf.Raw), encodeCert(ca.Cert.Raw)
	for _, s := range [][2]string{{leaf, ""}, {leaf, root}, {leaf, root + ", " + leaf}, {leaf, root + ",\t" + root}, {"", root}, {leaf[1:], ""}, {leaf + leaf, ""}, {":" + "\r\n" + leaf[1:], ""}, {"::", ""}, {":", ""}, {leaf, ","}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, cert, chain string) {
		h := http.Header{"Client-Cert": {cert}}
		if chain != "" {
			h["Client-Cert-Chain"] = []string{chain}
		}
		id, err := parseIdentity(h)
		if err != nil {
			if id != nil {
				t.Error("both an identity and an error")
			}
			return
		}
		if encodeCert(id.Certificate.Raw) != cert {
			t.Errorf("%q was accepted, but encodes to %q", cert, encodeCert(id.Certificate.Raw))
		}
		var items []string
		for _, c := range id.Chain {
			items = append(items, encodeCert(c.Raw))
		}
		if got := strings.NewReplacer(" ", "", "\t", "").Replace(chain); got != strings.Join(items, ",") {
			t.Errorf("the chain %q was accepted, but encodes to %q", chain, items)
		}
	})
}

func TestParseIdentityBounds(t *testing.T) {
	ca := testcert.NewCA(t)
	leaf := encodeCert(ca.Issue(testcert.Leaf{}).Leaf.Raw)
	chain := strings.Repeat(leaf+",", 15)
	if _, err := parseIdentity(http.Header{"Client-Cert": {leaf}, "Client-Cert-Chain": {strings.TrimSuffix(chain, ",")}}); err != nil {
		t.Error(err)
	}
	if _, err := parseIdentity(http.Header{"Client-Cert": {leaf}, "Client-Cert-Chain": {chain + leaf}}); err == nil {
		t.Error("a chain of 17 was accepted")
	}
	// Padding leaves bits over, which must be zero.
	for n := 1; !strings.HasSuffix(leaf, "=:"); n++ {
		leaf = encodeCert(ca.Issue(testcert.Leaf{CommonName: strings.Repeat("x", n%8)}).Leaf.Raw)
	}
	i := strings.IndexByte(leaf, '=') - 1
	if _, err := decodeCert(leaf[:i] + string(leaf[i]+1) + leaf[i+1:]); err == nil {
		t.Error("base64 with bits left over was accepted")
	}
	if _, err := decodeCert(":" + strings.Repeat("A", maxIdentityBytes) + ":"); err == nil {
		t.Error("a field beyond the bound was decoded")
	}
}
