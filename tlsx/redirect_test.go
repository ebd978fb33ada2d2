package tlsx

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

// TestRedirectHTTPS sends requests as bytes: what matters is what net/http makes
// of their targets.
func TestRedirectHTTPS(t *testing.T) {
	for _, c := range []struct {
		port         int
		target, host string
		want         string // "" is 400
	}{
		{0, "/", "example.com", "https://example.com/"},
		{443, "/a/b?c=d&e", "example.com:80", "https://example.com/a/b?c=d&e"},
		{8443, "/", "example.com:8080", "https://example.com:8443/"},
		{0, "/", "Example.COM.", "https://example.com/"},
		{0, "/", "192.0.2.1:80", "https://192.0.2.1/"},
		{0, "/", "[2001:DB8::1]:80", "https://[2001:db8::1]/"},
		{8443, "/", "[2001:db8::1]", "https://[2001:db8::1]:8443/"},
		{0, "/a%2Fb/%20", "example.com", "https://example.com/a%2Fb/%20"},
		{0, "//evil.test/x", "example.com", "https://example.com//evil.test/x"},
		{0, "/\\evil.test", "example.com", "https://example.com/%5Cevil.test"},
		// In absolute form the target's host counts (RFC 9112, section 3.2.2),
		// which net/http puts into Host; user names do not survive.
		{0, "http://example.com/x?y", "other.test", "https://example.com/x?y"},
		{0, "http://user:pw@example.com/x", "other.test", "https://example.com/x"},
		{0, "http:evil.test/x", "example.com", "https://example.com"},
		{0, "/", "", ""},
		{0, "/", "exa mple.com", ""},
		{0, "/", "user@example.com", ""},
		{0, "/", "example.com/evil", ""},
		{0, "/", "example.com:port", ""},
		{0, "/", "[::1", ""},
		{0, "/", "a\"b", ""},
	} {
		ln := memnet.Listen("192.0.2.1:80")
		srv := &http.Server{Handler: RedirectHTTPS(c.port)}
		go srv.Serve(ln)
		conn, err := ln.DialContext(t.Context(), "tcp", "")
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "POST "+c.target+" HTTP/1.1\r\nHost: "+c.host+"\r\nContent-Length: 0\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s at %s: %v", c.target, c.host, err)
		}
		status := 308
		if c.want == "" {
			status = 400
		}
		if got := res.Header.Get("Location"); got != c.want || res.StatusCode != status {
			t.Errorf("%s at %q: %d to %q, want %d to %q", c.target, c.host, res.StatusCode, got, status, c.want)
		}
		if c.want != "" && !res.Close {
			t.Errorf("%s at %q: the connection stays open", c.target, c.host)
		}
		conn.Close()
		srv.Close()
	}
}

func TestHSTS(t *testing.T) {
	for _, c := range []struct {
		h    HSTS
		want string
	}{
		{HSTS{}, "max-age=31536000"},
		{HSTS{MaxAge: time.Hour + time.Millisecond, IncludeSubdomains: true}, "max-age=3600; includeSubDomains"},
		{HSTS{IncludeSubdomains: true, Preload: true}, "max-age=31536000; includeSubDomains; preload"},
		{HSTS{MaxAge: -1}, "max-age=0"},
		{HSTS{MaxAge: -time.Hour}, "max-age=0"},
		{HSTS{Preload: true}, "max-age=31536000; preload"}, // what the lists want is the caller's business
	} {
		h := c.h.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
		for _, secure := range []bool{true, false} {
			r, w := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), httptest.NewRecorder()
			want := ""
			if secure {
				r.TLS, want = new(tls.ConnectionState), c.want
			}
			h.ServeHTTP(w, r)
			if got := w.Header().Get("Strict-Transport-Security"); got != want || w.Code != 204 {
				t.Errorf("%+v, TLS %v: %q, want %q", c.h, secure, got, want)
			}
		}
	}
}
