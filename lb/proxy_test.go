package lb

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestNewProxyNamesEveryMistake(t *testing.T) {
	_, err := NewProxy(ProxyConfig{
		Retries: 17, RetryBody: -1, RetryStatus: []int{200}, MaxRequestBody: -1, MaxResponseBody: -1, Timeout: -1,
		Hedge: &Hedge{Quantile: 1}, Mirror: &Mirror{Share: 2, MaxBody: -1, MaxInFlight: -1, Timeout: -1}, Upgrade: []string{"web socket"},
		TrustedProxies: []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.0/104")},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"Pool is nil", "Retries is 17", "RetryBody is -1", "RetryStatus[0] is 200", "MaxRequestBody is -1", "MaxResponseBody is -1",
		"Hedge.Quantile is 1", "Mirror.Pool is nil", "Mirror.Share is 2", "Mirror.MaxBody is -1", "Mirror.MaxInFlight is -1", "Mirror.Timeout is -1ns", "Timeout is -1ns", `Upgrade[0] is "web socket"`, "TrustedProxies[0]", "TrustedProxies[1]"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

// TestRequestAsTheBackendSeesIt compares whole requests, so that nothing that
// nobody thought of is added either.
func TestRequestAsTheBackendSeesIt(t *testing.T) {
	var head string
	backend := rawBackend(t, func(c *conn) {
		for {
			h, ok := c.reqHead()
			if !ok {
				return
			}
			head = h
			c.send("HTTP/1.1 204 No Content\n\n")
		}
	})
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, backend)
	forwarded := "Forwarded: for=127.0.0.1;host=example.com;proto=http\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Host: example.com\nX-Forwarded-Proto: http\n"
	for _, c := range []struct{ name, request, want string }{
		{"plain", "GET /a//b/../c?x=1;y=2&z HTTP/1.1\nHost: example.com\n", "GET /a//b/../c?x=1;y=2&z HTTP/1.1\nHost: example.com\n" + forwarded},
		{"escapes", "GET /a%2Fb%20c?%zz HTTP/1.1\nHost: example.com\n", "GET /a%2Fb%20c?%zz HTTP/1.1\nHost: example.com\n" + forwarded},
		{"absolute form", "GET http://example.com/x? HTTP/1.1\nHost: other\n", "GET /x? HTTP/1.1\nHost: example.com\n" + forwarded},
		{"options in absolute form", "OPTIONS http://example.com HTTP/1.1\nHost: example.com\n", "OPTIONS * HTTP/1.1\nHost: example.com\n" + forwarded},
		{"user agent and encoding", "GET / HTTP/1.1\nHost: example.com\nUser-Agent: u\nAccept-Encoding: br\n", "GET / HTTP/1.1\nHost: example.com\nUser-Agent: u\nAccept-Encoding: br\n" + forwarded},
		{"hop by hop", "GET / HTTP/1.1\nHost: example.com\nConnection: close, X-Mine ,Keep-Alive\nX-Mine: 1\nKeep-Alive: 5\nTE: gzip\nProxy: evil\n" +
			"Proxy-Authorization: p\nProxy-Connection: x\nTrailer: T\nHTTP2-Settings: s\nUpgrade: h2c\nX-Stays: 1\n",
			"GET / HTTP/1.1\nHost: example.com\n" + forwarded + "X-Stays: 1\n"},
		{"trailers are understood", "GET / HTTP/1.1\nHost: example.com\nTE: trailers, deflate;q=0.5\nConnection: TE\n",
			"GET / HTTP/1.1\nHost: example.com\nConnection: TE\nTe: trailers\n" + forwarded},
		{"a client cannot remove what the proxy sets", "GET / HTTP/1.1\nHost: example.com\nConnection: X-Forwarded-For, Forwarded, X-Forwarded-Proto\n",
			"GET / HTTP/1.1\nHost: example.com\n" + forwarded},
		{"claims", "GET / HTTP/1.1\nHost: example.com\nForwarded: for=6.6.6.6\nX-Forwarded-For: 6.6.6.6\nX_forwarded_for: 6.6.6.6\nx-forwarded-PORT: 1\nX-Real-IP: 6.6.6.6\n" +
			"Client-Cert: c\nCLIENT_CERT: c\nclient-cert_chain: c\nX-Forwarded-Client-Cert: c\nX_Forwarded-Client_Cert: c\nTransfer_Encoding: chunked\nContent_Length: 5\nX_Other: 1\n",
			"GET / HTTP/1.1\nHost: example.com\n" + forwarded + "X_other: 1\n"},
		{"max-forwards", "TRACE / HTTP/1.1\nHost: example.com\nMax-Forwards: 3\n", "TRACE / HTTP/1.1\nHost: example.com\nMax-Forwards: 2\n" + forwarded},
		{"max-forwards means nothing to others", "GET / HTTP/1.1\nHost: example.com\nMax-Forwards: 0\n", "GET / HTTP/1.1\nHost: example.com\nMax-Forwards: 0\n" + forwarded},
		{"a post without a body", "POST / HTTP/1.1\nHost: example.com\nContent-Length: 0\n", "POST / HTTP/1.1\nHost: example.com\nContent-Length: 0\n" + forwarded},
		{"http/1.0", "GET / HTTP/1.0\nHost: example.com\nExpect: 100-continue\n", "GET / HTTP/1.1\nHost: example.com\n" + forwarded},
	} {
		client := dialRaw(t, r.addr)
		client.send(c.request + "\n")
		res, _ := client.response("GET")
		if res.StatusCode != 204 {
			t.Errorf("%s: status %d", c.name, res.StatusCode)
		}
		r.event()
		if got, want := sortedFields(head), sortedFields(c.want); got != want {
			t.Errorf("%s: the backend sees\n%s\nwant\n%s", c.name, got, want)
		}
	}
}

// sortedFields leaves the first two lines and sorts the others.
func sortedFields(head string) string {
	lines := strings.Split(strings.TrimSpace(head), "\n")
	slices.Sort(lines[min(2, len(lines)):])
	return strings.Join(lines, "\n")
}

func TestAnsweredByTheProxy(t *testing.T) {
	backend := new(seen)
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, backend)
	for _, c := range []struct {
		request string
		status  int
	}{
		{"CONNECT example.com:443 HTTP/1.1\nHost: example.com:443\n\n", 501},
		{"TRACE / HTTP/1.1\nHost: h\nMax-Forwards: 0\n\n", 501},
		{"OPTIONS / HTTP/1.1\nHost: h\nMax-Forwards: 0\n\n", 200},
		{"GET * HTTP/1.1\nHost: h\n\n", 400},
		{"GET http:evil HTTP/1.1\nHost: h\n\n", 400},
		{"GET /a#b HTTP/1.1\nHost: h\n\n", 400},
		{"GET /?a#b HTTP/1.1\nHost: h\n\n", 400},
		{"GET / HTTP/1.1\nHost: h\nExpect: 100-continue, x\n\n", 417},
	} {
		client := dialRaw(t, r.addr)
		client.send(c.request)
		if res, _ := client.response("GET"); res.StatusCode != c.status {
			t.Errorf("%q: status %d, want %d", c.request, res.StatusCode, c.status)
		}
		if e := r.event(); e.Status != c.status || e.Backend != "" || e.Attempts != 0 {
			t.Errorf("%q: event %+v", c.request, e)
		}
	}
	if backend.request() != nil {
		t.Errorf("the backend got %s", backend.request().RequestURI)
	}
}

func TestTrustedProxy(t *testing.T) {
	backend := new(seen)
	r := newRig(t, PoolConfig{}, ProxyConfig{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, nil, backend)
	client := dialRaw(t, r.addr)
	client.send("GET / HTTP/1.1\nHost: inner\nX-Forwarded-For: 203.0.113.9\nX-Forwarded-For: 10.0.0.1\nX-Forwarded-Proto: https\nX-Forwarded-Host: outer\n" +
		"X-Forwarded-Port: 443\nForwarded: for=203.0.113.9;proto=https\nX_Forwarded_For: 6.6.6.6\nClient-Cert: c\n\n")
	client.response("GET")
	got := backend.request().Header
	want := http.Header{
		"X-Forwarded-For":   {"203.0.113.9, 10.0.0.1, 127.0.0.1"},
		"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"outer"}, "X-Forwarded-Port": {"443"},
		"Forwarded": {"for=203.0.113.9;proto=https, for=127.0.0.1;host=inner;proto=http"},
	}
	if !maps.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("the backend sees %v\nwant %v", got, want)
	}
}

func TestResponseAsTheClientSeesIt(t *testing.T) {
	backend := rawBackend(t, func(c *conn) {
		c.reqHead()
		c.send("HTTP/1.1 203 Other\nDate: Thu, 01 Jan 1970 00:00:00 GMT\nConnection: keep-alive, X-Hop\nX-Hop: 1\nKeep-Alive: 5\nProxy-Authenticate: Basic\n" +
			"Proxy-Status: kept\nUpgrade: h2c\nBad Name: x\nContent-Length: 5\nSet-Cookie: a=1\nSet-Cookie: b=2\n\n<p>hi")
	})
	r := newRig(t, PoolConfig{}, ProxyConfig{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Strict-Transport-Security", "max-age=1")
			w.Header().Set("Date", "now")
			next.ServeHTTP(w, r)
		})
	}, backend)
	client := dialRaw(t, r.addr)
	client.send("GET / HTTP/1.1\nHost: h\n\n")
	want := "HTTP/1.1 203 Non-Authoritative Information\nContent-Length: 5\nDate: Thu, 01 Jan 1970 00:00:00 GMT\nProxy-Status: kept\n" +
		"Set-Cookie: a=1\nSet-Cookie: b=2\nStrict-Transport-Security: max-age=1\n"
	// The order of the fields is the front's affair, but for those of a name.
	head := client.head()
	status, fields, _ := strings.Cut(head, "\n")
	lines := slices.Sorted(strings.Lines(fields))
	if got := status + "\n" + strings.Join(lines, ""); got != want || strings.Index(head, "a=1") > strings.Index(head, "b=2") {
		t.Errorf("the client sees\n%s\nwant\n%s", head, want)
	}
	if e := r.event(); e.Status != 203 || e.Backend != "b0" || e.Attempts != 1 || e.Err != nil || e.ResponseBytes != 5 || e.Upgraded || e.Duration <= 0 {
		t.Errorf("event %+v", e)
	}
}

