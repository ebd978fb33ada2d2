package firewall

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/palisade-go/palisade/internal/memnet"
)

func TestRefusal(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{
		Rules:   []Rule{{ID: "secret-rule", Match: Path("/no"), Verdict: Reject}, {ID: "drop", Match: Path("/drop")}},
		Limits:  []Limit{{ID: "secret-limit", Rate: 1e-3, Burst: 1}},
		Default: Accept,
	}})
	get(f, request("GET", "/", "192.0.2.1:1")) // takes the only token
	for _, c := range []struct {
		target, accept string
		status         int
		contentType    string
	}{
		{"/no", "", 403, "text/plain; charset=utf-8"},
		{"/drop", "", 403, "text/plain; charset=utf-8"},
		{"/no", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", 403, "text/plain; charset=utf-8"},
		{"/no", "application/json", 403, "application/problem+json"},
		{"/no", "application/json, text/plain, */*", 403, "application/problem+json"},
		{"/no", "Application/Problem+JSON;q=0.5, text/*;q=0.4", 403, "application/problem+json"},
		{"/no", "application/json;q=0", 403, "text/plain; charset=utf-8"},
		{"/no", "application/json;q=0.3, text/html", 403, "text/plain; charset=utf-8"},
		{"/no", strings.Repeat("x/y,", 100) + "application/json", 403, "text/plain; charset=utf-8"},
		{"/", "", 429, "text/plain; charset=utf-8"},
		{"/", "application/json", 429, "application/problem+json"},
	} {
		r := request("GET", c.target, "192.0.2.1:1")
		r.Header.Set("Accept", c.accept)
		w := get(f, r)
		body := w.Body.String()
		if w.Code != c.status || w.Header().Get("Content-Type") != c.contentType {
			t.Errorf("%s, Accept %.50q: status %d, type %q", c.target, c.accept, w.Code, w.Header().Get("Content-Type"))
		}
		if (w.Header().Get("Retry-After") != "") != (c.status == 429) {
			t.Errorf("%s: Retry-After %q", c.target, w.Header().Get("Retry-After"))
		}
		if strings.Contains(body, "secret") || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Connection") != "" {
			t.Errorf("%s: header %v, body %q", c.target, w.Header(), body)
		}
		if c.contentType != "application/problem+json" {
			continue
		}
		var problem struct {
			Type, Title string
			Status      int
		}
		if err := json.Unmarshal([]byte(body), &problem); err != nil || problem.Status != c.status || problem.Title != http.StatusText(c.status) {
			t.Errorf("%s: problem %q, %v", c.target, body, err)
		}
		r.Method = "HEAD"
		if w := get(f, r); w.Code != c.status || w.Body.Len() != 0 {
			t.Errorf("HEAD %s: status %d with a body of %d bytes", c.target, w.Code, w.Body.Len())
		}
	}
}

func TestRefusedRequestsDoNotReachTheApp(t *testing.T) {
	f := newFirewall(t, Config{})
	h := f.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
	h.ServeHTTP(httptest.NewRecorder(), request("GET", "/", "192.0.2.1:1"))
}

func TestIdentityIsAskedOnce(t *testing.T) {
	asked := 0
	f := newFirewall(t, Config{
		Identity: func(*http.Request) string { asked++; return "b" },
		Policy: Policy{Rules: []Rule{
			{ID: "path", Match: Path("/x"), Verdict: Reject},
			{ID: "a", Match: ClientIdentity("a"), Verdict: Reject},
			{ID: "b", Match: ClientIdentity("a2", "b"), Verdict: Accept},
		}},
	})
	if w := get(f, request("GET", "/", "192.0.2.1:1")); w.Code != 200 || asked != 1 {
		t.Errorf("status %d, asked %d times", w.Code, asked)
	}
	if w := get(f, request("GET", "/x", "192.0.2.1:1")); w.Code != 403 || asked != 1 {
		t.Errorf("status %d, asked %d times", w.Code, asked)
	}
}

// TestNextGetsTheWriterItself is why streams are not disturbed.
func TestNextGetsTheWriterItself(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept}})
	w := httptest.NewRecorder()
	f.Handler(http.HandlerFunc(func(got http.ResponseWriter, _ *http.Request) {
		if got != http.ResponseWriter(w) {
			t.Errorf("got a %T", got)
		}
	})).ServeHTTP(w, request("GET", "/", "192.0.2.1:1"))
}

