package lb

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

const webSocket = "GET /ws HTTP/1.1\nHost: h\nConnection: keep-alive, Upgrade\nUpgrade: h2c, WebSocket\nHTTP2-Settings: s\nSec-WebSocket-Key: k\n\n"

// echoes accepts an upgrade, sends a greeting in the same write, and echoes
// until the client ends its half; then it says goodbye and ends its own.
func echoes(t *testing.T) string {
	return rawBackend(t, func(c *conn) {
		head, ok := c.reqHead()
		if !ok {
			return
		}
		if !strings.Contains(head, "Connection: Upgrade\n") || !strings.Contains(head, "Upgrade: WebSocket\n") || strings.Contains(head, "Http2-Settings") {
			t.Errorf("the backend sees\n%s", head)
		}
		c.send("HTTP/1.1 101 Switching Protocols\nConnection: Upgrade, X-Hop\nUpgrade: websocket\nX-Hop: 1\nSec-WebSocket-Accept: a\n\nhello ")
		io.Copy(c, c.r)
		io.WriteString(c, " goodbye")
	})
}

func TestUpgrade(t *testing.T) {
	r := newRig(t, PoolConfig{}, ProxyConfig{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(&statusWriter{ResponseWriter: w}, r) // middleware that lets the connection through
		})
	}, echoes(t))
	client := dialRaw(t, r.addr)
	client.send(webSocket + "early") // before the answer
	want := "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nSec-Websocket-Accept: a\nUpgrade: websocket\n"
	if got := client.head(); got != want {
		t.Errorf("the client sees\n%s\nwant\n%s", got, want)
	}
	read := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(client.r, got); err != nil || string(got) != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	read("hello early")
	client.send("more")
	read("more")
	if s := r.pool.Status()[0]; s.InFlight != 1 {
		t.Errorf("%d in flight while the connection is open", s.InFlight)
	}
	// The client's half ends; the backend still has something to say.
	client.Conn.(*net.TCPConn).CloseWrite()
	rest, err := io.ReadAll(client.r)
	if err != nil || string(rest) != " goodbye" {
		t.Errorf("after the client's end: %q, %v", rest, err)
	}
	e := r.event()
	if e.Status != 101 || !e.Upgraded || e.RequestBytes != 9 || e.ResponseBytes != int64(len("hello earlymore goodbye")) || e.Err != nil {
		t.Errorf("event %+v", e)
	}
	if s := r.pool.Status()[0]; s.InFlight != 0 || s.Failures != 0 {
		t.Errorf("status %+v", s)
	}
}

// The backend's end goes to the client, while the client's half stays open.
func TestUpgradeBackendEndsFirst(t *testing.T) {
	got := make(chan string, 1)
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, rawBackend(t, func(c *conn) {
		c.reqHead()
		c.send("HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n\nbye")
		c.Conn.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c.r)
		got <- string(b)
	}))
	client := dialRaw(t, r.addr)
	client.send(webSocket)
	client.head()
	if b, err := io.ReadAll(client.r); string(b) != "bye" || err != nil {
		t.Errorf("the client got %q, %v", b, err)
	}
	client.send("last words")
	client.Close()
	if s := <-got; s != "last words" {
		t.Errorf("the backend got %q", s)
	}
	r.event()
}

func TestUpgradeList(t *testing.T) {
	for _, c := range []struct {
		allow []string
		asked string
		want  string // what the backend sees
	}{
		{nil, "h2c", ""},
		{nil, "websocket", "websocket"},
		{[]string{}, "websocket", ""},
		{[]string{"Foo", "bar"}, "BAR, websocket, foo", "BAR, foo"},
	} {
		backend := new(seen)
		r := newRig(t, PoolConfig{}, ProxyConfig{Upgrade: c.allow}, nil, backend)
		client := dialRaw(t, r.addr)
		client.send("GET / HTTP/1.1\nHost: h\nConnection: upgrade\nUpgrade: " + c.asked + "\n\n")
		if res, _ := client.response("GET"); res.StatusCode != 200 {
			t.Errorf("%+v: status %d, want the request to go on without", c, res.StatusCode)
		}
		h := backend.request().Header
		client.send("GET / HTTP/1.1\nHost: h\nUpgrade: " + c.asked + "\n\n")
		if client.response("GET"); backend.request().Header.Get("Upgrade") != "" {
			t.Errorf("%+v: passes without Connection", c)
		}
		if got := h.Get("Upgrade"); got != c.want || (h.Get("Connection") != "") != (c.want != "") {
			t.Errorf("%+v: the backend sees Upgrade %q, Connection %q", c, got, h.Get("Connection"))
		}
	}
}

