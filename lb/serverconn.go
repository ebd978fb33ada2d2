package lb

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

const (
	// lingerFor and lingerBytes bound how long a connection is read from after
	// the last response, so that the client gets to see it: a connection that is
	// closed with bytes unread is reset (RFC 9112, section 9.6).
	lingerFor   = 500 * time.Millisecond
	lingerBytes = 1 << 20

	http2Preface = "PRI * HTTP/2.0\r\n\r\n"

	httpToHTTPS = "Client sent an HTTP request to an HTTPS server.\n"
)

// serverConn is a connection of a [Server]. But for state, what it holds is its
// goroutine's.
type serverConn struct {
	server   *Server
	nc       net.Conn
	ready    *readiness // nil if the kernel does not tell
	reader   *http1.Reader
	ctx      context.Context
	remote   string
	tls      *tls.ConnectionState
	accepted time.Time
	state    atomic.Int32 // an http.ConnState, or stateHead
	hijacked bool
	handed   *handedRequest // nil unless it is for the server inside
	// The hook has been told that a connection is active that was handed over.
	toldActive bool

	// The handler has set a deadline for writing.
	writeDeadline bool

	client  clientKey // guarded by the server's mu
	counted bool      // guarded by the server's mu

	// What is left of a response for turn to send.
	out     []byte
	outRoom *[replyRoom]byte
	// The client sends requests before it has the responses to others.
	pipelines  bool
	overlooked bool // the last request had come before anybody looked

	readDeadline
	watch watch
}

func newServerConn(s *Server, nc net.Conn, ctx context.Context) *serverConn {
	return &serverConn{server: s, nc: nc, ctx: ctx, accepted: time.Now()}
}

// kill ends the connection, from any goroutine, unless it is not the server's any
// more.
func (c *serverConn) kill() {
	c.state.Store(int32(http.StateClosed))
	c.nc.Close()
}

// setState says whether the connection may go on.
func (c *serverConn) setState(from, to http.ConnState) bool {
	if !c.state.CompareAndSwap(int32(from), int32(to)) {
		return false
	}
	if hook := c.server.ConnState; hook != nil {
		hook(c.nc, to)
	}
	return true
}

// stateHead is the state of a connection from the first bytes of a head to its end,
// which is http.StateActive for others: Shutdown does not wait for long for the rest.
const stateHead = int32(http.StateClosed) + 1

// beginHead and endHead say whether the connection may go on.
func (c *serverConn) beginHead(from http.ConnState) bool {
	if !c.state.CompareAndSwap(int32(from), stateHead) {
		return false
	}
	if hook := c.server.ConnState; hook != nil {
		hook(c.nc, http.StateActive)
	}
	return true
}

func (c *serverConn) endHead() bool {
	return c.state.CompareAndSwap(stateHead, int32(http.StateActive))
}

// serve is the connection's goroutine.
func (c *serverConn) serve() {
	handedOver := false
	defer func() {
		if handedOver {
			return
		}
		c.server.removeConn(c)
		if c.reader != nil {
			c.reader.Release()
		}
		if c.hijacked {
			return // whoever has it now
		}
		c.nc.Close()
		if hook := c.server.ConnState; hook != nil {
			hook(c.nc, http.StateClosed)
		}
	}()
	if hook := c.server.ConnState; hook != nil {
		hook(c.nc, http.StateNew)
	}
	if addr := c.nc.RemoteAddr(); addr != nil {
		c.remote = addr.String()
	}
	if !c.server.admit(c) || !c.handshake() {
		return
	}
	if c.tls != nil && c.tls.NegotiatedProtocol == "h2" {
		c.state.CompareAndSwap(int32(http.StateNew), int32(http.StateActive))
		handedOver = c.handOver(c.server.http2, nil)
		return
	}
	ctx, cancel := context.WithCancel(context.WithValue(c.ctx, http.LocalAddrContextKey, c.nc.LocalAddr()))
	c.reader = http1.NewReader(c)
	c.ready = newReadiness(c.nc, c.idle)
	if !c.awaitFirst() {
		cancel()
		return
	}
	if c.speaksHTTP2() {
		cancel()
		c.state.CompareAndSwap(int32(http.StateNew), int32(http.StateActive))
		handedOver = c.handOver(c.server.http2, bytes.Clone(c.reader.Next()))
		c.reader.Release()
		return
	}
	defer cancel()
	base := c.ctx
	c.ctx = ctx
	for before := http.StateNew; c.beginHead(before) && c.serveRequest(); before = http.StateIdle {
		if !c.turn() {
			return
		}
	}
	if c.handed != nil {
		c.ctx, c.toldActive = base, true
		c.reader.Release()
		handedOver = c.handOver(c.server.http1, c.handed.bytes)
	}
}

