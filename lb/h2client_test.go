package lb

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/palisade-go/palisade/internal/testcert"
)

// h2cServer is a backend that speaks HTTP/2 without TLS. It counts connections.
type h2cServer struct {
	*httptest.Server
	opened, closed atomic.Int64
}

func newH2CServer(t *testing.T, streams int, h http.Handler) *h2cServer {
	t.Helper()
	s := &h2cServer{Server: httptest.NewUnstartedServer(h)}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.opened.Add(1)
		case http.StateClosed:
			s.closed.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func (s *h2cServer) url() string { return "h2c://" + s.Listener.Addr().String() }

// TestHTTP2Connections: a connection is added when the streams of those there
// are full, all are kept, and one is dropped when it has been idle or is dead.
func TestHTTP2Connections(t *testing.T) {
	const streams, requests = 4, 10
	var mu sync.Mutex
	inFlight, most := make(map[string]int), 0
	arrived, release := make(chan bool, requests), make(chan struct{})
	srv := newH2CServer(t, streams, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		inFlight[r.RemoteAddr]++
		most = max(most, inFlight[r.RemoteAddr])
		mu.Unlock()
		if r.URL.Path == "/wait" {
			arrived <- true
			<-release
		}
		mu.Lock()
		inFlight[r.RemoteAddr]--
		mu.Unlock()
	}))
	p := poolOf(t, PoolConfig{Backends: []BackendConfig{{URL: srv.url()}}, IdleTimeout: time.Second}, 0)
	client := &http.Client{Transport: p.RoundTripper()}
	get := func(path string) error {
		res, err := client.Get("http://h" + path)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	if err := get("/"); err != nil { // after which the backend's settings are known
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			if err := get("/wait"); err != nil {
				t.Error(err)
			}
		})
	}
	for range requests {
		<-arrived
	}
	mu.Lock()
	if len(inFlight) > requests/2 || most > streams {
		t.Errorf("%d connections for %d requests, want no more than needed; at most %d streams on one", len(inFlight), requests, most)
	}
	mu.Unlock()
	close(release)
	wg.Wait()
	for range 1000 {
		if srv.closed.Load() == srv.opened.Load() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if srv.closed.Load() != srv.opened.Load() {
		t.Errorf("%d of %d connections closed after the idle timeout", srv.closed.Load(), srv.opened.Load())
	}
	c := p.backends[0].transport.(*h2Client)
	c.mu.Lock()
	if len(c.conns) != 0 {
		t.Errorf("%d connections are kept", len(c.conns))
	}
	c.mu.Unlock()
	// And it goes on.
	before := srv.opened.Load()
	for range 20 {
		if err := get("/"); err != nil {
			t.Fatal(err)
		}
	}
	if n := srv.opened.Load() - before; n != 1 {
		t.Errorf("%d connections for 20 requests in turn", n)
	}
}

// TestHTTP2IsBalancedByStream: of two connections, the one with fewer streams
// gets the next.
func TestHTTP2IsBalancedByStream(t *testing.T) {
	const streams = 8
	arrived, release := make(chan string, 100), make(chan struct{})
	srv := newH2CServer(t, streams, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- r.RemoteAddr
		if r.URL.Path == "/wait" {
			<-release
		}
	}))
	p := poolOf(t, PoolConfig{Backends: []BackendConfig{{URL: srv.url()}}}, 0)
	client := &http.Client{Transport: p.RoundTripper()}
	var wg sync.WaitGroup
	get := func(path string) {
		res, err := client.Get("http://h" + path)
		if err != nil {
			t.Error(err)
			return
		}
		res.Body.Close()
	}
	get("/")
	first := <-arrived
	counts := make(map[string]int)
	for range streams + 3 {
		wg.Go(func() { get("/wait") })
		counts[<-arrived]++
	}
	if len(counts) != 2 || counts[first] != streams {
		t.Errorf("streams %v, want %d on the first connection and the rest on another", counts, streams)
	}
	close(release)
	wg.Wait()
	c := p.backends[0].transport.(*h2Client)
	c.mu.Lock()
	a, b := c.conns[0], c.conns[1]
	c.mu.Unlock()
	// Both have room now: what goes to one goes to the other next.
	for range 3 {
		a1, _ := c.choose()
		b1, _ := c.choose()
		if a1 == b1 || a1 != a && a1 != b {
			t.Errorf("chose the same of two equals twice")
		}
		c.chosen(a1)
		c.chosen(b1)
	}
}

