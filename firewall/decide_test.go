package firewall

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"testing"
)

// A small world, so that random rules often match.
var (
	worldNets  = []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "192.0.2.0/24", "0.0.0.0/0"}
	worldAddrs = []string{"10.1.1.1", "10.1.2.1", "10.2.1.1", "192.0.2.1", "198.51.100.1"}
	worldPaths = []string{"/a", "/a/b", "/%61/b", "/a/../b", "//a", "/b", "/A"}
	worldHosts = []string{"example.com", "www.example.com", "x@y"}
)

func oneOf[T any](rng *rand.Rand, of []T) T { return of[rng.IntN(len(of))] }

func randomMatch(rng *rand.Rand, depth int) Match {
	if depth > 0 && rng.IntN(2) == 0 {
		var kids []Match
		for range rng.IntN(3) {
			kids = append(kids, randomMatch(rng, depth-1))
		}
		switch rng.IntN(3) {
		case 0:
			return All(kids...)
		case 1:
			return Any(kids...)
		}
		return Not(randomMatch(rng, depth-1))
	}
	switch rng.IntN(13) {
	case 11:
		return oneOf(rng, []Match{Header("X-Test-Identity", "x"), Cookie("a"), Query("a", "b", "\n"), BodyOver(0), Header("X-Forwarded-For")})
	case 8:
		return Flags(oneOf(rng, []TCPFlags{SYN, SYN | ACK, 0}), SYN|ACK|TCPFlags(rng.IntN(256)))
	case 9:
		return oneOf(rng, []Match{Fragment(), Established(), ICMPType(8), ICMPv6Type(1, 2), Protocol(6, 99), Protocol(17), SourcePort(1), SourcePortRange(2, 9)})
	case 0, 1, 10:
		return Source(netip.MustParsePrefix(oneOf(rng, worldNets)))
	case 2:
		return Destination(netip.MustParsePrefix(oneOf(rng, worldNets)))
	case 3:
		return DestinationPort(oneOf(rng, []uint16{80, 443}))
	case 4:
		return Method(oneOf(rng, []string{"GET", "POST"}))
	case 5:
		return Host(oneOf(rng, worldHosts[:2]))
	case 6:
		return ClientIdentity("x")
	}
	return PathPrefix(oneOf(rng, []string{"/a", "/b"}))
}

