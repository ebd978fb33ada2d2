package lb

import (
	"fmt"
	"math/bits"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The hash is part of the contract: balancers of different versions must agree.
func TestHashStringNeverChanges(t *testing.T) {
	for s, want := range map[string]uint64{
		"":                     0x9b104a022c0c16fd,
		"a":                    0xf6dddbcca60d42aa,
		"web1":                 0xf6a6242f118ccae0,
		"10.0.0.5:80":          0x93fb273328c47389,
		"exactly sixteen!":     0xee731e84e8c7a84,
		"a key of some length": 0x70e99dcaf1df5419,
	} {
		if got := HashString(s); got != want {
			t.Errorf("HashString(%q) = %#x, want %#x", s, got, want)
		}
	}
}

// TestHashStringMixes: each bit of the input changes half of the hash's bits, on
// average, and no two of many similar keys collide.
func TestHashStringMixes(t *testing.T) {
	for _, n := range []int{1, 3, 4, 7, 8, 15, 16, 17, 33, 64} {
		key := []byte(strings.Repeat("k", n))
		base := HashString(string(key))
		for bit := range 8 * n {
			key[bit/8] ^= 1 << (bit % 8)
			if d := bits.OnesCount64(base ^ HashString(string(key))); d < 8 || d > 56 {
				t.Errorf("%d bytes, bit %d: %d bits of the hash change, want 32 or so", n, bit, d)
			}
			key[bit/8] ^= 1 << (bit % 8)
		}
	}
	seen := make(map[uint64]string)
	for i := range 100_000 {
		key := fmt.Sprint("user-", i)
		h := HashString(key)
		if prior, ok := seen[h]; ok {
			t.Fatalf("%q and %q have the same hash", prior, key)
		}
		seen[h] = key
	}
}

func keyOf(k HashKey, r *http.Request) string {
	h, ok := k(PickInfo{Request: r})
	if !ok {
		return "none"
	}
	return fmt.Sprintf("%x", h)
}

func TestHashKeys(t *testing.T) {
	request := func(remote, target, header, cookie string) *http.Request {
		r := httptest.NewRequest("GET", target, nil)
		r.RemoteAddr = remote
		if header != "" {
			r.Header.Set("X-Tenant", header)
		}
		if cookie != "" {
			r.Header.Set("Cookie", cookie)
		}
		return r
	}
	byFirst := KeyFunc(func(r *http.Request) string { return strings.Split(r.URL.Path, "/")[1] })
	same := []struct {
		name string
		key  HashKey
		a, b *http.Request
		same bool
	}{
		{"port", KeyClientIP, request("192.0.2.1:1", "/", "", ""), request("192.0.2.1:2", "/x", "", ""), true},
		{"mapped", KeyClientIP, request("192.0.2.1:1", "/", "", ""), request("[::ffff:192.0.2.1]:1", "/", "", ""), true},
		{"address", KeyClientIP, request("192.0.2.1:1", "/", "", ""), request("192.0.2.2:1", "/", "", ""), false},
		{"IPv6", KeyClientIP, request("[2001:db8::1]:1", "/", "", ""), request("[2001:db9::1]:1", "/", "", ""), false},
		{"query", KeyPath, request("", "/a?x", "", ""), request("", "/a?y", "", ""), true},
		{"path", KeyPath, request("", "/a", "", ""), request("", "/b", "", ""), false},
		{"header", KeyHeader("x-tenant"), request("", "/", "t1", ""), request("", "/b", "t1", ""), true},
		{"other header", KeyHeader("x-tenant"), request("", "/", "t1", ""), request("", "/", "t2", ""), false},
		{"cookie", KeyCookie("sid"), request("", "/", "", "a=b; sid=7"), request("", "/", "", `sid="7";c=d`), true},
		{"other cookie", KeyCookie("sid"), request("", "/", "", "sid=7"), request("", "/", "", "sid=8; sid=7"), false},
		{"func", byFirst, request("", "/a/b", "", ""), request("", "/a/c", "", ""), true},
	}
	for _, c := range same {
		a, b := keyOf(c.key, c.a), keyOf(c.key, c.b)
		if a == "none" || b == "none" || (a == b) != c.same {
			t.Errorf("%s: keys %s and %s, want the same: %v", c.name, a, b, c.same)
		}
	}
	for name, k := range map[string]HashKey{
		"ip": KeyClientIP, "header": KeyHeader("X-Tenant"), "cookie": KeyCookie("sid"), "func": byFirst, "no name": KeyCookie(""),
	} {
		if got := keyOf(k, request("@", "/", "", "sid=; xsid=1; =2")); got != "none" {
			t.Errorf("%s: key %s of a request without one", name, got)
		}
		if got := keyOf(k, nil); got != "none" {
			t.Errorf("%s: key %s of no request", name, got)
		}
	}
	if got := keyOf(KeyPath, nil); got != "none" {
		t.Errorf("path: key %s of no request", got)
	}
	if got := keyOf(KeyPath, new(http.Request)); got != "none" {
		t.Errorf("path: key %s of a request without a URL", got)
	}
	several := request("", "/", "t1", "")
	several.Header.Add("X-Tenant", "t2")
	if got, want := keyOf(KeyHeader("X-Tenant"), several), keyOf(KeyHeader("X-Tenant"), request("", "/", "t1", "")); got != want {
		t.Errorf("header: key %s of two values, want the first's", got)
	}
	several.Header["X-Tenant"] = []string{"", "t2"}
	if got := keyOf(KeyHeader("X-Tenant"), several); got != "none" {
		t.Errorf("header: key %s of an empty value", got)
	}
	for cookie, want := range map[string]string{
		`sid=""`: "", "a=b;\tsid=7": "7", "a=b;  sid=7 ": "7", `sid="`: `"`, "sid=1; sid=2": "1", "xsid=1; sid=2": "2",
	} {
		if got := cookieValue([]string{"first=1", cookie, "sid=last"}, "sid"); got != want {
			t.Errorf("cookie %q has the value %q, want %q", cookie, got, want)
		}
	}
}

func TestHashKeysDoNotAllocate(t *testing.T) {
	r := httptest.NewRequest("GET", "/some/path", nil)
	r.RemoteAddr = "[2001:db8::1]:4321"
	r.Header.Set("X-Tenant", "t1")
	r.Header.Set("Cookie", "a=b; sid=0123456789abcdef; c=d")
	for name, k := range map[string]HashKey{
		"ip": KeyClientIP, "path": KeyPath, "header": KeyHeader("X-Tenant"), "cookie": KeyCookie("sid"),
		"func": KeyFunc(func(r *http.Request) string { return r.Host }),
	} {
		if n := testing.AllocsPerRun(100, func() { k(PickInfo{Request: r}) }); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}

// FuzzCookieValue holds the short way against net/http's.
func FuzzCookieValue(f *testing.F) {
	for _, s := range []string{"sid=1", "a=b; sid=2", `sid="3"`, "sid", "=;sid=4;", "sid=\"", " sid = 5", "sid=6,7", "sid=a b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		got := cookieValue([]string{line}, "sid")
		c, err := (&http.Request{Header: http.Header{"Cookie": {line}}}).Cookie("sid")
		// net/http also allows blanks around the name and the value, refuses values
		// with bytes that RFC 6265 does not allow, and then looks at the next cookie;
		// a hash may take them as they are.
		strict := !strings.ContainsAny(strings.ReplaceAll(line, "; ", ";"), " \t\r\n\v\f\u0085\u00a0")
		if err == nil && strict && c.Value != got && strings.Count(line, "sid") == 1 {
			t.Errorf("cookie of %q is %q, net/http says %q", line, got, c.Value)
		}
	})
}
