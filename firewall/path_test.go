package firewall

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
)

// spellings are ways to write /-/snapshot for one server or another.
var spellings = []string{
	"/-/snapshot", "/-", "/-/", "//-/snapshot", "///-///snapshot", "/./-/snapshot", "/x/../-/snapshot",
	"/-/./snapshot", "/%2d/snapshot", "/%2D/snapshot", "/-%2fsnapshot", "/-%2Fsnapshot", "%2f-%2fsnapshot",
	"/x/%2e%2e/-/snapshot", "/x/.%2e/-/snapshot", "/x/%2E./-/snapshot", "/%2e/-/snapshot", "/x%2f..%2f-/snapshot",
	"/%252d/snapshot", "/-%252fsnapshot", "/x/%252e%252e/-/snapshot", "/%25252d/snapshot", "/%25%32%64/snapshot",
	`/\-/snapshot`, `/-\snapshot`, `\-\snapshot`, `/x\..\-\snapshot`, "/-%5csnapshot", "/%5c-%5csnapshot", "/-%255csnapshot",
	"/x/..;/-/snapshot", "/-;a=b/snapshot", "/x/..;a/-;b/snapshot", "/;/-/snapshot", "/x/..%3b/-/snapshot", "/-%3bx/snapshot",
	"/-?/snapshot", "/-%3f", "/-%23x", "/-/%3fx", "/-/snapshot#x",
	"/../-/snapshot", "/../../-/snapshot", "/x//../-/snapshot", "/x//..//..//-/snapshot", "/x/y/../../-/snapshot",
	"/%2d/%252e%252e/../snapshot", // normalised first, decoded again behind
	"/-/..%00/x", "/%00-/snapshot", "/-%00", "/x/..%0d/-/snapshot", "/%c0%af-/snapshot", "/x/%c0%ae%c0%ae/-/",
	"/x%2fy/../-/snapshot", // for whom an encoded slash is none
	"/x/../%2d;a//snapshot", "http://example.com/-/snapshot", "http://example.com//%2d/snapshot",
	"/" + "%" + strings.Repeat("25", 40) + "2d/snapshot", "/" + strings.Repeat("x/../", 600) + "-/snapshot",
}

func TestNoSpellingDodgesAPathRule(t *testing.T) {
	deny := newFirewall(t, Config{Policy: Policy{
		Rules:   []Rule{{ID: "inner", Match: PathPrefix("/-/"), Verdict: Reject}},
		Default: Accept,
	}})
	// The same the other way round: whoever accepts all but the inside.
	accept := newFirewall(t, Config{Policy: Policy{
		Rules: []Rule{{ID: "outer", Match: Not(PathPrefix("/-/")), Verdict: Accept}},
	}})
	for _, target := range spellings {
		r := request("GET", "/", "192.0.2.1:1")
		u, err := url.ParseRequestURI(target)
		if err != nil {
			u = &url.URL{Path: target} // a front end that is less strict
		}
		r.URL = u
		if d := deny.DecideRequest(r); d.Verdict != Reject || d.RuleID != "inner" {
			t.Errorf("%.60s: %v by rule %q, want reject by inner", target, d.Verdict, d.RuleID)
		}
		if d := accept.DecideRequest(r); d.Verdict != Drop {
			t.Errorf("%.60s: %v by rule %q, want drop", target, d.Verdict, d.RuleID)
		}
		if w := get(deny, r); w.Code != http.StatusForbidden {
			t.Errorf("%.60s: status %d, want 403", target, w.Code)
		}
	}
	for _, target := range []string{
		"/", "/-x", "/--/", "/x/-/snapshot", "/a%20b", "/a%2fb", "/%2fx", "/caf%c3%a9", "/caf%e9", "/a/../b", "/.well-known/acme-challenge/x",
		"/x;a=b", "/?p=/-/", "/x?a=%2f-%2f", "/100%25", "/a..b/", "/x/%2e", "*",
	} {
		r := request("OPTIONS", target, "192.0.2.1:1")
		for name, f := range map[string]*Firewall{"deny": deny, "accept": accept} {
			if d := f.DecideRequest(r); d.Verdict != Accept {
				t.Errorf("%s by policy %s: %v by rule %q, want accept", target, name, d.Verdict, d.RuleID)
			}
		}
	}
}

