// Package memnet is an in-memory network for tests: listeners and connections
// that carry TCP addresses and behave as TCP does, with buffers, half-close and
// deadlines, but touch no socket. Unlike [net.Pipe] it is buffered, so two ends
// that both write first do not deadlock, and it works in a testing/synctest
// bubble.
package memnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// bufferSize is how many bytes one direction holds before Write blocks.
const bufferSize = 64 << 10

// ErrRefused is what dialing a closed listener returns.
var ErrRefused = errors.New("memnet: connection refused")

// Listener is an in-memory net.Listener. Create it with [Listen]. It is safe
// for concurrent use.
type Listener struct {
	addr     net.Addr
	accept   chan net.Conn
	done     chan struct{}
	close    func()
	nextPort atomic.Uint32
}

// Listen returns a listener that reports addr, an IP:port such as
// "192.0.2.1:80", as its address. It panics if addr cannot be parsed.
func Listen(addr string) *Listener {
	l := &Listener{
		addr:   net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)),
		accept: make(chan net.Conn, 128),
		done:   make(chan struct{}),
	}
	l.close = sync.OnceFunc(func() { close(l.done) })
	return l
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.addr }

// Close implements net.Listener. It is idempotent. Connections that were
// dialed but not accepted are closed.
func (l *Listener) Close() error {
	l.close()
	for {
		select {
		case c := <-l.accept:
			c.Close()
		default:
			return nil
		}
	}
}

// DialContext connects to the listener from 127.0.0.1, whatever network and
// addr say, so that it fits http.Transport.DialContext.
func (l *Listener) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	port := 10000 + l.nextPort.Add(1)%50000
	return l.DialFrom(ctx, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)))
}

// DialFrom connects to the listener; the accepting side sees from as the
// remote address.
func (l *Listener) DialFrom(ctx context.Context, from netip.AddrPort) (net.Conn, error) {
	client, server := Pipe()
	client.local, client.remote = net.TCPAddrFromAddrPort(from), l.addr
	server.local, server.remote = l.addr, client.local
	select {
	case <-l.done:
		return nil, ErrRefused
	default:
	}
	select {
	case l.accept <- server:
		return client, nil
	case <-l.done:
		return nil, ErrRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Conn is one end of an in-memory connection. It is safe for concurrent use.
type Conn struct {
	in, out       *half
	local, remote net.Addr
}

// Pipe returns the two ends of a connection.
func Pipe() (*Conn, *Conn) {
	ab, ba := newHalf(), newHalf()
	a, b := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:1")), net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:2"))
	return &Conn{in: ba, out: ab, local: a, remote: b}, &Conn{in: ab, out: ba, local: b, remote: a}
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) { return c.out.write(p) }

// CloseWrite sends an end of file, as TCP's FIN does. Reads go on.
func (c *Conn) CloseWrite() error { c.out.finish(); return nil }

// Close closes both directions; what the peer has not read yet it may still
// read.
func (c *Conn) Close() error {
	c.out.finish()
	c.in.abandon()
	c.out.closeWriter()
	return nil
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.in.readBy.set(t)
	c.out.writeBy.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { c.in.readBy.set(t); return nil }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { c.out.writeBy.set(t); return nil }

// half is one direction of a connection.
type half struct {
	mu        sync.Mutex
	changed   *sync.Cond
	buf       []byte
	finished  bool // the writer will send no more
	abandoned bool // the reader has gone
	closed    bool // the writer has closed its end
	readBy    deadline
	writeBy   deadline
}

func newHalf() *half {
	h := new(half)
	h.changed = sync.NewCond(&h.mu)
	h.readBy.h, h.writeBy.h = h, h
	return h
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.abandoned:
			return 0, net.ErrClosed
		case h.readBy.passed:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			h.changed.Broadcast()
			return n, nil
		case h.finished:
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.closed, h.finished:
			return n, net.ErrClosed
		case h.abandoned:
			return n, io.ErrClosedPipe
		case h.writeBy.passed:
			return n, os.ErrDeadlineExceeded
		case len(p) == 0:
			return n, nil
		case len(h.buf) < bufferSize:
			k := min(len(p), bufferSize-len(h.buf))
			h.buf = append(h.buf, p[:k]...)
			n, p = n+k, p[k:]
			h.changed.Broadcast()
			continue
		}
		h.changed.Wait()
	}
}

func (h *half) finish()      { h.update(func() { h.finished = true }) }
func (h *half) closeWriter() { h.update(func() { h.closed = true; h.writeBy.stop() }) }
func (h *half) abandon()     { h.update(func() { h.abandoned, h.buf = true, nil; h.readBy.stop() }) }

func (h *half) update(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.changed.Broadcast()
}

// deadline is guarded by its half's mutex.
type deadline struct {
	h      *half
	timer  *time.Timer
	epoch  int // tells a timer that was replaced while it fired
	passed bool
}

func (d *deadline) set(t time.Time) {
	d.h.update(func() {
		d.stop()
		d.passed = false
		if t.IsZero() {
			return
		}
		left := time.Until(t)
		if left <= 0 {
			d.passed = true
			return
		}
		epoch := d.epoch
		d.timer = time.AfterFunc(left, func() {
			d.h.update(func() { d.passed = d.passed || d.epoch == epoch })
		})
	})
}

func (d *deadline) stop() {
	d.epoch++
	if d.timer != nil {
		d.timer.Stop()
	}
}
