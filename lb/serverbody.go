package lb

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

const (
	// drainBytes and drainFor bound what is read of a body that the handler has
	// left, so that the connection can be used again.
	drainBytes = 256 << 10
	drainFor   = 5 * time.Second

	// bodyGrace is how long a body may be slow.
	bodyGrace = 5 * time.Second
)

var errBodyTooSlow = errors.New("lb: the request's body comes too slowly")

// serverBody is the body of a request that a [Server] has read the head of. It
// is safe for concurrent use: a handler's goroutine may read it while the server
// closes it.
type serverBody struct {
	conn   *serverConn
	w      *reply
	closed atomic.Bool

	mu     sync.Mutex // guards the rest
	src    http1.Body
	err    error // the end, once it was found
	bytes  int64
	waited time.Duration // for the bytes
}

// Read implements io.Reader.
func (b *serverBody) Read(p []byte) (int, error) {
	b.w.sayContinue()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.read(p)
}

// read needs mu.
func (b *serverBody) read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	var n int
	var err error
	if rate := b.conn.server.MinBodyRate; rate > 0 {
		n, err = b.readAtRate(p, rate)
	} else {
		n, err = b.src.Read(p)
	}
	b.bytes += int64(n)
	if err == nil {
		return n, nil
	}
	if b.err = err; err == io.EOF {
		b.conn.bodyEnded()
		return n, err
	}
	if isDisconnect(err) && !b.closed.Load() {
		b.w.ctx.cancel(errCanceled)
	}
	return n, err
}

func (b *serverBody) readAtRate(p []byte, rate int) (int, error) {
	c, due := b.conn, b.conn.due
	begin := time.Now()
	limit := begin.Add(bodyGrace + time.Duration(float64(b.bytes)/float64(rate)*float64(time.Second)) - b.waited)
	slow := due.IsZero() || limit.Before(due)
	if slow {
		c.due = limit
	}
	n, err := b.src.Read(p)
	c.due = due
	now := time.Now()
	b.waited += now.Sub(begin)
	if err != nil && err != io.EOF && slow && !now.Before(limit) {
		err = errBodyTooSlow
	}
	return n, err
}

// Close implements io.Closer. The server reads what is left.
func (b *serverBody) Close() error {
	b.closed.Store(true)
	return nil
}

// over says whether the body has been read to its end. It does not wait for one
// who reads.
func (b *serverBody) over() bool {
	if !b.mu.TryLock() {
		return false
	}
	defer b.mu.Unlock()
	return b.err == io.EOF
}

// drain reads what the handler has left, if that is not too much, and says
// whether it is over.
func (b *serverBody) drain() bool {
	if !b.mu.TryLock() {
		return false // somebody reads it still
	}
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err == io.EOF
	}
	if b.src.Unread() > drainBytes {
		return false
	}
	b.closed.Store(true) // or the handler would take what it reads for the whole
	c := b.conn
	if due := time.Now().Add(drainFor); c.due.IsZero() || due.Before(c.due) {
		defer func(due time.Time) { c.due = due }(c.due)
		c.due = due
	}
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	for left := drainBytes; left > 0; {
		n, err := b.read(buf[:])
		if err != nil {
			return err == io.EOF
		}
		left -= n
	}
	return false
}

// abandon ends reading, also that of one who reads now.
func (b *serverBody) abandon() {
	b.closed.Store(true)
	if !b.mu.TryLock() {
		b.conn.own.Store(true)
		b.conn.nc.SetReadDeadline(time.Unix(1, 0))
		b.mu.Lock()
	}
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
	b.mu.Unlock()
}