// handshake is TLS's, if the connection is one.
func (c *serverConn) handshake() bool {
	t, ok := c.nc.(interface {
		HandshakeContext(context.Context) error
		ConnectionState() tls.ConnectionState
	})
	if !ok {
		if t, ok := c.nc.(interface{ ConnectionState() tls.ConnectionState }); ok {
			c.tls = new(t.ConnectionState())
		}
		return true
	}
	if d := c.server.headerTimeout(); d > 0 {
		c.nc.SetDeadline(time.Now().Add(d))
	}
	if err := t.HandshakeContext(c.ctx); err != nil {
		if e, ok := errors.AsType[tls.RecordHeaderError](err); ok && e.Conn != nil && looksLikeHTTP(e.RecordHeader) {
			io.WriteString(e.Conn, "HTTP/1.0 400 Bad Request\r\n\r\n"+httpToHTTPS)
			e.Conn.Close()
			c.refused(http.StatusBadRequest, len(httpToHTTPS), err, new(http.Request), e.RecordHeader[:], c.accepted)
		}
		return false
	}
	c.nc.SetDeadline(time.Time{})
	c.tls = new(t.ConnectionState())
	return true
}

// looksLikeHTTP says whether somebody speaks HTTP to a server of HTTPS.
func looksLikeHTTP(header [5]byte) bool {
	switch string(header[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		return true
	}
	return false
}

// awaitFirst waits for the first bytes of the connection.
func (c *serverConn) awaitFirst() bool {
	c.due = after(time.Now(), c.server.headerTimeout())
	return c.fill() == nil
}

// awaitNext waits for the next request, without a buffer.
func (c *serverConn) awaitNext() bool {
	if c.reader.Buffered() > 0 {
		c.pipelines = true
		return true
	}
	// The next request takes a moment. Whoever else can run now saves a read that
	// finds nothing, and the wait for the poller.
	runtime.Gosched()
	c.due = after(time.Now(), c.server.idleTimeout())
	return c.fill() == nil
}

// after is the time in d; never, if d is 0.
func after(now time.Time, d time.Duration) time.Time {
	if d <= 0 {
		return time.Time{}
	}
	return now.Add(d)
}

// fill receives what comes next into a buffer that it takes only then.
func (c *serverConn) fill() error {
	if c.reader.Buffered() > 0 {
		return nil
	}
	if c.ready.reads() && !c.watch.ahead {
		return c.retry(func() error { return c.ready.read(c.reader) })
	}
	c.reader.Release()
	var first [1]byte
	if _, err := io.ReadFull(c, first[:]); err != nil {
		return err
	}
	c.reader.Room()[0] = first[0]
	c.reader.Took(1)
	return nil
}

// speaksHTTP2 says whether the client begins with HTTP/2, and may.
func (c *serverConn) speaksHTTP2() bool {
	if !c.server.UnencryptedHTTP2 || c.tls != nil {
		return false
	}
	for {
		have := c.reader.Next()
		n := min(len(have), len(http2Preface))
		if string(have[:n]) != http2Preface[:n] {
			return false
		}
		if n == len(http2Preface) {
			return true
		}
		m, err := c.Read(c.reader.Room())
		if err != nil {
			return false
		}
		c.reader.Took(m)
	}
}

// readDeadline is when a connection's reads end. The one that is set in the
// connection is moved only when it must come earlier; one that passes too early
// is moved then. So a busy connection seldom sets any.
type readDeadline struct {
	due  time.Time   // zero for never
	set  time.Time   // in the connection
	own  atomic.Bool // the handler has set one, which is as it is
	lost bool        // somebody has set another in the connection
}

// Read implements io.Reader, for c.reader.
func (c *serverConn) Read(p []byte) (n int, err error) {
	if c.watch.ahead {
		c.watch.ahead = false
		p[0] = c.watch.first[0]
		return 1, nil
	}
	err = c.retry(func() (err error) {
		n, err = c.nc.Read(p)
		if n > 0 {
			return nil
		}
		return err
	})
	if n == 0 && err == nil && len(p) > 0 {
		err = io.ErrNoProgress
	}
	return n, err
}

// retry reads until it is due.
func (c *serverConn) retry(read func() error) error {
	for {
		if !c.own.Load() {
			earlier := !c.due.IsZero() && (c.set.IsZero() || c.due.Before(c.set))
			if earlier || c.lost {
				c.nc.SetReadDeadline(c.due)
				c.set, c.lost = c.due, false
			}
		}
		err := read()
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || c.own.Load() || !c.due.IsZero() && !time.Now().Before(c.due) {
			return err
		}
		c.lost = true
	}
}

// linger lets the client read the last response before the connection is closed
// with something unread.
func (c *serverConn) linger() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.nc.SetReadDeadline(time.Now().Add(lingerFor))
	var b [512]byte
	for n := 0; n < lingerBytes; {
		m, err := c.nc.Read(b[:])
		if err != nil {
			return
		}
		n += m
	}
}

// logPanic says what a handler's panic was.
func (s *Server) logPanic(remote string, v any) {
	if v == http.ErrAbortHandler {
		return
	}
	stack := make([]byte, 64<<10)
	stack = stack[:runtime.Stack(stack, false)]
	s.log().Error("lb: panic in a handler", "client", remote, "panic", v, "stack", string(stack))
}