func randomPolicy(rng *rand.Rand) Policy {
	p := Policy{Default: Verdict(rng.IntN(3))}
	for i := range rng.IntN(5) {
		r := Rule{ID: fmt.Sprint(i), Match: randomMatch(rng, 2), Verdict: Verdict(rng.IntN(3))}
		if rng.IntN(5) == 0 {
			r.Mode = Monitor
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

// TestListenerRefusesNoMoreThanHandler is the promise of two depths: whatever
// the listener refuses, the handler would have refused for every request; and
// where the listener has decided to accept, the rules accept every request.
func TestListenerRefusesNoMoreThanHandler(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	refused, accepted, undecided := 0, 0, 0
	for range 800 {
		policy := randomPolicy(rng)
		f := newFirewall(t, Config{
			Policy:         policy,
			TrustedProxies: prefixes("10.1.1.0/24"),
			Identity:       func(r *http.Request) string { return r.Header.Get("X-Test-Identity") },
		})
		for range 10 {
			src := netip.AddrPortFrom(netip.MustParseAddr(oneOf(rng, worldAddrs)), 1)
			dst := netip.AddrPortFrom(netip.MustParseAddr(oneOf(rng, worldAddrs)), oneOf(rng, []uint16{80, 443}))
			conn := f.DecideConn(src, dst)
			switch {
			case conn.Verdict != Accept && conn.Undecided:
				t.Fatal("refused and undecided")
			case conn.Verdict != Accept:
				refused++
			case conn.Undecided:
				undecided++
			default:
				accepted++
			}
			for range 10 {
				r := requestTo(rng, src, dst)
				d := f.DecideRequest(r)
				if conn.Verdict != Accept && d.Verdict == Accept {
					t.Fatalf("connection from %v to %v: refused by %v %q, but %s %s: accepted by %v %q\n%+v",
						src, dst, conn.Reason, conn.RuleID, r.Method, r.URL, d.Reason, d.RuleID, policy)
				}
				if conn.Verdict == Accept && !conn.Undecided && d.Verdict != Accept {
					t.Fatalf("connection from %v to %v: accepted for certain, but %s %s: %v", src, dst, r.Method, r.URL, d.Verdict)
				}
			}
		}
	}
	if refused < 500 || accepted < 500 || undecided < 500 {
		t.Errorf("%d refused, %d accepted, %d undecided: the test asks too little", refused, accepted, undecided)
	}
}

func requestTo(rng *rand.Rand, src, dst netip.AddrPort) *http.Request {
	r := requestAt(oneOf(rng, []string{"GET", "POST", "get"}), oneOf(rng, worldPaths), src, dst)
	r.Host = oneOf(rng, worldHosts)
	r.Header.Set("X-Test-Identity", oneOf(rng, []string{"", "x", "y"}))
	if rng.IntN(2) == 0 {
		r.Header.Set("X-Forwarded-For", oneOf(rng, worldAddrs)+", "+oneOf(rng, worldAddrs))
	}
	return r
}

// TestListenerDecidesWhatItCan checks equality where the listener sees
// everything that the rules ask for.
func TestListenerDecidesWhatItCan(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	seen := make(map[Verdict]int)
	for range 2000 {
		p := Policy{Default: Verdict(rng.IntN(3))}
		for i := range rng.IntN(4) {
			m := Source(netip.MustParsePrefix(oneOf(rng, worldNets)))
			if rng.IntN(2) == 0 {
				m = All(Not(m), DestinationPort(443))
			}
			p.Rules = append(p.Rules, Rule{ID: fmt.Sprint(i), Match: m, Verdict: Verdict(rng.IntN(3))})
		}
		f := newFirewall(t, Config{Policy: p})
		src := netip.AddrPortFrom(netip.MustParseAddr(oneOf(rng, worldAddrs)), 1)
		dst := netip.MustParseAddrPort("192.0.2.80:443")
		conn, req := f.DecideConn(src, dst), f.DecideRequest(requestAt("GET", "/", src, dst))
		if conn.Undecided || conn.Verdict != req.Verdict || conn.RuleID != req.RuleID || conn.Reason != req.Reason {
			t.Fatalf("connection %+v, request %+v", conn, req)
		}
		seen[conn.Verdict]++
	}
	for _, v := range []Verdict{Drop, Accept, Reject} {
		if seen[v] < 100 {
			t.Errorf("verdict %v came out %d times: the test asks too little", v, seen[v])
		}
	}
}

func TestDecideConn(t *testing.T) {
	identity := func(*http.Request) string { return "" }
	inner := PathPrefix("/-/")
	bad := Source(prefixes("192.0.2.0/24")...)
	for _, c := range []struct {
		name      string
		policy    Policy
		want      Verdict
		rule      string
		undecided bool
	}{
		{"edge", Policy{Rules: []Rule{{ID: "inner", Match: inner, Verdict: Reject}}, Default: Accept}, Accept, "", true},
		{"web server", Policy{Rules: []Rule{{ID: "balancer", Match: ClientIdentity("x"), Verdict: Accept}}}, Accept, "balancer", true},
		{"refused first", Policy{Rules: []Rule{{ID: "bad", Match: bad}, {ID: "x", Match: inner, Verdict: Accept}}}, Drop, "bad", false},
		{"reject counts too", Policy{Rules: []Rule{{ID: "bad", Match: bad, Verdict: Reject}}, Default: Accept}, Reject, "bad", false},
		{"an accept before", Policy{Rules: []Rule{{ID: "x", Match: inner, Verdict: Accept}, {ID: "bad", Match: bad}}}, Accept, "x", true},
		{"an accept that cannot be", Policy{Rules: []Rule{
			{ID: "x", Match: All(inner, Source(prefixes("10.0.0.0/8")...)), Verdict: Accept}, {ID: "bad", Match: bad}}}, Drop, "bad", false},
		{"refused either way", Policy{Rules: []Rule{{ID: "x", Match: inner, Verdict: Reject}}}, Drop, "", false},
		{"monitored accept", Policy{Rules: []Rule{{ID: "x", Match: inner, Verdict: Accept, Mode: Monitor}}}, Drop, "", false},
		{"accepted for certain", Policy{Rules: []Rule{{ID: "a", Match: bad, Verdict: Accept}}}, Accept, "a", false},
		{"maybe refused before", Policy{Rules: []Rule{{ID: "x", Match: inner}, {ID: "a", Match: bad, Verdict: Accept}}}, Accept, "a", true},
	} {
		f := newFirewall(t, Config{Policy: c.policy, Identity: identity})
		d := f.DecideConn(netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.80:443"))
		if d.Verdict != c.want || d.RuleID != c.rule || d.Undecided != c.undecided {
			t.Errorf("%s: %+v, want %v by %q, undecided %v", c.name, d, c.want, c.rule, c.undecided)
		}
	}
	f := newFirewall(t, Config{Policy: Policy{Default: Accept}})
	if d := f.DecideConn(netip.AddrPort{}, netip.AddrPort{}); d.Verdict != Drop || d.Reason != ByClient {
		t.Errorf("without an address: %+v", d)
	}
}

func TestMonitor(t *testing.T) {
	var events []Event
	f := newFirewall(t, Config{
		OnDecision: func(e Event) {
			if e.Request == nil {
				t.Errorf("no request in %+v", e)
			}
			e.Request = nil
			events = append(events, e)
		},
		Policy: Policy{
			Rules: []Rule{
				{ID: "shadow", Match: Source(prefixes("192.0.2.0/24")...), Mode: Monitor},
				{ID: "ok", Match: PathPrefix("/ok"), Verdict: Accept},
			},
			Limits:  []Limit{{ID: "slow", Rate: 1e-6, Burst: 1, Mode: Monitor}},
			Default: Reject,
		},
	})
	r := request("GET", "/ok", "192.0.2.1:1")
	for range 2 {
		if w := get(f, r); w.Code != http.StatusOK {
			t.Fatalf("status %d: a rule or limit in Monitor mode acted", w.Code)
		}
	}
	if d := f.DecideRequest(r); d.RuleID != "ok" || !slices.Equal(d.Monitored, []string{"shadow", "slow"}) {
		t.Errorf("decision %+v", d)
	}
	get(f, request("GET", "/", "192.0.2.1:1"))
	client := netip.MustParseAddr("192.0.2.1")
	shadow := Event{Verdict: Drop, Mode: Monitor, Reason: ByRule, RuleID: "shadow", Client: client, Generation: 1}
	want := []Event{
		shadow,
		shadow, {Verdict: Reject, Mode: Monitor, Reason: ByLimit, LimitID: "slow", Client: client, Generation: 1},
		shadow, {Verdict: Reject, Reason: ByDefault, Client: client, Generation: 1},
	}
	if !slices.Equal(events, want) {
		t.Errorf("events %+v\nwant %+v", events, want)
	}
	c := f.Counters()
	if c.Rules[0] != (Count{"shadow", 0, 3}) || c.Rules[1] != (Count{"ok", 0, 2}) || c.Limits[0] != (Count{"slow", 0, 1}) || c.Default.Requests != 1 {
		t.Errorf("counters %+v", c)
	}
}
