package firewall

import (
	"crypto/tls"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// What random rules of a long policy ask for, and requests have. K is the Kelvin
// sign, which is a k in another case, and ſ an s.
var (
	indexPaths   = []string{"/", "/a", "/a/b", "/a/b/c", "/A", "/task", "/ta\u017fk", "/TAS\u212a", "/ta", "/ü", "/\xff", "/*"}
	indexTargets = []string{"/", "*", "/a", "/a/", "/A/b", "/a/b/c/d", "/ta\u017fk/x", "/TA\u017f\u212a", "/task", "/Ü/", "/\xfe", "//a", "/x/../a", "/a;b", "/%61", "/a%00", ""}
	indexHosts   = []string{"example.com", "*.example.com", "*.com", "192.0.2.1", "2001:db8::1", "a.b.example.com"}
	indexNames   = []string{"example.com", "Example.COM.", "a.b.example.com:80", "192.0.2.1:80", "[2001:db8::1]", "x@y", "", "127.1", "com"}
	indexMethods = []string{"GET", "POST", "M\u212a", "MK"}
	indexVerbs   = []string{"", "GET", "get", "POST", "MK", "mk", "M\u212a", "PUT"}
	indexFields  = []string{"X-A", "X-B", "Cookie", "User-Agent"}
)

func indexMatch(rng *rand.Rand, depth int) Match {
	if depth > 0 && rng.IntN(3) == 0 {
		var kids []Match
		for range rng.IntN(4) {
			kids = append(kids, indexMatch(rng, depth-1))
		}
		switch rng.IntN(4) {
		case 0:
			return Any(kids...)
		case 1:
			return Not(indexMatch(rng, depth-1))
		}
		return All(kids...)
	}
	switch rng.IntN(14) {
	case 0, 1:
		return Path(oneOf(rng, indexPaths))
	case 2, 3:
		return PathPrefix(oneOf(rng, indexPaths))
	case 4, 5:
		return Host(oneOf(rng, indexHosts), oneOf(rng, indexHosts))
	case 6:
		return Method(oneOf(rng, indexMethods))
	case 7:
		return Header(oneOf(rng, indexFields), oneOf(rng, []string{"1", "2"}))
	case 8:
		return oneOf(rng, []Match{Cookie("a"), Cookie("a", "1"), Query("q"), Query("q", "1"), BodyOver(0), BodyOver(5)})
	case 9:
		return oneOf(rng, []Match{SNI("example.com"), JA4("*_*_*"), Protocol(ProtocolTCP), Fragment(), Established(), ICMPType(8)})
	case 10:
		return oneOf(rng, []Match{SourceSet("s"), DestinationSet("s"), Country("CH"), ASN(1, 2), CrossOrigin(), ClientIdentity("x")})
	}
	return Source(netip.MustParsePrefix(oneOf(rng, worldNets)), netip.MustParsePrefix(oneOf(rng, worldNets)))
}

func indexRequest(rng *rand.Rand) *http.Request {
	r := request("GET", "/", oneOf(rng, worldAddrs)+":1")
	r.Method, r.Host = oneOf(rng, indexVerbs), oneOf(rng, indexNames)
	target := oneOf(rng, indexTargets)
	if r.URL, _ = url.ParseRequestURI(target); r.URL == nil {
		r.URL = &url.URL{Path: target}
	}
	if rng.IntN(20) == 0 {
		r.URL.Opaque = "x"
	}
	r.URL.RawQuery = oneOf(rng, []string{"", "q=1", "q=1&q=2", "q=%zz", "p"})
	for range rng.IntN(4) {
		r.Header.Add(oneOf(rng, indexFields), oneOf(rng, []string{"1", "2", "a=1", `a="1"`}))
	}
	r.ContentLength = oneOf(rng, []int64{0, 0, 1, 9, -1})
	if rng.IntN(2) == 0 {
		r.TLS = &tls.ConnectionState{ServerName: oneOf(rng, []string{"", "Example.com", "x"})}
	}
	return r
}

// TestIndexedEqualsRuleByRule compares decisions over random policies with those
// of ExplainRequest, which asks every rule.
func TestIndexedEqualsRuleByRule(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	reasons := make(map[Reason]int)
	monitored, late := 0, 0
	for round := range 600 {
		f := indexFirewall(t, rng, 1+rng.IntN(150), round%2 == 0)
		for range 30 {
			r := indexRequest(rng)
			late += compareIndexed(t, f, r, reasons, &monitored)
		}
	}
	f := indexFirewall(t, rng, 64*inlineWords+100, false)
	for range 1000 {
		compareIndexed(t, f, indexRequest(rng), reasons, &monitored)
	}
	if reasons[ByRule] < 1000 || reasons[ByDefault] < 1000 || monitored < 1000 || late < 100 {
		t.Errorf("reasons %v, %d with monitored rules, %d decided by a rule after the 64th: the test asks too little", reasons, monitored, late)
	}
}

// indexFirewall has a policy of so many rules, most of them in Monitor mode if it
// is to be asked to the end.
func indexFirewall(t testing.TB, rng *rand.Rand, rules int, toTheEnd bool) *Firewall {
	set, err := NewPrefixSet(prefixes("10.1.0.0/16")...)
	if err != nil {
		t.Fatal(err)
	}
	p := Policy{Sets: map[string]*PrefixSet{"s": set}, Default: Verdict(rng.IntN(3))}
	for i := range rules {
		r := Rule{ID: fmt.Sprint(i), Match: indexMatch(rng, 3), Verdict: Verdict(rng.IntN(3))}
		if rng.IntN(5) == 0 || toTheEnd && rng.IntN(50) > 0 {
			r.Mode = Monitor
		}
		p.Rules = append(p.Rules, r)
	}
	f := newFirewall(t, Config{
		Policy:   p,
		Identity: func(r *http.Request) string { return r.Header.Get("X-A") },
		Country:  func(a netip.Addr) string { return map[bool]string{true: "CH"}[a.As4()[3] == 1] },
		ASN:      func(a netip.Addr) uint32 { return uint32(a.As4()[1]) },
	})
	if err := set.Replace(prefixes("192.0.2.0/24")...); err != nil { // which takes effect at once
		t.Fatal(err)
	}
	return f
}

func compareIndexed(t *testing.T, f *Firewall, r *http.Request, reasons map[Reason]int, monitored *int) (late int) {
	t.Helper()
	got, want := f.DecideRequest(r), f.ExplainRequest(r)
	if !reflect.DeepEqual(got, want.Decision) {
		t.Fatalf("%s %q of %q, header %v:\n%+v with the index\n%+v without\npolicy\n%v", r.Method, r.URL, r.Host, r.Header, got, want.Decision, want)
	}
	reasons[got.Reason]++
	if got.Monitored != nil {
		*monitored++
	}
	if rule, err := strconv.Atoi(got.RuleID); err == nil && rule >= 64 {
		late = 1
	}
	return late
}

// TestDecisionSeesOneStateOfASet changes a set in the middle of a decision, which
// goes on with what the set was.
func TestDecisionSeesOneStateOfASet(t *testing.T) {
	set := new(PrefixSet)
	f := newFirewall(t, Config{
		Country: func(netip.Addr) string {
			if err := set.Replace(prefixes("192.0.2.0/24")...); err != nil {
				t.Error(err)
			}
			return ""
		},
		Policy: Policy{
			Sets: map[string]*PrefixSet{"s": set},
			Rules: []Rule{
				{ID: "bad", Match: SourceSet("s")}, {ID: "change", Match: Country("CH")},
				{ID: "again", Match: SourceSet("s")}, {ID: "to", Match: DestinationSet("s"), Verdict: Reject},
			},
			Default: Accept,
		},
	})
	src, dst := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.80:443")
	if d := f.DecideRequest(requestAt("GET", "/", src, dst)); d.RuleID != "to" {
		t.Errorf("%+v, want a refusal by the set that was not asked before it changed", d)
	}
	if d := f.DecideConn(src, dst); d.RuleID != "bad" {
		t.Errorf("%+v, want a refusal by the set as it is now", d)
	}
}

// TestManySets has more sets than facts have bits to remember them.
func TestManySets(t *testing.T) {
	p := Policy{Sets: make(map[string]*PrefixSet), Default: Accept}
	for i := range mostSlots + 10 {
		set, err := NewPrefixSet(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24))
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint("s", i)
		p.Sets[name] = set
		p.Rules = append(p.Rules, Rule{ID: name, Match: SourceSet(name)})
	}
	f := newFirewall(t, Config{Policy: p})
	for i := range mostSlots + 10 {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), 1)
		if d := f.DecideRequest(requestAt("GET", "/", src, src)); d.RuleID != fmt.Sprint("s", i) {
			t.Errorf("client %v: %+v", src, d)
		}
	}
}

