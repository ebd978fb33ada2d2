package lb

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
)

func newReader(s string) *bufio.Reader { return bufio.NewReader(strings.NewReader(s)) }

// discardWriter is a ResponseWriter that can do nothing else.
type discardWriter struct {
	header http.Header
	status int
}

func (w *discardWriter) Header() http.Header         { return w.header }
func (w *discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *discardWriter) WriteHeader(status int)      { w.status = status }

func TestClaimOf(t *testing.T) {
	for _, c := range []struct {
		names string
		want  claim
	}{
		{"Client-Cert client_cert CLIENT-cert_CHAIN X-Forwarded-Client-Cert x_forwarded_client_cert", identity},
		{"Forwarded X-Forwarded-For x-forwarded-anything X-Real-Ip", forwarding},
		{"X_forwarded-For X-Forwarded_Proto x_real_ip Transfer_Encoding Content_Length Keep_Alive Proxy_Authorization Http2_Settings", misspelt},
		{"Content-Length X-Forwarded Client-Certs Cookie X_Other Proxy-Status Te U Content_Type", nothing},
	} {
		for name := range strings.FieldsSeq(c.names) {
			if got := claimOf(name); got != c.want {
				t.Errorf("%s: %d, want %d", name, got, c.want)
			}
		}
	}
	if got := claimOf(""); got != nothing {
		t.Errorf("no name: %d", got)
	}
}

func TestRemoveInvalid(t *testing.T) {
	h := http.Header{"Bad Name": {"x"}, "Good": {"a\tb é"}}
	if removeInvalid(h) || len(h) != 1 || h["Good"] == nil {
		t.Errorf("left %v", h)
	}
	h["Split"] = []string{"ok", "a\r\nb"}
	if !removeInvalid(h) || len(h) != 1 {
		t.Errorf("left %v", h)
	}
}

// cgi is the variable that a CGI program finds a field in: the reading that
// makes spellings collide.
func cgi(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

// FuzzRemoveClaims: whatever a client names its fields, no CGI program behind
// the proxy sees one that only the proxy may set, and other fields stay.
func FuzzRemoveClaims(f *testing.F) {
	for _, s := range []string{"Client-Cert", "cLIENT_cERT_cHAIN", "x-forwarded_for", "Forwarded", "X_Real-IP", "Transfer_encoding", "Connection", "Accept", ""} {
		f.Add(s, false)
		f.Add(s, true)
	}
	hop := make(map[string]bool)
	for _, name := range hopByHop {
		hop[cgi(name)] = true
	}
	f.Fuzz(func(t *testing.T, name string, trusted bool) {
		h := http.Header{name: {"v"}}
		removeHopByHop(h)
		removeClaims(h, trusted)
		v := cgi(name)
		claims := v == "CLIENT_CERT" || v == "CLIENT_CERT_CHAIN" || v == "X_FORWARDED_CLIENT_CERT"
		forwards := v == "FORWARDED" || v == "X_REAL_IP" || strings.HasPrefix(v, "X_FORWARDED_")
		canonical := name == http.CanonicalHeaderKey(name)
		kept := len(h) == 1
		switch {
		case claims, forwards && !trusted, strings.Contains(name, "_") && (forwards || hop[v] || v == "CONTENT_LENGTH"), hop[v] && canonical:
			if kept {
				t.Fatalf("%q stays, trusted %v", name, trusted)
			}
		case !kept && !hop[v]:
			t.Fatalf("%q was removed, trusted %v", name, trusted)
		}
	})
}

// FuzzRemoveHopByHop: after it nothing is left that Connection named, and
// nothing else was removed.
func FuzzRemoveHopByHop(f *testing.F) {
	for _, s := range []string{"close", "X-A", " x-a ,\tX-B,,", "X-A;x", "connection", "X-A, X-A", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, connection string) {
		h := http.Header{"Connection": {connection, "X-C"}, "X-A": {"1"}, "X-B": {"2"}, "X-C": {"3"}, "X-Stays": {"4"}, "Te": {"x"}}
		removeHopByHop(h)
		named := map[string]bool{"X-C": true}
		for s := range strings.SplitSeq(connection, ",") {
			named[http.CanonicalHeaderKey(strings.Trim(s, " \t"))] = true
		}
		for _, name := range []string{"X-A", "X-B", "X-C", "X-Stays"} {
			if (len(h[name]) == 0) != named[name] {
				t.Fatalf("Connection %q: %s is %q", connection, name, h[name])
			}
		}
		if len(h["Connection"])+len(h["Te"]) > 0 {
			t.Fatalf("left %v", h)
		}
	})
}

func TestForwardedElement(t *testing.T) {
	for _, c := range []struct{ remote, host, want string }{
		{"192.0.2.1:5", "example.com", "for=192.0.2.1;host=example.com;proto=https"},
		{"[2001:db8::1]:5", "example.com:8443", `for="[2001:db8::1]";host="example.com:8443";proto=https`},
		{"[::ffff:192.0.2.1]:5", "h", "for=192.0.2.1;host=h;proto=https"},
		{"[fe80::1%eth0]:5", "[::1]", `for="[fe80::1]";host="[::1]";proto=https`},
		{"@", "", "for=unknown;proto=https"},
	} {
		if got := forwardedElement(peerOf(&http.Request{RemoteAddr: c.remote}), c.host, "https"); got != c.want {
			t.Errorf("%s, %s: %s, want %s", c.remote, c.host, got, c.want)
		}
	}
}

