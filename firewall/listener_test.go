package firewall

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

// acceptFunc is a listener that makes connections up.
type acceptFunc func() (net.Conn, error)

func (f acceptFunc) Accept() (net.Conn, error) { return f() }
func (f acceptFunc) Close() error              { return nil }
func (f acceptFunc) Addr() net.Addr            { return &net.TCPAddr{} }

// fakeConn counts what is done with it. Reading from it is a mistake.
type fakeConn struct {
	net.Conn
	remote  net.Addr
	closed  *int
	lingers *int
}

func (c fakeConn) RemoteAddr() net.Addr            { return c.remote }
func (c fakeConn) LocalAddr() net.Addr             { return c.remote }
func (c fakeConn) SetReadDeadline(time.Time) error { return nil }
func (c fakeConn) Close() error                    { *c.closed++; return io.ErrClosedPipe }
func (c fakeConn) SetLinger(s int) error {
	if s == 0 && *c.closed == *c.lingers {
		*c.lingers++
	}
	return io.ErrClosedPipe
}

func TestListenerSurvivesAFlood(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Rules: []Rule{
		{ID: "good", Match: Source(prefixes("192.0.2.0/24")...), Verdict: Accept},
	}}})
	const flood = 200_000
	n, closed, lingers := 0, 0, 0
	good := fakeConn{remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, closed: new(int), lingers: new(int)}
	ln := f.Listener(acceptFunc(func() (net.Conn, error) {
		if n++; n > flood {
			return good, nil
		}
		return fakeConn{remote: &net.TCPAddr{IP: net.IPv4(198, 51, 100, 1), Port: 1}, closed: &closed, lingers: &lingers}, nil
	}))
	defer debug.SetMaxStack(debug.SetMaxStack(1 << 20)) // recursion would overflow it
	conn, err := ln.Accept()
	if err != nil || conn.(interface{ NetConn() net.Conn }).NetConn() != net.Conn(good) || *good.closed != 0 {
		t.Fatalf("got %v, %v, want the good connection within", conn, err)
	}
	if closed != flood || lingers != flood {
		t.Errorf("%d closed, %d of them reset, want %d", closed, lingers, flood)
	}
	if c := f.Counters(); c.Default.Connections != flood || c.Rules[0].Connections != 1 {
		t.Errorf("counters %+v", c)
	}
}

func TestListenerWithoutAddresses(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept}})
	closed, stop, n := 0, errors.New("stop"), 0
	remotes := []net.Addr{nil, (*net.TCPAddr)(nil), &net.TCPAddr{}, &net.UnixAddr{Name: "@", Net: "unix"}}
	ln := f.Listener(acceptFunc(func() (net.Conn, error) {
		if n++; n > len(remotes) {
			return nil, stop
		}
		return fakeConn{remote: remotes[n-1], closed: &closed, lingers: new(int)}, nil
	}))
	if conn, err := ln.Accept(); err != stop || conn != nil {
		t.Errorf("got %v, %v, want the error of the listener within", conn, err)
	}
	if closed != len(remotes) {
		t.Errorf("%d of %d connections were closed", closed, len(remotes))
	}
	if c := f.Counters(); c.UnknownClients.Connections != uint64(len(remotes)) {
		t.Errorf("counters %+v", c)
	}
}

func TestListenerOverTCP(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept}})
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := f.Listener(inner)
	defer ln.Close()
	if ln.Addr() != inner.Addr() {
		t.Errorf("Addr %v", ln.Addr())
	}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	if err := f.Ban(loopback, 1<<40, "test"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := ln.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if _, ok := conn.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn); !ok {
			t.Errorf("got a %T, want the *net.TCPConn within", conn)
		}
		_, _ = io.WriteString(conn, "hello")
	})
	// The reset can come before Dial is done, which then fails.
	if banned, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		if n, err := banned.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("a banned client read %d bytes, %v, want a reset", n, err)
		}
		banned.Close()
	}
	for f.Counters().Bans.Connections == 0 {
		runtime.Gosched()
	}
	f.Unban(loopback)
	fine, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer fine.Close()
	if got, err := io.ReadAll(fine); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
	wg.Wait()
	ln.Close()
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestListenerKeepsMemnet(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept}})
	inner := memnet.Listen("192.0.2.80:80")
	ln := f.Listener(inner)
	defer ln.Close()
	client, err := inner.DialFrom(t.Context(), netip.MustParseAddrPort("[2001:db8::1]:9"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, ok := conn.(interface{ NetConn() net.Conn }).NetConn().(*memnet.Conn); !ok {
		t.Errorf("got a %T", conn)
	}
}
