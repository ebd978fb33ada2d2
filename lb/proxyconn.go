package lb

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// ProxyHeaderOf returns the PROXY protocol header of a connection that came from
// a [ProxyProtocolListener], which must not be changed. It looks within
// connections that have a NetConn method, as those of crypto/tls do, and returns
// nil if there is no header.
//
// An HTTP handler gets it through http.Server.ConnContext.
func ProxyHeaderOf(conn net.Conn) *ProxyHeader {
	if c := unwrap[*proxyConn](conn); c != nil {
		return c.header
	}
	return nil
}

// maxWrapped bounds how deep we look into connections, in case that one wraps
// itself.
const maxWrapped = 16

// unwrap returns the outermost T that conn is or wraps, or the zero T.
func unwrap[T any](conn net.Conn) (found T) {
	for range maxWrapped {
		if t, ok := conn.(T); ok {
			return t
		}
		wrapper, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = wrapper.NetConn()
	}
	return found
}

// proxyConn is a connection whose header has been read.
type proxyConn struct {
	net.Conn
	header        *ProxyHeader
	remote, local net.Addr

	drained atomic.Bool // rest is empty
	mu      sync.Mutex  // guards rest
	rest    []byte      // what came with the header
}

func newProxyConn(conn net.Conn, h *ProxyHeader, rest []byte) *proxyConn {
	c := &proxyConn{Conn: conn, header: h, remote: conn.RemoteAddr(), local: conn.LocalAddr(), rest: rest}
	if h.knows() {
		c.remote, c.local = net.TCPAddrFromAddrPort(h.Source), net.TCPAddrFromAddrPort(h.Destination)
	}
	c.drained.Store(len(rest) == 0)
	return c
}

// NetConn returns the connection below. What came with the header is not read
// from that.
func (c *proxyConn) NetConn() net.Conn { return c.Conn }

// RemoteAddr implements [net.Conn]: it is the client.
func (c *proxyConn) RemoteAddr() net.Addr { return c.remote }

// LocalAddr implements [net.Conn]: it is what the client has connected to.
func (c *proxyConn) LocalAddr() net.Addr { return c.local }

// Read implements [net.Conn].
func (c *proxyConn) Read(p []byte) (int, error) {
	if !c.drained.Load() {
		if n := c.takeRest(p); n > 0 || len(p) == 0 {
			return n, nil
		}
	}
	return c.Conn.Read(p)
}

func (c *proxyConn) takeRest(p []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil
		c.drained.Store(true)
	}
	return n
}

// takeAll returns what came with the header and was not read.
func (c *proxyConn) takeAll() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := c.rest
	c.rest = nil
	c.drained.Store(true)
	return rest
}

// WriteTo implements [io.WriterTo].
func (c *proxyConn) WriteTo(w io.Writer) (int64, error) {
	var before int64
	for !c.drained.Load() {
		var buf [512]byte
		n, err := w.Write(buf[:c.takeRest(buf[:])])
		before += int64(n)
		if err != nil {
			return before, err
		}
	}
	// io.Copy, as w may know how to read from what is below.
	n, err := io.Copy(w, c.Conn)
	return before + n, err
}

// ReadFrom implements [io.ReaderFrom].
func (c *proxyConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite ends the direction to the client.
func (c *proxyConn) CloseWrite() error { return closeWrite(c.Conn) }

// CloseRead ends the direction from the client.
func (c *proxyConn) CloseRead() error {
	if half, ok := c.Conn.(interface{ CloseRead() error }); ok {
		return half.CloseRead()
	}
	return errors.ErrUnsupported
}

// halfCloser is a connection that can end one direction.
type halfCloser interface{ CloseWrite() error }

// closeWrite ends the direction to the peer.
func closeWrite(conn net.Conn) error {
	if half := unwrap[halfCloser](conn); half != nil {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
