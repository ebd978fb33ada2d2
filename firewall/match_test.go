package firewall

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// Matches of each truth for a fact set without a client and a request with an
// ambiguous path.
func truths() [3]Match {
	return [3]Match{no: Any(), unknown: Source(prefixes("192.0.2.0/24")...), yes: All()}
}

func TestKleene(t *testing.T) {
	m, f := truths(), facts{}
	eval := func(m Match) truth { return m.n.eval(&f) }
	for a := range m {
		if eval(m[a]) != truth(a) {
			t.Fatalf("match %d is %d", a, eval(m[a]))
		}
		if got, want := eval(Not(m[a])), [3]truth{yes, unknown, no}[a]; got != want {
			t.Errorf("not %d: %d, want %d", a, got, want)
		}
		for b := range m {
			if got, want := eval(All(m[a], m[b])), truth(min(a, b)); got != want {
				t.Errorf("all of %d, %d: %d, want %d", a, b, got, want)
			}
			if got, want := eval(Any(m[a], m[b])), truth(max(a, b)); got != want {
				t.Errorf("any of %d, %d: %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestHostMatch(t *testing.T) {
	m := Host("example.com", "*.example.org", "192.0.2.1", "2001:db8::1", "XN--bcher-kva.example.")
	if len(m.n.errs) > 0 {
		t.Fatal(m.n.errs)
	}
	for host, want := range map[string]truth{
		"example.com": yes, "EXAMPLE.com": yes, "example.com.": yes, "example.com:8443": yes, "Example.Com.:80": yes, "example.com:": yes,
		"www.example.com": no, "example.comx": no, "xexample.com": no,
		"a.example.org": yes, "a.b.example.org:1": yes, "example.org": no, "aexample.org": no, ".example.org": unknown,
		"192.0.2.1": yes, "192.0.2.1:80": yes, "192.0.2.10": no, "[2001:db8::1]": yes, "[2001:db8::1]:443": yes, "[2001:DB8:0::1]": yes,
		"[2001:db8::2]": no, "[::ffff:192.0.2.1]": yes, "xn--bcher-kva.example": yes,
		"": unknown, "example..com": unknown, "example.com..": unknown, "exa mple.com": unknown, "x@example.com": unknown,
		"example%2ecom": unknown, "example.com:80:80": unknown, "example.com:x": unknown, "2001:db8::1": unknown, "[2001:db8::1": unknown,
		"[2001:db8::1]x": unknown, "[example.com]": unknown, "[fe80::1%1]": unknown, "127.1": unknown, "bücher.example": unknown,
	} {
		f := facts{request: &http.Request{Host: host}}
		if got := m.n.eval(&f); got != want {
			t.Errorf("host %q: %d, want %d", host, got, want)
		}
	}
}

// FuzzHost compares with what net/url takes for the host.
func FuzzHost(f *testing.F) {
	for _, s := range []string{"example.com", "Example.COM.:80", "[::1]:80", "192.0.2.1:1", "a..b", "[::ffff:1.2.3.4]", "x@y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		name, ok := normalHost(host)
		if !ok {
			return
		}
		u, err := url.Parse("http://" + host + "/")
		if err != nil || u.Host != host {
			t.Fatalf("%q is read as %q, net/url says %v", host, name, err)
		}
		want := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
		if addr, err := netip.ParseAddr(want); err == nil {
			want = addr.Unmap().String()
		}
		if name != want {
			t.Errorf("%q is read as %q, net/url says %q", host, name, want)
		}
		if again, ok := normalName(name); !ok || again != name {
			t.Errorf("%q is read as %q, and that as %q", host, name, again)
		}
	})
}

func TestMethodMatch(t *testing.T) {
	m := Method("GET", "POST")
	for method, want := range map[string]truth{"GET": yes, "POST": yes, "": yes, "get": unknown, "Post": unknown, "PUT": no} {
		f := facts{request: &http.Request{Method: method}}
		if got := m.n.eval(&f); got != want {
			t.Errorf("method %q: %d, want %d", method, got, want)
		}
	}
}

func TestMatchWithoutARequest(t *testing.T) {
	f := facts{}
	for _, m := range []Match{
		Source(prefixes("0.0.0.0/0")...), Destination(prefixes("0.0.0.0/0")...), DestinationPort(443), Method("GET"), Host("example.com"),
		Path("/"), PathPrefix("/"), ClientIdentity("x"),
	} {
		if got := m.n.eval(&f); got != unknown {
			t.Errorf("op %d is %d, want unknown", m.n.op, got)
		}
	}
}

func TestMatchArgumentsAreChecked(t *testing.T) {
	for name, m := range map[string]Match{
		"no prefix": Source(), "host bits": Source(prefixes("10.0.0.1/8")...), "no destination": Destination(),
		"no port": DestinationPort(), "port 0": DestinationPort(443, 0), "no method": Method(), "lower case": Method("get"), "empty method": Method(""),
		"no host": Host(), "a star": Host("*"), "star inside": Host("a.*.com"), "host with port": Host("example.com:80"), "empty host": Host(""),
		"no header": Header(""), "host as header": Header("host", "x"), "bad header": Header("a b"), "bad cookie": Cookie("a;b"), "negative size": BodyOver(-1),
		"no parameter": Query(""), "no source port": SourcePort(), "ports backwards": DestinationPortRange(9, 1), "no protocol": Protocol(), "no mask": Flags(0, 0),
		"no identity": ClientIdentity(), "empty identity": ClientIdentity("x", ""), "zero in All": All(Match{}), "zero in Not": Not(Match{}),
		"inside": Any(All(Not(Path("x")))), "no such set": SourceSet("nobody"), "no name": DestinationSet(""),
	} {
		c := Config{Identity: func(*http.Request) string { return "" }, Policy: Policy{Rules: []Rule{{ID: "r", Match: m}}}}
		if _, err := New(c); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestDestination(t *testing.T) {
	f := facts{local: parseAddrPort("192.0.2.80:443")}
	for i, c := range []struct {
		m    Match
		want truth
	}{
		{Destination(prefixes("192.0.2.0/24")...), yes},
		{Destination(prefixes("192.0.3.0/24")...), no},
		{DestinationPort(80, 443), yes},
		{DestinationPort(80), no},
	} {
		if got := c.m.n.eval(&f); got != c.want {
			t.Errorf("match %d: %d, want %d", i, got, c.want)
		}
	}
}

func TestFieldMatch(t *testing.T) {
	r := request("POST", "/?a=1&a=2&b=x+y&c&d=%zz", "192.0.2.1:1")
	plain := request("POST", "/?a=1&a=2&b=x+y&c", "192.0.2.1:1")
	for _, r := range []*http.Request{r, plain} {
		r.Header = http.Header{"X-One": {"v"}, "X-Two": {"v", "w"}, "X-Same": {"v", "v"}, "X-None": {},
			"Cookie": {`id=1; sid=5; twice=1; bad=a\b; quoted="1"`, "twice=2"}}
		r.ContentLength = 100
	}
	chunked := request("POST", "/", "192.0.2.1:1")
	chunked.ContentLength = -1
	for _, c := range []struct {
		m    Match
		r    *http.Request
		want truth
	}{
		{Header("x-one"), r, yes}, {Header("X-One", "v"), r, yes}, {Header("X-One", "V"), r, no}, {Header("X-One", "w", "v"), r, yes},
		{Header("X-Two", "v"), r, unknown}, {Header("X-Two", "v", "w"), r, yes}, {Header("X-Two", "x"), r, no}, {Header("X-Same", "v"), r, yes},
		{Header("X-None"), r, no}, {Header("X-Other"), r, no}, {Header("X-Other", ""), r, no},
		{Cookie("id", "1"), r, yes}, {Cookie("id", "2"), r, no}, {Cookie("i"), r, no}, {Cookie("d"), r, no}, {Cookie("twice"), r, yes},
		{Cookie("twice", "1"), r, unknown}, {Cookie("bad"), r, unknown}, {Cookie("bad", "x"), r, unknown}, {Cookie("quoted", "1"), r, unknown},
		{Query("a", "1"), plain, unknown}, {Query("a", "1", "2"), plain, yes}, {Query("b", "x y"), plain, yes}, {Query("c"), plain, yes},
		{Query("c", ""), plain, yes}, {Query("e"), plain, no}, {Query("a"), r, unknown}, {Query("e"), r, unknown},
		{BodyOver(99), r, yes}, {BodyOver(100), r, no}, {BodyOver(0), chunked, unknown},
	} {
		f := facts{request: c.r}
		if got := c.m.n.eval(&f); got != c.want || len(c.m.n.errs) > 0 {
			t.Errorf("%v: %v, want %v", c.m, got, c.want)
		}
	}
}
