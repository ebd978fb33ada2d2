package lb

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// serverRig is a Server on a port of its own.
type serverRig struct {
	*Server
	addr  string
	ended chan error
	log   *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func startServer(t testing.TB, s *Server) *serverRig {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rig := &serverRig{Server: s, addr: ln.Addr().String(), ended: make(chan error, 1), log: new(syncBuffer)}
	if s.ErrorLog == nil {
		s.ErrorLog = slog.New(slog.NewTextHandler(rig.log, nil))
	}
	go func() { rig.ended <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-rig.ended; err != http.ErrServerClosed {
			t.Errorf("Serve returned %v, want ErrServerClosed", err)
		}
	})
	return rig
}

// rawConn talks to a server in bytes.
type rawConn struct {
	net.Conn
	*bufio.Reader
	t testing.TB
}

func (r *serverRig) dial(t testing.TB) *rawConn {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &rawConn{c, bufio.NewReader(c), t}
}

func (c *rawConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

// send writes lines, whose ends become CRLF.
func (c *rawConn) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, strings.ReplaceAll(s, "\n", "\r\n")); err != nil {
		c.t.Fatal(err)
	}
}

// receive reads a response with its body.
func (c *rawConn) receive(method string) (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.Reader, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("body %q: %v", body, err)
	}
	return res, string(body)
}

// closed fails the test if the server does not close the connection now.
func (c *rawConn) closed() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.Reader); err != nil && !isDisconnect(err) || len(rest) > 0 {
		c.t.Errorf("then %q, %v; want the end", rest, err)
	}
}

// TestServerBasics: what http.Server does, byte by byte.
func TestServerBasics(t *testing.T) {
	long := strings.Repeat("x", 5000)
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/long":
			io.WriteString(w, long)
		case "/none":
			w.WriteHeader(204)
		case "/echo":
			body, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %v %v", body, err, r.Trailer)
		case "/trailer":
			w.Header().Set("Trailer", "X-A")
			io.WriteString(w, "b")
			w.Header().Set("X-A", "1")
			w.Header().Set(http.TrailerPrefix+"X-B", "2")
		case "/early":
			w.Header().Set("Link", "</a>")
			w.WriteHeader(103)
			io.WriteString(w, "late")
		case "/file":
			http.ServeContent(w, r, "a.txt", time.Time{}, strings.NewReader(long))
		case "/close":
			w.Header().Set("Connection", "close")
		default:
			fmt.Fprintf(w, "<p>%s %s %s", r.Method, r.RequestURI, r.Host)
		}
	})})
	c := rig.dial(t)
	for _, p := range []struct{ send, want string }{
		{"GET /a HTTP/1.1\nHost: h\n\n", "200 OK 15 [] text/html; charset=utf-8 <p>GET /a h"},
		{"GET http://o/a HTTP/1.1\nHost: h\n\n", "200 OK 24 [] text/html; charset=utf-8 <p>GET http://o/a o"},
		{"GET /long HTTP/1.1\nHost: h\n\n", "200 OK -1 [chunked] text/plain; charset=utf-8 " + long},
		{"HEAD /a HTTP/1.1\nHost: h\n\n", "200 OK 12 [] text/html; charset=utf-8 "},
		{"GET /none HTTP/1.1\nHost: h\n\n", "204 No Content 0 []  "},
		{"POST /echo HTTP/1.1\nHost: h\nContent-Length: 3\n\nabc", "200 OK 15 [] text/plain; charset=utf-8 abc <nil> map[]"},
		{"POST /echo HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n3\nabc\n0\nX-T: v\n\n", "200 OK 23 [] text/plain; charset=utf-8 abc <nil> map[X-T:[v]]"},
		{"POST /unread HTTP/1.1\nHost: h\nContent-Length: 3\n\nabc", "200 OK 21 [] text/html; charset=utf-8 <p>POST /unread h"},
		{"GET /file HTTP/1.1\nHost: h\nRange: bytes=0-9\n\n", "206 Partial Content 10 [] text/plain; charset=utf-8 xxxxxxxxxx"},
		{"GET /a HTTP/1.0\nConnection: keep-alive\n\n", "200 OK 10 [] text/html; charset=utf-8 <p>GET /a "},
	} {
		c.send(p.send)
		method, _, _ := strings.Cut(p.send, " ")
		res, body := c.receive(method)
		got := fmt.Sprint(res.Status, " ", res.ContentLength, " ", res.TransferEncoding, " ", res.Header.Get("Content-Type"), " ", body)
		want := p.want
		if res.ContentLength >= 0 && method != "HEAD" { // the number is the body's
			want = strings.Replace(want, strings.Fields(strings.TrimPrefix(want, res.Status))[0], fmt.Sprint(len(body)), 1)
		}
		if got != want || res.Header.Get("Date") == "" || res.Close {
			t.Errorf("%.30q: %q, close %v\nwant %q", p.send, got, res.Close, want)
		}
	}
	c.send("GET /trailer HTTP/1.1\nHost: h\n\nGET /early HTTP/1.1\nHost: h\n\n")
	if res, _ := c.receive("GET"); res.Trailer.Get("X-A") != "1" || res.Trailer.Get("X-B") != "2" {
		t.Errorf("trailer %v", res.Trailer)
	}
	if res, _ := c.receive("GET"); res.StatusCode != 103 || res.Header.Get("Link") == "" {
		t.Errorf("interim response %+v", res)
	}
	if _, body := c.receive("GET"); body != "late" {
		t.Errorf("body %q", body)
	}
	c.send("POST /echo HTTP/1.1\nHost: h\nContent-Length: 3\nExpect: 100-continue\n\n")
	if res, _ := c.receive("POST"); res.StatusCode != 100 {
		t.Fatalf("status %d, want 100", res.StatusCode)
	}
	c.send("abc")
	if _, body := c.receive("POST"); body != "abc <nil> map[]" {
		t.Errorf("body %q", body)
	}
	c.send("GET /close HTTP/1.1\nHost: h\n\n")
	if res, _ := c.receive("GET"); !res.Close {
		t.Error("the response does not say that the connection closes")
	}
	c.closed()
}

