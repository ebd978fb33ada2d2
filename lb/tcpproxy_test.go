package lb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

// tcpRig is a TCPProxy that serves at a real address.
type tcpRig struct {
	*TCPProxy
	addr   string
	events chan TCPEvent
	served chan error
}

func startTCP(t *testing.T, ln net.Listener, conf TCPProxyConfig) *tcpRig {
	t.Helper()
	rig := &tcpRig{events: make(chan TCPEvent, 1000), served: make(chan error, 1)}
	conf.OnDone = func(e TCPEvent) { rig.events <- e }
	if conf.Logger == nil {
		conf.Logger = slog.New(slog.DiscardHandler)
	}
	p, err := NewTCPProxy(conf)
	if err != nil {
		t.Fatal(err)
	}
	rig.TCPProxy = p
	if ln == nil {
		ln = listenTCP(t)
	}
	rig.addr = ln.Addr().String()
	go func() { rig.served <- p.Serve(ln) }()
	t.Cleanup(func() { p.Close() })
	return rig
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func dialTCP(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn.(*net.TCPConn)
}

// tcpBackend serves each connection by a function.
func tcpBackend(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	ln := listenTCP(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			wg.Go(func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// says is a backend that says who it is, and then echoes.
func says(name string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		io.WriteString(c, name)
		io.Copy(c, c)
	}
}

func tcpPool(t *testing.T, conf PoolConfig, addrs ...string) *Pool {
	t.Helper()
	for _, a := range addrs {
		conf.Backends = append(conf.Backends, BackendConfig{URL: "tcp://" + a})
	}
	if conf.Logger == nil {
		conf.Logger = slog.New(slog.DiscardHandler)
	}
	p, err := NewPool(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func (r *tcpRig) event(t *testing.T) TCPEvent {
	t.Helper()
	select {
	case e := <-r.events:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no event")
		return TCPEvent{}
	}
}

func TestTCPProxyConfigErrors(t *testing.T) {
	pool := tcpPool(t, PoolConfig{})
	for want, conf := range map[string]TCPProxyConfig{
		"either a Pool or Routes":                     {},
		"wants either":                                {Pool: pool, Routes: []TCPRoute{{ServerNames: []string{"a"}, Pool: pool}}},
		"Default and Plain are for what Routes leave": {Pool: pool, Default: pool},
		"Routes[0] has no Pool":                       {Routes: []TCPRoute{{ServerNames: []string{"a"}}}},
		"Routes[0] has neither ServerNames nor ALPN":  {Routes: []TCPRoute{{Pool: pool}}},
		`Routes[0] has the server name "a..*", want`:  {Routes: []TCPRoute{{ServerNames: []string{"a..*"}, Pool: pool}}},
		`the server name "*.", want`:                  {Routes: []TCPRoute{{ServerNames: []string{"*."}, Pool: pool}}},
		`the server name "a.", want`:                  {Routes: []TCPRoute{{ServerNames: []string{"a."}, Pool: pool}}},
		`the server name "*.*.a", want`:               {Routes: []TCPRoute{{ServerNames: []string{"*.*.a"}, Pool: pool}}},
		`the server name "a:443", want`:               {Routes: []TCPRoute{{ServerNames: []string{"a:443"}, Pool: pool}}},
		`the protocol "", want`:                       {Routes: []TCPRoute{{ALPN: []string{""}, Pool: pool}}},
		"HelloTimeout is -1ns":                        {Pool: pool, HelloTimeout: -1},
		"ProxyOut is 3":                               {Pool: pool, ProxyOut: 3},
		"ModifyHeader is set and ProxyOut is 0":       {Pool: pool, ModifyHeader: func(net.Conn, *ProxyHeader) {}},
		"Retries is 17":                               {Pool: pool, Retries: 17},
		"MaxConnsPerClient is -1":                     {Pool: pool, MaxConnsPerClient: -1},
		"RetryBudget.Percent is 1001":                 {Pool: pool, RetryBudget: RetryBudget{Percent: 1001}},
	} {
		if _, err := NewTCPProxy(conf); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestTCPProxy: bytes go both ways, each direction ends on its own, and the event
// has it all.
func TestTCPProxy(t *testing.T) {
	for _, first := range []string{"client", "backend"} {
		t.Run(first+" ends first", func(t *testing.T) {
			heard := make(chan string, 1)
			backend := tcpBackend(t, func(c *net.TCPConn) {
				io.WriteString(c, "greetings")
				if first == "backend" {
					c.CloseWrite()
				}
				all, _ := io.ReadAll(c)
				heard <- string(all)
				if first == "client" {
					io.WriteString(c, " and goodbye")
				}
			})
			rig := startTCP(t, nil, TCPProxyConfig{Pool: tcpPool(t, PoolConfig{}, backend)})
			client := dialTCP(t, rig.addr)
			var answer []byte
			if first == "client" {
				io.WriteString(client, "hello")
				client.CloseWrite()
				answer, _ = io.ReadAll(client)
			} else {
				answer, _ = io.ReadAll(client)
				io.WriteString(client, "hello")
				client.CloseWrite()
			}
			want := "greetings"
			if first == "client" {
				want += " and goodbye"
			}
			if got := <-heard; got != "hello" || string(answer) != want {
				t.Errorf("the backend got %q, the client %q", got, answer)
			}
			e := rig.event(t)
			if e.Err != nil || e.FromClient != 5 || e.FromBackend != int64(len(want)) || e.Backend != backend || e.Attempts != 1 ||
				e.Client.String() != client.LocalAddr().String() || e.Local.String() != rig.addr || e.Duration <= 0 || e.Connect <= 0 {
				t.Errorf("%+v", e)
			}
		})
	}
}

// TestTCPBulk carries more than a pipe holds, both ways at once, with and without
// something around the connections.
func TestTCPBulk(t *testing.T) {
	const size = 24 << 20
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"plain":               nil,
		"hides all":           func(c net.Conn) net.Conn { return struct{ net.Conn }{c} },
		"counts, keeps all":   func(c net.Conn) net.Conn { return &countingConn{TCPConn: c.(*net.TCPConn)} },
		"behind PROXY header": func(c net.Conn) net.Conn { return newProxyConn(c, new(ProxyHeader), []byte("early")) },
	} {
		t.Run(name, func(t *testing.T) {
			backend := tcpBackend(t, func(c *net.TCPConn) { io.Copy(c, c) })
			pool := tcpPool(t, PoolConfig{}, backend)
			var ln net.Listener
			if wrap != nil {
				ln = &wrappingListener{listenTCP(t), wrap}
			}
			rig := startTCP(t, ln, TCPProxyConfig{Pool: pool})
			client := dialTCP(t, rig.addr)
			go func() {
				io.CopyN(client, &pattern{}, size)
				client.CloseWrite()
			}()
			early := int64(0)
			if name == "behind PROXY header" {
				early = 5
				if b, err := io.ReadAll(io.LimitReader(client, early)); string(b) != "early" {
					t.Fatalf("%q, %v", b, err)
				}
			}
			if err := checkPattern(client, size); err != nil {
				t.Error(err)
			}
			if e := rig.event(t); name != "hides all" && e.Err != nil || e.FromClient != size+early || e.FromBackend != size+early {
				t.Errorf("%+v", e)
			}
		})
	}
}

// countingConn keeps what a TCP connection can, and has no other way to be read.
type countingConn struct{ *net.TCPConn }

func (c *countingConn) NetConn() net.Conn                   { return c.TCPConn }
func (c *countingConn) ReadFrom(r io.Reader) (int64, error) { return c.TCPConn.ReadFrom(r) }
func (c *countingConn) WriteTo(w io.Writer) (int64, error)  { return c.TCPConn.WriteTo(w) }

type wrappingListener struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (l *wrappingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		c = l.wrap(c)
	}
	return c, err
}

// pattern is a stream in which no two places look alike for a while.
type pattern struct{ n uint32 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(p.n*2654435761>>24) ^ byte(p.n>>16)
		p.n++
	}
	return len(b), nil
}

func checkPattern(r io.Reader, size int64) error {
	want := &pattern{}
	got, expected := make([]byte, 64<<10), make([]byte, 64<<10)
	for n := int64(0); n < size; {
		k, err := r.Read(got[:min(int64(len(got)), size-n)])
		want.Read(expected[:k])
		if !bytes.Equal(got[:k], expected[:k]) {
			return fmt.Errorf("other bytes than were sent near %d", n)
		}
		if n += int64(k); err != nil && n < size {
			return fmt.Errorf("%d bytes of %d: %w", n, size, err)
		}
	}
	if n, err := r.Read(got); n > 0 || err != io.EOF {
		return fmt.Errorf("%d bytes more, %w", n, err)
	}
	return nil
}

// TestTCPReset: what breaks off on one side is reset on the other, and only the
// backend's counts against it.
func TestTCPReset(t *testing.T) {
	for _, side := range []string{"client", "backend"} {
		for _, bulk := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, bulk %v", side, bulk), func(t *testing.T) {
				seen := make(chan error, 1)
				started := make(chan bool)
				backend := tcpBackend(t, func(c *net.TCPConn) {
					if bulk {
						io.CopyN(c, &pattern{}, 4<<20)
					}
					io.WriteString(c, "x")
					<-started
					if side == "backend" {
						c.SetLinger(0)
						return
					}
					_, err := io.Copy(io.Discard, c)
					seen <- err
				})
				pool := tcpPool(t, PoolConfig{}, backend)
				rig := startTCP(t, nil, TCPProxyConfig{Pool: pool})
				client := dialTCP(t, rig.addr)
				if n := int64(1); bulk {
					io.CopyN(io.Discard, client, 4<<20+n)
				} else {
					io.CopyN(io.Discard, client, n)
				}
				close(started)
				var err error
				if side == "client" {
					client.SetLinger(0)
					client.Close()
					err = <-seen
				} else {
					_, err = io.Copy(io.Discard, client)
				}
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the other side sees %v", err)
				}
				e := rig.event(t)
				failures := pool.Status()[0].Failures
				if side == "backend" && (failures != 1 || !strings.Contains(fmt.Sprint(e.Err), "lb: backend ")) || side == "client" && (failures != 0 || !strings.Contains(fmt.Sprint(e.Err), "lb: client: ")) {
					t.Errorf("%d failures, %v", failures, e.Err)
				}
			})
		}
	}
}

