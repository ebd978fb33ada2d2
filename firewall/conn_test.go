package firewall

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

// pair connects a client to a listener of the firewall, in memory.
func pair(t *testing.T, f *Firewall, from string) (client, server net.Conn) {
	t.Helper()
	inner := memnet.Listen("192.0.2.80:80")
	t.Cleanup(func() { inner.Close() })
	client, err := inner.DialFrom(context.Background(), netip.MustParseAddrPort(from))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err = f.Listener(inner).Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

func TestHeaderDeadline(t *testing.T) {
	record := "\x16\x03\x01\x00\x05hello"
	for name, c := range map[string]struct {
		pieces []string // a second apart
		ends   bool
	}{
		"nothing":               {nil, false},
		"half a head":           {[]string{"GET / HTTP/1.1\r\nHost: x\r\n"}, false},
		"a head":                {[]string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n"}, true},
		"a head in pieces":      {[]string{"GET / HTTP/1.1\r", "\n", "Host: x\r", "\n\r", "\n"}, true},
		"bare line feeds":       {[]string{"GET / HTTP/1.1\nHost: x\n\n"}, true},
		"an odd empty line":     {[]string{"GET / HTTP/1.1\r\nHost: x\r\n \r\n"}, false},
		"a drip":                {strings.Split(strings.Repeat("x", 30), ""), false},
		"a record":              {[]string{record}, true},
		"a record in pieces":    {strings.Split(record[:8], ""), false},
		"a record, last byte":   {[]string{record[:9], record[9:]}, true},
		"a record with newline": {[]string{"\x16\x03\x01\x01\x05\r\n\r\n"}, false},
		"an empty record":       {[]string{"\x16\x03\x01\x00\x00"}, true},
		"64 KB":                 {[]string{strings.Repeat("x", 64<<10)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFirewall(t, Config{Policy: Policy{Default: Accept}})
				client, server := pair(t, f, "198.51.100.1:5")
				var wg sync.WaitGroup
				wg.Go(func() {
					for _, p := range c.pieces {
						if _, err := io.WriteString(client, p); err != nil {
							return // the server gave up
						}
						time.Sleep(time.Second)
					}
				})
				start := time.Now()
				var err error
				buf := make([]byte, 4<<10)
				for err == nil && time.Since(start) < time.Minute {
					if c.ends && time.Since(start) > 20*time.Second {
						break
					}
					if c.ends {
						// What the owner sets is in force too, and after.
						if err := server.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
							t.Fatal(err)
						}
					}
					_, err = server.Read(buf)
					if c.ends && errors.Is(err, os.ErrDeadlineExceeded) {
						err = nil
					}
				}
				took := time.Since(start)
				if !c.ends && (!errors.Is(err, os.ErrDeadlineExceeded) || took != 10*time.Second) {
					t.Errorf("ended after %v with %v, want 10 s and a timeout", took, err)
				}
				if c.ends && (err != nil || took < 20*time.Second) {
					t.Errorf("ended after %v with %v, want it to go on", took, err)
				}
				server.Close()
				wg.Wait()
			})
		})
	}
}

// TestOpeningEndsWhenTheServerSpeaks is about protocols such as SMTP.
func TestOpeningEndsWhenTheServerSpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{Policy: Policy{Default: Accept}})
		client, server := pair(t, f, "198.51.100.1:5")
		if _, err := io.WriteString(server, "220 hello\r\n"); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Hour, func() { client.Write([]byte("x")) })
		if n, err := server.Read(make([]byte, 9)); n != 1 || err != nil {
			t.Errorf("read %d, %v", n, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{Policy: Policy{Default: Accept}, HeaderTimeout: -1})
		client, server := pair(t, f, "198.51.100.1:5")
		time.AfterFunc(time.Hour, func() { client.Write([]byte("x")) })
		if n, err := server.Read(make([]byte, 9)); n != 1 || err != nil {
			t.Errorf("without a limit: read %d, %v", n, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{Policy: Policy{Default: Accept}})
		client, server := pair(t, f, "198.51.100.1:5")
		time.AfterFunc(time.Hour, func() { client.Write([]byte("x")) })
		if n, err := server.(interface{ NetConn() net.Conn }).NetConn().Read(make([]byte, 9)); n != 1 || err != nil {
			t.Errorf("the connection within: read %d, %v", n, err)
		}
	})
}

