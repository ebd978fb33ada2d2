package lb

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

func TestProxyProtocolConfigErrors(t *testing.T) {
	_, err := ProxyProtocolListener(nil, ProxyProtocolConfig{
		Trusted: []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.0/104")}, Version: 3, HeaderTimeout: -1, MaxPending: -2,
	})
	for _, want := range []string{"Trusted[0]", "Trusted[1] is ::ffff:10.0.0.0/104", "Version is 3", "HeaderTimeout is -1ns", "MaxPending is -2"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := ProxyProtocolListener(nil, ProxyProtocolConfig{}); err == nil || !strings.Contains(err.Error(), "Trusted is empty") {
		t.Error(err)
	}
}

var (
	loopback   = netip.MustParsePrefix("127.0.0.0/8")
	theProxy   = addrPort("192.0.2.10:4000") // of the tests in memory, and trusted
	aStranger  = addrPort("198.51.100.1:4000")
	proxyNet   = netip.MustParsePrefix("192.0.2.0/24")
	headerOfV1 = "PROXY TCP4 203.0.113.7 203.0.113.9 1234 443\r\n"
)

func proxyListen(t *testing.T, ln net.Listener, conf ProxyProtocolConfig) net.Listener {
	t.Helper()
	l, err := ProxyProtocolListener(ln, conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestProxyListener: each combination of peer, header and configuration.
func TestProxyListener(t *testing.T) {
	v2Local, v2TCP := v2(0x20, 0), v2(0x21, 0x11, v4Pair, tlv(1, "h2"))
	for name, c := range map[string]struct {
		from    netip.AddrPort
		only    bool
		version ProxyVersion
		send    string
		client  string // empty: refused
		data    string
	}{
		"v1":                     {theProxy, false, 0, headerOfV1 + "hello", "203.0.113.7:1234", "hello"},
		"v2":                     {theProxy, false, 0, v2TCP + "hello", "192.0.2.1:56324", "hello"},
		"v1, v1 only":            {theProxy, true, ProxyV1, headerOfV1 + "hello", "203.0.113.7:1234", "hello"},
		"v1, v2 only":            {theProxy, false, ProxyV2, headerOfV1 + "hello", "", ""},
		"v2, v1 only":            {theProxy, false, ProxyV1, v2TCP + "hello", "", ""},
		"local":                  {theProxy, false, 0, v2Local + "hello", "192.0.2.10:4000", "hello"},
		"unknown":                {theProxy, false, 0, "PROXY UNKNOWN\r\nhello", "192.0.2.10:4000", "hello"},
		"none":                   {theProxy, false, 0, "hello", "", ""},
		"half":                   {theProxy, false, 0, headerOfV1[:20], "", ""},
		"nothing":                {theProxy, false, 0, "", "", ""},
		"udp":                    {theProxy, false, 0, v2(0x21, 0x12, v4Pair) + "hello", "", ""},
		"a header in the data":   {theProxy, false, 0, headerOfV1 + headerOfV1, "203.0.113.7:1234", headerOfV1},
		"stranger":               {aStranger, false, 0, "hello", "198.51.100.1:4000", "hello"},
		"stranger's header":      {aStranger, false, 0, headerOfV1, "198.51.100.1:4000", headerOfV1},
		"stranger, trusted only": {aStranger, true, 0, headerOfV1, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := memnet.Listen("203.0.113.1:80")
				refused := make(chan error, 1)
				l := proxyListen(t, ln, ProxyProtocolConfig{Trusted: []netip.Prefix{proxyNet}, TrustedOnly: c.only, Version: c.version, OnRefuse: func(peer net.Addr, err error) {
					if peer.String() != c.from.String() {
						t.Errorf("refused %v", peer)
					}
					refused <- err
				}})
				accepted := make(chan net.Conn, 1)
				go func() {
					if conn, err := l.Accept(); err == nil {
						accepted <- conn
					}
				}()
				client, err := ln.DialFrom(t.Context(), c.from)
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				io.WriteString(client, c.send)
				client.(*memnet.Conn).CloseWrite()
				select {
				case err := <-refused:
					if c.client != "" {
						t.Fatal(err)
					}
				case conn := <-accepted:
					defer conn.Close()
					data, err := io.ReadAll(conn)
					if conn.RemoteAddr().String() != c.client || string(data) != c.data || err != nil {
						t.Errorf("%v, %q, %v", conn.RemoteAddr(), data, err)
					}
					h := ProxyHeaderOf(conn)
					if (h != nil) != (c.from == theProxy) || c.send == v2TCP+"hello" && h.ALPN != "h2" {
						t.Errorf("header %+v", h)
					}
					if h != nil && h.knows() && conn.LocalAddr().String() != "203.0.113.9:443" {
						t.Errorf("the client has connected to %v", conn.LocalAddr())
					}
				}
			})
		})
	}
}

