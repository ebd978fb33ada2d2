package lb

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

// memTCP is a rig in memory, for what takes time.
func memTCP(t *testing.T, conf TCPProxyConfig) (rig *tcpRig, ln *memnet.Listener, backend *memnet.Listener) {
	backend = memnet.Listen("10.0.0.1:1")
	t.Cleanup(func() { backend.Close() })
	conf.Pool = tcpPool(t, PoolConfig{Dial: backend.DialContext}, "10.0.0.1:1")
	ln = memnet.Listen("203.0.113.1:80")
	return startTCP(t, ln, conf), ln, backend
}

func dialMem(t *testing.T, ln *memnet.Listener) net.Conn {
	t.Helper()
	conn, err := ln.DialContext(t.Context(), "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func acceptMem(t *testing.T, ln *memnet.Listener) net.Conn {
	t.Helper()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestTCPIdle: a byte in either direction, and nothing else, keeps a connection
// alive; also one of which a direction has ended.
func TestTCPIdle(t *testing.T) {
	for name, half := range map[string]bool{"open": false, "half-closed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rig, ln, backends := memTCP(t, TCPProxyConfig{IdleTimeout: time.Minute})
				client := dialMem(t, ln)
				backend := acceptMem(t, backends)
				if half {
					client.(*memnet.Conn).CloseWrite()
				}
				var last time.Time
				for i := range 10 {
					time.Sleep(50 * time.Second)
					from, to := backend, client
					if i%2 == 0 && !half {
						from, to = client, backend
					}
					last = time.Now()
					io.WriteString(from, "x")
					if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
						t.Fatalf("after %d bytes: %v", i, err)
					}
				}
				if n, err := client.Read(make([]byte, 1)); n > 0 || err == nil {
					t.Fatalf("%d, %v", n, err)
				}
				if idle := time.Since(last); idle < time.Minute || idle > 76*time.Second {
					t.Errorf("cut after %v", idle)
				}
				if e := rig.event(t); !errors.Is(e.Err, ErrIdle) {
					t.Errorf("%+v", e)
				}
				if s := rig.conf.Pool.Status()[0]; s.Failures != 0 || s.InFlight != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
	t.Run("without end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, ln, backends := memTCP(t, TCPProxyConfig{IdleTimeout: -1})
			client := dialMem(t, ln)
			backend := acceptMem(t, backends)
			time.Sleep(1000 * time.Hour)
			io.WriteString(client, "x")
			if _, err := io.ReadFull(backend, make([]byte, 1)); err != nil {
				t.Error(err)
			}
		})
	})
}

// TestTCPIdleSplice: bytes that the kernel moves without us keep a connection
// alive, too; and one that stalls half-way is cut.
func TestTCPIdleSplice(t *testing.T) {
	const limit = time.Second
	trickle := make(chan bool)
	backend := tcpBackend(t, func(c *net.TCPConn) {
		io.CopyN(c, &pattern{}, 1<<20) // so that the kernel is let to move it
		<-trickle
		for range 20 {
			time.Sleep(limit / 10)
			if _, err := io.WriteString(c, "x"); err != nil {
				return
			}
		}
		io.Copy(io.Discard, c)
	})
	rig := startTCP(t, nil, TCPProxyConfig{Pool: tcpPool(t, PoolConfig{}, backend), IdleTimeout: limit})
	client := dialTCP(t, rig.addr)
	if _, err := io.CopyN(io.Discard, client, 1<<20); err != nil {
		t.Fatal(err)
	}
	close(trickle)
	start := time.Now()
	n, err := io.Copy(io.Discard, client)
	if n != 20 || !errors.Is(err, syscall.ECONNRESET) || time.Since(start) < 2*limit {
		t.Errorf("%d bytes, %v after %v", n, err, time.Since(start))
	}
	if e := rig.event(t); !errors.Is(e.Err, ErrIdle) || e.FromBackend != 1<<20+20 {
		t.Errorf("%+v", e)
	}
}

// TestTCPMaxConns: what is more than MaxConns waits; what is more than a client may
// have is reset.
func TestTCPMaxConns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig, ln, backends := memTCP(t, TCPProxyConfig{MaxConns: 2, MaxConnsPerClient: 1})
		dial := func(ip string) net.Conn {
			conn, err := ln.DialFrom(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(ip), 1))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		first := dial("2001:db8::1")
		a := acceptMem(t, backends)
		// The same 64 bits.
		again := dial("2001:db8::2")
		if n, err := again.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("%d, %v", n, err)
		}
		if e := rig.event(t); !errors.Is(e.Err, ErrTooMany) {
			t.Errorf("%+v", e)
		}
		dial("2001:db8:0:1::2")
		acceptMem(t, backends)
		dial("192.0.2.1")
		accepted := make(chan net.Conn)
		go func() { accepted <- acceptMem(t, backends) }()
		synctest.Wait()
		select {
		case <-accepted:
			t.Fatal("there are three connections")
		default:
		}
		one, other := memnet.Pipe()
		rig.ServeConn(one) // which does not wait
		if n, err := other.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("%d, %v", n, err)
		}
		first.Close()
		a.Close()
		<-accepted
		synctest.Wait()
		rig.limit.mu.Lock()
		defer rig.limit.mu.Unlock()
		if n := len(rig.limit.count); n != 2 {
			t.Errorf("%d clients are counted, want 2", n)
		}
	})
}

