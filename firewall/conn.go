package firewall

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// conn is a connection that a Listener let in. It can be closed when its client
// is banned, counts in limits while it is open, and does not wait for ever for a
// client that is slow on purpose. Everything else is as the connection within
// does it.
//
// It is safe for concurrent use like every net.Conn.
type conn struct {
	net.Conn
	f             *Firewall
	remote, local netip.AddrPort
	proxied       bool   // the peer is a trusted proxy: others are behind it
	holds         []hold // where it counts while it is open

	head headScan // used by Read, which has one caller at a time

	mu              sync.Mutex // guards what follows
	closed          bool
	opening         time.Time // until when the first head may take; zero: over
	readBy, writeBy time.Time // what the owner of the connection set
	stallAt         time.Time // the write deadline in force for stalls
	hello           helloKey  // under which the firewall knows the fingerprint; zero: not
}

// hold is one count of a connection that is open.
type hold struct {
	in     *openConns
	client netip.Prefix
}

// NetConn returns the connection within, without the deadlines that are set for
// slow clients: who takes it also takes over their defence. It is still to be
// closed by closing this one.
func (c *conn) NetConn() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endOpening()
	if !c.stallAt.IsZero() {
		c.stallAt = time.Time{}
		// A connection that refuses has ended, which its user will see.
		_ = c.Conn.SetWriteDeadline(c.writeBy)
	}
	return c.Conn
}

// SyscallConn implements [syscall.Conn] if the connection within does. It is for
// who waits for bytes, which Read gives; the deadlines stay.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	return rawConn{raw}, nil
}

// rawConn hides what else package net's has: package os would send files and splice
// past the connection, and past its defence against those who take nothing in.
type rawConn struct{ syscall.RawConn }

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.release()
	return c.Conn.Close()
}

// release gives up what the firewall keeps of the connection.
func (c *conn) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		c.f.conns.remove(c)
	}
}

// reset closes the connection so that the kernel keeps nothing of it either.
func (c *conn) reset() {
	c.release()
	reset(c.Conn)
}

func reset(c net.Conn) {
	if tcp, ok := c.(interface{ SetLinger(seconds int) error }); ok {
		// If it fails, Close ends the connection in the ordinary way.
		_ = tcp.SetLinger(0)
	}
	// Closed, whatever it says.
	_ = c.Close()
}

// CloseWrite ends one direction, where the connection within can do that.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// SetDeadline implements [net.Conn].
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements [net.Conn]. The deadline of the first head stays in
// force if it is earlier.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = t
	return c.Conn.SetReadDeadline(earlier(t, c.opening))
}

// SetWriteDeadline implements [net.Conn].
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeBy = t
	return c.Conn.SetWriteDeadline(earlier(t, c.stallAt))
}

// earlier returns the earlier of two deadlines, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Read implements [net.Conn].
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.head.done && n > 0 && c.head.scan(p[:n]) {
		c.mu.Lock()
		c.endOpening()
		c.mu.Unlock()
	}
	return n, err
}

func (c *conn) isOpening() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.opening.IsZero()
}

// endOpening takes the deadline of the first head away. The caller holds mu.
func (c *conn) endOpening() {
	if !c.opening.IsZero() {
		c.opening = time.Time{}
		// A connection that refuses has ended, which its user will see.
		_ = c.Conn.SetReadDeadline(c.readBy)
	}
}

// Write implements [net.Conn]. When the client takes in less than the least rate
// for the stall time the connection is reset.
func (c *conn) Write(p []byte) (int, error) {
	sent := 0
	err := c.push(func() (bool, error) {
		n, err := c.Conn.Write(p[sent:])
		sent += n
		return true, err
	}, func() int64 { return int64(sent) })
	return sent, err
}

// push writes until that is done, or has failed, or the client is too slow. sent
// says how much has been written in all.
func (c *conn) push(write func() (last bool, err error), sent func() int64) error {
	for {
		before := sent()
		c.arm(false)
		last, err := write()
		if err == nil && !last {
			continue
		}
		if !c.stalled(err) {
			return err
		}
		// The kernel wakes a writer only once much is free again; a try tells
		// how much is.
		c.arm(true)
		last, err = write()
		if err == nil && !last {
			continue
		}
		if !c.stalled(err) {
			return err
		}
		if least := c.f.stallTimeout.Seconds() / 2 * float64(c.f.minRate); float64(sent()-before) < max(1, least) {
			c.reset()
			return err
		}
	}
}

