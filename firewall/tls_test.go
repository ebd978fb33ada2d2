package firewall

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/palisade-go/palisade/internal/testcert"
)

// TestJA4OfSpecification is the example of FoxIO's technical description: the
// fingerprint of Chrome, whose lists it gives.
func TestJA4OfSpecification(t *testing.T) {
	chrome := &tls.ClientHelloInfo{
		SupportedVersions: []uint16{0x7a7a, tls.VersionTLS13, tls.VersionTLS12},
		SupportedProtos:   []string{"h2", "http/1.1"},
		CipherSuites: []uint16{0x2a2a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014,
			0x009c, 0x009d, 0x002f, 0x0035},
		Extensions: []uint16{0x1a1a, 0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012, 0x002b,
			0xff01, 0x000b, 0x000a, 0x0015, 0xfafa},
		SignatureSchemes: []tls.SignatureScheme{0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601},
	}
	if got := JA4Of(chrome); got != "t13d1516h2_8daaf6152771_e5627efa2ab1" {
		t.Errorf("got %s", got)
	}
	for want, change := range map[string]func(*tls.ClientHelloInfo){
		"t12d1516h2_8daaf6152771_e5627efa2ab1": func(h *tls.ClientHelloInfo) { h.SupportedVersions = []uint16{tls.VersionTLS12, tls.VersionTLS10} },
		"t00d1516h2_8daaf6152771_e5627efa2ab1": func(h *tls.ClientHelloInfo) { h.SupportedVersions = nil },
		"t13d1516h1_8daaf6152771_e5627efa2ab1": func(h *tls.ClientHelloInfo) { h.SupportedProtos = []string{"http/1.1"} },
		"t13d151600_8daaf6152771_e5627efa2ab1": func(h *tls.ClientHelloInfo) { h.SupportedProtos = nil },
		"t13d1516ad_8daaf6152771_e5627efa2ab1": func(h *tls.ClientHelloInfo) { h.SupportedProtos = []string{"\xab\xcd"} },
		"t13d0016h2_000000000000_e5627efa2ab1": func(h *tls.ClientHelloInfo) { h.CipherSuites = []uint16{0x2a2a} },
		"t13i1500h2_8daaf6152771_000000000000": func(h *tls.ClientHelloInfo) { h.Extensions = nil },
	} {
		h := *chrome
		change(&h)
		if got := JA4Of(&h); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	other := *chrome
	other.Extensions = slices.Clone(chrome.Extensions)
	slices.Reverse(other.Extensions)
	if JA4Of(&other) != JA4Of(chrome) {
		t.Error("the order of the extensions counts")
	}
	other.Extensions = append(other.Extensions, extQUICParameters)
	if got := JA4Of(&other); !strings.HasPrefix(got, "q13d1517h2_") {
		t.Errorf("QUIC is %s", got)
	}
}

// TestTLSDepth has a server with rules about names and fingerprints.
func TestTLSDepth(t *testing.T) {
	ca := testcert.NewCA(t)
	conf := &tls.Config{Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{Names: []string{"good.example", "127.0.0.1"}})}}
	status := func(url, name string) int {
		transport := &http.Transport{
			TLSClientConfig:   &tls.Config{ServerName: name, InsecureSkipVerify: true},
			ForceAttemptHTTP2: true,
		}
		defer transport.CloseIdleConnections()
		res, err := (&http.Client{Transport: transport}).Get(url)
		if err != nil {
			return 0
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	// Which fingerprint the standard library has is found out first.
	learned := make(chan string, 1)
	learn := httptest.NewUnstartedServer(http.NotFoundHandler())
	learn.TLS = conf.Clone()
	learn.TLS.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { learned <- JA4Of(h); return nil, nil }
	learn.StartTLS()
	if got := status(learn.URL, "good.example"); got != 404 {
		t.Fatalf("status %d", got)
	}
	learn.Close()
	own := <-learned
	if !isJA4(own) {
		t.Fatalf("fingerprint %q", own)
	}

	var events atomic.Int64
	policy, err := ParsePolicy("drop bad-name if sni { bad.example, *.evil.example }\naccept good if ja4 " + own + " and path /good\n" +
		"reject other-hello if path /hello and not ja4 " + own[:11] + "*_*\naccept hello if path /hello\nmonitor drop shadow if ja4 *_*_*\n")
	if err != nil {
		t.Fatal(err)
	}
	f := newFirewall(t, Config{Policy: policy, OnDecision: func(e Event) {
		if e.Depth == TLSDepth && e.Mode == Enforce {
			events.Add(1)
			if e.RuleID != "bad-name" || e.Verdict != Drop || !e.Client.IsLoopback() {
				t.Errorf("event %+v", e)
			}
		}
	}})
	server := httptest.NewUnstartedServer(f.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	server.Listener = f.Listener(server.Listener)
	server.TLS = f.TLSConfig(conf)
	server.Config.ErrorLog = quiet()
	server.StartTLS()
	defer server.Close()
	for _, c := range []struct {
		name, path string
		want       int
	}{{"bad.example", "/good", 0}, {"x.EVIL.example", "/good", 0}, {"good.example", "/good", 200}, {"good.example", "/hello", 200}, {"good.example", "/", 403}} {
		if got := status(server.URL+c.path, c.name); got != c.want {
			t.Errorf("%s%s: status %d, want %d", c.name, c.path, got, c.want)
		}
	}
	if events.Load() != 2 {
		t.Errorf("%d events, want 2", events.Load())
	}
	if c := f.Counters(); c.Rules[0].Connections != 2 {
		t.Errorf("counters %+v", c.Rules[0])
	}
}

func TestDecideHello(t *testing.T) {
	policy, err := ParsePolicy("drop bad if sni bad.example\ndrop net if source 192.0.2.0/24\naccept a if path /a and sni a.example\ndefault drop")
	if err != nil {
		t.Fatal(err)
	}
	f := newFirewall(t, Config{Policy: policy})
	hello := func(name, from string) *tls.ClientHelloInfo {
		c := fakeConn{remote: tcpAddr(from)}
		return &tls.ClientHelloInfo{ServerName: name, Conn: c}
	}
	for _, c := range []struct {
		name, from, rule string
		want             Verdict
		undecided        bool
	}{
		{"bad.example", "198.51.100.1:1", "bad", Drop, false},
		{"a.example", "192.0.2.1:1", "net", Drop, false},
		{"a.example", "198.51.100.1:1", "a", Accept, true},
		{"b.example", "198.51.100.1:1", "", Drop, false},
		{"", "198.51.100.1:1", "", Drop, false},
	} {
		d := f.DecideHello(hello(c.name, c.from))
		if d.Verdict != c.want || d.RuleID != c.rule || d.Undecided != c.undecided {
			t.Errorf("%+v: %+v", c, d)
		}
		if e := f.ExplainHello(hello(c.name, c.from)); e.Decision.RuleID != d.RuleID || e.Depth != TLSDepth || !strings.HasPrefix(e.String(), "tls depth: ") {
			t.Errorf("explained as %v", e)
		}
	}
	if d := f.DecideHello(&tls.ClientHelloInfo{}); d.Verdict != Drop || d.Reason != ByClient {
		t.Errorf("without a connection: %+v", d)
	}
	if _, err := f.TLSConfig(nil).GetConfigForClient(hello("bad.example", "198.51.100.1:1")); !errors.Is(err, ErrRefused) {
		t.Errorf("error %v", err)
	}
	inner := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, io.EOF }}
	if _, err := f.TLSConfig(inner).GetConfigForClient(hello("a.example", "198.51.100.1:1")); err != io.EOF {
		t.Errorf("the function within said %v", err)
	}
	// At accept the name is not known yet.
	if d := f.DecideConn(netip.MustParseAddrPort("198.51.100.1:1"), netip.AddrPort{}); d.Verdict != Accept || !d.Undecided {
		t.Errorf("at accept: %+v", d)
	}
}

