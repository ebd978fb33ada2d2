package qps

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
	"github.com/palisade-go/palisade/internal/testcert"
)

// eventually waits for the handler, which may end after the client has its
// answer.
func eventually(t *testing.T, m *Meter, done func(Snapshot) bool) Snapshot {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		s := m.Snapshot()
		if done(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("not reached: %+v", s.Routes)
		}
		time.Sleep(time.Millisecond)
	}
}

func ended(n uint64) func(Snapshot) bool {
	return func(s Snapshot) bool {
		var total uint64
		for _, r := range s.Routes {
			total += r.Requests()
		}
		return total == n
	}
}

// TestBytesAreExact sends and receives in every way over real connections.
func TestBytesAreExact(t *testing.T) {
	const size = 1<<20 + 7
	payload := bytes.Repeat([]byte("p"), size)
	text := string(payload)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, payload, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		method string
		serve  http.HandlerFunc
		out    uint64
	}{
		"Write":       {"POST", func(w http.ResponseWriter, _ *http.Request) { w.Write(payload) }, size},
		"WriteString": {"POST", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }, size},
		"Copy":        {"POST", func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, onlyReader{bytes.NewReader(payload)}) }, size},
		"ServeFile":   {"POST", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) }, size},
		"HEAD":        {"HEAD", func(w http.ResponseWriter, r *http.Request) { w.Write(payload[:100]) }, 0},
		"Fprintf":     {"POST", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "%s%s", "ab", "cde") }, 5},
	} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/http2=%v", name, http2), func(t *testing.T) {
				m := newMeter(t, Config{})
				srv := httptest.NewUnstartedServer(m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					c.serve(w, r)
				})))
				srv.EnableHTTP2 = http2
				srv.StartTLS()
				defer srv.Close()
				req, err := http.NewRequest(c.method, srv.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				var in uint64
				if c.method == "POST" {
					req.Body, in = io.NopCloser(strings.NewReader("request body")), 12
				}
				res, err := srv.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				n, err := io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if err != nil || uint64(n) != c.out || (res.ProtoMajor == 2) != http2 {
					t.Fatalf("%s: %d bytes, %v", res.Proto, n, err)
				}
				eventually(t, m, ended(1))
				if got := only(t, m); got.BytesIn != in || got.BytesOut != c.out || got.Counts.Status2xx != 1 {
					t.Errorf("%d bytes in, %d out, %+v; want %d, %d", got.BytesIn, got.BytesOut, got.Counts, in, c.out)
				}
			})
		}
	}
}

type onlyReader struct{ io.Reader }

// readerFromWriter notes what it is asked to read from.
type readerFromWriter struct {
	nullWriter
	src io.Reader
}

func (w *readerFromWriter) ReadFrom(src io.Reader) (int64, error) {
	w.src = src
	return io.Copy(io.Discard, src)
}

// TestReadFromReachesTheConnection: sendfile depends on the file itself, not a
// wrapper, arriving at the writer below.
func TestReadFromReachesTheConnection(t *testing.T) {
	m := newMeter(t, Config{})
	src := onlyReader{strings.NewReader("12345")}
	below := new(readerFromWriter)
	m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, src) })).
		ServeHTTP(below, httptest.NewRequest("GET", "/", nil))
	if below.src != io.Reader(src) {
		t.Errorf("the writer below read from %#v, want the source itself", below.src)
	}
	if got := only(t, m); got.BytesOut != 5 {
		t.Errorf("%d bytes, want 5", got.BytesOut)
	}
}

func TestServerSentEvents(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) {
			m := newMeter(t, Config{})
			srv := httptest.NewUnstartedServer(m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				SetRoute(w, "events")
				rc := http.NewResponseController(w)
				if err := rc.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Errorf("SetWriteDeadline: %v", err)
				}
				if _, ok := w.(http.Flusher); !ok {
					t.Error("no Flusher")
				}
				if _, ok := w.(http.Hijacker); ok == http2 {
					t.Errorf("Hijacker %v with http2 %v", ok, http2)
				}
				io.WriteString(w, "data: 1\n\n")
				if err := rc.Flush(); err != nil {
					t.Errorf("Flush: %v", err)
				}
				<-r.Context().Done()
			})))
			srv.EnableHTTP2 = http2
			srv.StartTLS()
			defer srv.Close()
			res, err := srv.Client().Get(srv.URL)
			if err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(res.Body).ReadString('\n')
			if line != "data: 1\n" || err != nil {
				t.Fatalf("read %q, %v", line, err)
			}
			if s := m.Snapshot(); s.Routes[0].Route != "events" || s.Routes[0].InFlight != 1 {
				t.Errorf("during: %+v", s.Routes)
			}
			res.Body.Close()
			s := eventually(t, m, ended(1))
			if got := s.Routes[0]; got.Counts.Status2xx != 1 || got.InFlight != 0 || got.BytesOut != 9 {
				t.Errorf("after: %+v", got)
			}
		})
	}
}

