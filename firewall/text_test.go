package firewall

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sameNode compares two predicates part by part.
func sameNode(a, b *node) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.op == b.op && a.name == b.name && a.flags == b.flags && a.size == b.size && slices.Equal(a.numbers, b.numbers) && slices.Equal(a.spans, b.spans) && slices.Equal(a.words, b.words) &&
		sameSet(a.set, b.set) && slices.EqualFunc(a.kids, b.kids, sameNode)
}

func sameSet(a, b *PrefixSet) bool {
	if a == nil || b == nil {
		return a == b
	}
	ta, tb := a.table.Load(), b.table.Load()
	return a.file == b.file && (a.Len() == 0 && b.Len() == 0 || ta != nil && tb != nil && slices.Equal(slices.Collect(ta.all()), slices.Collect(tb.all())))
}

func samePolicy(a, b Policy) bool {
	return a.Default == b.Default && maps.EqualFunc(a.Sets, b.Sets, sameSet) &&
		slices.EqualFunc(a.Rules, b.Rules, func(a, b Rule) bool {
			return a.ID == b.ID && a.Verdict == b.Verdict && a.Mode == b.Mode && sameNode(a.Match.n, b.Match.n)
		}) &&
		slices.EqualFunc(a.Limits, b.Limits, func(a, b Limit) bool {
			ma, mb := a.Match.n, b.Match.n
			a.Match, b.Match = Match{}, Match{}
			return a == b && sameNode(ma, mb)
		}) &&
		slices.EqualFunc(a.Sizes, b.Sizes, func(a, b SizeLimit) bool {
			ma, mb := a.Match.n, b.Match.n
			a.Match, b.Match = Match{}, Match{}
			return a == b && sameNode(ma, mb)
		}) &&
		slices.EqualFunc(a.Escalations, b.Escalations, func(a, b Escalation) bool {
			return a.ID == b.ID && a.Offences == b.Offences && a.Window == b.Window && a.Ban == b.Ban && a.MaxBan == b.MaxBan && a.MaxClients == b.MaxClients &&
				a.Mode == b.Mode && slices.Equal(a.On, b.On) && slices.Equal(a.IPv4Bits, b.IPv4Bits) && slices.Equal(a.IPv6Bits, b.IPv6Bits) && sameNode(a.Match.n, b.Match.n)
		})
}

const sample = `# The edge.
set bad { 192.0.2.0/24, 2001:db8::/32, # inline
	198.51.100.7 }
drop odd if header User-Agent is { "curl/8", "" } or cookie id or query q is "a b" or body-over 1048576
drop flags if tcp-flags /FS and protocol { tcp, icmpv6, 47 } and not (fragment or established) or icmp-type { 8, 3-5 }
set "odd name" {}
set list file "lists/bad.txt"

drop bad if source @bad
monitor reject inner if path-prefix /-/ and not (method { GET, HEAD } or source { 10.0.0.0/8, ::1 })
accept "a b" if destination 192.0.2.80 and destination-port { 80, 1024-65535 } or host *.example.com
accept balancer if identity spiffe://example.com/balancer and destination @"odd name"
accept rest
limit per-client rate 0.5 burst 30 clients 1024 ipv4-bits 24 ipv6-bits 56 if path "/a b"
monitor limit all rate 10 burst 1
limit api key header x-api-key window 1m0s burst 100 announce
limit mine unit connections rate 5 burst 5 clients 8 if source 10.0.0.0/8
limit open unit concurrent burst 64
limit fleet shared key func tenant rate 5 burst 5
limit sessions key cookie sid rate 5 burst 5
limit people key identity rate 5 burst 5
monitor size big body 1048576 header 16384 fields 100 url 8192 if not path-prefix /upload
size small body 10
drop hello if sni { *.bad.example, worse.example } or ja4 { t13d1516h2_8daaf6152771_e5627efa2ab1, *_8daaf6152771_* }
drop places if country { CH, DE } or asn { 64496, 4200000000 }
drop csrf if cross-origin except { https://a.example, https://b.example:8443 } or cross-origin
escalate scans on { bad, app:login, open } offences 5 window 1m ban 10m max-ban 24h ipv4-bits { 32, 24 } ipv6-bits 64 clients 1024 if not source @bad
monitor escalate rest offences 1 window 1s ban 1h30m
default reject
`