func TestUpgradeRefused(t *testing.T) {
	other := rawBackend(t, func(c *conn) {
		c.reqHead()
		c.send("HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: h2c\n\n")
	})
	hidden := func(next http.Handler) http.Handler { // a writer without Hijack and Unwrap
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
		})
	}
	for _, c := range []struct {
		name     string
		wrap     func(http.Handler) http.Handler
		modify   func(*http.Response) error
		backend  string
		failures uint64
	}{
		{"another protocol", nil, nil, other, 1},
		{"middleware in the way", hidden, nil, echoes(t), 0},
		{"ModifyResponse says no", nil, func(*http.Response) error { return errors.New("no") }, echoes(t), 0},
	} {
		r := newRig(t, PoolConfig{}, ProxyConfig{ModifyResponse: c.modify}, c.wrap, c.backend)
		client := dialRaw(t, r.addr)
		client.send(webSocket)
		if res, _ := client.response("GET"); res.StatusCode != 502 {
			t.Errorf("%s: status %d", c.name, res.StatusCode)
		}
		if e := r.event(); e.Upgraded || e.Status != 502 {
			t.Errorf("%s: event %+v", c.name, e)
		}
		if s := r.pool.Status()[0]; s.InFlight != 0 || s.Failures != c.failures {
			t.Errorf("%s: status %+v", c.name, s)
		}
	}
}

func TestPoolCloseEndsUpgrades(t *testing.T) {
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, echoes(t))
	client := dialRaw(t, r.addr)
	client.send(webSocket)
	client.head()
	r.pool.Close()
	io.Copy(io.Discard, client.r) // ends, or the deadline fails the next line
	if e := r.event(); !e.Upgraded {
		t.Errorf("event %+v", e)
	}
}

// TestTunnelIdle: what counts is that nothing was carried in either direction.
func TestTunnelIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			limit, every time.Duration
			times        int
			want         time.Duration // 0: it does not end by itself
		}{
			{time.Minute, 0, 0, time.Minute},
			{time.Minute, 50 * time.Second, 3, 210 * time.Second},
			{-1, 24 * time.Hour, 2, 0},
		} {
			client, clientEnd := memnet.Pipe()
			backend, backendEnd := memnet.Pipe()
			ctx, cancel := context.WithCancel(t.Context())
			start, ended := time.Now(), make(chan time.Duration, 1)
			tun := &tunnel{client: clientEnd, fromClient: clientEnd, backend: backendEnd}
			go func() { tun.run(c.limit, ctx); ended <- time.Since(start) }()
			for range c.times {
				time.Sleep(c.every)
				backend.Write([]byte("x"))
			}
			time.Sleep(time.Hour)
			select {
			case d := <-ended:
				if d != c.want {
					t.Errorf("%+v: ended after %v", c, d)
				}
			default:
				if c.want != 0 {
					t.Errorf("%+v: has not ended", c)
				}
				cancel()
				<-ended
			}
			cancel()
			client.Close()
			backend.Close()
		}
	})
}