// TestClientLeaves has a client of a real server go away before the answer.
func TestClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(t, Config{})
		ln := memnet.Listen("192.0.2.1:80")
		srv := &http.Server{Handler: m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			w.WriteHeader(http.StatusBadGateway)
		}))}
		go srv.Serve(ln)
		defer srv.Close()
		c, err := ln.DialContext(t.Context(), "tcp", "")
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		synctest.Wait()
		if got := only(t, m); got.InFlight != 1 {
			t.Errorf("%d in flight, want 1", got.InFlight)
		}
		time.Sleep(3 * time.Second)
		c.Close()
		synctest.Wait()
		time.Sleep(time.Second)
		got := only(t, m)
		if got.Counts != (Counts{Aborted: 1}) || got.InFlight != 0 || got.ErrorRatio(time.Minute) != 0 {
			t.Errorf("%+v, %d in flight, error ratio %v; want one aborted", got.Counts, got.InFlight, got.ErrorRatio(time.Minute))
		}
		if d := got.Duration.Sum(); d != 3*time.Second {
			t.Errorf("took %v, want 3s", d)
		}
	})
}

// upgrade hijacks as WebSocket libraries do, reads a line and answers it.
func upgrade(t *testing.T, useBuffers bool, keep func(net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("Hijack: %v", err)
			return
		}
		if nc, ok := c.(interface{ NetConn() net.Conn }); !ok || nc.NetConn() == nil {
			t.Error("the connection does not expose the one below")
		}
		keep(c)
		var in *bufio.Reader
		var out io.Writer = c
		if useBuffers {
			in, out = rw.Reader, rw.Writer
		} else {
			held, _ := rw.Reader.Peek(rw.Reader.Buffered())
			in = bufio.NewReader(io.MultiReader(bytes.NewReader(bytes.Clone(held)), c))
		}
		io.WriteString(out, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		rw.Flush()
		line, err := in.ReadString('\n')
		if err != nil {
			t.Errorf("read %q, %v", line, err)
		}
		io.WriteString(out, line)
		rw.Flush()
	}
}

// TestHijack: a hijacked connection stays in flight until it is closed, and its
// bytes count, whichever way they go, and whether or not the client was too
// early with some.
func TestHijack(t *testing.T) {
	for _, useBuffers := range []bool{false, true} {
		for _, early := range []string{"", "early "} {
			t.Run(fmt.Sprintf("buffers=%v/early=%q", useBuffers, early), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testHijack(t, useBuffers, early) })
			})
		}
	}
}

func testHijack(t *testing.T, useBuffers bool, early string) {
	m := newMeter(t, Config{})
	var hijacked net.Conn
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", upgrade(t, useBuffers, func(c net.Conn) { hijacked = c }))
	ln := memnet.Listen("192.0.2.1:80")
	srv := &http.Server{Handler: m.Middleware(mux)}
	go srv.Serve(ln)
	defer srv.Close()
	c, err := ln.DialContext(t.Context(), "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"+early)
	synctest.Wait()
	io.WriteString(c, "hello\n")
	in, out := len(early)+6, len("HTTP/1.1 101 Switching Protocols\r\n\r\n")+len(early)+6
	if _, err := io.ReadFull(c, make([]byte, out)); err != nil {
		t.Fatal(err)
	}
	synctest.Wait() // the handler has returned
	s := m.Snapshot()
	if len(s.Routes) != 1 || s.Routes[0].Route != "/ws" || s.Routes[0].InFlight != 1 || s.Routes[0].Requests() != 0 {
		t.Fatalf("while open: %+v", s.Routes)
	}
	time.Sleep(time.Hour)
	for range 2 {
		hijacked.Close()
	}
	got := only(t, m)
	if got.InFlight != 0 || got.Counts != (Counts{Status1xx: 1}) || got.Duration.Sum() != time.Hour {
		t.Errorf("after: %+v, %d in flight, %v", got.Counts, got.InFlight, got.Duration.Sum())
	}
	if got.BytesIn != uint64(in) || got.BytesOut != uint64(out) {
		t.Errorf("%d bytes in, %d out; want %d, %d", got.BytesIn, got.BytesOut, in, out)
	}
}

// TestHijackOverTCP closes the connection within the handler.
func TestHijackOverTCP(t *testing.T) {
	m := newMeter(t, Config{})
	mux := http.NewServeMux()
	mux.HandleFunc("/tcp", func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Errorf("Hijack: %v", err)
			return
		}
		defer c.Close()
		io.Copy(c, strings.NewReader("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"))
		io.Copy(c, onlyReader{strings.NewReader("12345")})
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Errorf("CloseWrite: %v", err)
		}
	})
	srv := httptest.NewServer(m.Middleware(mux))
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL + "/tcp")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	s := eventually(t, m, ended(1))
	if got := s.Routes[0]; string(body) != "12345" || got.Route != "/tcp" || got.BytesOut != 38+5 || got.InFlight != 0 {
		t.Errorf("read %q; %+v", body, got)
	}
}

