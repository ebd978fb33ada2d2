package lb

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// link carries bytes in both directions until both have ended, or the connection
// was cut.
func (c *tcpConn) link(backend net.Conn) (Result, error) {
	if limit := c.proxy.conf.IdleTimeout; limit > 0 {
		defer c.watch(backend, limit)()
	}
	up, down := direction{conn: c, dst: backend, src: c.client}, direction{conn: c, dst: c.client, src: backend}
	var wg sync.WaitGroup
	wg.Go(func() { up.carry(Canceled, "client") })
	down.carry(Failed, "backend "+c.event.Backend)
	wg.Wait()
	c.event.FromClient += up.n
	c.event.FromBackend = down.n
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.why != nil:
		return c.fault, c.why
	case down.err != nil:
		return Canceled, fmt.Errorf("lb: client: %w", down.err)
	case up.err != nil:
		// The backend has said all that it had to say, and did not want to hear more.
		return Succeeded, fmt.Errorf("lb: backend %s: %w", c.event.Backend, up.err)
	}
	return Succeeded, nil
}

// direction is one of the two of a connection.
type direction struct {
	conn     *tcpConn
	dst, src net.Conn
	n        int64 // bytes that were carried
	err      error // of writing
}

// carry copies until the end of src and then passes the end on, while the other
// direction goes on. If src breaks off, which says something of the backend or
// not, all is cut. If dst does, the other direction will find that out, and may
// still have something to carry.
func (d *direction) carry(fault Result, name string) {
	readErr := d.copy()
	switch {
	case readErr != nil:
		d.conn.cut(fault, fmt.Errorf("lb: %s: %w", name, readErr))
	case d.err != nil:
		d.discard()
	default:
		if err := closeWrite(d.dst); errors.Is(err, errors.ErrUnsupported) {
			d.conn.note(Succeeded, errNoHalfClose)
			d.dst.Close()
			d.src.Close()
		}
	}
}

var errNoHalfClose = errors.New("lb: one direction has ended, and the connection cannot end one alone")

// discard reads what nobody wants for a moment, since closing a connection with
// bytes unread resets it, and takes away what is on the way to its peer.
func (d *direction) discard() {
	d.src.SetReadDeadline(time.Now().Add(lingering))
	io.Copy(io.Discard, struct{ io.Reader }{d.src})
}

// copy returns the error of reading, if it is not the end, and leaves that of
// writing in d.err.
func (d *direction) copy() error {
	r := newChunkReader(d.src)
	defer r.release()
	bulk := newSplicer(d.dst, d.src)
	for {
		chunk, err := r.next()
		if len(chunk) > 0 {
			var n int
			n, d.err = d.dst.Write(chunk)
			d.count(int64(n))
			if d.err != nil {
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		// Where a whole chunk was waiting, there is more.
		if bulk == nil || len(chunk) < chunkBytes {
			continue
		}
		r.release()
		if ended, err := d.splice(bulk); ended || err != nil || d.err != nil {
			return err
		}
	}
}

func (d *direction) count(n int64) {
	d.n += n
	d.conn.carried.Add(n)
}

const (
	chunkBytes = 32 << 10
	// spliceBytes and spliceTime are how much is spliced at a time, after which we
	// look whether it still pays, as a pipe is dear to keep.
	spliceBytes = 64 << 20
	spliceTime  = time.Second
)

// splice moves bytes in the kernel. It says whether src has ended.
func (d *direction) splice(s *splicer) (ended bool, err error) {
	n, ended, err := s.move()
	d.count(n)
	switch {
	case err == nil:
		return ended, nil
	case s.sourceFailed():
		return false, err
	}
	d.err = err
	return false, nil
}

// splicer moves bytes between connections of the kernel.
type splicer struct {
	dst, src net.Conn
	from     io.ReaderFrom // dst
	to       io.WriterTo   // src, if that is wrapped by somebody who wants to see its bytes
	tcp      *net.TCPConn  // src, if it is not
}

// newSplicer returns nil if the kernel cannot.
func newSplicer(dst, src net.Conn) *splicer {
	from, ok := dst.(io.ReaderFrom)
	if !ok || !canSplice(dst, src) {
		return nil
	}
	s := &splicer{dst: dst, src: src, from: from, tcp: plainTCP(src)}
	if s.tcp == nil {
		if s.to, ok = src.(io.WriterTo); !ok {
			return nil
		}
	}
	return s
}

// plainTCP returns the connection itself if there is nothing around it, or nothing
// that wants to see its bytes.
func plainTCP(conn net.Conn) *net.TCPConn {
	if p, ok := conn.(*proxyConn); ok && p.drained.Load() {
		conn = p.Conn
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}

// move moves a part, or all if src is wrapped.
func (s *splicer) move() (n int64, ended bool, err error) {
	if s.tcp == nil {
		n, err = s.to.WriteTo(s.dst)
		return n, true, err
	}
	if err := s.tcp.SetReadDeadline(time.Now().Add(spliceTime)); err != nil {
		return 0, false, err
	}
	part := &io.LimitedReader{R: s.tcp, N: spliceBytes}
	n, err = s.from.ReadFrom(part)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// The pipe was empty then, as only reading has a deadline.
		return n, false, s.tcp.SetReadDeadline(time.Time{})
	}
	if err == nil && part.N > 0 {
		return n, true, nil
	}
	return n, false, errors.Join(err, s.tcp.SetReadDeadline(time.Time{}))
}

// chunkReader reads a connection by chunks.
type chunkReader interface {
	// next returns what is there, which is valid until the next call.
	next() ([]byte, error)
	// release gives back the memory. The reader may be used again.
	release()
}

// bufferedReader keeps its buffer while it waits.
type bufferedReader struct {
	src net.Conn
	buf *[chunkBytes]byte // nil after release
}

func (r *bufferedReader) next() ([]byte, error) {
	if r.buf == nil {
		r.buf = copyBuffers.Get().(*[chunkBytes]byte)
	}
	n, err := r.src.Read(r.buf[:])
	return r.buf[:n], err
}

func (r *bufferedReader) release() {
	if r.buf != nil {
		copyBuffers.Put(r.buf)
		r.buf = nil
	}
}