// TestSyscallConn: to wait for a connection does not take its deadlines away.
func TestSyscallConn(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept}})
	within, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := f.Listener(within)
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	raw, err := server.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if n := reflect.TypeOf(raw).NumMethod(); n != 3 {
		t.Errorf("%T has %d methods, want Control, Read and Write alone: package os would write past the connection", raw, n)
	}
	asked := false
	if err := raw.Control(func(uintptr) { asked = true }); err != nil || !asked {
		t.Errorf("asked %v, %v", asked, err)
	}
	if !server.(*conn).isOpening() {
		t.Error("the deadline of the first head is gone")
	}
	_, inMemory := pair(t, f, "198.51.100.1:5")
	if _, err := inMemory.(syscall.Conn).SyscallConn(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("in memory: %v", err)
	}
}

func TestStall(t *testing.T) {
	for name, c := range map[string]struct {
		rate    int // bytes per second that the client takes in
		alive   bool
		file    bool
		timeout time.Duration
	}{
		"nothing":                {0, false, false, 0},
		"a drip":                 {10, false, false, 0},
		"a drip of a file":       {10, false, true, 0},
		"slow":                   {2000, true, false, 0},
		"a slow file":            {2000, true, true, 0},
		"a drip, without limits": {10, true, false, -1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				f := newFirewall(t, Config{Policy: Policy{Default: Accept}, StallTimeout: c.timeout})
				client, server := pair(t, f, "198.51.100.1:5")
				data := bytes.Repeat([]byte("0123456789"), 40_000)
				stop := make(chan struct{})
				var wg sync.WaitGroup
				got := 0
				wg.Go(func() {
					for c.rate > 0 {
						select {
						case <-stop:
							return
						case <-time.After(time.Second):
						}
						n, err := io.ReadFull(client, make([]byte, c.rate))
						if got += n; err != nil {
							return
						}
					}
				})
				if c.alive { // long enough to see
					time.AfterFunc(10*time.Minute, func() { server.Close() })
				}
				start := time.Now()
				var n int64
				var err error
				if c.file {
					path := filepath.Join(dir, "x")
					if err := os.WriteFile(path, data, 0o600); err != nil {
						t.Fatal(err)
					}
					file, openErr := os.Open(path)
					if openErr != nil {
						t.Fatal(openErr)
					}
					defer file.Close()
					n, err = server.(io.ReaderFrom).ReadFrom(file)
				} else {
					var m int
					m, err = server.Write(data)
					n = int64(m)
				}
				took := time.Since(start)
				close(stop)
				switch {
				case !c.alive && (err == nil || took > 2*time.Minute+time.Second):
					t.Errorf("wrote %d in %v, %v, want a timeout after two minutes", n, took, err)
				case c.alive && took < 100*time.Second:
					t.Errorf("wrote %d in %v, %v, want it to go on", n, took, err)
				case c.alive && c.rate == 2000 && (err != nil || n != int64(len(data))):
					t.Errorf("wrote %d in %v, %v, want all of it", n, took, err)
				}
				if open := len(f.conns.within(netip.MustParsePrefix("0.0.0.0/0"))); (open > 0) != (c.alive && c.rate == 2000) {
					t.Errorf("%d connections are open", open)
				}
				server.Close()
				client.Close()
				wg.Wait()
			})
		})
	}
}

// TestOwnDeadlinesStay: the stall deadline does not undo a shorter one.
func TestOwnDeadlinesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{Policy: Policy{Default: Accept}})
		_, server := pair(t, f, "198.51.100.1:5")
		start := time.Now()
		if err := server.SetDeadline(start.Add(3 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("read: %v after %v", err, time.Since(start))
		}
		if err := server.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 6*time.Second {
			t.Errorf("write: %v after %v", err, time.Since(start))
		}
	})
}

