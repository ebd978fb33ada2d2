package qps

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// hijackWriter is a writer whose connection can be hijacked. HTTP/2 has no such
// thing, and handlers ask by type.
type hijackWriter struct{ writer }

// Hijack implements http.Hijacker. The request stays in flight until the
// connection is closed; what goes through the connection counts as its bytes.
func (w *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	inner, rw, err := http.NewResponseController(w.inner).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.state.Or(stateHijacked)
	// Whoever hijacks without a status writes its own; nearly always that is
	// 101 Switching Protocols.
	w.setStatus(http.StatusSwitchingProtocols)
	// The connection may be closed before the handler returns.
	if route := w.pattern(); route != "" {
		w.enter(route, 0)
	}
	c := &conn{Conn: inner, w: &w.writer}
	if rw != nil {
		c.attach(rw)
	}
	return c, rw, nil
}

// conn is a hijacked connection.
type conn struct {
	net.Conn
	w       *writer
	in, out atomic.Uint64
}

// NetConn returns the connection below, past which nothing is counted.
func (c *conn) NetConn() net.Conn { return c.Conn }

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.in.Add(uint64(max(n, 0)))
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.Add(uint64(max(n, 0)))
	return n, err
}

// ReadFrom keeps splice.
func (c *conn) ReadFrom(src io.Reader) (n int64, err error) {
	if rf, ok := c.Conn.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(src)
	} else {
		n, err = io.Copy(struct{ io.Writer }{c.Conn}, src)
	}
	c.out.Add(uint64(max(n, 0)))
	return n, err
}

// CloseWrite closes the sending side, where the connection can do so.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close ends the request.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.w.finish(classOf(int(c.w.status)), "", c.w.in()+c.in.Load(), c.w.out+c.out.Load())
	return err
}

// attach leads the buffers that came with the connection through it. What they
// hold stays in them: handlers look at Buffered.
func (c *conn) attach(rw *bufio.ReadWriter) {
	if rw.Writer.Buffered() == 0 {
		rw.Writer.Reset(c)
	}
	n := rw.Reader.Buffered()
	if n == 0 {
		rw.Reader.Reset(c)
		return
	}
	held, _ := rw.Reader.Peek(n)
	held = bytes.Clone(held)
	c.in.Add(uint64(n))
	rw.Reader.Reset(io.MultiReader(bytes.NewReader(held), c))
	_, _ = rw.Reader.Peek(n)
}
