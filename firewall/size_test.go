package firewall

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestSizeLimits(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept, Sizes: []SizeLimit{
		{ID: "all", Body: 1000, Header: 300, Fields: 5, URL: 50},
		{ID: "small", Body: 10, Match: PathPrefix("/small")},
		{ID: "shadow", Body: 1, Mode: Monitor, Match: PathPrefix("/shadow")},
	}}})
	for name, c := range map[string]struct {
		change func(*http.Request)
		status int
		id     string
	}{
		"fits":          {func(r *http.Request) { r.ContentLength = 1000 }, 200, ""},
		"body":          {func(r *http.Request) { r.ContentLength = 1001 }, 413, "all"},
		"small body":    {func(r *http.Request) { r.ContentLength, r.URL.Path = 11, "/small/x" }, 413, "small"},
		"dodged path":   {func(r *http.Request) { r.ContentLength, r.URL.Path = 11, "/a/../small" }, 413, "small"},
		"header":        {func(r *http.Request) { r.Header.Set("X", strings.Repeat("x", 300)) }, 431, "all"},
		"fields":        {func(r *http.Request) { r.Header["X"] = make([]string, 6) }, 431, "all"},
		"url":           {func(r *http.Request) { r.URL.RawQuery = strings.Repeat("x", 50) }, 414, "all"},
		"monitor":       {func(r *http.Request) { r.ContentLength, r.URL.Path = 2, "/shadow" }, 200, ""},
		"head has none": {func(r *http.Request) { r.Method, r.ContentLength = "HEAD", 2000 }, 413, "all"},
	} {
		r := request("POST", "/", "192.0.2.1:1")
		r.Body = io.NopCloser(strings.NewReader(""))
		c.change(r)
		d := f.DecideRequest(r)
		w := get(f, r)
		if w.Code != c.status || d.SizeID != c.id || (c.id != "") != (d.Reason == BySize) || c.id != "" && d.Status != c.status {
			t.Errorf("%s: status %d, decision %+v, want %d by %q", name, w.Code, d, c.status, c.id)
		}
		if c.status == 413 && w.Header().Get("Connection") != "close" {
			t.Errorf("%s: the connection stays", name)
		}
		if w.Code != 200 && r.Method != "HEAD" && w.Body.Len() == 0 {
			t.Errorf("%s: no body", name)
		}
	}
	c := f.Counters()
	if len(c.Sizes) != 3 || c.Sizes[0].Requests != 5 || c.Sizes[1].Requests != 2 || c.Sizes[2].Requests != 1 {
		t.Errorf("counters %+v", c.Sizes)
	}
	if e := f.ExplainRequest(request("GET", "/small", "192.0.2.1:1")).String(); !strings.Contains(e, "size small: within") {
		t.Errorf("explained as %s", e)
	}
}

// TestBodyOfUnknownLength posts chunks to a real server whose handler does
// different things with them.
func TestBodyOfUnknownLength(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept, Sizes: []SizeLimit{{ID: "all", Body: 100_000}}}})
	handlers := map[string]http.HandlerFunc{
		"/error": func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				if _, ok := errors.AsType[*http.MaxBytesError](err); !ok || n != 100_000 {
					t.Errorf("read %d bytes, %v, want 100000 and a MaxBytesError", n, err)
				}
				if _, again := r.Body.Read(make([]byte, 1)); again == nil {
					t.Error("reading goes on after the error")
				}
				http.Error(w, "bad gateway", http.StatusBadGateway)
				return
			}
			fmt.Fprint(w, n)
		},
		"/silent": func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) },
		"/begun": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			w.(http.Flusher).Flush()
			io.Copy(io.Discard, r.Body)
		},
		"/copy": func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.(io.ReaderFrom).ReadFrom(strings.NewReader("copied"))
		},
		"/early": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusTeapot)
		},
	}
	server := httptest.NewServer(f.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handlers[r.URL.Path](w, r) })))
	defer server.Close()
	for path, want := range map[string][2]int{"/error": {200, 413}, "/silent": {200, 413}, "/begun": {202, 202}, "/copy": {200, 413}, "/early": {418, 413}} {
		for i, size := range []int{100_000, 100_001} {
			res, err := http.Post(server.URL+path, "text/plain", struct{ io.Reader }{strings.NewReader(strings.Repeat("x", size))})
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != want[i] {
				t.Errorf("%s with %d bytes: status %d, %q, want %d", path, size, res.StatusCode, body, want[i])
			}
			if res.StatusCode == 413 && (string(body) != "Request Entity Too Large\n" || !res.Close) {
				t.Errorf("%s: body %q, close %v", path, body, res.Close)
			}
		}
	}
}

// hijackable is a writer that can be taken over.
type hijackable struct{ http.ResponseWriter }

func (hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, io.ErrClosedPipe }

func TestBoundedWriterKeepsAbilities(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept, Sizes: []SizeLimit{{ID: "all", Body: 10}}}})
	r := request("POST", "/", "192.0.2.1:1")
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), -1
	within := hijackable{httptest.NewRecorder()}
	f.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if w.(interface{ Unwrap() http.ResponseWriter }).Unwrap() != http.ResponseWriter(within) {
			t.Error("Unwrap is another writer")
		}
		if _, _, err := w.(http.Hijacker).Hijack(); err != io.ErrClosedPipe {
			t.Errorf("Hijack: %v", err)
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Errorf("Flush: %v", err)
		}
	})).ServeHTTP(within, r)
	r.ContentLength = 1
	f.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if w != http.ResponseWriter(within) {
			t.Errorf("a body of known length gets a %T", w)
		}
	})).ServeHTTP(within, r)
}

func TestSizeMistakes(t *testing.T) {
	for want, s := range map[string]SizeLimit{
		"no ID": {Body: 1}, "no bound": {ID: "x"}, "want 0 or more": {ID: "x", Body: -1}, "Mode(3)": {ID: "x", Body: 1, Mode: 3},
		"no set": {ID: "x", Body: 1, Match: SourceSet("s")},
	} {
		if _, err := New(Config{Policy: Policy{Sizes: []SizeLimit{s}}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", s, err, want)
		}
	}
}

func TestCrossOrigin(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept, Rules: []Rule{
		{ID: "csrf", Verdict: Reject, Match: All(CrossOrigin("https://partner.example"), Not(Path("/hook")))},
	}}})
	for _, c := range []struct {
		method, path, site, origin string
		want                       int
	}{
		{"POST", "/", "cross-site", "https://evil.example", 403},
		{"POST", "/", "same-site", "https://other.example.com", 403},
		{"POST", "/", "same-origin", "", 200},
		{"POST", "/", "none", "", 200},
		{"POST", "/", "", "", 200}, // no browser
		{"POST", "/", "", "http://evil.example", 403},
		{"POST", "/", "cross-site", "https://partner.example", 200},
		{"GET", "/", "cross-site", "https://evil.example", 200},
		{"POST", "/hook", "cross-site", "https://evil.example", 200},
	} {
		r := request(c.method, "http://example.com"+c.path, "192.0.2.1:1")
		if c.site != "" {
			r.Header.Set("Sec-Fetch-Site", c.site)
		}
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		if w := get(f, r); w.Code != c.want {
			t.Errorf("%+v: status %d", c, w.Code)
		}
	}
	if _, err := New(Config{Policy: Policy{Rules: []Rule{{ID: "x", Match: CrossOrigin("partner")}}}}); err == nil {
		t.Error("an origin without a scheme was taken")
	}
}
