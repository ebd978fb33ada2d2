package firewall

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestClientIP(t *testing.T) {
	proxies := prefixes("10.0.0.0/24", "2001:db8:a::/48")
	long := slices.Repeat([]string{"10.0.0.9"}, maxHops)
	for _, c := range []struct {
		name, peer string
		lines      []string
		want       string // "" for: cannot be told
	}{
		{"peer not trusted", "192.0.2.1:5", []string{"198.51.100.1"}, "192.0.2.1"},
		{"no header", "10.0.0.1:5", nil, "10.0.0.1"},
		{"empty header", "10.0.0.1:5", []string{"", " \t"}, "10.0.0.1"},
		{"one proxy", "10.0.0.1:5", []string{"198.51.100.1"}, "198.51.100.1"},
		{"forged to the left", "10.0.0.1:5", []string{"10.0.0.2, 203.0.113.9, 198.51.100.1"}, "198.51.100.1"},
		{"garbage to the left", "10.0.0.1:5", []string{"\x00,,nonsense, 198.51.100.1"}, "198.51.100.1"},
		{"two proxies", "10.0.0.1:5", []string{"203.0.113.9, 198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"lines are one list", "10.0.0.1:5", []string{"203.0.113.9", "198.51.100.1", "10.0.0.2"}, "198.51.100.1"},
		{"empty line between", "10.0.0.1:5", []string{"198.51.100.1", "", "10.0.0.2"}, "198.51.100.1"},
		{"all trusted", "10.0.0.1:5", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"port", "10.0.0.1:5", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		{"IPv6", "[2001:db8:a::1]:5", []string{"2001:db8::1"}, "2001:db8::1"},
		{"IPv6 in brackets", "[2001:db8:a::1]:5", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"IPv6 and port", "[2001:db8:a::1]:5", []string{"[2001:db8::1]:80"}, "2001:db8::1"},
		{"mapped peer", "[::ffff:10.0.0.1]:5", []string{"198.51.100.1"}, "198.51.100.1"},
		{"mapped entry", "10.0.0.1:5", []string{"203.0.113.9, ::ffff:198.51.100.1, ::ffff:10.0.0.2"}, "198.51.100.1"},
		{"no space", "10.0.0.1:5", []string{"203.0.113.9,198.51.100.1"}, "198.51.100.1"},
		{"zone of the peer", "[fe80::1%eth0]:5", []string{"198.51.100.1"}, "fe80::1"},
		{"zone", "10.0.0.1:5", []string{"fe80::1%eth0"}, ""},
		{"zone and port", "10.0.0.1:5", []string{"[fe80::1%eth0]:1"}, ""},
		{"unknown", "10.0.0.1:5", []string{"unknown"}, ""},
		{"garbage", "10.0.0.1:5", []string{"198.51.100.1, 198.51.100"}, ""},
		{"garbage behind a proxy", "10.0.0.1:5", []string{"198.51.100.1, x, 10.0.0.2"}, ""},
		{"empty entry", "10.0.0.1:5", []string{"198.51.100.1,"}, ""},
		{"IPv4 in brackets", "10.0.0.1:5", []string{"[198.51.100.1]"}, ""},
		{"leading zero", "10.0.0.1:5", []string{"198.051.100.1"}, ""},
		{"quotes", "10.0.0.1:5", []string{`"198.51.100.1"`}, ""},
		{"long entry", "10.0.0.1:5", []string{strings.Repeat("1", maxEntryBytes+1)}, ""},
		{"as many entries as may be", "10.0.0.1:5", []string{strings.Join(long, ",")}, "10.0.0.9"},
		{"too many entries", "10.0.0.1:5", []string{"198.51.100.1," + strings.Join(long, ",")}, ""},
		{"too many lines", "10.0.0.1:5", append([]string{"198.51.100.1"}, long...), ""},
		{"no address", "@", []string{"198.51.100.1"}, ""},
		{"no port", "192.0.2.1", nil, ""},
	} {
		f := newFirewall(t, Config{TrustedProxies: proxies, Policy: Policy{Default: Accept}})
		r := request("GET", "/", c.peer)
		r.Header["X-Forwarded-For"] = c.lines
		r.Header.Set("Forwarded", "for=203.0.113.77")
		r.Header.Set("X-Real-Ip", "203.0.113.77")
		w := get(f, r)
		got := w.Header().Get("Client")
		if w.Code == http.StatusForbidden {
			got = ""
			if d := f.DecideRequest(r); d.Reason != ByClient || d.Verdict != Drop {
				t.Errorf("%s: %v by %v, want drop by client", c.name, d.Verdict, d.Reason)
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestClientIPFromForwarded(t *testing.T) {
	for _, c := range []struct {
		line string
		want string
	}{
		{"for=198.51.100.1", "198.51.100.1"},
		{"For=198.51.100.1;proto=http;by=203.0.113.43", "198.51.100.1"},
		{"proto=https; for=198.51.100.1 ; host=example.com:8080", "198.51.100.1"},
		{`for="198.51.100.1:80"`, "198.51.100.1"},
		{`for="[2001:db8::1]:4711"`, "2001:db8::1"},
		{`for="[2001:db8::1]"`, "2001:db8::1"},
		{`for=198.51.100.1:80`, "198.51.100.1"},
		{`for="1\98.51.100.1"`, "198.51.100.1"},
		{"for=203.0.113.9, for=198.51.100.1, for=10.0.0.2", "198.51.100.1"},
		{`for="203.0.113.9, for=198.51.100.1`, "198.51.100.1"}, // an open quote swallows nothing
		{`for=", for=198.51.100.1;host="x"`, "198.51.100.1"},
		{"for=unknown", ""},
		{"for=_hidden", ""},
		{`for="_gazonk"`, ""},
		{"for=2001:db8::1", ""},
		{`for="2001:db8::1"`, ""},
		{`for="[fe80::1%1]"`, ""},
		{"for=", ""},
		{`for=""`, ""},
		{"by=198.51.100.1", ""},
		{"for=198.51.100.1;for=203.0.113.9", ""},
		{"for=198.51.100.1;", ""},
		{"198.51.100.1", ""},
		{"for =198.51.100.1", ""},
		{`for="198.51.100.1"x`, ""},
		{`for="198.51.100.1`, ""},
		// What a client puts in the Host that its proxy reports must not become
		// an element of its own.
		{`for=198.51.100.1;host="a,for=203.0.113.9"`, ""},
		{`for=198.51.100.1;host="a,for=203.0.113.9;b="`, ""},
		{`for=198.51.100.1;host="a,for=203.0.113.9;b=";proto="https"`, ""},
		{`for=198.51.100.1;host="a,for=203.0.113.9;b=\"";proto="https"`, ""},
		{`for=198.51.100.1;host="a,for=\"203.0.113.9\";b="`, ""},
	} {
		f := newFirewall(t, Config{TrustedProxies: prefixes("10.0.0.0/24"), ForwardedHeader: Forwarded, Policy: Policy{Default: Accept}})
		r := request("GET", "/", "10.0.0.1:5")
		r.Header.Set("Forwarded", c.line)
		r.Header.Set("X-Forwarded-For", "203.0.113.77")
		if got := get(f, r).Header().Get("Client"); got != c.want {
			t.Errorf("%s: %q, want %q", c.line, got, c.want)
		}
	}
}

func TestClientIPWithoutAHandler(t *testing.T) {
	f := newFirewall(t, Config{TrustedProxies: prefixes("192.0.2.1/32")})
	forged := request("GET", "/", "192.0.2.1:1")
	forged.Header.Set("X-Forwarded-For", "unknown")
	if ip, ok := f.ClientIP(forged); ok || ip.IsValid() {
		t.Errorf("a client that cannot be told is %v", ip)
	}
	if ip, ok := ClientIP(t.Context()); ok || ip.IsValid() {
		t.Errorf("got %v, %v", ip, ok)
	}
}

// FuzzClientIP compares with a reading from the left that takes the list apart
// first, and changes what a client can forge.
func FuzzClientIP(f *testing.F) {
	f.Add("10.0.0.1:1", "1.2.3.4, 10.0.0.2", "5.6.7.8", "x")
	f.Add("192.0.2.1:1", "1.2.3.4", "", "10.0.0.1")
	f.Add("[2001:db8:a::1]:1", "[::1]:80,fe80::1%a", ",", "")
	trusted, err := NewPrefixSet(prefixes("10.0.0.0/24", "2001:db8:a::/48")...)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, peer, first, second, forged string) {
		from := parseAddrPort(peer).Addr()
		got := clientOf(from, http.Header{"X-Forwarded-For": {first, second}}, XForwardedFor, trusted)
		if want := naiveClient(from, []string{first, second}, trusted); got != want {
			t.Errorf("peer %q, lines %q: %v, want %v", peer, []string{first, second}, got, want)
		}
		for _, kind := range []ForwardedHeader{XForwardedFor, Forwarded} {
			h := http.Header{kind.String(): {first, second}}
			got := clientOf(from, h, kind, trusted)
			if !trusted.Contains(from) && got != from {
				t.Errorf("peer %q, who is not trusted, became %v by %q", peer, got, h)
			}
			if got.IsValid() && !trusted.Contains(got) {
				h := http.Header{kind.String(): {forged, forged + "," + first, second}}
				if again := clientOf(from, h, kind, trusted); again != got {
					t.Errorf("%v became %v when %q was put to the left", got, again, forged)
				}
			}
		}
	})
}

// FuzzForwarded puts what a client chose into an element that a proxy writes,
// as the Host it reports: no choice makes the client somebody else.
func FuzzForwarded(f *testing.F) {
	f.Add("example.com", "x")
	f.Add("a,for=203.0.113.9", `b="`)
	f.Add(`a,for=203.0.113.9;b=";c="`, "")
	f.Add(`a",for="203.0.113.9`, `\`)
	trusted, err := NewPrefixSet(prefixes("10.0.0.0/24")...)
	if err != nil {
		f.Fatal(err)
	}
	quote := strings.NewReplacer(`"`, `\"`, `\`, `\\`)
	f.Fuzz(func(t *testing.T, host, by string) {
		real := netip.MustParseAddr("198.51.100.1")
		for _, line := range []string{
			`for=198.51.100.1;host="` + quote.Replace(host) + `"`,
			`host="` + quote.Replace(host) + `";for=198.51.100.1;by="` + quote.Replace(by) + `"`,
			`for=203.0.113.9, host="` + quote.Replace(host) + `";by="` + quote.Replace(by) + `";for="198.51.100.1:80";proto=https`,
		} {
			got := clientOf(netip.MustParseAddr("10.0.0.1"), http.Header{"Forwarded": {line}}, Forwarded, trusted)
			if got.IsValid() && got != real {
				t.Errorf("%s makes the client %v", line, got)
			}
			if plain := !strings.ContainsAny(host+by, ",") && len(line) <= maxEntryBytes && isPrintable(host+by); plain && got != real {
				t.Errorf("%s: %v, want %v", line, got, real)
			}
		}
	})
}

// FuzzAddrPort compares with what net/netip reads.
func FuzzAddrPort(f *testing.F) {
	for _, s := range []string{
		"192.0.2.1:80", "192.0.2.1", "255.255.255.255:65535", "256.0.2.1:80", "192.0.2.01:80", "00.0.0.0:1", "0.0.0.0:0", "1.2.3:4", "1.2.3.:4",
		".1.2.3:4", "1..2.3:4", "1.2.3.4.5:6", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:080", "1.2.3.4:000080", "1.2.3.4:+1", "1.2.3.4 :1", "[::1]:80",
		"[::ffff:1.2.3.4]:1", "[fe80::1%a]:1", "", ":1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var want netip.AddrPort
		if ap, err := netip.ParseAddrPort(s); err == nil {
			want = netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
		}
		if got := parseAddrPort(s); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
		var node netip.Addr
		if addr, err := netip.ParseAddr(s); err == nil && addr.Is4() {
			node = addr
		}
		if got, rest, ok := cutIPv4(s); ok && rest == "" != node.IsValid() || node.IsValid() && got != node {
			t.Errorf("%q: %v and %q left, want %v", s, got, rest, node)
		}
	})
}

func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func naiveClient(peer netip.Addr, lines []string, trusted *PrefixSet) netip.Addr {
	var chain []string
	for _, line := range lines {
		if strings.Trim(line, " \t") != "" {
			chain = append(chain, strings.Split(line, ",")...)
		}
	}
	client := peer
	for i, entry := range slices.Backward(chain) {
		if !client.IsValid() || !trusted.Contains(client) {
			break
		}
		if len(chain)-i > 100 || len(entry) > 512 {
			return netip.Addr{}
		}
		entry = strings.Trim(entry, " \t")
		client = netip.Addr{}
		if a, err := netip.ParseAddr(entry); err == nil {
			client = a
		} else if ap, err := netip.ParseAddrPort(entry); err == nil {
			client = ap.Addr()
		} else if ap, err := netip.ParseAddrPort(entry + ":1"); err == nil && strings.HasPrefix(entry, "[") {
			client = ap.Addr()
		}
		if client.Zone() != "" {
			return netip.Addr{}
		}
		client = client.Unmap()
	}
	return client
}
