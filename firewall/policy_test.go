package firewall

import (
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/time/rate"
)

func TestZeroConfigDropsEverything(t *testing.T) {
	f := newFirewall(t, Config{})
	if d := f.DecideRequest(request("GET", "/", "127.0.0.1:1")); d.Verdict != Drop || d.Reason != ByDefault || d.Generation != 1 {
		t.Errorf("request: %+v", d)
	}
	a := netip.MustParseAddrPort("127.0.0.1:1")
	if d := f.DecideConn(a, a); d.Verdict != Drop || d.Undecided {
		t.Errorf("connection: %+v", d)
	}
}

func TestNewListsEveryMistake(t *testing.T) {
	_, err := New(Config{
		TrustedProxies:  []netip.Prefix{{}, netip.MustParsePrefix("10.0.0.1/8")},
		ForwardedHeader: 7,
		Policy: Policy{
			Sets:    map[string]*PrefixSet{"nil": nil},
			Default: 9,
			Rules: []Rule{
				{Match: All()},
				{ID: "twice", Match: Method("get", "")},
				{ID: "twice", Match: SourceSet("missing"), Verdict: 8, Mode: 2},
				{ID: "zero"},
				{ID: "who", Match: ClientIdentity("x")},
			},
			Limits: []Limit{
				{Burst: 1, Rate: 1},
				{ID: "l", IPv4Bits: 33, IPv6Bits: -1, Rate: rate.Inf, MaxClients: 7, Mode: 3, Match: Path("x")},
				{ID: "l", Rate: rate.Limit(math.NaN()), Burst: 1},
				{ID: "slow", Rate: 1e-9, Burst: 1e9},
				{ID: "many", Rate: 1, Burst: 1, MaxClients: 1 << 30},
			},
		},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"TrustedProxies: prefix invalid", "TrustedProxies: prefix 10.0.0.1/8", "ForwardedHeader(7)", `set "nil"`, "Verdict(9)",
		`rule 0, "": no ID`, `rule 1, "twice": Method("get")`, `rule 1, "twice": Method("")`,
		`rule 2, "twice": an earlier rule`, `"twice": no set "missing"`, `"twice": Verdict(8)`, `"twice": Mode(2)`,
		`"zero": zero Match`, `"who": ClientIdentity without`,
		`limit 0, "": no ID`, `"l": IPv4Bits 33`, `"l": Rate`, `"l": Burst 0`, `"l": MaxClients 7`, `"l": Mode(3)`, `"l": Path("x")`,
		`limit 2, "l": an earlier limit`, `limit 2, "l": Rate NaN`, `"slow": Burst`, `"many": MaxClients`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not have %s", want)
		}
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if strings.Count(line, "firewall: ") != 1 || !strings.HasPrefix(line, "firewall: ") {
			t.Errorf("line %q does not start with firewall: or repeats it", line)
		}
	}
}