func TestParsePolicy(t *testing.T) {
	bad, odd, list := new(PrefixSet), new(PrefixSet), &PrefixSet{file: "lists/bad.txt"}
	if err := bad.Replace(prefixes("192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32")...); err != nil {
		t.Fatal(err)
	}
	ports := DestinationPort(80)
	ports.n.spans = append(ports.n.spans, span{1024, 65535})
	icmp := ICMPType(8)
	icmp.n.spans = append(icmp.n.spans, span{3, 5})
	want := Policy{
		Sets: map[string]*PrefixSet{"bad": bad, "odd name": odd, "list": list},
		Rules: []Rule{
			{ID: "odd", Match: Any(Header("user-agent", "curl/8", ""), Cookie("id"), Query("q", "a b"), BodyOver(1<<20))},
			{ID: "flags", Match: Any(All(Flags(0, SYN|FIN), Protocol(6, 58, 47), Not(Any(Fragment(), Established()))), icmp)},
			{ID: "bad", Match: SourceSet("bad")},
			{ID: "inner", Verdict: Reject, Mode: Monitor, Match: All(PathPrefix("/-/"),
				Not(Any(Method("GET", "HEAD"), Source(prefixes("10.0.0.0/8", "::1/128")...))))},
			{ID: "a b", Verdict: Accept, Match: Any(All(Destination(prefixes("192.0.2.80/32")...), ports), Host("*.example.com"))},
			{ID: "balancer", Verdict: Accept, Match: All(ClientIdentity("spiffe://example.com/balancer"), DestinationSet("odd name"))},
			{ID: "rest", Verdict: Accept, Match: All()},
			{ID: "hello", Match: Any(SNI("*.bad.example", "Worse.Example."), JA4("t13d1516h2_8daaf6152771_e5627efa2ab1", "*_8daaf6152771_*"))},
			{ID: "places", Match: Any(Country("CH", "DE"), ASN(64496, 4200000000))},
			{ID: "csrf", Match: Any(CrossOrigin("https://a.example", "https://b.example:8443"), CrossOrigin())},
		},
		Sizes: []SizeLimit{
			{ID: "big", Body: 1 << 20, Header: 16384, Fields: 100, URL: 8192, Match: Not(PathPrefix("/upload")), Mode: Monitor},
			{ID: "small", Body: 10},
		},
		Escalations: []Escalation{
			{ID: "scans", On: []string{"bad", "app:login", "open"}, Offences: 5, Window: time.Minute, Ban: 10 * time.Minute, MaxBan: 24 * time.Hour,
				IPv4Bits: []int{32, 24}, IPv6Bits: []int{64}, MaxClients: 1024, Match: Not(SourceSet("bad"))},
			{ID: "rest", Offences: 1, Window: time.Second, Ban: 90 * time.Minute, Mode: Monitor},
		},
		Limits: []Limit{
			{ID: "per-client", Rate: 0.5, Burst: 30, MaxClients: 1024, IPv4Bits: 24, IPv6Bits: 56, Match: Path("/a b")},
			{ID: "all", Rate: 10, Burst: 1, Mode: Monitor},
			{ID: "api", Key: HeaderKey("X-API-Key"), Window: time.Minute, Burst: 100, Announce: true},
			{ID: "mine", Unit: Connections, Rate: 5, Burst: 5, MaxClients: 8, Match: Source(prefixes("10.0.0.0/8")...)},
			{ID: "open", Unit: Concurrent, Burst: 64},
			{ID: "fleet", Key: FuncKey("tenant"), Rate: 5, Burst: 5, Shared: true},
			{ID: "sessions", Key: CookieKey("sid"), Rate: 5, Burst: 5},
			{ID: "people", Key: IdentityKey(), Rate: 5, Burst: 5},
		},
		Default: Reject,
	}
	got, err := ParsePolicy(sample)
	if err != nil {
		t.Fatal(err)
	}
	if !samePolicy(got, want) {
		t.Errorf("read as\n%v\nwant\n%v", got, want)
	}
	again, err := ParsePolicy(want.String())
	if err != nil || !samePolicy(again, want) {
		t.Errorf("printed and read back: %v\n%v\nwant\n%v", err, again, want)
	}
	if empty, err := ParsePolicy(""); err != nil || !samePolicy(empty, Policy{}) {
		t.Errorf("an empty text: %v, %v", empty, err)
	}
}

