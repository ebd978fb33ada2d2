package firewall

import (
	"math/rand/v2"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestExplainEqualsDecide explains what random policies decide.
func TestExplainEqualsDecide(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for range 500 {
		p := randomPolicy(rng)
		p.Limits = []Limit{{ID: "l", Rate: 1e-6, Burst: 1, MaxClients: 8, Mode: Mode(rng.IntN(2))}}
		f := newFirewall(t, Config{
			Policy:         p,
			TrustedProxies: prefixes("10.1.1.0/24"),
			Identity:       func(r *http.Request) string { return r.Header.Get("X-Test-Identity") },
		})
		if err := f.Ban(netip.MustParsePrefix("10.2.0.0/16"), time.Hour, "test"); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			src := netip.AddrPortFrom(netip.MustParseAddr(oneOf(rng, worldAddrs)), 1)
			dst := netip.AddrPortFrom(netip.MustParseAddr(oneOf(rng, worldAddrs)), oneOf(rng, []uint16{80, 443}))
			r := requestTo(rng, src, dst)
			w := get(f, r)
			packet := Packet{Version: 4, Source: src.Addr(), Destination: dst.Addr(), Protocol: oneOf(rng, []uint8{1, 6}), DestinationPort: dst.Port()}
			request, conn, explained := f.ExplainRequest(r), f.ExplainConn(src, dst), f.ExplainPacket(packet)
			decided := f.DecideRequest(r)
			request.RetryAfter, decided.RetryAfter = request.RetryAfter.Round(time.Minute), decided.RetryAfter.Round(time.Minute)
			if !reflect.DeepEqual(request.Decision, decided) || !reflect.DeepEqual(conn.Decision, f.DecideConn(src, dst)) ||
				!reflect.DeepEqual(explained.Decision, f.DecidePacket(packet)) {
				t.Fatalf("%v\n%v\n%v", request, conn, explained)
			}
			if (w.Code == http.StatusForbidden) != (request.Verdict != Accept && request.Reason != ByLimit) {
				t.Fatalf("status %d, but\n%v", w.Code, request)
			}
			for _, e := range []Explanation{request, conn, explained} {
				if len(e.Steps) == 0 || e.RuleID != "" && !strings.Contains(e.Steps[len(e.Steps)-1]+e.Steps[max(0, len(e.Steps)-2)], " "+e.RuleID) {
					t.Fatalf("the last step does not name the rule:\n%v", e)
				}
			}
		}
	}
}

func TestExplanation(t *testing.T) {
	p, err := ParsePolicy("set bad { 198.51.100.0/24 }\nmonitor drop \"a b\" if source @bad or path /x\n" +
		"reject inner if path-prefix /-/ and not method GET\nlimit l rate 0.000001 burst 1\ndefault accept")
	if err != nil {
		t.Fatal(err)
	}
	f := newFirewall(t, Config{Policy: p, TrustedProxies: prefixes("10.0.0.0/8")})
	src, dst := netip.MustParseAddrPort("198.51.100.1:1"), netip.MustParseAddrPort("192.0.2.80:80")
	r := requestAt("POST", "/-/%61", src, dst)
	for i, c := range []struct {
		got  Explanation
		want string
	}{
		{f.ExplainRequest(r), `request depth: reject by rule inner (generation 1)
	client 198.51.100.1
	monitor drop "a b" if source @bad [yes] or path /x [no]: yes
	reject inner if path-prefix /- [yes] and not method GET [no]: yes
`},
		{f.ExplainConn(src, dst), `accept depth: accept by default, undecided (generation 1)
	client 198.51.100.1
	monitor drop "a b" if source @bad [yes] or path /x [unknown]: yes
	reject inner if path-prefix /- [unknown] and not method GET [unknown]: unknown
	default accept
`},
		{f.ExplainConn(netip.MustParseAddrPort("10.0.0.1:1"), dst), `accept depth: accept by default, undecided (generation 1)
	peer 10.0.0.1 is a trusted proxy: a request will say who the client is
	monitor drop "a b" if source @bad [unknown] or path /x [unknown]: unknown
	reject inner if path-prefix /- [unknown] and not method GET [unknown]: unknown
	default accept
`},
		{f.ExplainFrame([]byte("x"), NewState), "packet depth: drop by packet (generation 1)\n\tfirewall: bad packet: truncated\n"},
	} {
		if c.got.String() != c.want {
			t.Errorf("explanation %d:\n%v\nwant\n%s", i, c.got, c.want)
		}
	}
	get(f, requestAt("GET", "/", src, dst))
	if e := f.ExplainRequest(requestAt("GET", "/", src, dst)); !strings.Contains(e.String(), "limit by") && e.LimitID != "l" || !strings.Contains(e.String(), "limit l: over, for ") {
		t.Errorf("over the limit:\n%v", e)
	}
	if err := f.Ban(netip.MustParsePrefix("198.51.100.0/24"), time.Hour, "why"); err != nil {
		t.Fatal(err)
	}
	if e := f.ExplainRequest(r); e.Reason != ByBan || !strings.Contains(e.String(), `banned for 1h0m0s more: "why"`) {
		t.Errorf("banned:\n%v", e)
	}
}
