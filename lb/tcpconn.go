package lb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/palisade-go/palisade/lb/internal/clienthello"
)

// tcpConn is one connection of a TCPProxy.
type tcpConn struct {
	proxy   *TCPProxy
	client  net.Conn
	addr    netip.AddrPort // of the client
	early   []byte         // what the client has sent before there was a backend
	looked  bool           // the ClientHello was read, so that the client waits for TLS
	event   TCPEvent
	carried atomic.Int64 // bytes that passed through us, for the idle timer

	mu      sync.Mutex // guards the rest
	backend net.Conn   // nil until there is one
	why     error      // nil until it was cut
	fault   Result     // what that says about the backend
}

func newTCPConn(p *TCPProxy, client net.Conn) *tcpConn {
	c := &tcpConn{proxy: p, client: client, addr: addrPortOf(client.RemoteAddr())}
	c.event = TCPEvent{Client: client.RemoteAddr(), Local: client.LocalAddr(), Header: ProxyHeaderOf(client), Start: time.Now()}
	return c
}

// serve returns when the connection has ended.
func (c *tcpConn) serve() {
	defer c.report()
	client := clientOf(c.addr.Addr())
	if !c.proxy.limit.take(client) {
		c.event.Err = ErrTooMany
		reset(c.client)
		return
	}
	defer c.proxy.limit.free(client)
	defer c.client.Close()
	pool, err := c.route()
	if err != nil {
		c.event.Err = c.reason(err)
		return
	}
	backend, picked, err := c.connect(pool)
	if err != nil {
		c.event.Err = c.reason(err)
		c.alert(alertInternalError)
		return
	}
	defer backend.Close()
	result, err := c.link(backend)
	c.event.Err = err
	o := Outcome{Result: result, Duration: time.Since(c.event.Start), Wait: c.event.Connect}
	if result != Succeeded {
		o.Err = err
	}
	picked.Done(o)
}

func (c *tcpConn) report() {
	if c.proxy.conf.OnDone != nil {
		c.event.Duration = time.Since(c.event.Start)
		c.proxy.conf.OnDone(c.event)
	}
}

// reason prefers why the connection was cut to what came of that.
func (c *tcpConn) reason(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why != nil {
		return c.why
	}
	return err
}

// note keeps the reason for which all ends. Of several the first counts.
func (c *tcpConn) note(fault Result, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why == nil {
		c.why, c.fault = why, fault
	}
}

// cut ends the connection on both sides.
func (c *tcpConn) cut(fault Result, why error) {
	c.note(fault, why)
	c.mu.Lock()
	defer c.mu.Unlock()
	reset(c.client)
	if c.backend != nil {
		reset(c.backend)
	}
}

// join says whether there is still a connection for the backend's to join.
func (c *tcpConn) join(backend net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why != nil {
		return false
	}
	c.backend = backend
	return true
}

// reset closes a connection so that the peer does not take that for an end. It
// does not wait, whatever conn is.
func reset(conn net.Conn) {
	if tcp := unwrap[*net.TCPConn](conn); tcp != nil {
		// If it fails, Close ends the connection in the ordinary way.
		_ = tcp.SetLinger(0)
		tcp.Close()
	}
	conn.Close()
}

// tlsState is a connection whose TLS ends here, as *tls.Conn.
type tlsState interface {
	HandshakeContext(context.Context) error
	ConnectionState() tls.ConnectionState
}

// route says where the connection goes.
func (c *tcpConn) route() (*Pool, error) {
	conf := &c.proxy.conf
	if t := unwrap[tlsState](c.client); t != nil {
		ctx, cancel := context.WithTimeout(c.proxy.ctx, conf.HelloTimeout)
		defer cancel()
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("lb: TLS handshake: %w", err)
		}
		state := t.ConnectionState()
		c.event.ServerName = state.ServerName
		if state.NegotiatedProtocol != "" {
			c.event.ALPN = []string{state.NegotiatedProtocol}
		}
		return c.find(func() {})
	}
	if p, ok := c.client.(*proxyConn); ok {
		c.early = p.takeAll()
	}
	if c.proxy.routes.empty() {
		return conf.Pool, nil
	}
	switch err := c.readHello(); {
	case errors.Is(err, clienthello.ErrNotTLS):
		if conf.Plain == nil {
			return nil, ErrNotTLS
		}
		return conf.Plain, nil
	case errors.Is(err, clienthello.ErrMalformed):
		c.alert(alertDecodeError)
		return nil, fmt.Errorf("%w: %w", ErrClientHello, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrClientHello, err)
	}
	return c.find(func() { c.alert(alertUnrecognizedName) })
}

// find asks the routes, and calls refuse if there is none.
func (c *tcpConn) find(refuse func()) (*Pool, error) {
	if c.proxy.routes.empty() {
		return c.proxy.conf.Pool, nil
	}
	pool := c.proxy.routes.find(c.event.ServerName, c.event.ALPN)
	if pool == nil {
		pool = c.proxy.conf.Default
	}
	if pool == nil {
		refuse()
		return nil, fmt.Errorf("%w (server name %q)", ErrNoRoute, c.event.ServerName)
	}
	return pool, nil
}

