package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

type udpRig struct {
	*UDPProxy
	addr   string
	events chan UDPEvent
	served chan error
}

func startUDP(t *testing.T, listen string, conf UDPProxyConfig) *udpRig {
	t.Helper()
	rig := &udpRig{events: make(chan UDPEvent, 1000), served: make(chan error, 1)}
	conf.OnDone = func(e UDPEvent) { rig.events <- e }
	conf.Logger = slog.New(slog.DiscardHandler)
	p, err := NewUDPProxy(conf)
	if err != nil {
		t.Fatal(err)
	}
	rig.UDPProxy = p
	conn, err := net.ListenPacket("udp", listen)
	if err != nil {
		t.Fatal(err)
	}
	rig.addr = conn.LocalAddr().String()
	go func() { rig.served <- p.Serve(conn) }()
	t.Cleanup(func() { p.Close() })
	return rig
}

func (r *udpRig) event(t *testing.T) UDPEvent {
	t.Helper()
	select {
	case e := <-r.events:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no event")
		return UDPEvent{}
	}
}

// udpBackend answers each datagram by a function of it; an empty answer is none.
func udpBackend(t *testing.T, answer func(string) string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if out := answer(string(buf[:n])); out != "" {
				conn.WriteTo([]byte(out), from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().String()
}

func deadUDP(t *testing.T) string {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().String()
}

func udpPool(t *testing.T, conf PoolConfig, addrs ...string) *Pool {
	t.Helper()
	for _, a := range addrs {
		conf.Backends = append(conf.Backends, BackendConfig{URL: "udp://" + a})
	}
	return tcpPool(t, conf)
}

func dialUDP(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func askUDP(t *testing.T, conn net.Conn, question string) string {
	t.Helper()
	conn.Write([]byte(question))
	buf := make([]byte, maxDatagram)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// silentUDP wants nothing to come.
func silentUDP(t *testing.T, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes, %v, want none", n, err)
	}
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
}

func TestUDPProxyConfigErrors(t *testing.T) {
	_, err := NewUDPProxy(UDPProxyConfig{IdleTimeout: -1, MaxSessions: -1, MaxSessionsPerClient: -1, ReplyRatio: -1, Retries: 17})
	for _, want := range []string{"Pool is nil", "IdleTimeout is negative (-1)", "MaxSessions is", "MaxSessionsPerClient is", "ReplyRatio is", "Retries is 17"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestUDPProxy: each client keeps its backend and gets its own replies, of any
// size, and an idle session ends.
func TestUDPProxy(t *testing.T) {
	echo := func(name string) func(string) string { return func(s string) string { return name + s } }
	pool := udpPool(t, PoolConfig{Strategy: RoundRobin{}}, udpBackend(t, echo("a")), udpBackend(t, echo("b")))
	const limit = time.Second
	rig := startUDP(t, "127.0.0.1:0", UDPProxyConfig{Pool: pool, IdleTimeout: limit})
	clients := make([]net.Conn, 4)
	homes := make(map[byte]int)
	for i := range clients {
		clients[i] = dialUDP(t, rig.addr)
		home := askUDP(t, clients[i], "?")[0]
		homes[home]++
		for _, question := range []string{"x", "", strings.Repeat("0123456789", 6000)} {
			if got := askUDP(t, clients[i], question); got != string(home)+question {
				t.Errorf("client %d: %.20q … of %d bytes, want %q and %d", i, got, len(got), home, len(question))
			}
		}
	}
	if homes['a'] != 2 || homes['b'] != 2 {
		t.Errorf("clients by backend: %v", homes)
	}
	for range clients {
		e := rig.event(t)
		if e.Err != nil || e.FromClient != 60002 || e.FromBackend != 60006 || e.Requests != 4 || e.Replies != 4 || e.Attempts != 1 || e.Duration < limit || e.Local.String() != rig.addr {
			t.Errorf("%+v", e)
		}
	}
	rig.mu.Lock()
	if len(rig.sessions) != 0 || rig.recent.Len() != 0 {
		t.Errorf("%d sessions are left", len(rig.sessions))
	}
	rig.mu.Unlock()
	for _, s := range pool.Status() {
		if s.InFlight != 0 || s.Failures != 0 || s.Requests != 2 {
			t.Errorf("%+v", s)
		}
	}
	// What is used does not end.
	for start := time.Now(); time.Since(start) < limit*3/2; time.Sleep(limit / 10) {
		askUDP(t, clients[0], "again")
	}
	if len(rig.events) > 0 {
		t.Errorf("ended: %+v", <-rig.events)
	}
}

// TestUDPReplyAddress: a reply comes from the address that was asked, also if the
// socket has many.
func TestUDPReplyAddress(t *testing.T) {
	backend := udpBackend(t, func(s string) string { return s })
	for _, listen := range []string{"0.0.0.0:0", "[::]:0"} {
		rig := startUDP(t, listen, UDPProxyConfig{Pool: udpPool(t, PoolConfig{}, backend)})
		_, port, _ := net.SplitHostPort(rig.addr)
		for _, ip := range []string{"127.0.0.1", "127.0.0.2", "127.1.2.3"} {
			client, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			client.SetDeadline(time.Now().Add(20 * time.Second))
			to, _ := net.ResolveUDPAddr("udp4", net.JoinHostPort(ip, port))
			client.WriteTo([]byte("x"), to)
			if _, from, err := client.ReadFrom(make([]byte, 1)); err != nil || from.String() != to.String() {
				t.Errorf("%s: the reply of %v comes from %v, %v", listen, to, from, err)
			}
		}
	}
	// A socket of ours that is none of the kernel's, as far as the proxy knows.
	p, err := NewUDPProxy(UDPProxyConfig{Pool: udpPool(t, PoolConfig{}, backend)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go p.Serve(struct{ net.PacketConn }{conn})
	if got := askUDP(t, dialUDP(t, conn.LocalAddr().String()), "wrapped"); got != "wrapped" {
		t.Errorf("%q", got)
	}
}

// TestUDPRefused: a backend where nobody listens counts as unreachable, and the
// session moves on with what was sent.
func TestUDPRefused(t *testing.T) {
	dead, live := deadUDP(t), udpBackend(t, func(s string) string { return s })
	pool := udpPool(t, PoolConfig{Strategy: First{}, Health: &HealthCheck{Interval: time.Hour, Func: func(context.Context, *Backend) error { return nil }}}, dead, live)
	waitUntil(t, func() bool { return pool.Status()[0].State == Healthy && pool.Status()[1].State == Healthy })
	rig := startUDP(t, "127.0.0.1:0", UDPProxyConfig{Pool: pool, IdleTimeout: 100 * time.Millisecond})
	if got := askUDP(t, dialUDP(t, rig.addr), "only once"); got != "only once" {
		t.Errorf("%q", got)
	}
	if e := rig.event(t); e.Attempts != 2 || e.Backend != live || e.Err != nil {
		t.Errorf("%+v", e)
	}
	if s := pool.Status()[0]; s.State != Unhealthy || s.Failures != 1 || s.InFlight != 0 {
		t.Errorf("%+v", s)
	}
	alone := startUDP(t, "127.0.0.1:0", UDPProxyConfig{Pool: udpPool(t, PoolConfig{}, deadUDP(t))})
	client := dialUDP(t, alone.addr)
	client.Write([]byte("x"))
	if e := alone.event(t); e.Attempts != 1 || !errors.Is(e.Err, syscall.ECONNREFUSED) {
		t.Errorf("%+v", e)
	}
	silentUDP(t, client)
	none := startUDP(t, "127.0.0.1:0", UDPProxyConfig{Pool: udpPool(t, PoolConfig{})})
	dialUDP(t, none.addr).Write([]byte("x"))
	if e := none.event(t); !errors.Is(e.Err, ErrNoBackend) {
		t.Errorf("%+v", e)
	}
}

// TestUDPRefusedLate: a backend that dies while it is used is noticed, whether a
// write or a read hears of it.
func TestUDPRefusedLate(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	live := udpBackend(t, func(s string) string { return "live " + s })
	pool := udpPool(t, PoolConfig{Strategy: First{}}, conn.LocalAddr().String(), live)
	rig := startUDP(t, "127.0.0.1:0", UDPProxyConfig{Pool: pool})
	client := dialUDP(t, rig.addr)
	client.Write([]byte("one"))
	buf := make([]byte, 10)
	_, from, err := conn.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	conn.WriteTo([]byte("hi"), from)
	if n, err := client.Read(buf); string(buf[:n]) != "hi" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	conn.Close()
	waitUntil(t, func() bool {
		client.Write([]byte("two"))
		client.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		n, _ := client.Read(buf)
		return string(buf[:n]) == "live two"
	})
}

// refusingConn hears of a refusal when it writes, and then nobody hears of it again.
type refusingConn struct{ net.Conn }

func (refusingConn) Write([]byte) (int, error) { return 0, syscall.ECONNREFUSED }

// TestUDPRefusedWrite: a refusal that a write has heard of moves the session, too.
func TestUDPRefusedWrite(t *testing.T) {
	live := udpBackend(t, func(s string) string { return s })
	one, other := net.Pipe()
	defer other.Close()
	pool := udpPool(t, PoolConfig{Strategy: First{}, Dial: func(_ context.Context, network, addr string) (net.Conn, error) {
		if addr != live {
			return refusingConn{one}, nil
		}
		return net.Dial(network, addr)
	}}, "192.0.2.1:1", live)
	rig := startUDP(t, "127.0.0.1:0", UDPProxyConfig{Pool: pool})
	if got := askUDP(t, dialUDP(t, rig.addr), "only once"); got != "only once" {
		t.Errorf("%q", got)
	}
	if s := pool.Status()[0]; s.Failures != 1 {
		t.Errorf("%+v", s)
	}
}

// TestUDPSessions: there are no more than MaxSessions, and what is in use is not
// ended by what is not.
func TestUDPSessions(t *testing.T) {
	pool := udpPool(t, PoolConfig{}, udpBackend(t, func(s string) string { return s }))
	rig := startUDP(t, "127.0.0.1:0", UDPProxyConfig{Pool: pool, MaxSessions: 2, IdleTimeout: 20 * time.Second})
	a, b, c := dialUDP(t, rig.addr), dialUDP(t, rig.addr), dialUDP(t, rig.addr)
	askUDP(t, a, "a")
	askUDP(t, b, "b")
	c.Write([]byte("c"))
	silentUDP(t, c)                     // the others have been used a moment ago
	time.Sleep(2100 * time.Millisecond) // a tenth of the timeout, and more
	askUDP(t, a, "a")
	if got := askUDP(t, c, "c"); got != "c" {
		t.Errorf("%q", got)
	}
	if e := rig.event(t); e.Err != errUDPEvicted || e.Client.String() != b.LocalAddr().String() {
		t.Errorf("%+v", e)
	}
	askUDP(t, a, "a")

	few := startUDP(t, "127.0.0.1:0", UDPProxyConfig{Pool: pool, MaxSessionsPerClient: 1, IdleTimeout: time.Second / 2})
	a, b = dialUDP(t, few.addr), dialUDP(t, few.addr)
	askUDP(t, a, "a")
	b.Write([]byte("b"))
	few.event(t) // a's
	waitUntil(t, func() bool { few.limit.mu.Lock(); defer few.limit.mu.Unlock(); return len(few.limit.count) == 0 })
	askUDP(t, b, "again")
	if e := few.event(t); e.FromClient != 5 {
		t.Errorf("%+v", e)
	}
}

// TestUDPReplyRatio: what a client gets is bounded by what it has sent, and a
// stranger gets nothing.
func TestUDPReplyRatio(t *testing.T) {
	backend := udpBackend(t, func(s string) string { return strings.Repeat(s, 10) })
	rig := startUDP(t, "127.0.0.1:0", UDPProxyConfig{Pool: udpPool(t, PoolConfig{}, backend), ReplyRatio: 5})
	client := dialUDP(t, rig.addr)
	client.Write([]byte("0123456789"))
	silentUDP(t, client)
	if got := askUDP(t, client, "0123456789"); len(got) != 100 { // 20 bytes are good for 100
		t.Errorf("%d bytes", len(got))
	}
	// The socket to the backend hears the backend only.
	rig.mu.Lock()
	var to net.Addr
	for _, s := range rig.sessions {
		s.mu.Lock()
		to = s.backend.LocalAddr()
		s.mu.Unlock()
	}
	rig.mu.Unlock()
	dialUDP(t, to.String()).Write([]byte("forged"))
	silentUDP(t, client)
}

// TestUDPShutdown: sessions go on until they are idle, and there are no new ones.
func TestUDPShutdown(t *testing.T) {
	pool := udpPool(t, PoolConfig{}, udpBackend(t, func(s string) string { return s }))
	rig := startUDP(t, "127.0.0.1:0", UDPProxyConfig{Pool: pool, IdleTimeout: time.Second})
	client := dialUDP(t, rig.addr)
	askUDP(t, client, "x")
	done := make(chan error, 1)
	go func() { done <- rig.Shutdown(t.Context()) }()
	waitUntil(t, func() bool { rig.mu.Lock(); defer rig.mu.Unlock(); return rig.draining })
	other := dialUDP(t, rig.addr)
	other.Write([]byte("x"))
	if got := askUDP(t, client, "still"); got != "still" {
		t.Errorf("%q", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := <-rig.served; err != http.ErrServerClosed {
		t.Errorf("Serve: %v", err)
	}
	if e := rig.event(t); e.Requests != 2 || e.Err != nil || len(rig.events) > 0 {
		t.Errorf("%+v", e)
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := rig.Serve(conn); err != http.ErrServerClosed {
		t.Errorf("Serve: %v", err)
	}

	rig = startUDP(t, "127.0.0.1:0", UDPProxyConfig{Pool: pool})
	askUDP(t, dialUDP(t, rig.addr), "x")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := rig.Shutdown(ctx); err != context.DeadlineExceeded {
		t.Errorf("Shutdown: %v", err)
	}
	if e := rig.event(t); !errors.Is(e.Err, http.ErrServerClosed) {
		t.Errorf("%+v", e)
	}
	if err := errors.Join(rig.Close(), rig.Close()); err != nil {
		t.Error(err)
	}
}

// TestUDPManyClients at once, each of which gets what is its own.
func TestUDPManyClients(t *testing.T) {
	pool := udpPool(t, PoolConfig{Strategy: Maglev{}}, udpBackend(t, func(s string) string { return s }), udpBackend(t, func(s string) string { return s }))
	rig := startUDP(t, "127.0.0.1:0", UDPProxyConfig{Pool: pool})
	var wrong, lost atomic.Int64
	done := make(chan bool)
	for i := range 50 {
		conn := dialUDP(t, rig.addr)
		go func() {
			defer func() { done <- true }()
			buf := make([]byte, 100)
			for j := range 50 {
				want := fmt.Sprint(i, " ", j)
				for try := 0; ; try++ {
					conn.Write([]byte(want))
					conn.SetReadDeadline(time.Now().Add(time.Second))
					n, err := conn.Read(buf)
					if err == nil && string(buf[:n]) == want {
						break
					}
					if err == nil && !strings.HasPrefix(string(buf[:n]), fmt.Sprint(i, " ")) {
						wrong.Add(1)
					}
					if try > 10 {
						lost.Add(1)
						return
					}
				}
			}
		}()
	}
	for range 50 {
		<-done
	}
	if wrong.Load() > 0 || lost.Load() > 0 {
		t.Errorf("%d replies to others, %d clients without one", wrong.Load(), lost.Load())
	}
	used := 0
	for _, s := range pool.Status() {
		if s.Requests > 0 {
			used++
		}
	}
	if used != 1 {
		t.Errorf("%d backends for one address", used)
	}
}

// TestUDPCheck: a check finds out that nobody listens.
func TestUDPCheck(t *testing.T) {
	// The kernel bounds the refusals in a second: one that is missed comes again.
	check := &HealthCheck{Interval: 250 * time.Millisecond, Timeout: 200 * time.Millisecond, Fall: 1}
	pool := udpPool(t, PoolConfig{Health: check}, deadUDP(t), udpBackend(t, func(string) string { return "" }))
	waitUntil(t, func() bool { s := pool.Status(); return s[0].State == Unhealthy && s[1].State == Healthy })
	tcp := tcpPool(t, PoolConfig{Health: &HealthCheck{}}, deadAddr(t), tcpBackend(t, says("")))
	waitUntil(t, func() bool { s := tcp.Status(); return s[0].State == Unhealthy && s[1].State == Healthy })
}

// TestLayer4Backends get no HTTP.
func TestLayer4Backends(t *testing.T) {
	for url, want := range map[string]string{"tcp://h": "a port", "udp://h": "a port", "tcp://h:1/x": "no path", "sctp://h:1": "the scheme", "tcp://h:0": "a port from 1"} {
		if _, err := NewPool(PoolConfig{Backends: []BackendConfig{{URL: url}}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
	pool := tcpPool(t, PoolConfig{}, "127.0.0.1:1")
	req, _ := http.NewRequest("GET", "http://x/", nil)
	if _, err := pool.RoundTripper().RoundTrip(req); err == nil || !strings.Contains(err.Error(), "tcp:// gets no HTTP requests") {
		t.Error(err)
	}
}