// TestTCPAnswerBeforeEnd: a backend that answers and closes while the client still
// sends does not cost the client the answer.
func TestTCPAnswerBeforeEnd(t *testing.T) {
	answer := strings.Repeat("no, thank you. ", 1000)
	came := make(chan bool)
	backend := tcpBackend(t, func(c *net.TCPConn) {
		io.CopyN(io.Discard, c, 1)
		io.WriteString(c, answer)
		c.CloseWrite()
		<-came                            // so that the answer is on its way when the reset is,
		time.Sleep(20 * time.Millisecond) // all of it
	})
	rig := startTCP(t, nil, TCPProxyConfig{Pool: tcpPool(t, PoolConfig{}, backend)})
	for range 5 {
		client := dialTCP(t, rig.addr)
		go io.CopyN(client, &pattern{}, 8<<20)
		first := make([]byte, 1)
		if _, err := io.ReadFull(client, first); err != nil {
			t.Fatal(err)
		}
		came <- true
		time.Sleep(50 * time.Millisecond) // so that a reset, if there is one, comes first
		got, err := io.ReadAll(io.MultiReader(bytes.NewReader(first), client))
		if string(got) != answer || err != nil {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		client.Close()
		if e := rig.event(t); e.FromBackend != int64(len(answer)) {
			t.Errorf("%+v", e)
		}
	}
}

// TestTCPRetry: a connection that cannot be made is made to another backend, within
// the budget, and the dead one is known to be.
func TestTCPRetry(t *testing.T) {
	dead := deadAddr(t)
	live := tcpBackend(t, says("live"))
	var changes []StateChange
	pool := tcpPool(t, PoolConfig{Strategy: First{}, OnStateChange: func(c StateChange) { changes = append(changes, c) },
		Health: &HealthCheck{Interval: time.Hour, Func: func(context.Context, *Backend) error { return nil }}}, dead, live)
	waitUntil(t, func() bool { return pool.Status()[0].State == Healthy && pool.Status()[1].State == Healthy })
	rig := startTCP(t, nil, TCPProxyConfig{Pool: pool})
	for i, attempts := range []int{2, 1} {
		client := dialTCP(t, rig.addr)
		if got, err := io.ReadAll(io.LimitReader(client, 4)); string(got) != "live" {
			t.Fatalf("%q, %v", got, err)
		}
		client.Close()
		if e := rig.event(t); e.Attempts != attempts || e.Backend != live {
			t.Errorf("connection %d: %+v", i, e)
		}
	}
	if s := pool.Status()[0]; s.State != Unhealthy || s.Failures != 1 {
		t.Errorf("%+v", s)
	}

	all := tcpPool(t, PoolConfig{}, deadAddr(t), deadAddr(t), deadAddr(t), deadAddr(t))
	for retries, want := range map[int]int{-1: 1, 0: 3, 3: 4, 16: 4} {
		rig := startTCP(t, nil, TCPProxyConfig{Pool: all, Retries: retries})
		client := dialTCP(t, rig.addr)
		if n, err := client.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if e := rig.event(t); e.Attempts != want || !errors.Is(e.Err, syscall.ECONNREFUSED) {
			t.Errorf("Retries %d: %+v", retries, e)
		}
	}
	// Ten are saved up at first, of which each connection takes two and gives a
	// tenth, as it is not made.
	rig = startTCP(t, nil, TCPProxyConfig{Pool: all})
	attempts := 0
	for range 50 {
		client := dialTCP(t, rig.addr)
		client.Read(make([]byte, 1))
		client.Close()
		attempts += rig.event(t).Attempts
	}
	if attempts != 50+10+5 {
		t.Errorf("%d attempts of 50 connections, want 65", attempts)
	}
	// A retry for which there is no backend costs nothing either.
	rig = startTCP(t, nil, TCPProxyConfig{Pool: tcpPool(t, PoolConfig{}, dead)})
	before := rig.budget.saved.Load()
	for range 20 {
		client := dialTCP(t, rig.addr)
		client.Read(make([]byte, 1))
		client.Close()
		rig.event(t)
	}
	if got := rig.budget.saved.Load(); got != before+20*rig.budget.earns {
		t.Errorf("%d saved up after 20 connections without a second backend, of %d before", got, before)
	}
	// A retry that succeeds costs nothing.
	rig = startTCP(t, nil, TCPProxyConfig{Pool: tcpPool(t, PoolConfig{Strategy: First{}}, dead, live)})
	for range 50 {
		client := dialTCP(t, rig.addr)
		if got, err := io.ReadAll(io.LimitReader(client, 4)); string(got) != "live" {
			t.Fatalf("%q, %v", got, err)
		}
		client.Close()
	}
}

func waitUntil(t *testing.T, f func() bool) {
	t.Helper()
	for start := time.Now(); !f(); time.Sleep(time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatal("it never comes true")
		}
	}
}

// TestTCPHash: a client's connections go to the same backend.
func TestTCPHash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		got := make(map[string][]string)
		conf := PoolConfig{Strategy: Maglev{}, Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			a, b := memnet.Pipe()
			go func() { io.WriteString(b, addr); b.Close() }()
			return a, nil
		}}
		pool := tcpPool(t, conf, "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1")
		ln := memnet.Listen("203.0.113.1:80")
		startTCP(t, ln, TCPProxyConfig{Pool: pool})
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				ip := fmt.Sprintf("192.0.2.%d", i%16)
				client, err := ln.DialFrom(t.Context(), netip.MustParseAddrPort(fmt.Sprintf("%s:%d", ip, 1000+i)))
				if err != nil {
					t.Error(err)
					return
				}
				defer client.Close()
				name, _ := io.ReadAll(client)
				mu.Lock()
				defer mu.Unlock()
				got[ip] = append(got[ip], string(name))
			})
		}
		wg.Wait()
		used := make(map[string]bool)
		for ip, names := range got {
			used[names[0]] = true
			if len(slices.Compact(names)) != 1 {
				t.Errorf("%s went to %q", ip, names)
			}
		}
		if len(used) < 3 {
			t.Errorf("16 clients went to %v only", used)
		}
	})
}