// FuzzIndex is TestIndexedEqualsRuleByRule for any request.
func FuzzIndex(f *testing.F) {
	f.Add(uint64(1), "GET", "/a/b", "example.com", "X-A", "1")
	f.Add(uint64(2), "M\u212a", "/TA\u017f\u212a/", "a.example.com:1", "Cookie", "a=1")
	f.Fuzz(func(t *testing.T, seed uint64, method, path, host, field, value string) {
		fw := indexFirewall(t, rand.New(rand.NewPCG(seed, 1)), 100, true)
		r := request("GET", "/", "10.1.2.1:1")
		r.Method, r.Host = method, host
		r.URL.Path = path
		r.Header.Set(field, value)
		compareIndexed(t, fw, r, make(map[Reason]int), new(int))
	})
}

// TestIndexLeavesOut checks that the index is of use: of many rules hardly any is
// asked of a request that they are not about.
func TestIndexLeavesOut(t *testing.T) {
	var p Policy
	for i := range 700 {
		own := Path(fmt.Sprintf("/item/%d", i))
		m := []Match{
			own, PathPrefix(fmt.Sprintf("/tree/%d", i)), Host(fmt.Sprintf("h%d.example.com", i), fmt.Sprintf("*.h%d.example.com", i)),
			Header(fmt.Sprintf("X-%d", i)), Source(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)),
			All(Method("GET"), own, Not(Method("PUT"))), Any(own, All(Host("example.com"), BodyOver(10))),
		}[i%7]
		p.Rules = append(p.Rules, Rule{ID: fmt.Sprint(i), Match: m})
	}
	p.Rules = append(p.Rules, Rule{ID: "no request", Match: All(Protocol(ProtocolTCP), Established())}, Rule{ID: "every", Match: Not(Method("PUT"))})
	f := newFirewall(t, Config{Policy: p})
	for _, c := range []struct {
		target, host, peer, header string
		want                       int
	}{
		{"/", "www.example.com", "192.0.2.1:1", "", 1},
		{"/Item/7/", "www.example.com", "192.0.2.1:1", "", 2},
		{"/tree/8/x/y", "a.b.h9.example.com", "192.0.2.1:1", "X-10", 4},
		{"/item/8", "h9.example.com", "10.0.11.1:1", "", 3},
		{"/", "x@y", "192.0.2.1:1", "", 201},
		{"/%00", "x.example.com", "192.0.2.1:1", "", 401},
	} {
		r := request("GET", "/", c.peer)
		r.URL, _ = url.Parse(c.target)
		if r.Host = c.host; c.header != "" {
			r.Header.Set(c.header, "x")
		}
		seen := f.requestFacts(r)
		got := 0
		for _, word := range f.program.Load().index.candidates(&seen, nil) {
			got += bits.OnesCount64(word)
		}
		if got != c.want {
			t.Errorf("%+v: %d rules are asked", c, got)
		}
	}
}

// FuzzFolded checks that two strings have the same form if, and only if, they are
// equal but for the case of letters.
func FuzzFolded(f *testing.F) {
	for _, s := range [][2]string{{"abc", "ABC"}, {"k", "\u212a"}, {"\u017f", "S"}, {"\xff", "\xfe"}, {"ß", "ẞ"}, {"σ", "ς"}, {"", "a"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if same := string(appendFolded(nil, a)) == string(appendFolded(nil, b)); same != strings.EqualFold(a, b) {
			t.Errorf("%q and %q: the same %v, want %v", a, b, same, !same)
		}
		if upper := strings.ToUpper(a); strings.EqualFold(a, upper) && string(appendFolded(nil, a)) != string(appendFolded(nil, upper)) {
			t.Errorf("%q and %q have other forms", a, upper)
		}
	})
}