// TestHTTP2BackendGoesAway: a server that shuts down gracefully fails no
// request.
func TestHTTP2BackendGoesAway(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	a, b := newH2CServer(t, 100, h), newH2CServer(t, 100, h)
	r := newRig(t, PoolConfig{Backends: []BackendConfig{{ID: "a", URL: a.url()}, {ID: "b", URL: b.url()}}}, ProxyConfig{}, nil)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var done atomic.Int64
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := client.Get(r.server.URL)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 {
					t.Errorf("%d %q, %v", res.StatusCode, body, err)
					return
				}
				done.Add(1)
			}
		})
	}
	until := func(n int64) {
		for i := 0; done.Load() < n && i < 10_000 && !t.Failed(); i++ {
			time.Sleep(time.Millisecond)
		}
	}
	until(200)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	a.Config.Shutdown(ctx)
	until(done.Load() + 200)
	close(stop)
	wg.Wait()
}

// TestHTTP2RefusedStream: what the backend says it has not taken goes to another
// one, whatever the method.
func TestHTTP2RefusedStream(t *testing.T) {
	var refused atomic.Int64
	refuses := rawBackend(t, func(c *conn) {
		io.ReadFull(c.r, make([]byte, len(http2.ClientPreface)))
		f := http2.NewFramer(c, c.r)
		f.WriteSettings()
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			if h, ok := frame.(*http2.HeadersFrame); ok {
				refused.Add(1)
				f.WriteRSTStream(h.StreamID, http2.ErrCodeRefusedStream)
			}
		}
	})
	ok := newH2CServer(t, 10, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }))
	r := newRig(t, PoolConfig{
		Backends: []BackendConfig{{ID: "a", URL: "h2c://" + refuses}, {ID: "b", URL: ok.url()}}, Strategy: First{},
	}, ProxyConfig{}, nil)
	client := dialRaw(t, r.addr)
	client.send("POST / HTTP/1.1\nHost: h\nContent-Length: 0\n\n")
	if res, body := client.response("POST"); res.StatusCode != 200 || body != "ok" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	if e := r.event(); e.Attempts != 2 || refused.Load() != 1 {
		t.Errorf("event %+v, refused %d times", e, refused.Load())
	}
	if _, ok := errors.AsType[streamError](error(http2.StreamError{Code: http2.ErrCodeRefusedStream})); ok {
		t.Error("another package's error is taken for net/http's")
	}
}

// TestHTTP2OverTLS: a backend that is offered HTTP/2 may speak HTTP/1.1, on as
// many connections as there are requests, and WebSockets go by HTTP/1.1.
func TestHTTP2OverTLS(t *testing.T) {
	ca := testcert.NewCA(t)
	for _, h2 := range []bool{true, false} {
		arrived, release := make(chan string, 10), make(chan struct{})
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				conn, _, _ := http.NewResponseController(w).Hijack()
				io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
				conn.Close()
				return
			}
			arrived <- r.Proto
			<-release
		}))
		srv.EnableHTTP2 = h2
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{Names: []string{"127.0.0.1"}})}}
		srv.StartTLS()
		r := newRig(t, PoolConfig{
			Backends: []BackendConfig{{ID: "tls", URL: srv.URL}},
			TLS:      &tls.Config{RootCAs: ca.Pool(), NextProtos: []string{"h2", "http/1.1"}},
		}, ProxyConfig{}, nil)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				res, err := http.Get(r.server.URL)
				if err != nil || res.StatusCode != 200 {
					t.Errorf("%v, %v", res, err)
					return
				}
				res.Body.Close()
			})
		}
		for range 5 {
			if proto := <-arrived; proto != map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"}[h2] {
				t.Errorf("%s with HTTP/2 %v", proto, h2)
			}
		}
		close(release)
		wg.Wait()
		client := dialRaw(t, r.addr)
		client.send(webSocket)
		if head := client.head(); !strings.HasPrefix(head, "HTTP/1.1 101") {
			t.Errorf("HTTP/2 %v: an upgrade got %q", h2, head)
		} else if b, err := io.ReadAll(client.r); string(b) != "hello" {
			t.Errorf("the client got %q, %v", b, err)
		}
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		r.pool.Close()
		srv.Close()
	}
}