func TestPrecedence(t *testing.T) {
	a, b, c := Path("/a"), Path("/b"), Path("/c")
	for text, want := range map[string]Match{
		"path /a and path /b or path /c":    Any(All(a, b), c),
		"path /a or path /b and path /c":    Any(a, All(b, c)),
		"path /a and (path /b or path /c)":  All(a, Any(b, c)),
		"(path /a and path /b) and path /c": All(All(a, b), c),
		"path /a and path /b and path /c":   All(a, b, c),
		"not path /a and path /b":           All(Not(a), b),
		"not not (path /a)":                 Not(Not(a)),
		"((all)) or none":                   Any(All(), Any()),
		"(path /a\n\tor path /b)":           Any(a, b),
	} {
		p, err := ParsePolicy("drop x if " + text)
		if err != nil || !sameNode(p.Rules[0].Match.n, want.n) {
			t.Errorf("%s: %v, want %v, error %v", text, p, want, err)
			continue
		}
		back, err := ParsePolicy("drop x if " + want.String())
		if err != nil || !sameNode(back.Rules[0].Match.n, want.n) {
			t.Errorf("%v is read back as %v, error %v", want, back, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"deny x", `1, column 1: "deny", want accept, drop`},
		{"drop", "1, column 5: the end, want the ID of a rule"},
		{"drop x\n drop x", `2, column 7: ID "x" of a rule is empty or used before`},
		{`drop ""`, "1, column 6: ID"},
		{"drop x when all", `1, column 8: "when", want the end of the line`},
		{"drop x if", "1, column 10: the end, want a predicate"},
		{"drop x if sourc 1.2.3.4", `1, column 11: "sourc", want a predicate`},
		{"drop x if source 10.0.0.1/8", "1, column 18: prefix 10.0.0.1/8 has bits set"},
		{"drop x if source {\n 10.0.0.0/8,\n 10.0.0.0.0 }", `3, column 2: "10.0.0.0.0"`},
		{"drop x if source { 10.0.0.0/8 ::1 }", `1, column 31: "::1", want a comma or }`},
		{"drop x if source { }", "1, column 11: Source or Destination without prefixes"},
		{"drop x if source @nobody", `1, column 19: set "nobody" is not defined`},
		{"drop x if (all", "1, column 15: the end, want ), and, or or"},
		{"drop x if all)", `1, column 14: ")", want the end of the line`},
		{"drop x if method get", `1, column 11: Method("get"), want upper case`},
		{"drop x if path é", `1, column 16: "é", want a path`},
		{`drop x if path "/é" and path x`, `1, column 25: Path("x")`},
		{`drop x if path "/`, `1, column 16: "\"/", want a path`},
		{"drop x if destination-port 0", "1, column 11: destination-port 0, want ports"},
		{"drop x if destination-port 9-1", "1, column 11: destination-port 9-1, want ports"},
		{"drop x if destination-port 65536", `1, column 28: "65536", want a number up to 65535`},
		{"drop x if " + strings.Repeat("not ", 101) + "all", "1, column 411: nested too deep"},
		{"drop x if " + strings.Repeat("(", 1e6), "1, column 111: nested too deep"},
		{"drop x if header Host", `1, column 11: header "Host"`},
		{"drop x if header X-A is", "1, column 24: the end, want a value"},
		{"drop x if header X-A is { }", "1, column 25: no values"},
		{"drop x if body-over 1k", `1, column 21: "1k", want a number of bytes`},
		{"drop x if tcp-flags S", `1, column 21: "S", want TCP flags such as S/SA`},
		{"drop x if tcp-flags S/A", "1, column 11: tcp-flags S/A, want flags, and a mask"},
		{"drop x if protocol 256", `1, column 20: "256", want a number up to 255`},
		{"drop x if icmp-type 9-1", "1, column 11: icmp-type 9-1, want the lower"},
		{"limit l rate x burst 1", `1, column 14: "x", want tokens per second`},
		{"limit l rate 1 burst 1 rate 2", "1, column 24: a second rate"},
		{"limit l speed 1", `1, column 9: "speed", want rate, burst`},
		{"limit l rate 1 burst 1\nlimit l rate 1 burst 1", `2, column 7: ID "l" of a limit`},
		{"limit l unit seconds", `1, column 14: "seconds", want requests`},
		{"limit l key ip", `1, column 13: "ip", want client, header`},
		{"limit l window 5", `1, column 16: "5", want a time such as`},
		{"limit l key header", "1, column 19: the end, want a name"},
		{"size s body x", `1, column 13: "x", want a number of bytes`},
		{"size s mass 1", `1, column 8: "mass", want body, header`},
		{"size s body 1\nsize s body 1", `2, column 6: ID "s" of a size`},
		{"escalate e on { }", `1, column 15: nothing, want the ID`},
		{"escalate e after 5", `1, column 12: "after", want on, offences`},
		{"escalate e ipv4-bits x", `1, column 22: "x", want a number of bits`},
		{"drop x if sni 1.2.3.4", `1, column 11: SNI("1.2.3.4")`},
		{"drop x if ja4 x", `1, column 11: JA4("x")`},
		{"drop x if country ch", `1, column 11: Country("ch")`},
		{"drop x if asn AS1", `1, column 15: "AS1", want a number such as 64496`},
		{"drop x if cross-origin except {}", `1, column 31: nothing, want an origin`},
		{"drop x if cross-origin except x", `1, column 11: CrossOrigin("x")`},
		{"default deny", `1, column 9: "deny", want accept, drop or reject`},
		{"default drop\ndefault drop", "2, column 1: a second default"},
		{"monitor default drop", `1, column 9: "default", want`},
		{"set x\n", "1, column 6: the end of the line, want { or file"},
		{"set x {\n1.2.3.4,\n", "3, column 1: the end, want a prefix or }"},
		{"set x {}\nset x {}", `2, column 5: set "x" has no name or is defined before`},
		{`set x file ""`, "1, column 12: no name of a file"},
	} {
		_, err := ParsePolicy(c.text)
		if err == nil || !strings.Contains(err.Error(), "firewall: line "+c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60q: %v, want only %s", c.text, err, c.want)
			continue
		}
		if _, ok := errors.AsType[*ParseError](err); !ok {
			t.Errorf("%q: no ParseError but %T", c.text, err)
		}
	}
}

func TestParseListsEveryMistake(t *testing.T) {
	_, err := ParsePolicy("set a { 1.2.3.4, x, 5.6.7.8/1\n,}\nset b { 1.2.3.4 5.6.7.8,\n9.9.9.9,\n}\ndrop x if foo\naccept y if path z\ndefault no")
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 6 {
		t.Errorf("want 6 mistakes, got %v", err)
	}
	_, err = ParsePolicy(strings.Repeat("x\n", 1000))
	if joined, ok = err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != maxTextErrors+1 {
		t.Errorf("mistakes are not bounded: %v", err)
	}
	if _, err := ParsePolicy(strings.Repeat("\n", maxPolicyBytes+1)); err == nil {
		t.Error("the text is not bounded")
	}
}

func TestReadPolicy(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	policy := write("policy.fw", "set bad file bad.txt\ndrop bad if source @bad\ndefault accept\n")
	if _, err := ReadPolicy(policy); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without its list: %v", err)
	}
	write("bad.txt", "192.0.2.0/24\nx\n")
	if _, err := ReadPolicy(policy); err == nil || !strings.Contains(err.Error(), `set "bad"`) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("with a bad list: %v", err)
	}
	write("bad.txt", "192.0.2.0/24\n")
	p, err := ReadPolicy(policy)
	if err != nil {
		t.Fatal(err)
	}
	f := newFirewall(t, Config{Policy: p})
	if d := f.DecideRequest(request("GET", "/", "192.0.2.1:1")); d.RuleID != "bad" {
		t.Errorf("decision %+v", d)
	}
	if again, err := ParsePolicy(p.String()); err != nil || again.Sets["bad"].file != "bad.txt" {
		t.Errorf("printed as %v, error %v", p, err)
	}
	unread, err := ParsePolicy(p.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Policy: unread}); err == nil || !strings.Contains(err.Error(), "LoadFiles") {
		t.Errorf("a list that nobody read was taken for empty: %v", err)
	}
	write("policy.fw", "nonsense")
	if _, err := ReadPolicy(policy); err == nil {
		t.Error("nonsense was taken")
	}
	if _, err := ReadPolicy(dir); err == nil {
		t.Error("a folder was taken")
	}
}