func TestTLSPredicatesOfRequests(t *testing.T) {
	plain, over := request("GET", "/", "192.0.2.1:1"), request("GET", "/", "192.0.2.1:1")
	over.TLS = &tls.ConnectionState{ServerName: "A.example"}
	for _, c := range []struct {
		m           Match
		plain, over truth
	}{
		{SNI("a.example"), no, yes}, {SNI("*.example"), no, yes}, {SNI("b.example"), no, no},
		{JA4("*_*_*"), no, unknown}, {Not(SNI("b.example")), yes, yes},
	} {
		f := newFirewall(t, Config{})
		for r, want := range map[*http.Request]truth{plain: c.plain, over: c.over} {
			seen := f.requestFacts(r)
			if got := c.m.n.eval(&seen); got != want {
				t.Errorf("%v with TLS %v: %v, want %v", c.m, r.TLS != nil, got, want)
			}
		}
	}
}

func TestMatchTLSMistakes(t *testing.T) {
	for _, m := range []Match{
		SNI(), SNI("192.0.2.1"), SNI("a b"), JA4(), JA4("x"), JA4("t13d1516h2_8daaf6152771"), JA4("t13d1516h2_8DAAF6152771_e5627efa2ab1"),
		Country(), Country("de"), Country("DEU"), ASN(), ASN(0),
	} {
		if len(m.n.errs) == 0 {
			t.Errorf("%v was taken", m)
		}
	}
}

func TestPlaces(t *testing.T) {
	f := newFirewall(t, Config{
		Country: func(a netip.Addr) string { return map[string]string{"192.0.2.1": "CH"}[a.String()] },
		ASN:     func(a netip.Addr) uint32 { return map[string]uint32{"192.0.2.1": 64496}[a.String()] },
		Policy: Policy{Rules: []Rule{
			{ID: "c", Match: All(Country("CH", "DE"), DestinationPort(443)), Verdict: Accept},
			{ID: "a", Match: All(ASN(64496), DestinationPort(80)), Verdict: Accept},
		}},
		TrustedProxies: prefixes("10.0.0.1/32"),
	})
	for from, want := range map[string]string{"192.0.2.1:1": "c", "192.0.2.2:1": ""} {
		if d := f.DecideConn(netip.MustParseAddrPort(from), netip.MustParseAddrPort("192.0.2.80:443")); d.RuleID != want {
			t.Errorf("%s: %+v", from, d)
		}
		if d := f.DecideRequest(request("GET", "/", from)); d.RuleID != want {
			t.Errorf("%s: request %+v", from, d)
		}
	}
	if d := f.DecideConn(netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.80:80")); d.RuleID != "a" {
		t.Errorf("by number: %+v", d)
	}
	if d := f.DecideConn(netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("192.0.2.80:80")); !d.Undecided {
		t.Errorf("a proxy: %+v", d)
	}
}