func TestHeadKeepsTheLength(t *testing.T) {
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "12345")
		w.Header().Set("Etag", `"e"`)
		if r.URL.Path == "/304" {
			w.Header().Del("Content-Length")
			w.WriteHeader(304)
		}
	}))
	client := dialRaw(t, r.addr)
	client.send("HEAD / HTTP/1.1\nHost: h\n\n")
	if res, _ := client.response("HEAD"); res.ContentLength != 12345 {
		t.Errorf("length %d, want 12345", res.ContentLength)
	}
	client.send("GET /304 HTTP/1.1\nHost: h\n\n") // on the same connection, which must be in order
	if res, _ := client.response("GET"); res.StatusCode != 304 || res.Header.Get("Etag") != `"e"` {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
}

func TestRewriteAndModifyResponse(t *testing.T) {
	backend := new(seen)
	fail := errors.New("not this one")
	r := newRig(t, PoolConfig{}, ProxyConfig{
		Rewrite: func(pr *httputil.ProxyRequest) {
			if pr.In.Header.Get("Client-Cert") == "" || pr.Out.Header.Get("Client-Cert") != "" || pr.Out.Header.Get("X-Forwarded-For") == "" {
				t.Errorf("Rewrite sees In %v, Out %v", pr.In.Header, pr.Out.Header)
			}
			pr.Out.Header.Set("Client-Cert", ":dmVyaWZpZWQ=:")
			pr.Out.URL.Path = "/rewritten"
			pr.Out.Host = "new.test"
		},
		ModifyResponse: func(res *http.Response) error {
			if res.Request.URL.Path != "/rewritten" {
				t.Errorf("ModifyResponse sees the request for %s", res.Request.URL)
			}
			res.Header.Set("X-Modified", "1")
			if res.Request.Header.Get("X-Fail") != "" {
				return fail
			}
			return nil
		},
	}, nil, backend)
	client := dialRaw(t, r.addr)
	client.send("GET /old HTTP/1.1\nHost: h\nClient-Cert: forged\nConnection: Client-Cert\n\n")
	if res, _ := client.response("GET"); res.StatusCode != 200 || res.Header.Get("X-Modified") != "1" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	if got := backend.request(); got.URL.Path != "/rewritten" || got.Host != "new.test" || got.Header.Get("Client-Cert") != ":dmVyaWZpZWQ=:" {
		t.Errorf("the backend sees %s of %s, %v", got.URL, got.Host, got.Header)
	}
	r.event()
	client.send("GET /old HTTP/1.1\nHost: h\nClient-Cert: forged\nX-Fail: 1\n\n")
	if res, _ := client.response("GET"); res.StatusCode != 502 || res.Header.Get("X-Modified") != "" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	if e := r.event(); !errors.Is(e.Err, fail) || r.pool.Status()[0].Failures != 0 {
		t.Errorf("event %+v, status %+v: want the hook's error and no failure of the backend", e, r.pool.Status()[0])
	}
}

