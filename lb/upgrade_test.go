package lb

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
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
