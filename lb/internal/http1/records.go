package http1

import (
	"io"
	"net"
	"os"
	"sync"
)

const (
	// recordHead is the length of what comes before a record of TLS (RFC 8446,
	// section 5.1).
	recordHead = 5
	// recordsSize has room for the largest record, and for a beginning of the next.
	recordsSize = 18 << 10
)

var recordBuffers = sync.Pool{New: func() any { return new([recordsSize]byte) }}

// records is a connection below crypto/tls, to which it gives one record at a
// time. So what has come behind the last record that was used is here, where it
// can be seen, and not in crypto/tls. But for Read it may be used by others at the
// same time.
type records struct {
	net.Conn
	buf   []byte             // small or large, nil while it is empty
	small *[bufferSize]byte  // of the pool
	large *[recordsSize]byte // of the pool, after a record beyond small
	r, w  int                // buf[r:w] has been received and not been read
	size  int                // of the record that is being read
	left  int                // of it

	drained bool // the last read found less than there was room for
	shut    bool // nothing is to be received
}

// Read implements io.Reader.
func (c *records) Read(p []byte) (int, error) {
	if c.buf == nil && c.left > 0 && len(p) > bufferSize/2 && !c.shut {
		p = p[:min(len(p), c.left)]
		n, err := c.Conn.Read(p)
		c.left -= n
		c.drained = n < len(p)
		return n, err
	}
	for c.buf == nil || c.left == 0 && c.w-c.r < recordHead {
		if err := c.fill(); err == io.EOF && c.buf != nil {
			c.size, c.left = 0, c.w-c.r // crypto/tls knows what that means
		} else if err != nil {
			return 0, err
		}
	}
	if c.left == 0 {
		c.size = recordHead + int(c.buf[c.r+3])<<8 + int(c.buf[c.r+4])
		c.left = c.size
	}
	n := copy(p, c.buf[c.r:min(c.w, c.r+c.left)])
	c.r += n
	c.left -= n
	c.release()
	return n, nil
}

// fill receives more. An error comes with nothing.
func (c *records) fill() error {
	if c.shut {
		return os.ErrDeadlineExceeded
	}
	switch {
	case c.buf != nil:
		c.r, c.w = 0, copy(c.buf, c.buf[c.r:c.w])
	case c.size > bufferSize:
		c.large = recordBuffers.Get().(*[recordsSize]byte)
		c.buf = c.large[:]
	default:
		c.small = buffers.Get().(*[bufferSize]byte)
		c.buf = c.small[:]
	}
	n, err := c.Conn.Read(c.buf[c.w:])
	c.drained = n < len(c.buf)-c.w
	if c.w += n; n > 0 {
		return nil
	}
	c.release()
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

func (c *records) release() {
	if c.r < c.w {
		return
	}
	if c.large != nil {
		recordBuffers.Put(c.large)
	} else {
		buffers.Put(c.small)
	}
	c.buf, c.small, c.large, c.r, c.w = nil, nil, nil, 0, 0
}

// empty says whether all that was received has been read, to the end of a record.
func (c *records) empty() bool { return c.buf == nil && c.left == 0 }

// NetConn returns the connection below.
func (c *records) NetConn() net.Conn { return c.Conn }