func TestPanicInAHookReleasesTheBackend(t *testing.T) {
	for _, conf := range []ProxyConfig{
		{Rewrite: func(*httputil.ProxyRequest) { panic("hook") }},
		{ModifyResponse: func(*http.Response) error { panic("hook") }},
	} {
		r := newRig(t, PoolConfig{}, conf, nil, new(seen))
		if res, err := r.server.Client().Get(r.server.URL); err == nil {
			t.Errorf("answered %d", res.StatusCode)
		}
		if e := r.event(); e.Status != 0 {
			t.Errorf("event %+v", e)
		}
		if n := r.pool.Status()[0].InFlight; n != 0 {
			t.Errorf("%d in flight at the end", n)
		}
	}
}

func TestErrorHandler(t *testing.T) {
	var got *Error
	r := newRig(t, PoolConfig{}, ProxyConfig{ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
		got, _ = errors.AsType[*Error](err)
		w.WriteHeader(http.StatusTeapot)
		http.NewResponseController(w).Flush()
		w.(io.ReaderFrom).ReadFrom(strings.NewReader("sorry"))
	}}, nil)
	client := dialRaw(t, r.addr)
	client.send("GET / HTTP/1.1\nHost: h\n\n")
	res, body := client.response("GET")
	if res.StatusCode != 418 || body != "sorry" || res.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %q %v", res.StatusCode, body, res.Header)
	}
	if got == nil || got.Status != 503 || !errors.Is(got, ErrNoBackend) {
		t.Errorf("the handler got %v", got)
	}
	if e := r.event(); e.Status != 418 || !errors.Is(e.Err, ErrNoBackend) {
		t.Errorf("event %+v", e)
	}
}

// A Proxy is a handler like others: it needs no server.
func TestUnderARecorder(t *testing.T) {
	backend := httptest.NewServer(new(seen))
	defer backend.Close()
	pool := poolOf(t, PoolConfig{Backends: []BackendConfig{{URL: backend.URL}}}, 0)
	p, err := NewProxy(ProxyConfig{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest("POST", "/", strings.NewReader("body")))
	if w.Code != 200 || w.Body.String() != "ok" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}