func TestBanClosesLiveConnections(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept}, TrustedProxies: prefixes("198.51.100.99/32")})
	bad, badServer := pair(t, f, "198.51.100.1:5")
	_, _ = pair(t, f, "203.0.113.1:5")
	good, goodServer := pair(t, f, "203.0.113.1:6")
	proxy, proxyServer := pair(t, f, "198.51.100.99:5")
	if err := f.Ban(netip.MustParsePrefix("198.51.100.0/24"), time.Hour, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := badServer.Write([]byte("x")); err == nil {
		t.Error("the connection of the banned client is open")
	}
	if n, err := bad.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the banned client read %d bytes, %v", n, err)
	}
	for name, c := range map[string][2]net.Conn{"another": {good, goodServer}, "a proxy": {proxy, proxyServer}} {
		if _, err := c[1].Write([]byte("x")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n, err := c[0].Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("%s: read %d, %v", name, n, err)
		}
	}
	goodServer.Close()
	goodServer.Close() // counts once
	if n := len(f.conns.open); n != 2 {
		t.Errorf("%d connections are known, want 2", n)
	}
}

func TestConcurrentLimit(t *testing.T) {
	f := newFirewall(t, Config{
		TrustedProxies: prefixes("10.0.0.1/32"),
		Policy:         Policy{Default: Accept, Limits: []Limit{{ID: "open", Unit: Concurrent, Burst: 2, IPv4Bits: 24}}},
	})
	inner := memnet.Listen("192.0.2.80:80")
	defer inner.Close()
	ln := f.Listener(inner)
	// dial returns nil if the connection is refused; a second one from an address
	// without limits shows that.
	dial := func(from string) net.Conn {
		t.Helper()
		for _, addr := range []string{from, "10.0.0.1:9"} {
			c, err := inner.DialFrom(t.Context(), netip.MustParseAddrPort(addr))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}
		first, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if first.RemoteAddr().String() != from {
			first.Close()
			return nil
		}
		second, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		second.Close()
		return first
	}
	a, b := dial("198.51.100.1:1"), dial("198.51.100.2:2")
	if a == nil || b == nil {
		t.Fatal("the first two were refused")
	}
	if dial("198.51.100.3:3") != nil {
		t.Error("a third of the network was let in")
	}
	if c := dial("203.0.113.1:1"); c == nil {
		t.Error("another network was refused")
	}
	if d := f.DecideConn(netip.MustParseAddrPort("198.51.100.4:4"), netip.MustParseAddrPort("192.0.2.80:80")); d.Verdict != Reject || d.LimitID != "open" || d.RetryAfter != 0 {
		t.Errorf("decision %+v", d)
	}
	if s := f.ExplainConn(netip.MustParseAddrPort("198.51.100.4:4"), netip.MustParseAddrPort("192.0.2.80:80")).String(); !strings.Contains(s, "limit open: over, until a connection ends") {
		t.Errorf("explained as %s", s)
	}
	a.Close()
	a.Close() // counts once
	c := dial("198.51.100.3:3")
	if c == nil {
		t.Fatal("refused after one was closed")
	}
	if dial("198.51.100.5:3") != nil {
		t.Error("one too many after one was closed twice")
	}
	if err := f.Update(Policy{Default: Accept, Limits: []Limit{{ID: "open", Unit: Concurrent, Burst: 3, IPv4Bits: 24}}}); err != nil {
		t.Fatal(err)
	}
	if dial("198.51.100.6:3") == nil || dial("198.51.100.7:3") != nil {
		t.Error("another policy lost count")
	}
	if n := f.Counters().Limits[0].Connections; n != 3 {
		t.Errorf("%d were counted as refused, want 3", n)
	}
}

func TestConnectionRateLimit(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept, Limits: []Limit{
		{ID: "rate", Unit: Connections, Rate: 1e-6, Burst: 3, Match: Not(Source(prefixes("192.0.2.0/24")...))},
		{ID: "open", Unit: Concurrent, Burst: 1, Mode: Monitor},
	}}})
	got := 0
	n := 0
	var addrs []string
	for range 10 {
		addrs = append(addrs, "198.51.100.1:1")
	}
	for range 5 {
		addrs = append(addrs, "192.0.2.1:1")
	}
	stop := errors.New("stop")
	ln := f.Listener(acceptFunc(func() (net.Conn, error) {
		if n == len(addrs) {
			return nil, stop
		}
		n++
		return fakeConn{remote: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addrs[n-1])), closed: new(int), lingers: new(int)}, nil
	}))
	for {
		c, err := ln.Accept()
		if err != nil {
			break
		}
		defer c.Close()
		got++
	}
	if got != 3+5 {
		t.Errorf("%d were let in, want 8", got)
	}
	if c := f.Counters(); c.Limits[0].Connections != 7 || c.Limits[1].Connections != 2+4 {
		t.Errorf("counters %+v", c.Limits)
	}
}