// retryTime is enough for a write that need not wait.
const retryTime = 10 * time.Millisecond

// arm sees to it that the next write waits for the stall time at most, and not
// for less than half of it: to set a deadline for each write would cost more
// than the write. It also ends the opening, since the server has had its say.
func (c *conn) arm(retry bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endOpening()
	stall := c.f.stallTimeout
	if stall <= 0 {
		return
	}
	now := time.Now()
	switch {
	case retry:
		c.stallAt = now.Add(retryTime)
	case c.stallAt.Sub(now) < stall/2:
		c.stallAt = now.Add(stall)
	default:
		return
	}
	// A connection that refuses has ended, which the write will see.
	_ = c.Conn.SetWriteDeadline(earlier(c.writeBy, c.stallAt))
}

// stalled says that a write ran into our deadline, not into the owner's.
func (c *conn) stalled(err error) bool {
	if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.stallAt.IsZero() && !c.closed && (c.writeBy.IsZero() || time.Now().Before(c.writeBy))
}

// ReadFrom implements [io.ReaderFrom], to keep sendfile and splice. A source that
// is itself a connection can be silent for any time, so there is no stall
// deadline then.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	to, ok := c.Conn.(io.ReaderFrom)
	if !ok {
		return io.Copy(writerOnly{c}, r)
	}
	source, limit := r, int64(-1)
	if l, ok := r.(*io.LimitedReader); ok {
		source, limit = l.R, l.N
	}
	switch source.(type) {
	case *net.TCPConn, *net.UnixConn:
		c.NetConn()
		return to.ReadFrom(r)
	case *os.File:
		return c.sendFile(to, r, source, limit)
	}
	return io.Copy(writerOnly{c}, r)
}

// sendFile sends r, which is the file or the next limit bytes of it, in pieces
// that have deadlines of their own.
func (c *conn) sendFile(to io.ReaderFrom, r, file io.Reader, limit int64) (sent int64, err error) {
	const piece = 1 << 20
	err = c.push(func() (bool, error) {
		part := &io.LimitedReader{R: file, N: piece}
		if limit >= 0 {
			part.N = min(piece, limit)
		}
		n, err := to.ReadFrom(part)
		sent += n
		if l, ok := r.(*io.LimitedReader); ok {
			limit -= n
			l.N = limit
		}
		return part.N > 0 || limit == 0, err
	}, func() int64 { return sent })
	return sent, err
}

// WriteTo implements [io.WriterTo], to keep splice.
func (c *conn) WriteTo(w io.Writer) (int64, error) {
	sent := int64(0)
	buf := make([]byte, 4<<10)
	for c.isOpening() { // the first head is watched
		n, err := c.Read(buf)
		m, writeErr := w.Write(buf[:n])
		sent += int64(m)
		switch {
		case writeErr != nil:
			return sent, writeErr
		case err == io.EOF:
			return sent, nil
		case err != nil:
			return sent, err
		}
	}
	n, err := io.Copy(w, c.Conn)
	return sent + n, err
}

// writerOnly hides ReadFrom.
type writerOnly struct{ io.Writer }

// headScan finds the end of what a client sends first: the empty line after the
// head of a request, which also is in the preface of HTTP/2, or the end of the
// first record of TLS. Who has sent more than that is not slow.
type headScan struct {
	done  bool
	begun bool
	tls   bool
	empty bool // since the last line feed there was nothing but a carriage return
	seen  int
	left  int // of the TLS record
}

// scan takes the next bytes and says whether the end is among them.
func (h *headScan) scan(p []byte) bool {
	const handshake, header, most = 22, 5, 64 << 10
	if !h.begun {
		h.begun, h.tls = true, p[0] == handshake
	}
	for i := 0; i < len(p) && !h.done; i++ {
		switch {
		case h.tls && h.seen < header:
			if h.seen >= 3 {
				h.left = h.left<<8 | int(p[i])
			}
		case h.tls:
			h.left--
		case p[i] == '\n':
			h.done, h.empty = h.empty, true
		case p[i] != '\r':
			h.empty = false
		}
		h.seen++
		h.done = h.done || h.seen == most || h.tls && h.seen >= header && h.left <= 0
	}
	return h.done
}