// readHello keeps what it has read.
func (c *tcpConn) readHello() error {
	if err := c.client.SetReadDeadline(time.Now().Add(c.proxy.conf.HelloTimeout)); err != nil {
		return err
	}
	h, raw, err := clienthello.Read(io.MultiReader(&byteReader{c.early}, c.client))
	c.early = raw
	if err != nil && !errors.Is(err, clienthello.ErrNotTLS) {
		c.looked = errors.Is(err, clienthello.ErrMalformed)
		return err
	}
	if h != nil {
		c.looked = true
		c.event.ServerName, c.event.ALPN = h.ServerName, h.ALPN
	}
	return errors.Join(err, c.client.SetReadDeadline(time.Time{}))
}

// byteReader is a bytes.Reader that is not a WriterTo and ends with its last
// bytes.
type byteReader struct{ data []byte }

func (r *byteReader) Read(p []byte) (int, error) {
	n := copy(p, r.data)
	if r.data = r.data[n:]; len(r.data) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// The alerts that a client gets (RFC 8446, section 6.2).
const (
	alertDecodeError      = 50
	alertInternalError    = 80
	alertUnrecognizedName = 112
)

// lingering is how long a client may take to read the last that it is sent.
const lingering = time.Second

// alert tells a client that waits for TLS why it gets none.
func (c *tcpConn) alert(description byte) {
	if !c.looked {
		return
	}
	c.client.SetDeadline(time.Now().Add(lingering))
	// A fatal alert in a record of TLS 1.2, as TLS 1.3 has it, too.
	if _, err := c.client.Write([]byte{21, 3, 3, 0, 2, 2, description}); err == nil && closeWrite(c.client) == nil {
		// Closed with bytes unread, the connection would be reset and the alert lost.
		io.CopyN(io.Discard, c.client, 2*clienthello.MaxBytes)
	}
}

// connect picks backends until one can be reached, and sends what comes first.
func (c *tcpConn) connect(pool *Pool) (net.Conn, Picked, error) {
	p := c.proxy
	first, err := c.firstBytes()
	if err != nil {
		return nil, Picked{}, err
	}
	info := PickInfo{Key: c.addr.Addr().String()}
	p.budget.earn()
	var last error
	for spent := 0; ; {
		picked, err := pool.Acquire(p.ctx, info)
		if err != nil {
			if last == nil {
				return nil, Picked{}, err
			}
			p.budget.giveBack() // of the last spend, for which there was no backend
			return nil, Picked{}, last
		}
		b := picked.Backend()
		c.event.Backend = b.ID()
		c.event.Attempts++
		conn, err := c.dial(pool, b)
		if err == nil {
			p.budget.earn()
			for range spent {
				p.budget.giveBack()
			}
			if err = c.sendFirst(conn, first); err == nil {
				return conn, picked, nil
			}
			picked.Done(Outcome{Result: Failed, Err: err})
			conn.Close()
			return nil, Picked{}, err
		}
		if c.isCut() {
			picked.Done(Outcome{Result: Canceled, Err: err})
			return nil, Picked{}, err
		}
		picked.Done(Outcome{Result: Unreachable, Duration: time.Since(c.event.Start), Err: err})
		last = fmt.Errorf("lb: backend %s: %w", b.ID(), err)
		if c.event.Attempts > p.conf.Retries || !p.budget.spend() {
			return nil, Picked{}, last
		}
		spent++
		info.Tried = append(info.Tried, b)
	}
}

func (c *tcpConn) isCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why != nil
}

func (c *tcpConn) dial(pool *Pool, b *Backend) (net.Conn, error) {
	start := time.Now()
	conn, err := pool.dial(c.proxy.ctx, "tcp", dialAddr(b.url))
	if err != nil {
		return nil, err
	}
	c.event.Connect = time.Since(start)
	if !c.join(conn) {
		conn.Close()
		return nil, http.ErrServerClosed
	}
	return conn, nil
}

// firstBytes are what a backend gets before anything else, in one piece.
func (c *tcpConn) firstBytes() ([]byte, error) {
	if c.proxy.conf.ProxyOut == 0 {
		return c.early, nil
	}
	h := c.outgoingHeader()
	if modify := c.proxy.conf.ModifyHeader; modify != nil {
		modify(c.client, h)
	}
	first, err := h.Append(nil)
	return append(first, c.early...), err
}

func (c *tcpConn) sendFirst(conn net.Conn, first []byte) error {
	n := len(c.early)
	c.early = nil
	if len(first) == 0 {
		return nil
	}
	if limit := c.proxy.conf.IdleTimeout; limit > 0 {
		conn.SetWriteDeadline(time.Now().Add(limit))
		defer conn.SetWriteDeadline(time.Time{})
	}
	if _, err := conn.Write(first); err != nil {
		return fmt.Errorf("lb: backend %s: %w", c.event.Backend, err)
	}
	c.event.FromClient += int64(n)
	return nil
}
