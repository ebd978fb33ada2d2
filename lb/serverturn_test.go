package lb

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// TestServerOverlooksNothing: a request that comes while the one before it is
// answered, in a packet of its own, is found, however often.
func TestServerOverlooksNothing(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			begun <- struct{}{}
			<-goOn
		}
		io.WriteString(w, r.URL.Path)
	})})
	c := rig.dial(t)
	for range 5 {
		c.send("GET /first HTTP/1.1\nHost: h\n\n")
		<-begun
		c.send("GET /second HTTP/1.1\nHost: h\n\n")
		time.Sleep(time.Millisecond) // so that the poller has told of it before the response
		goOn <- struct{}{}
		for _, want := range []string{"/first", "/second"} {
			if _, body := c.receive("GET"); body != want {
				t.Fatalf("%q, want %q", body, want)
			}
		}
	}
}

// TestServersOverlookNothing: so is one that TLS has taken from the kernel together
// with the one before, in a record of its own.
func TestServersOverlookNothing(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		s := m.serve(t, frontConf{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })})
		below := &gathered{Conn: s.open()}
		c := &conn{t, below, bufio.NewReader(below)}
		if m.tls {
			c.Conn = tls.Client(below, s.roots)
			c.r.Reset(c.Conn)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		for range 5 {
			c.send("GET /alone HTTP/1.1\nHost: h\n\n")
			if _, body := c.response("GET"); body != "/alone" {
				t.Fatalf("%q", body)
			}
			below.hold = true
			c.send("GET /first HTTP/1.1\nHost: h\n\n")
			c.send("GET /second HTTP/1.1\nHost: h\n\n")
			below.flush()
			for _, want := range []string{"/first", "/second"} {
				if _, body := c.response("GET"); body != want {
					t.Fatalf("%q, want %q", body, want)
				}
			}
		}
	})
}

// watched is a connection that shows what is below it to those who wait, and does
// not want to be taken for its own.
type watched struct {
	*net.TCPConn
	t *testing.T
}

func (c watched) NetConn() net.Conn {
	c.t.Error("NetConn is asked")
	return c.TCPConn
}

// TestTurnOverAnother: the turn goes through whatever is over the kernel's
// connection, and asks for nothing but the kernel's readiness.
func TestTurnOverAnother(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client := dialRaw(t, ln.Addr().String())
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := newServerConn(new(Server), watched{nc.(*net.TCPConn), t}, t.Context())
	c.server.start()
	c.reader = http1.NewReader(c)
	c.ready = newReadiness(c.nc, c.idle)
	if c.ready == nil || c.ready.reads() {
		t.Fatalf("%+v, want one that only waits", c.ready)
	}
	for range 3 {
		c.state.Store(int32(http.StateActive))
		c.out = []byte("response")
		next := make(chan bool)
		go func() { next <- c.turn() }()
		got := make([]byte, len("response"))
		if _, err := io.ReadFull(client.r, got); err != nil || string(got) != "response" {
			t.Fatalf("%q, %v", got, err)
		}
		client.send("G")
		if !<-next || string(c.reader.Next()) != "G" || c.pipelines {
			t.Errorf("next is %q, pipelines %v", c.reader.Next(), c.pipelines)
		}
		c.reader.Release()
	}
	if newReadiness(&gathered{Conn: nc}, c.idle) != nil {
		t.Error("one that does not show itself is waited for")
	}
}

// gathered holds back what is written until flush, so that it comes at once.
type gathered struct {
	net.Conn
	hold bool
	out  bytes.Buffer
}

func (g *gathered) Write(p []byte) (int, error) {
	if g.hold {
		return g.out.Write(p)
	}
	return g.Conn.Write(p)
}

func (g *gathered) flush() {
	g.hold = false
	g.Conn.Write(g.out.Bytes())
	g.out.Reset()
}

// TestServerNoticesEarlyEnd: a client that says while it waits that it will send no
// more gets its response, and then the end.
func TestServerNoticesEarlyEnd(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		begun <- struct{}{}
		<-goOn
		io.WriteString(w, "ok")
	})})
	c := rig.dial(t)
	c.send("GET / HTTP/1.1\nHost: h\n\n")
	<-begun
	c.Conn.(interface{ CloseWrite() error }).CloseWrite()
	time.Sleep(time.Millisecond)
	goOn <- struct{}{}
	if _, body := c.receive("GET"); body != "ok" {
		t.Errorf("%q", body)
	}
	c.closed()
}

// TestTurnFullSocket: the end of a response that the kernel takes only a part of, or
// nothing, goes out whole when the client reads again.
func TestTurnFullSocket(t *testing.T) {
	for _, free := range []bool{false, true} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		client := dialRaw(t, ln.Addr().String())
		nc, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		filled := fill(t, nc.(*net.TCPConn))
		if free { // some room, less than a response
			io.CopyN(io.Discard, client.r, int64(filled/2))
			filled -= filled / 2
		}
		c := newServerConn(new(Server), nc, t.Context())
		c.server.start()
		c.reader = http1.NewReader(c)
		c.ready = newReadiness(nc, c.idle)
		c.state.Store(int32(http.StateActive))
		out := strings.Repeat("y", 1<<20) + "z"
		c.out = []byte(out)
		next := make(chan bool)
		go func() { next <- c.turn() }()
		got := make([]byte, filled+len(out))
		if _, err := io.ReadFull(client.r, got); err != nil || string(got[filled:]) != out {
			t.Fatalf("not what was sent, %v", err)
		}
		client.send("G")
		if !<-next || string(c.reader.Next()) != "G" {
			t.Errorf("next is %q", c.reader.Next())
		}
		c.reader.Release()
	}
}

// fill writes until the kernel takes no more.
func fill(t *testing.T, nc *net.TCPConn) (n int) {
	t.Helper()
	nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	for {
		m, err := nc.Write(make([]byte, 1<<20))
		n += m
		if err != nil {
			nc.SetWriteDeadline(time.Time{})
			return n
		}
	}
}