func TestMissingHijackIsLoggedOnce(t *testing.T) {
	var log strings.Builder
	pool := poolOf(t, PoolConfig{Backends: []BackendConfig{{URL: "http://" + echoes(t)}}}, 0)
	proxy, err := NewProxy(ProxyConfig{Pool: pool, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		req, _ := http.ReadRequest(newReader(strings.ReplaceAll(webSocket, "\n", "\r\n")))
		w := &discardWriter{header: make(http.Header)}
		proxy.ServeHTTP(w, req)
		if w.status != 502 {
			t.Errorf("status %d", w.status)
		}
	}
	if n := strings.Count(log.String(), "cannot be upgraded"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}

// hijacked is a writer whose connection can be taken over.
type hijacked struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// upgrade asks the proxy for a WebSocket over conn, until it has ended.
func (d *direct) upgrade(ctx context.Context, conn net.Conn) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, "GET", "/ws", nil)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	w := httptest.NewRecorder()
	d.proxy.ServeHTTP(hijacked{w, conn}, r)
	return w
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"

// TestUpgradeEnds when nothing is carried for UpgradeIdle, or with the request's context,
// or because the client cannot be written to.
func TestUpgradeEnds(t *testing.T) {
	silent := func(c net.Conn) {
		io.WriteString(c, switching+"\r\n")
		io.Copy(io.Discard, c)
	}
	for _, c := range []struct {
		name     string
		idle     time.Duration
		limit    time.Duration // of the context; 0: none
		gone     bool          // the client, before the answer
		upgraded bool
		status   int
		took     time.Duration
	}{
		{"by default", 0, 0, false, true, 101, time.Hour},
		{"idle", time.Minute, 0, false, true, 101, time.Minute},
		{"for ever, until a middleware's limit", -1, 100 * time.Hour, false, true, 101, 100 * time.Hour},
		{"a middleware's limit", time.Minute, 10 * time.Second, false, true, 101, 10 * time.Second},
		{"the client has gone", time.Minute, 0, true, true, StatusClientClosed, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDirect(t, PoolConfig{}, ProxyConfig{UpgradeIdle: c.idle}, silent)
			client, front := memnet.Pipe()
			defer client.Close()
			if c.gone {
				front.Close()
			}
			ctx := t.Context()
			if c.limit > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.limit)
				defer cancel()
			}
			start := time.Now()
			d.upgrade(ctx, front)
			if took := time.Since(start); took != c.took || d.last.Duration != c.took || d.last.Status != c.status || d.last.Upgraded != c.upgraded || (d.last.Err != nil) != c.gone {
				t.Errorf("%s: ended after %v: %+v", c.name, took, d.last)
			}
			if s := d.pool.Status()[0]; s.InFlight != 0 || s.Failures != 0 {
				t.Errorf("%s: status %+v", c.name, s)
			}
		})
	}
}

// TestUpgradeHead: what a backend says with its 101 is held to the same as in other
// responses, and the client gets a cookie with it.
func TestUpgradeHead(t *testing.T) {
	for fields, status := range map[string]int{"": 101, "X-Bad: a\x01b\r\n": 502} {
		synctest.Test(t, func(t *testing.T) {
			d := newDirect(t, PoolConfig{}, ProxyConfig{Affinity: &Affinity{Keys: [][]byte{affinityKey(1)}}}, func(c net.Conn) {
				io.WriteString(c, switching+fields+"\r\n")
			})
			client, front := memnet.Pipe()
			w := d.upgrade(t.Context(), front)
			front.Close()
			head, _ := io.ReadAll(client)
			client.Close()
			if d.last.Status != status || status != 101 && w.Code != status {
				t.Errorf("%q: status %d, event %+v", fields, w.Code, d.last)
			}
			if got := strings.Contains(string(head), "\r\nSet-Cookie: backend="); got != (status == 101) {
				t.Errorf("%q: the client gets %q", fields, head)
			}
		})
	}
}

// failing is a connection that fails at once, to one side or to both.
type failing struct {
	net.Conn
	read, write bool
}

var errFailing = errors.New("failing")

func (f failing) Read(p []byte) (int, error) {
	if f.read {
		return 0, errFailing
	}
	return f.Conn.Read(p)
}

func (f failing) Write(p []byte) (int, error) {
	if f.write {
		return 0, errFailing
	}
	return f.Conn.Write(p)
}

// TestTunnelFails: a failure of one direction ends the other, which waits for bytes,
// and bytes of either keep the tunnel from being idle.
func TestTunnelFails(t *testing.T) {
	for name, f := range map[string]failing{"read": {read: true}, "write": {write: true}} {
		synctest.Test(t, func(t *testing.T) {
			client, clientEnd := memnet.Pipe()
			backend, backendEnd := memnet.Pipe()
			f.Conn = backendEnd
			tun := &tunnel{client: clientEnd, fromClient: clientEnd, backend: f}
			client.Write([]byte("x"))
			start := time.Now()
			tun.run(time.Hour, t.Context())
			if took := time.Since(start); took != 0 {
				t.Errorf("a failed %s is noticed after %v", name, took)
			}
			client.Close()
			backend.Close()
		})
	}
	synctest.Test(t, func(t *testing.T) {
		client, clientEnd := memnet.Pipe()
		backend, backendEnd := memnet.Pipe()
		tun := &tunnel{client: clientEnd, fromClient: clientEnd, backend: backendEnd}
		go func() {
			for range 3 {
				time.Sleep(50 * time.Second)
				client.Write([]byte("x"))
			}
		}()
		start := time.Now()
		tun.run(time.Minute, t.Context())
		if took := time.Since(start); took != 210*time.Second {
			t.Errorf("with a client that speaks for 150s it ends after %v, want a minute more", took)
		}
		client.Close()
		backend.Close()
	})
}
