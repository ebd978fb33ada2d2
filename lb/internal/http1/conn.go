package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"time"
)

// watchAfter is how long an exchange waits for the backend before it begins to
// watch its context: most are over by then, and need not be watched.
const watchAfter = 10 * time.Millisecond

// conn is a connection to a backend. One exchange at a time has it, in one
// goroutine, but for an upload's.
type conn struct {
	client  *Client
	nc      net.Conn // what is read and written
	raw     net.Conn // below TLS
	tls     *tls.ConnectionState
	records *records    // between raw and nc, nil without TLS
	probe   *probe      // nil if the connection cannot be looked at
	turn    *turnaround // nil if it takes an ordinary write and read
	reader  *Reader
	reused  bool
	idled   time.Time // when it fell idle

	deadline time.Time // for reading, in nc; zero for none
	settled  bool      // the last response had a body, and nothing had come behind it

	// Of the exchange.
	ctx      context.Context
	first    time.Time   // until when nobody watches
	due      time.Time   // when the response must have begun, zero for never
	watching func() bool // ends the watch; nil while there is none
	answered bool        // bytes have come
	readErr  error       // what Read finds next
	up       *upload     // nil without a body
}

// begin starts an exchange, which waits until due. The deadline in the connection
// is left alone if it comes before the first wait is over: Read moves it, should it
// pass too early. So a busy connection seldom sets any.
func (c *conn) begin(ctx context.Context, now, due time.Time) {
	c.ctx, c.due, c.answered, c.readErr, c.up = ctx, due, false, nil, nil
	if c.first = now.Add(watchAfter); !due.IsZero() && due.Before(c.first) {
		c.first = due
	}
	if c.deadline.IsZero() || c.deadline.After(c.first) || !c.deadline.After(now) {
		c.setDeadline(c.first)
	}
}

func (c *conn) setDeadline(t time.Time) {
	c.deadline = t
	c.nc.SetReadDeadline(t)
}

// abort ends the connection, from any goroutine.
func (c *conn) abort() { c.raw.Close() }

// Read is what the reader reads from. It starts the watch when the first
// deadline has passed.
func (c *conn) Read(p []byte) (int, error) {
	if err := c.readErr; err != nil {
		c.readErr = nil
		return 0, c.cause(err)
	}
	for {
		n, err := c.nc.Read(p)
		if n > 0 {
			c.answered = true
			return n, nil
		}
		if err == nil {
			return 0, io.ErrNoProgress
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, c.cause(err)
		}
		now := time.Now()
		if !c.due.IsZero() && !now.Before(c.due) {
			return 0, ErrTimeout
		}
		if c.ctx.Err() != nil {
			return 0, context.Cause(c.ctx)
		}
		if c.watching == nil && now.Before(c.first) {
			c.setDeadline(c.first) // it was an earlier exchange's
			continue
		}
		c.watch()
		c.setDeadline(c.due)
	}
}

func (c *conn) watch() {
	if c.watching == nil {
		c.watching = context.AfterFunc(c.ctx, c.abort)
	}
}

// cause is what lies behind a failure to read or write.
func (c *conn) cause(err error) error {
	if e := c.up.failure(); e != nil {
		return e
	}
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return err
}

// headReceived ends the wait for the response.
func (c *conn) headReceived() {
	if c.due = (time.Time{}); c.watching != nil {
		c.setDeadline(time.Time{})
	}
}

// send writes a head. One that is large may meet a peer that does not read.
func (c *conn) send(head []byte) (n int, err error) {
	if len(head) > bufferSize {
		c.watch()
		c.nc.SetWriteDeadline(c.due)
		defer c.nc.SetWriteDeadline(time.Time{})
	}
	if n, err = c.nc.Write(head); errors.Is(err, os.ErrDeadlineExceeded) {
		return n, ErrTimeout
	}
	return n, err
}

// sendBodiless is send for a request without a body. It may wait for the answer,
// which is in the reader then; what it cannot read, Read will find.
func (c *conn) sendBodiless(head []byte) (n int, err error) {
	if c.turn == nil || len(head) > bufferSize {
		if n, err = c.send(head); err == nil {
			// The answer takes a moment. Whoever else can run now saves a read that
			// finds nothing, and the wait for the poller.
			runtime.Gosched()
		}
		return n, err
	}
	runtime.Gosched()
	if n, err = c.turn.run(head, c.reader); n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		c.setDeadline(c.first) // it was an earlier exchange's, and nothing was written
		n, err = c.turn.run(head, c.reader)
	}
	switch {
	case err == nil && n == len(head):
		c.answered = c.tls == nil // TLS has only seen that there is something
	case n < len(head):
		m, err := c.send(head[n:])
		return n + m, err
	case !errors.Is(err, os.ErrDeadlineExceeded):
		c.readErr = err
	}
	return n, nil
}

// finish ends the exchange, after whose response the connection may be used
// again or not.
func (c *conn) finish(again bool) {
	if c.watching != nil {
		again = c.watching() && again
		c.watching = nil
	}
	// Bytes that nobody asked for are no answer to the next request.
	again = again && c.reader.Buffered() == 0 && !c.hasMore()
	if c.settled = c.settled && c.reader.drained; c.records != nil {
		c.settled = c.settled && c.records.drained
	}
	c.reader.Release()
	c.ctx = nil
	if c.up != nil && again {
		idle, later := c.up.detach()
		if later {
			return
		}
		again = idle
	}
	if again {
		c.client.put(c)
		return
	}
	c.abort()
}

// hasMore says whether TLS has bytes that were received and not been read.
func (c *conn) hasMore() bool {
	if c.records == nil {
		return false
	}
	if !c.reader.drained {
		// The last read ended where its room did, perhaps within a record.
		c.records.shut = true
		n, _ := c.nc.Read(make([]byte, 1))
		c.records.shut = false
		if n > 0 {
			return true
		}
	}
	return !c.records.empty()
}

// tunnel is the body of a response with the status 101: the connection.
type tunnel struct {
	net.Conn
	early *Reader // what came with the head
}

// Read implements io.Reader.
func (t *tunnel) Read(p []byte) (int, error) {
	if t.early.Buffered() > 0 {
		return t.early.Read(p)
	}
	t.early.Release()
	return t.Conn.Read(p)
}

// CloseWrite ends the direction to the backend.
func (t *tunnel) CloseWrite() error {
	if half, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return t.Conn.Close()
}

// upgrade turns the connection over to the caller.
func (c *conn) upgrade() io.ReadWriteCloser {
	if c.watching != nil {
		c.watching()
		c.watching = nil
	}
	c.nc.SetDeadline(time.Time{})
	return &tunnel{Conn: c.nc, early: c.reader}
}