// TestServerRefuses: the status that RFC 9110 has for it, and then nothing more.
func TestServerRefuses(t *testing.T) {
	rig := startServer(t, &Server{MaxHeaderBytes: 8 << 10, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Error("the handler is called")
	})})
	for status, heads := range map[int][]string{
		400: {"GET / HTTP/1.1\n\n", "GET / HTTP/1.1\nHost: a\nHost: b\n\n", "GET / HTTP/1.1\nHost : a\n\n", "GET\n\n", "GET / HTTP/1.1\nHost: h\nContent-Length: +1\n\n",
			"GET / HTTP/1.1\nHost: h\nContent-Length: 1\nTransfer-Encoding: chunked\n\n"},
		417: {"GET / HTTP/1.1\nHost: h\nExpect: wonders\n\n"},
		431: {"GET / HTTP/1.1\nHost: h\nX: " + strings.Repeat("x", 9<<10) + "\n\n"},
		501: {"GET / HTTP/1.1\nHost: h\nTransfer-Encoding: gzip\n\n"},
		505: {"GET / HTTP/2.0\nHost: h\n\n", "GET / HTTP/1.2\nHost: h\n\n"},
	} {
		for _, head := range heads {
			c := rig.dial(t)
			c.send(head + "GET /next HTTP/1.1\nHost: h\n\n")
			if res, _ := c.receive("GET"); res.StatusCode != status || !res.Close {
				t.Errorf("%.60q: status %d, close %v; want %d", head, res.StatusCode, res.Close, status)
			}
			c.closed()
		}
	}
}

// TestServerHTTP2: over TLS by ALPN and without by prior knowledge, the handler
// and the contexts are the same.
func TestServerHTTP2(t *testing.T) {
	type key struct{}
	s := &Server{
		UnencryptedHTTP2: true,
		ConnContext:      func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, key{}, "v") },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, isServer := r.Context().Value(http.ServerContextKey).(*http.Server)
			fmt.Fprint(w, r.Proto, " ", r.TLS != nil, " ", r.Context().Value(key{}), " ", isServer, " ", r.Context().Value(http.LocalAddrContextKey) != nil, " ", r.RemoteAddr != "")
		}),
	}
	rig := startServer(t, s)
	ca := testcert.NewCA(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- s.ServeTLS(ln, &tls.Config{Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{Names: []string{"127.0.0.1"}})}})
	}()
	get := func(url string, protocols func(*http.Protocols)) string {
		t.Helper()
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}, Protocols: new(http.Protocols)}
		protocols(tr.Protocols)
		defer tr.CloseIdleConnections()
		res, err := (&http.Client{Transport: tr}).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return string(body)
	}
	h1 := func(p *http.Protocols) { p.SetHTTP1(true) }
	for _, c := range []struct {
		url, want string
		protocols func(*http.Protocols)
	}{
		{"https://" + ln.Addr().String(), "HTTP/2.0 true v true true true", func(p *http.Protocols) { p.SetHTTP2(true) }},
		{"https://" + ln.Addr().String(), "HTTP/1.1 true v true true true", h1},
		{"http://" + rig.addr, "HTTP/2.0 false v true true true", func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }},
		{"http://" + rig.addr, "HTTP/1.1 false v true true true", h1},
	} {
		if got := get(c.url, c.protocols); got != c.want {
			t.Errorf("%s: %q, want %q", c.url, got, c.want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}