// TestTCPQueue: connections wait for a backend that has as many as it may have.
func TestTCPQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backends := memnet.Listen("10.0.0.1:1")
		defer backends.Close()
		pool := tcpPool(t, PoolConfig{Dial: backends.DialContext, MaxInFlight: 1, MaxQueue: 1, QueueTimeout: time.Minute}, "10.0.0.1:1")
		ln := memnet.Listen("203.0.113.1:80")
		rig := startTCP(t, ln, TCPProxyConfig{Pool: pool})
		first := dialMem(t, ln)
		b := acceptMem(t, backends)
		dialMem(t, ln)
		synctest.Wait()
		dialMem(t, ln) // for whom there is no place in the queue
		if e := rig.event(t); !errors.Is(e.Err, ErrBusy) {
			t.Errorf("%+v", e)
		}
		first.Close()
		b.Close()
		acceptMem(t, backends)
	})
}

// TestTCPShutdown: connections in flight go on until they end or the time is over.
func TestTCPShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig, ln, backends := memTCP(t, TCPProxyConfig{})
		client := dialMem(t, ln)
		backend := acceptMem(t, backends)
		done := make(chan error, 1)
		go func() { done <- rig.Shutdown(t.Context()) }()
		synctest.Wait()
		if err := <-rig.served; err != http.ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
		if _, err := ln.DialContext(t.Context(), "tcp", ""); err == nil {
			t.Error("the listener is open")
		}
		if err := rig.Serve(memnet.Listen("203.0.113.1:81")); err != http.ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
		one, other := memnet.Pipe()
		rig.ServeConn(one)
		if n, err := other.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("%d, %v", n, err)
		}
		time.Sleep(time.Hour / 2)
		io.WriteString(client, "still here")
		if got, err := io.ReadAll(io.LimitReader(backend, 10)); string(got) != "still here" {
			t.Errorf("%q, %v", got, err)
		}
		select {
		case err := <-done:
			t.Fatalf("Shutdown: %v", err)
		default:
		}
		client.Close()
		backend.Close()
		if err := <-done; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		rig, ln, backends := memTCP(t, TCPProxyConfig{})
		client := dialMem(t, ln)
		backend := acceptMem(t, backends)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if err := rig.Shutdown(ctx); err != context.DeadlineExceeded || time.Since(start) != time.Minute {
			t.Errorf("Shutdown: %v after %v", err, time.Since(start))
		}
		for _, conn := range []net.Conn{client, backend} {
			if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Errorf("%d, %v", n, err)
			}
		}
		if e := rig.event(t); !errors.Is(e.Err, http.ErrServerClosed) {
			t.Errorf("%+v", e)
		}
		if err := errors.Join(rig.Close(), rig.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestTCPCloseEverywhere: Close ends a connection whatever it waits for.
func TestTCPCloseEverywhere(t *testing.T) {
	pool := tcpPool(t, PoolConfig{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}, DialTimeout: time.Hour}, "10.0.0.1:1")
	full := tcpPool(t, PoolConfig{MaxInFlight: 1, QueueTimeout: time.Hour}, "10.0.0.1:1")
	picked, err := full.Pick(PickInfo{})
	if err != nil {
		t.Fatal(err)
	}
	defer picked.Done(Outcome{Result: Canceled})
	for name, conf := range map[string]TCPProxyConfig{
		"a ClientHello": {Routes: []TCPRoute{{ServerNames: []string{"*"}, Pool: pool}}, HelloTimeout: time.Hour},
		"a connection":  {Pool: pool},
		"the queue":     {Pool: full},
	} {
		rig := startTCP(t, nil, conf)
		client := dialTCP(t, rig.addr)
		waitUntil(t, func() bool { rig.mu.Lock(); defer rig.mu.Unlock(); return len(rig.conns) == 1 })
		rig.Close()
		if e := rig.event(t); !errors.Is(e.Err, http.ErrServerClosed) {
			t.Errorf("%s: %v", name, e.Err)
		}
		if n, err := client.Read(make([]byte, 1)); n > 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
	if s := pool.Status()[0]; s.Failures != 0 || s.InFlight != 0 {
		t.Errorf("%+v", s)
	}
}

// TestTCPAcceptErrors: what passes is waited for, and what does not ends Serve.
func TestTCPAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := NewTCPProxy(TCPProxyConfig{Pool: tcpPool(t, PoolConfig{}), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		final := errors.New("gone")
		ln := &failingListener{memnet.Listen("203.0.113.1:80"), make(chan error, 3)}
		ln.errs <- syscall.EMFILE
		ln.errs <- syscall.EMFILE
		ln.errs <- final
		start := time.Now()
		if err := p.Serve(ln); !errors.Is(err, final) || time.Since(start) != 15*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}