// FuzzForwardedElement: whatever the client says its host is, the element holds
// it and nothing more, as a reader of RFC 7239 sees it.
func FuzzForwardedElement(f *testing.F) {
	for _, s := range []string{"example.com", `a";for=6.6.6.6`, `\`, `\"`, "h:1", "", "a,b", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		s := forwardedElement(netip.MustParseAddr("2001:db8::1"), host, "http")
		pairs := readElement(t, s)
		want := map[string]string{"for": "[2001:db8::1]", "proto": "http"}
		if host != "" {
			want["host"] = host
		}
		if len(pairs) != len(want) {
			t.Fatalf("%q: %s has %v", host, s, pairs)
		}
		for k, v := range want {
			if pairs[k] != v {
				t.Fatalf("%q: %s has %s=%q, want %q", host, s, k, pairs[k], v)
			}
		}
	})
}

// readElement reads a forwarded-element (RFC 7239, section 4) by hand.
func readElement(t *testing.T, s string) map[string]string {
	out := make(map[string]string)
	for s != "" {
		name, rest, ok := strings.Cut(s, "=")
		if !ok || out[name] != "" {
			t.Fatalf("no pair, or one twice, at %q", s)
		}
		var v []byte
		if quoted, isQuoted := strings.CutPrefix(rest, `"`); isQuoted {
			i := 0
			for ; i < len(quoted) && quoted[i] != '"'; i++ {
				if quoted[i] == '\\' {
					i++
				}
				v = append(v, quoted[i])
			}
			rest = quoted[i+1:]
		} else {
			i := strings.IndexAny(rest, `;,"`)
			if i < 0 {
				i = len(rest)
			}
			v, rest = []byte(rest[:i]), rest[i:]
		}
		out[name] = string(v)
		if rest != "" && rest[0] != ';' {
			t.Fatalf("%q follows a value", rest)
		}
		s = strings.TrimPrefix(rest, ";")
	}
	return out
}

// TestForwardedOnBothWays: what backends are told of the client, whether the head is
// written straight from the request or goes through a hook.
func TestForwardedOnBothWays(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for _, c := range []struct {
		name, peer string
		secure     bool
		want       []string // Forwarded, X-Forwarded-For, -Host and -Proto
	}{
		{"a stranger", "192.0.2.9:1", false, []string{"for=192.0.2.9;host=h.test;proto=http", "192.0.2.9", "h.test", "http"}},
		{"over TLS", "192.0.2.9:1", true, []string{"for=192.0.2.9;host=h.test;proto=https", "192.0.2.9", "h.test", "https"}},
		{"a Unix socket", "@", false, []string{"for=unknown;host=h.test;proto=http", "unknown", "h.test", "http"}},
		{"the first that is trusted", "10.1.2.3:1", false, []string{"for=6.6.6.6, for=10.1.2.3;host=h.test;proto=http", "6.6.6.6, 10.1.2.3", "outer", "gopher"}},
		{"the second", "[2001:db8::1]:1", false, []string{`for=6.6.6.6, for="[2001:db8::1]";host=h.test;proto=http`, "6.6.6.6, 2001:db8::1", "outer", "gopher"}},
	} {
		for _, rewrite := range []func(*httputil.ProxyRequest){nil, func(*httputil.ProxyRequest) {}} {
			synctest.Test(t, func(t *testing.T) {
				backend := new(seen)
				d := newDirect(t, PoolConfig{}, ProxyConfig{TrustedProxies: trusted, Rewrite: rewrite}, backend)
				r := httptest.NewRequest("GET", "http://h.test/", nil)
				r.RemoteAddr = c.peer
				if c.secure {
					r.TLS = new(tls.ConnectionState)
				}
				names := []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}
				for i, v := range []string{"for=6.6.6.6", "6.6.6.6", "outer", "gopher"} {
					r.Header.Set(names[i], v)
				}
				d.do(r)
				for i, name := range names {
					if got := backend.request().Header[name]; len(got) != 1 || got[0] != c.want[i] {
						t.Errorf("%s, hook %v: %s is %q, want %q", c.name, rewrite != nil, name, got, c.want[i])
					}
				}
			})
		}
	}
}

// TestAddResponseFields: a backend's field takes the place of the middleware's if
// there can be one only, and else joins it.
func TestAddResponseFields(t *testing.T) {
	for name, replaced := range map[string]bool{
		"Content-Length": true, "Content-Type": true, "Date": true, "Etag": true, "Last-Modified": true, "Location": true,
		"Set-Cookie": false, "Vary": false, "Link": false,
	} {
		h, want := http.Header{name: {"ours"}}, "[ours theirs more]"
		if replaced {
			want = "[theirs more]"
		}
		addResponseFields(h, http.Header{name: {"theirs", "more"}})
		if got := fmt.Sprint(h[name]); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}