// TestRandomPoliciesPrint prints policies made of Go values and reads them back.
func TestRandomPoliciesPrint(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for range 1000 {
		p := randomPolicy(rng)
		for i := range p.Rules {
			p.Rules[i].ID = fmt.Sprintf("%d%s", i, oneOf(rng, []string{"", "a b", "\"", "é", "\xff", "#", "\n", "if"}))
		}
		for i := range rng.IntN(3) {
			l := Limit{ID: fmt.Sprint(i), Rate: 1 / 3.0, Burst: rng.IntN(9), IPv4Bits: rng.IntN(3), MaxClients: rng.IntN(3), Mode: Mode(rng.IntN(2))}
			if rng.IntN(2) == 0 {
				l.Match = randomMatch(rng, 3)
			}
			p.Limits = append(p.Limits, l)
		}
		text := p.String()
		back, err := ParsePolicy(text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if !samePolicy(p, back) {
			t.Fatalf("printed\n%s\nread back\n%v", text, back)
		}
	}
}

// FuzzParsePolicy reads, prints and reads again.
func FuzzParsePolicy(f *testing.F) {
	f.Add(sample)
	for _, s := range []string{"drop x if (all or none)", "limit x rate NaN burst 1", `drop "\xff" if path "/\u00e9"`, "set x {\n}\n", "drop x if source @\"\""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePolicy(text)
		if err != nil {
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				if pe, ok := errors.AsType[*ParseError](e); ok && (pe.Line < 1 || pe.Line > 1+strings.Count(text, "\n") || pe.Column < 1) {
					t.Errorf("mistake at %d:%d", pe.Line, pe.Column)
				}
			}
			return
		}
		printed := p.String()
		back, err := ParsePolicy(printed)
		if err != nil {
			t.Fatalf("%v\n%s", err, printed)
		}
		for i, l := range p.Limits {
			if l.Rate != l.Rate { // NaN, which is not the same as itself
				p.Limits[i].Rate, back.Limits[i].Rate = 1, 1
			}
		}
		if !samePolicy(p, back) {
			t.Fatalf("printed\n%s\nread back\n%v", printed, back)
		}
	})
}