func TestPathMatch(t *testing.T) {
	for _, c := range []struct {
		match  Match
		target string
		want   truth
	}{
		{Path("/a"), "/a", yes},
		{Path("/a"), "/a/", unknown},
		{Path("/a/"), "/a", unknown},
		{Path("/a"), "/A", unknown},
		{Path("/a"), "/a/b", no},
		{Path("/a"), "/ab", no},
		{Path("/a"), "/%61", yes},
		{Path("/a"), "//a", unknown},
		{Path("/a b"), "/a%20b", yes},
		{Path("/é"), "/%c3%a9", yes},
		{Path("/é"), "/%c3%89", unknown},
		{Path("/"), "/", yes},
		{Path("/"), "http://example.com", yes},
		{PathPrefix("/a/"), "/a", yes},
		{PathPrefix("/a"), "/a", yes},
		{PathPrefix("/a"), "/a/", yes},
		{PathPrefix("/a/"), "/a/b", yes},
		{PathPrefix("/a/"), "/ab", no},
		{PathPrefix("/a/"), "/A/b", unknown},
		{PathPrefix("/a/b"), "/a/B/c", unknown},
		{PathPrefix("/a/b"), "/a/Bc", no},
		{PathPrefix("/a/b"), "/A", no},
		{PathPrefix("/a/k"), "/a/\u212a/x", unknown}, // the Kelvin sign folds to k
		{PathPrefix("/a/"), "/a/../b", unknown},
		{PathPrefix("/a/"), "/b/../a/x", unknown},
		{PathPrefix("/a/"), "/a/b/../c", yes},
		{PathPrefix("/a/"), "/a/b%2fc", yes},
		{PathPrefix("/a/"), "/a/%00", unknown},
		{PathPrefix("/"), "/a/%00", yes},
		{PathPrefix("/.well-known/"), "/.well-known/x", yes},
	} {
		u, err := url.ParseRequestURI(c.target)
		if err != nil {
			t.Fatal(err)
		}
		f := facts{request: &http.Request{Method: "GET", URL: u}}
		if got := c.match.n.eval(&f); got != c.want {
			t.Errorf("%v %q with %s: %d, want %d", c.match.n.op, c.match.n.words, c.target, got, c.want)
		}
	}
}

func TestPathPatternsAreChecked(t *testing.T) {
	for _, p := range []string{"", "a", "a/", "//", "/a//", "/a//b", "/a/../b", "/./a", "/a/..", "/a%20b", `/a\b`, "/a;b", "/a?b", "/a#b", "/a\x00", "/\xc0\xaf"} {
		for _, m := range []Match{Path(p), PathPrefix(p)} {
			if len(m.n.errs) == 0 {
				t.Errorf("pattern %q was taken", p)
			}
		}
	}
	for _, p := range []string{"/", "/a", "/a/", "/.well-known/", "/a b", "/-/", "/é"} {
		for _, m := range []Match{Path(p), PathPrefix(p)} {
			if len(m.n.errs) != 0 {
				t.Errorf("pattern %q: %v", p, m.n.errs)
			}
		}
	}
}

// TestReadingsAreBounded sends what would have many readings.
func TestReadingsAreBounded(t *testing.T) {
	hostile := "/" + strings.Repeat(`%252e%252e/%5c..;a//./%3f%2523`, 60)
	u, err := url.ParseRequestURI(hostile)
	if err != nil {
		t.Fatal(err)
	}
	v := viewsOf(u)
	if !v.opaque || len(v.paths) > maxViews {
		t.Errorf("opaque %v with %d readings, want opaque and at most %d", v.opaque, len(v.paths), maxViews)
	}
	long := "/" + strings.Repeat("a", 100_000)
	if v := viewsOf(&url.URL{Path: long}); v.opaque || v.plain != long {
		t.Errorf("a long path without anything odd: opaque %v, %d readings", v.opaque, len(v.paths))
	}
}

// FuzzPath compares with servers as they are: whatever one of them takes for a
// path below /-/ must not be told apart from it with certainty.
func FuzzPath(f *testing.F) {
	for _, s := range spellings {
		f.Add(s)
	}
	inner := PathPrefix("/-/")
	mux := http.NewServeMux()
	mux.HandleFunc("/-/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		r := &http.Request{Method: "GET", URL: u, Host: "example.com", RequestURI: target}
		seen := facts{request: r}
		got := inner.n.eval(&seen)
		// Go's own ServeMux, which redirects to the clean path.
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if got == no && (w.Code == http.StatusTeapot || strings.HasPrefix(w.Header().Get("Location"), "/-/")) {
			t.Errorf("%q: ServeMux answers %d %q, the rule does not match", target, w.Code, w.Header().Get("Location"))
		}
		for name, read := range servers {
			p := read(target, u)
			below := p == "/-" || strings.HasPrefix(p, "/-/")
			if got == no && below {
				t.Errorf("%q: a server of the kind %s reads %q, the rule does not match", target, name, p)
			}
			if got == yes && !below {
				t.Errorf("%q: a server of the kind %s reads %q, the rule matches with certainty", target, name, p)
			}
		}
		if slices.Contains(seen.pathViews().paths, "") && !seen.pathViews().opaque && u.Path != "" && u.Path[0] == '/' {
			t.Errorf("%q has an empty reading", target)
		}
	})
}

// servers are readings of a path as kinds of servers do it, written without the
// functions under test.
var servers = map[string]func(target string, u *url.URL) string{
	"file server": func(_ string, u *url.URL) string { return path.Clean("/" + u.Path) },
	"windows": func(_ string, u *url.URL) string {
		return path.Clean("/" + strings.Map(func(r rune) rune {
			if r == '\\' {
				return '/'
			}
			return r
		}, u.Path))
	},
	"servlet": func(_ string, u *url.URL) string {
		var out []string
		for s := range strings.SplitSeq(u.EscapedPath(), "/") {
			s, _, _ = strings.Cut(s, ";")
			if d, err := url.PathUnescape(s); err == nil {
				s = d
			}
			out = append(out, s)
		}
		return path.Clean("/" + strings.Join(out, "/"))
	},
	"twice": func(_ string, u *url.URL) string {
		p := u.Path
		if d, err := url.PathUnescape(p); err == nil {
			p = d
		}
		return path.Clean("/" + p)
	},
}
