package lb

import (
	"math"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

const (
	goodParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	madeParent = `^00-[0-9a-f]{32}-[0-9a-f]{16}-0[23]$`
)

func TestValidTraceparent(t *testing.T) {
	for s, want := range map[string]bool{
		goodParent:                      true,
		goodParent + "-":                false, // version 00 has no more
		goodParent + " ":                false,
		"":                              false,
		goodParent[:54]:                 false,
		strings.ToUpper(goodParent):     false,
		"01" + goodParent[2:]:           true,
		"cc" + goodParent[2:] + "-more": true,
		"cc" + goodParent[2:] + "-":     true,
		"cc" + goodParent[2:] + ".more": false,
		"ff" + goodParent[2:]:           false,
		"0g" + goodParent[2:]:           false,
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01":   false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01":   false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x":   false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff":   true,
		"00-4bf92f3577b34da6a3ce929d0e0e47361-00f067aa0ba902b7-01":  false,
		"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":   false,
		"00-4bf92f3577b34da6a3ce929d0e0e473\n-00f067aa0ba902b7-01":  false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n": false,
	} {
		if got := validTraceparent(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// FuzzTraceparent compares with the grammar of the recommendation, as a regular
// expression.
func FuzzTraceparent(f *testing.F) {
	grammar := regexp.MustCompile(`\A([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-(?s:.)*)?\z`)
	for _, s := range []string{goodParent, "cc" + goodParent[2:] + "-x", "", "ff" + goodParent[2:]} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m := grammar.FindStringSubmatch(s)
		want := m != nil && m[1] != "ff" && m[2] != strings.Repeat("0", 32) && m[3] != strings.Repeat("0", 16) && (m[1] != "00" || m[4] == "")
		if got := validTraceparent(s); got != want {
			t.Fatalf("%q: %v, want %v", s, got, want)
		}
	})
}

func TestNewTraceparent(t *testing.T) {
	seen := make(map[string]bool)
	for i := range 1000 {
		s := newTraceparent(i%2 == 0)
		if !validTraceparent(s) || seen[s] || s[len(s)-2:] != map[bool]string{true: "03", false: "02"}[i%2 == 0] {
			t.Fatalf("%q", s)
		}
		seen[s] = true
	}
}

func TestValidRequestID(t *testing.T) {
	for s, want := range map[string]bool{
		"": false, "a": true, "7b9e-4F_x": true, "018f3c9e-7b1a-7c3d-8e4f-0123456789ab": true, "a/b:c+d=e@f~g.h": true,
		"a b": false, "a\n": false, "ä": false, "<script>": false, "a;b": false, `"a"`: false, "a,b": false,
		strings.Repeat("a", 128): true, strings.Repeat("a", 129): false,
	} {
		if got := validRequestID(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// TestIDs: what a backend gets, and the event says, for what a client and a
// trusted proxy send.
func TestIDs(t *testing.T) {
	made := regexp.MustCompile(`^[0-9a-f]{32}$`)
	madeTrace := regexp.MustCompile(madeParent)
	for _, c := range []struct {
		name, fields string
		trusted      bool
		id, parent   string // empty: made here
		state        []string
	}{
		{"nothing", "", true, "", "", nil},
		{"a trusted proxy's", "X-REQUEST-ID: abc-1\nTraceparent: " + goodParent + "\nTracestate: a=1\nTracestate: b=2\n", true, "abc-1", goodParent, []string{"a=1", "b=2"}},
		{"a client's", "X-Request-Id: abc-1\nTraceparent: " + goodParent + "\nTracestate: a=1\n", false, "", goodParent, []string{"a=1"}},
		{"two", "X-Request-Id: abc-1\nX-Request-Id: abc-2\nTraceparent: " + goodParent + "\nTraceparent: " + goodParent + "\nTracestate: a=1\n", true, "", "", nil},
		{"malformed", "X-Request-Id: a b\nTraceparent: " + strings.ToUpper(goodParent) + "\nTracestate: a=1\n", true, "", "", nil},
		{"too long", "X-Request-Id: " + strings.Repeat("a", 129) + "\nTraceparent: 00" + goodParent + "\n", true, "", "", nil},
		{"another spelling", "X_Request-Id: evil\nX_REQUEST_ID: evil\nX-Request-Id: abc-1\n", true, "abc-1", "", nil},
		{"state of no trace", "Tracestate: a=1\n", true, "", "", nil},
		{"removed by the client", "X-Request-Id: abc-1\nConnection: X-Request-Id, Traceparent\nTraceparent: " + goodParent + "\n", true, "", "", nil},
	} {
		backend := new(seen)
		conf := ProxyConfig{RequestID: "x-request-id", Trace: &Trace{Sample: 0.5}}
		if c.trusted {
			conf.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		}
		r := newRig(t, PoolConfig{}, conf, nil, backend)
		client := dialRaw(t, r.addr)
		client.send("GET / HTTP/1.1\nHost: h\n" + c.fields + "\n")
		client.response("GET")
		h, e := backend.request().Header, r.event()
		ids, parents := h["X-Request-Id"], h["Traceparent"]
		if len(ids) != 1 || e.RequestID != ids[0] || c.id == "" && !made.MatchString(ids[0]) || c.id != "" && ids[0] != c.id {
			t.Errorf("%s: ids %q, event %q, want %q", c.name, ids, e.RequestID, c.id)
		}
		if len(parents) != 1 || e.Traceparent != parents[0] || c.parent == "" && !madeTrace.MatchString(parents[0]) || c.parent != "" && parents[0] != c.parent {
			t.Errorf("%s: traceparent %q, event %q, want %q", c.name, parents, e.Traceparent, c.parent)
		}
		if !slices.Equal(h["Tracestate"], c.state) {
			t.Errorf("%s: tracestate %q, want %q", c.name, h["Tracestate"], c.state)
		}
		for name := range h {
			if strings.Contains(name, "_") {
				t.Errorf("%s: the backend gets %s", c.name, name)
			}
		}
	}
}

// Without configuration nothing is made, and nothing of the client's is touched.
func TestNoIDs(t *testing.T) {
	backend := new(seen)
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, backend)
	client := dialRaw(t, r.addr)
	client.send("GET / HTTP/1.1\nHost: h\nTraceparent: x\nTracestate: a=1\nX-Request-Id: y\n\n")
	client.response("GET")
	h, e := backend.request().Header, r.event()
	if h.Get("Traceparent") != "x" || h.Get("Tracestate") != "a=1" || h.Get("X-Request-Id") != "y" || e.RequestID != "" || e.Traceparent != "" {
		t.Errorf("the backend gets %v, event %+v", h, e)
	}
}

func TestRequestIDNames(t *testing.T) {
	pool := poolOf(t, PoolConfig{}, 0)
	for name, ok := range map[string]bool{
		"X-Request-Id": true, "request-id": true, "x request": false, "X_Request_Id": false, "Forwarded": false, "Connection": false,
		"content-length": false, "Host": false, "traceparent": false, "Client-Cert": false, "X-Forwarded-Id": false,
	} {
		if _, err := NewProxy(ProxyConfig{Pool: pool, RequestID: name}); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []float64{-0.1, 1.1, math.NaN()} {
		if _, err := NewProxy(ProxyConfig{Pool: pool, Trace: &Trace{Sample: c}}); err == nil {
			t.Errorf("a sample of %v is taken", c)
		}
	}
}

// TestSample is the share of the traces that begin here, and of no others.
func TestSample(t *testing.T) {
	const requests = 1000
	for sample, want := range map[float64][2]int{0: {0, 0}, 0.3: {155, 445}, 1: {requests, requests}} { // ten standard deviations
		synctest.Test(t, func(t *testing.T) {
			backend := new(seen)
			d := newDirect(t, PoolConfig{}, ProxyConfig{Trace: &Trace{Sample: sample}}, backend)
			n := 0
			for range requests {
				d.ask("GET", "/")
				if strings.HasSuffix(backend.request().Header.Get("Traceparent"), "-03") {
					n++
				}
			}
			if n < want[0] || n > want[1] {
				t.Errorf("with %v, %d of %d are sampled, want %v", sample, n, requests, want)
			}
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Traceparent", goodParent)
			if d.do(r); backend.request().Header.Get("Traceparent") != goodParent {
				t.Errorf("with %v, the client's becomes %s", sample, backend.request().Header.Get("Traceparent"))
			}
		})
	}
}

// TestIDsOverHTTP2, for which the head is made anew once the backend is known, with
// the ids that the first one had.
func TestIDsOverHTTP2(t *testing.T) {
	backend := new(seen)
	srv := newH2CServer(t, 100, backend)
	d := &direct{pool: poolOf(t, PoolConfig{Backends: []BackendConfig{{ID: "x", URL: srv.url()}}}, 0)}
	proxy, err := NewProxy(ProxyConfig{Pool: d.pool, RequestID: "X-Request-Id", Trace: new(Trace), OnDone: func(e Event) { d.last = e }})
	if err != nil {
		t.Fatal(err)
	}
	d.proxy = proxy
	for parent, kept := range map[string]bool{goodParent: true, "": false, "malformed": false} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Tracestate", "a=1")
		if parent != "" {
			r.Header.Set("Traceparent", parent)
		}
		d.do(r)
		h := backend.request().Header
		if got := h.Get("Traceparent"); got != d.last.Traceparent || !validTraceparent(got) || (got == parent) != kept || (h.Get("Tracestate") != "") != kept {
			t.Errorf("%q becomes %q, state %q, event %+v", parent, got, h.Get("Tracestate"), d.last)
		}
		if got := h.Get("X-Request-Id"); got == "" || got != d.last.RequestID {
			t.Errorf("the id is %q, the event's %q", got, d.last.RequestID)
		}
	}
}