// TestPanicAfterHijack: the request ends with the panic, and the later Close
// changes nothing.
func TestPanicAfterHijack(t *testing.T) {
	m := newMeter(t, Config{})
	var hijacked net.Conn
	h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hijacked, _, _ = http.NewResponseController(w).Hijack()
		panic("after hijack")
	}))
	func() {
		defer func() { recover() }()
		a, _ := memnet.Pipe()
		h.ServeHTTP(unwrapping{hijackable{c: a}}, httptest.NewRequest("GET", "/", nil))
	}()
	hijacked.Close()
	if got := only(t, m); got.Counts != (Counts{Panic: 1}) || got.InFlight != 0 {
		t.Errorf("%+v, %d in flight, want one panic", got.Counts, got.InFlight)
	}
}

// hijackable is found through an Unwrap chain only, and returns no buffers.
type hijackable struct {
	http.ResponseWriter
	c net.Conn
}

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return h.c, nil, nil }

func TestMutualTLSRequestIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testcert.NewCA(t)
		m := newMeter(t, Config{})
		ln := memnet.Listen("192.0.2.1:443")
		srv := &http.Server{Handler: m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(50 * time.Millisecond)
			fmt.Fprint(w, r.TLS.PeerCertificates[0].Subject.CommonName)
		}))}
		go srv.Serve(tls.NewListener(ln, &tls.Config{
			Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{Names: []string{"web1"}})},
			ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(),
		}))
		tr := &http.Transport{DialContext: ln.DialContext, TLSClientConfig: &tls.Config{
			RootCAs: ca.Pool(), ServerName: "web1", Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{CommonName: "balancer"})},
		}}
		res, err := (&http.Client{Transport: tr}).Get("https://web1/")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		tr.CloseIdleConnections()
		srv.Close()
		synctest.Wait()
		if got := only(t, m); string(body) != "balancer" || got.BytesOut != 8 || got.Duration.Sum() != 50*time.Millisecond {
			t.Errorf("read %q; %d bytes out in %v", body, got.BytesOut, got.Duration.Sum())
		}
	})
}

// brokenFlush is a writer that cannot flush any more.
type brokenFlush struct{ http.ResponseWriter }

func (brokenFlush) FlushError() error { return errBroken }

// TestWhatAClientMissed: a client that has left by the end counts as aborted only if
// something was missing.
func TestWhatAClientMissed(t *testing.T) {
	promise := func(status int, length string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", length)
			w.WriteHeader(status)
		}
	}
	for _, c := range []struct {
		name, method string
		do           func(http.ResponseWriter)
		want         Counts
	}{
		{"nothing sent", "GET", func(http.ResponseWriter) {}, Counts{Aborted: 1}},
		{"ReadFrom", "GET", func(w http.ResponseWriter) { w.(io.ReaderFrom).ReadFrom(strings.NewReader("x")) }, Counts{Status2xx: 1}},
		{"WriteString", "GET", func(w http.ResponseWriter) { io.WriteString(w, "x") }, Counts{Status2xx: 1}},
		{"Write", "GET", func(w http.ResponseWriter) { w.Write([]byte("x")) }, Counts{Status2xx: 1}},
		{"Flush", "GET", func(w http.ResponseWriter) { w.(http.Flusher).Flush() }, Counts{Status2xx: 1}},
		{"Flush fails", "GET", func(w http.ResponseWriter) { w.(http.Flusher).Flush() }, Counts{Aborted: 1}},
		{"no content", "GET", promise(204, "5"), Counts{Status2xx: 1}},
		{"not modified", "GET", promise(304, "5"), Counts{Status3xx: 1}},
		{"HEAD", "HEAD", promise(200, "5"), Counts{Status2xx: 1}},
		{"short", "GET", promise(200, "5"), Counts{Aborted: 1}},
		{"whole", "GET", func(w http.ResponseWriter) { promise(200, "5")(w); io.WriteString(w, "hello") }, Counts{Status2xx: 1}},
		{"failed", "GET", promise(500, "0"), Counts{Status5xx: 1}},
	} {
		m := newMeter(t, Config{})
		ctx, leave := context.WithCancel(t.Context())
		h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			c.do(w)
			leave()
		}))
		var w http.ResponseWriter = httptest.NewRecorder()
		if c.name == "Flush fails" {
			w = brokenFlush{w}
		}
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, c.method, "/", nil))
		if got := only(t, m).Counts; got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}