// TestSlowBody runs a real server; the client sends too little, or enough.
func TestSlowBody(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes int // a second
		ok    bool
		conf  Config
		read  time.Duration // http.Server.ReadTimeout
	}{
		{"drip", 1, false, Config{}, 0},
		{"slow", 400, true, Config{}, 0},
		{"drip, any rate", 10, true, Config{MinRate: -1}, 0},
		{"drip, with a timeout of the server", 10, true, Config{}, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.conf.Policy.Default = Accept
				f := newFirewall(t, c.conf)
				inner := memnet.Listen("192.0.2.80:80")
				failed := make(chan error, 1)
				server := &http.Server{ReadTimeout: c.read, Handler: f.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, err := io.Copy(io.Discard, r.Body)
					failed <- err
				}))}
				go server.Serve(f.Listener(inner))
				defer server.Close()
				client, err := inner.DialFrom(t.Context(), netip.MustParseAddrPort("198.51.100.1:5"))
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				const size = 8000
				if _, err := io.WriteString(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8000\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				for sent := 0; sent < size; sent += c.bytes {
					if _, err := client.Write(make([]byte, min(c.bytes, size-sent))); err != nil {
						break
					}
					time.Sleep(time.Second)
				}
				err = <-failed
				timeout, isNet := errors.AsType[net.Error](err)
				if c.ok && err != nil || !c.ok && (!isNet || !timeout.Timeout()) {
					t.Errorf("ended after %v with %v", time.Since(start), err)
				}
			})
		})
	}
}

// TestSlowHandlerAfterABody: the deadline of a body does not hit what comes after.
func TestSlowHandlerAfterABody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{Policy: Policy{Default: Accept}})
		inner := memnet.Listen("192.0.2.80:80")
		server := &http.Server{Handler: f.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			select {
			case <-time.After(time.Hour):
			case <-r.Context().Done():
				t.Errorf("given up: %v", r.Context().Err())
			}
			if _, writeErr := w.Write(body); err != nil || writeErr != nil {
				t.Error(err, writeErr)
			}
		}))}
		go server.Serve(f.Listener(inner))
		defer server.Close()
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return inner.DialFrom(ctx, netip.MustParseAddrPort("198.51.100.1:5"))
		}}}
		defer client.CloseIdleConnections()
		for range 2 {
			res, err := client.Post("http://x/", "text/plain", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || string(body) != "hello" {
				t.Errorf("%q, %v", body, err)
			}
		}
	})
}

func TestConnKeepsCopying(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept}})
	client, server := pair(t, f, "198.51.100.1:5")
	want := "GET / HTTP/1.1\r\n\r\n" + strings.Repeat("body", 10_000)
	go func() {
		io.WriteString(client, want)
		client.(interface{ CloseWrite() error }).CloseWrite()
	}()
	var got strings.Builder
	if n, err := server.(io.WriterTo).WriteTo(&got); err != nil || n != int64(len(want)) || got.String() != want {
		t.Errorf("%d bytes, %v", n, err)
	}
	go func() {
		server.(io.ReaderFrom).ReadFrom(strings.NewReader("answer"))
		server.(interface{ CloseWrite() error }).CloseWrite()
	}()
	if answer, err := io.ReadAll(client); err != nil || string(answer) != "answer" {
		t.Errorf("%q, %v", answer, err)
	}
}

// FuzzHeadScan cuts the same bytes in two ways.
func FuzzHeadScan(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\nbody"), 7)
	f.Add([]byte("\x16\x03\x01\x00\x05hello\n\n"), 3)
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 17)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if len(b) == 0 {
			return
		}
		var whole, pieces headScan
		whole.scan(b)
		if cut = max(0, cut) % len(b); cut > 0 {
			pieces.scan(b[:cut])
		}
		if !pieces.done {
			pieces.scan(b[cut:])
		}
		if whole.done != pieces.done {
			t.Errorf("%q: done %v, cut at %d %v", b, whole.done, cut, pieces.done)
		}
		text := strings.ReplaceAll(string(b), "\r\n", "\n")
		if want := strings.Contains(text, "\n\n"); b[0] != 22 && !strings.Contains(text, "\r") && len(b) < 64<<10 && whole.done != want {
			t.Errorf("%q: done %v, want %v", b, whole.done, want)
		}
	})
}