// grpcMessage is a message as gRPC frames it: not compressed, its length, it.
func grpcFrame(s string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(s))), s...)
}

func readGRPC(r io.Reader) (string, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[1:]))
	_, err := io.ReadFull(r, b)
	return string(b), err
}

// grpcServer answers as a gRPC server does.
func grpcServer(canceled chan<- error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/grpc")
		if r.Header.Get("Te") != "trailers" || r.Header.Get("Content-Type") != "application/grpc" {
			h.Set("Grpc-Status", "13")
			return
		}
		flush := http.NewResponseController(w).Flush
		switch r.URL.Path {
		case "/echo.Echo/Missing": // trailers only: the status is in the head
			h.Set("Grpc-Status", "12")
			h.Set("Grpc-Message", "no such method")
		case "/echo.Echo/Stream": // each message is answered at once
			h.Set("Trailer", "Grpc-Status, Grpc-Message")
			flush()
			for n := 0; ; n++ {
				m, err := readGRPC(r.Body)
				if err != nil {
					h.Set("Grpc-Status", "0")
					h.Set("Grpc-Message", fmt.Sprintf("%d messages, %v", n, err))
					return
				}
				w.Write(grpcFrame("re: " + m))
				flush()
			}
		case "/echo.Echo/Wait":
			flush()
			_, err := readGRPC(r.Body)
			<-r.Context().Done()
			canceled <- err
		}
	})
}