func TestUpdate(t *testing.T) {
	limit := Limit{ID: "l", Rate: 1e-6, Burst: 1}
	policy := Policy{Rules: []Rule{{ID: "r", Match: Path("/x"), Verdict: Reject}}, Limits: []Limit{limit}, Default: Accept}
	f := newFirewall(t, Config{Policy: policy})
	status := func(target string) int { return get(f, request("GET", target, "192.0.2.1:1")).Code }
	if got := []int{status("/x"), status("/"), status("/")}; !slices.Equal(got, []int{403, 200, 429}) {
		t.Fatalf("under the first policy: %v", got)
	}
	bad := policy
	bad.Rules = []Rule{{ID: "r", Match: All(), Verdict: Accept}, {ID: "zero"}}
	if err := f.Update(bad); err == nil {
		t.Fatal("a wrong policy was taken")
	}
	if d := f.DecideRequest(request("GET", "/x", "192.0.2.1:1")); d.RuleID != "r" || d.Verdict != Reject || d.Generation != 1 {
		t.Errorf("after a refused update: %+v", d)
	}
	if policy.Rules = nil; f.Update(policy) != nil {
		t.Fatal("a good policy was refused")
	}
	if d := f.DecideRequest(request("GET", "/x", "192.0.2.1:1")); d.Reason != ByLimit || d.Generation != 2 {
		t.Errorf("the limit forgot its clients: %+v", d)
	}
	policy.Limits = []Limit{limit}
	policy.Limits[0].Mode, policy.Limits[0].Match = Monitor, PathPrefix("/y")
	if err := f.Update(policy); err != nil {
		t.Fatal(err)
	}
	if d := f.DecideRequest(request("GET", "/y", "192.0.2.1:1")); d.Verdict != Accept || len(d.Monitored) != 1 || d.Monitored[0] != "l" {
		t.Errorf("a limit in Monitor mode with the same numbers: %+v", d)
	}
	policy.Limits[0] = limit
	policy.Limits[0].Burst = 2
	if err := f.Update(policy); err != nil {
		t.Fatal(err)
	}
	if got := []int{status("/"), status("/"), status("/")}; !slices.Equal(got, []int{200, 200, 429}) {
		t.Errorf("a limit with other numbers does not start anew: %v", got)
	}
	c := f.Counters()
	if c.Generation != 4 || c.Limits[0] != (Count{ID: "l", Requests: 2}) || c.Default.Requests != 3 {
		t.Errorf("counters %+v", c)
	}
}

func TestPolicyIsCopied(t *testing.T) {
	set := new(PrefixSet)
	p := Policy{
		Sets:    map[string]*PrefixSet{"bad": set},
		Rules:   []Rule{{ID: "bad", Match: SourceSet("bad"), Verdict: Drop}},
		Default: Accept,
	}
	f := newFirewall(t, Config{Policy: p})
	p.Rules[0].Verdict, p.Rules[0].ID = Accept, "changed"
	delete(p.Sets, "bad")
	r := request("GET", "/", "192.0.2.1:1")
	if d := f.DecideRequest(r); d.Verdict != Accept || d.Reason != ByDefault {
		t.Errorf("with an empty set: %+v", d)
	}
	if err := set.Insert(prefixes("192.0.2.0/24")...); err != nil {
		t.Fatal(err)
	}
	if d := f.DecideRequest(r); d.Verdict != Drop || d.RuleID != "bad" {
		t.Errorf("after the set has changed: %+v", d)
	}
}

func TestVerdictText(t *testing.T) {
	for _, v := range []Verdict{Drop, Accept, Reject} {
		text, err := v.MarshalText()
		if err != nil || string(text) != v.String() {
			t.Errorf("MarshalText of %v: %q, %v", v, text, err)
		}
		got := Verdict(99)
		if err := got.UnmarshalText(text); err != nil || got != v {
			t.Errorf("UnmarshalText(%q): %v, %v", text, got, err)
		}
	}
	got := Accept
	for _, s := range []string{"", "Accept", "deny", strings.Repeat("x", 1000)} {
		if err := got.UnmarshalText([]byte(s)); err == nil || len(err.Error()) > 300 {
			t.Errorf("UnmarshalText(%.10q): %v", s, err)
		}
	}
	if _, err := Verdict(3).MarshalText(); err == nil || got != Accept {
		t.Errorf("error %v, verdict %v", err, got)
	}
	for got, want := range map[string]string{
		Enforce.String(): "enforce", Monitor.String(): "monitor", AcceptDepth.String(): "accept", RequestDepth.String(): "request",
		ByDefault.String(): "default", ByRule.String(): "rule", ByLimit.String(): "limit", ByBan.String(): "ban", ByClient.String(): "client",
		Reason(99).String(): "Reason(99)", XForwardedFor.String(): http.CanonicalHeaderKey("x-forwarded-for"), Forwarded.String(): "Forwarded",
	} {
		if got != want {
			t.Errorf("String %q, want %q", got, want)
		}
	}
}