// TestRequestAsItCame checks that the handlers around see what those within write
// into the request, unless the client is to be in its context.
func TestRequestAsItCame(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /a/{name}", func(http.ResponseWriter, *http.Request) {})
	for _, inContext := range []bool{false, true} {
		f := newFirewall(t, Config{Policy: Policy{Default: Accept}, ClientInContext: inContext})
		r := request("GET", "/a/b", "192.0.2.1:1")
		got := r
		f.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mux.ServeHTTP(w, r)
			got = r
		})).ServeHTTP(httptest.NewRecorder(), r)
		client, ok := ClientIP(got.Context())
		if ok != inContext || ok && client.String() != "192.0.2.1" || (got == r) == inContext || got.Pattern == "" || (r.Pattern == "") != inContext {
			t.Errorf("in context %v: client %v, the same request %v, pattern %q, outside %q", inContext, client, got == r, got.Pattern, r.Pattern)
		}
		if client, ok := f.ClientIP(got); !ok || client.String() != "192.0.2.1" {
			t.Errorf("in context %v: Firewall.ClientIP says %v, %v", inContext, client, ok)
		}
	}
}

// TestServer serves with both depths over one policy.
func TestServer(t *testing.T) {
	var events sync.Map
	f := newFirewall(t, Config{
		TrustedProxies:  prefixes("10.0.0.1/32"),
		ClientInContext: true,
		OnDecision:      func(e Event) { events.Store(e.Depth.String()+" "+e.RuleID+" "+e.Client.String(), e) },
		Policy: Policy{
			Rules: []Rule{
				{ID: "bad", Match: Source(prefixes("198.51.100.0/24")...)},
				{ID: "inner", Match: PathPrefix("/-/"), Verdict: Reject},
			},
			Default: Accept,
		},
	})
	ln := memnet.Listen("192.0.2.80:80")
	srv := &http.Server{Handler: f.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ip, _ := ClientIP(r.Context())
		_, _ = io.WriteString(w, ip.String())
	}))}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(f.Listener(ln)) })
	defer wg.Wait()
	defer srv.Close()

	ask := func(from, target, forwarded string) (int, string) {
		t.Helper()
		conn, err := ln.DialFrom(t.Context(), parseAddrPort(from))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// Refused at accept, this may fail.
		_, _ = io.WriteString(conn, "GET "+target+" HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: "+forwarded+"\r\nConnection: close\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return 0, ""
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	for _, c := range []struct {
		from, target, forwarded string
		status                  int
		body                    string
	}{
		{"192.0.2.1:5", "/", "198.51.100.1", 200, "192.0.2.1"},
		{"192.0.2.1:5", "/%2d/snapshot", "", 403, "Forbidden\n"},
		{"198.51.100.1:5", "/", "", 0, ""},
		{"10.0.0.1:5", "/", "198.51.100.1", 403, "Forbidden\n"},
		{"10.0.0.1:5", "/", "198.51.100.1, 203.0.113.1", 200, "203.0.113.1"},
	} {
		if status, body := ask(c.from, c.target, c.forwarded); status != c.status || body != c.body {
			t.Errorf("%s from %s for %s: %d %q, want %d %q", c.target, c.from, c.forwarded, status, body, c.status, c.body)
		}
	}
	for _, want := range []string{"accept bad 198.51.100.1", "request inner 192.0.2.1", "request bad 198.51.100.1"} {
		if _, ok := events.Load(want); !ok {
			t.Errorf("no event %q", want)
		}
	}
	if c := f.Counters(); c.Rules[0] != (Count{"bad", 1, 1}) || c.Rules[1] != (Count{"inner", 0, 1}) || c.Default != (Count{Requests: 2}) {
		t.Errorf("counters %+v", c)
	}
}

func TestConcurrentUse(t *testing.T) {
	set := new(PrefixSet)
	policy := Policy{
		Sets:    map[string]*PrefixSet{"s": set},
		Rules:   []Rule{{ID: "s", Match: SourceSet("s")}},
		Limits:  []Limit{{ID: "l", Rate: 1, Burst: 1 << 20}},
		Default: Accept,
	}
	var refused atomic.Int64
	f := newFirewall(t, Config{Policy: policy, OnDecision: func(Event) { refused.Add(1) }})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 500 {
				get(f, request("GET", "/", "192.0.2.1:1"))
				f.DecideConn(parseAddrPort("192.0.2.1:1"), parseAddrPort("192.0.2.80:80"))
				f.Counters()
			}
		})
	}
	p := prefixes("192.0.2.0/24")[0]
	for range 100 {
		if err := set.Insert(p); err != nil {
			t.Error(err)
		}
		if err := f.Update(policy); err != nil {
			t.Error(err)
		}
		set.Remove(p)
		if err := f.Ban(p, 1, ""); err != nil {
			t.Error(err)
		}
		f.Bans()
		f.Unban(p)
	}
	wg.Wait()
	if c := f.Counters(); c.Generation != 101 || c.Default.Requests+uint64(refused.Load()) != 1000 {
		t.Errorf("counters %+v and %d refusals, want 1000 requests", c, refused.Load())
	}
}

var _ net.Listener = (*listener)(nil)