// TestGRPC: a call with trailers, one that ends with the head, a stream in both
// directions, and one that the client cancels, from end to end by HTTP/2.
func TestGRPC(t *testing.T) {
	canceled := make(chan error, 1)
	backend := newH2CServer(t, 100, grpcServer(canceled))
	r := newRig(t, PoolConfig{Backends: []BackendConfig{{ID: "grpc", URL: backend.url()}}}, ProxyConfig{}, func(next http.Handler) http.Handler { return next })
	front := newH2CServer(t, 100, r.server.handler)
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	call := func(ctx context.Context, method string, body io.Reader) *http.Response {
		t.Helper()
		req, _ := http.NewRequestWithContext(ctx, "POST", front.URL+"/echo.Echo/"+method, body)
		req.Header.Set("Te", "trailers")
		req.Header.Set("Content-Type", "application/grpc")
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		return res
	}

	res := call(t.Context(), "Missing", strings.NewReader(string(grpcFrame("x"))))
	body, err := io.ReadAll(res.Body)
	if err != nil || len(body) != 0 || res.StatusCode != 200 || res.Header.Get("Grpc-Status") != "12" || res.Header.Get("Grpc-Message") != "no such method" || res.Header.Get("Content-Type") != "application/grpc" {
		t.Errorf("trailers only: %d %v %q, %v", res.StatusCode, res.Header, body, err)
	}
	r.event()

	in, out := io.Pipe()
	res = call(t.Context(), "Stream", in)
	for i := range 5 {
		m := strings.Repeat("x", i*20_000)
		go out.Write(grpcFrame(m))
		// The answer comes while the stream is open.
		if got, err := readGRPC(res.Body); err != nil || got != "re: "+m {
			t.Fatalf("message %d: %d bytes, %v", i, len(got), err)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
	if res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("Grpc-Message") != "5 messages, EOF" {
		t.Errorf("trailer %v", res.Trailer)
	}
	if e := r.event(); e.Status != 200 || e.Err != nil || e.RequestBytes == 0 {
		t.Errorf("event %+v", e)
	}

	ctx, cancel := context.WithCancel(t.Context())
	in, out = io.Pipe()
	res = call(ctx, "Wait", in)
	go out.Write(grpcFrame("wait"))
	time.AfterFunc(20*time.Millisecond, func() {
		cancel()
		// net/http does not look at the context while it waits for the body.
		out.CloseWithError(context.Canceled)
	})
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("a canceled call ends well")
	}
	select {
	case <-canceled:
	case <-time.After(10 * time.Second):
		t.Error("the backend is not told that the call was canceled")
	}
	if e := r.event(); e.Status != StatusClientClosed {
		t.Errorf("event %+v", e)
	}
	for range 1000 {
		if r.pool.Status()[0].InFlight == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if s := r.pool.Status()[0]; s.Failures != 0 || s.InFlight != 0 {
		t.Errorf("status %+v", s)
	}
}

// TestHTTP2BackendDiesWhileTheClientSends: that the backend has gone, or has reset
// the stream, is told to a client which has not ended its body and sends nothing,
// whatever it speaks, and to no other request's account.
func TestHTTP2BackendDiesWhileTheClientSends(t *testing.T) {
	goOn, arrived := make(chan bool), make(chan bool)
	backend := newH2CServer(t, 100, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.ReadFull(r.Body, make([]byte, 5))
		if strings.HasPrefix(r.URL.Path, "/answered") {
			io.WriteString(w, "begun")
			http.NewResponseController(w).Flush()
			<-goOn
		}
		if strings.HasSuffix(r.URL.Path, "/conn") {
			arrived <- true
			<-r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}))
	r := newRig(t, PoolConfig{Backends: []BackendConfig{{ID: "h2c", URL: backend.url()}}}, ProxyConfig{}, nil)
	front := newH2CServer(t, 100, r.server.handler)
	for version, url := range map[string]string{"HTTP/1": r.server.URL, "HTTP/2": front.URL} {
		for _, path := range []string{"/silent/stream", "/silent/conn", "/answered/stream", "/answered/conn"} {
			tr := &http.Transport{Protocols: new(http.Protocols)}
			tr.Protocols.SetHTTP1(version == "HTTP/1")
			tr.Protocols.SetUnencryptedHTTP2(version == "HTTP/2")
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			in, out := io.Pipe()
			req, _ := http.NewRequestWithContext(ctx, "POST", url+path, in)
			go out.Write([]byte("hello"))
			var wg sync.WaitGroup
			if strings.HasSuffix(path, "/conn") {
				wg.Go(func() { <-arrived; backend.CloseClientConnections() })
			}
			res, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatalf("%s %s: %v", version, path, err)
			}
			if strings.HasPrefix(path, "/answered") {
				if res.StatusCode != 200 {
					t.Fatalf("%s %s: status %d, want 200", version, path, res.StatusCode)
				}
				if _, err := io.ReadFull(res.Body, make([]byte, 5)); err != nil {
					t.Errorf("%s %s: the beginning: %v", version, path, err)
				}
				goOn <- true
				if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err == nil || ctx.Err() != nil {
					t.Errorf("%s %s: then the client got %q, %v, want a response that breaks off", version, path, rest, err)
				}
			} else if res.StatusCode != 502 {
				t.Errorf("%s %s: status %d, want 502", version, path, res.StatusCode)
			}
			if e := r.event(); e.Err == nil || e.Status == StatusClientClosed {
				t.Errorf("%s %s: event %+v", version, path, e)
			}
			out.Close()
			res.Body.Close()
			tr.CloseIdleConnections()
			cancel()
			wg.Wait()
		}
	}
	if s := r.pool.Status()[0]; s.Failures != 8 || s.InFlight != 0 {
		t.Errorf("status %+v, want the 8 failures", s)
	}
}