// TestProxyListenerSlow: peers that say nothing hold up nobody, for no longer than
// HeaderTimeout, and are no more than MaxPending.
func TestProxyListenerSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := memnet.Listen("203.0.113.1:80")
		var mu sync.Mutex
		var why []error
		l := proxyListen(t, ln, ProxyProtocolConfig{Trusted: []netip.Prefix{proxyNet}, MaxPending: 3, HeaderTimeout: 2 * time.Second, OnRefuse: func(_ net.Addr, err error) {
			mu.Lock()
			defer mu.Unlock()
			why = append(why, err)
		}})
		var silent []net.Conn
		dial := func(say string) net.Conn {
			conn, err := ln.DialFrom(t.Context(), theProxy)
			if err != nil {
				t.Error(err)
				return nil
			}
			t.Cleanup(func() { conn.Close() })
			io.WriteString(conn, say)
			return conn
		}
		dialed := make(chan net.Conn, 1)
		go func() { dialed <- dial(headerOfV1) }() // Accept starts the listener
		first, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			silent = append(silent, dial("PROXY "))
			time.Sleep(grace)
		}
		synctest.Wait()
		if len(why) != 2 || !errors.Is(why[0], errEvicted) {
			t.Fatalf("refused: %v", why)
		}
		for i, conn := range silent[:2] {
			if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Errorf("%d: is not closed", i)
			}
		}
		time.Sleep(grace)
		start := time.Now()
		dial(headerOfV1)
		if conn, err := l.Accept(); err != nil || time.Since(start) > 0 {
			t.Errorf("%v, %v after %v", conn, err, time.Since(start))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(why) != 5 || !errors.Is(why[4], os.ErrDeadlineExceeded) {
			t.Errorf("refused: %v", why)
		}
		// Those that are ready are not closed to make room.
		for range 6 {
			dial(headerOfV1 + "x")
		}
		synctest.Wait()
		for range 6 {
			if _, err := l.Accept(); err != nil {
				t.Error(err)
			}
		}
		// HeaderTimeout is no limit for what comes afterwards.
		io.WriteString(<-dialed, "late")
		if got, err := io.ReadAll(io.LimitReader(first, 4)); string(got) != "late" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// TestProxyListenerClose: nothing is left, of what was accepted by nobody.
func TestProxyListenerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := memnet.Listen("203.0.113.1:80")
		l := proxyListen(t, ln, ProxyProtocolConfig{Trusted: []netip.Prefix{proxyNet}})
		ended := make(chan error, 1)
		waiting, _ := ln.DialFrom(t.Context(), theProxy)
		ready, _ := ln.DialFrom(t.Context(), theProxy)
		stranger, _ := ln.DialFrom(t.Context(), aStranger)
		go func() { _, err := l.Accept(); ended <- err }()
		synctest.Wait()
		if err := <-ended; err != nil { // the stranger
			t.Fatal(err)
		}
		io.WriteString(ready, headerOfV1)
		synctest.Wait()
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Error(err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
		for _, conn := range []net.Conn{waiting, ready} {
			if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Error("a connection is still open")
			}
			conn.Close()
		}
		stranger.Close()
	})
	unused := proxyListen(t, memnet.Listen("203.0.113.1:80"), ProxyProtocolConfig{Trusted: []netip.Prefix{proxyNet}})
	unused.Close()
	if _, err := unused.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
}

type failingListener struct {
	net.Listener
	errs chan error
}

func (l *failingListener) Accept() (net.Conn, error) { return nil, <-l.errs }
func (l *failingListener) Close() error              { return nil }

// TestProxyListenerErrors: errors of the listener within are passed on, one for
// one, and its end is ours.
func TestProxyListenerErrors(t *testing.T) {
	within := &failingListener{memnet.Listen("203.0.113.1:80"), make(chan error, 3)}
	l := proxyListen(t, within, ProxyProtocolConfig{Trusted: []netip.Prefix{proxyNet}})
	first, second := errors.New("one"), errors.New("two")
	within.errs <- first
	within.errs <- second
	within.errs <- net.ErrClosed
	for _, want := range []error{first, second, net.ErrClosed, net.ErrClosed} {
		if _, err := l.Accept(); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
}

// TestProxyConn: the bytes that came with the header are not lost, whatever way
// they are read, and the connection can do what the one below can.
func TestProxyConn(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := proxyListen(t, ln, ProxyProtocolConfig{Trusted: []netip.Prefix{loopback}})
	payload := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	for name, read := range map[string]func(net.Conn, *bytes.Buffer) error{
		"Read":    func(c net.Conn, b *bytes.Buffer) error { _, err := io.Copy(b, struct{ io.Reader }{c}); return err },
		"WriteTo": func(c net.Conn, b *bytes.Buffer) error { _, err := c.(io.WriterTo).WriteTo(b); return err },
		"bytewise": func(c net.Conn, b *bytes.Buffer) error {
			var one [1]byte
			for {
				if _, err := c.Read(one[:]); err != nil {
					return nil
				}
				b.Write(one[:])
			}
		},
	} {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		go func() {
			client.Write(append([]byte(headerOfV1), payload[:100]...))
			client.Write(payload[100:])
			client.(*net.TCPConn).CloseWrite()
		}()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var got bytes.Buffer
		if err := read(conn, &got); err != nil || !bytes.Equal(got.Bytes(), payload) {
			t.Errorf("%s: %d bytes, %v", name, got.Len(), err)
		}
		if n, err := conn.(io.ReaderFrom).ReadFrom(strings.NewReader("answer")); n != 6 || err != nil {
			t.Errorf("ReadFrom: %d, %v", n, err)
		}
		if err := conn.(interface{ CloseRead() error }).CloseRead(); err != nil {
			t.Error(err)
		}
		if err := conn.(halfCloser).CloseWrite(); err != nil {
			t.Error(err)
		}
		if answer, err := io.ReadAll(client); string(answer) != "answer" || err != nil {
			t.Errorf("the answer is %q, %v", answer, err)
		}
		if _, ok := conn.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn); !ok {
			t.Error("NetConn is not the TCP connection")
		}
	}
}
