package lb

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"
)

// watchDelay is how long a request may have taken before somebody watches for
// its client to go away: most are over by then, and need not be watched.
const watchDelay = 5 * time.Millisecond

// watch looks for the end of a connection while a handler works. It reads, in a
// goroutine that exists only for that; what it receives is the beginning of the
// next request.
type watch struct {
	mu      sync.Mutex      // guards the rest, but what is said to be the connection's
	of      *requestContext // of the request that may be watched, nil between requests
	asked   bool            // somebody wants to know
	open    bool            // the request has been read: what comes is not its body
	timer   *time.Timer
	ended   chan struct{} // closed when the goroutine has ended, nil if there is none
	aborted bool

	ahead bool    // a byte has been received; the connection's, when no goroutine is
	first [1]byte // the byte
}

// beginWatch is for a new request.
func (c *serverConn) beginWatch(of *requestContext, open bool) {
	w := &c.watch
	w.mu.Lock()
	w.of, w.asked, w.open = of, false, open
	w.mu.Unlock()
}

// ask wants to know when the client of a request goes away.
func (c *serverConn) ask(of *requestContext) {
	w := &c.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of == of && !w.asked {
		w.asked = true
		c.schedule()
	}
}

// bodyEnded lets the watch begin.
func (c *serverConn) bodyEnded() {
	w := &c.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = true
	c.schedule()
}

// schedule needs the watch's mu.
func (c *serverConn) schedule() {
	w := &c.watch
	if of := w.of; of != nil && w.asked && w.open && w.timer == nil && !w.ahead {
		w.timer = time.AfterFunc(watchDelay, func() { c.watchFor(of) })
	}
}

func (c *serverConn) watchFor(of *requestContext) {
	w := &c.watch
	w.mu.Lock()
	if w.of != of {
		w.mu.Unlock()
		return
	}
	ended := make(chan struct{})
	w.ended, w.aborted = ended, false
	if !c.own.Load() {
		c.nc.SetReadDeadline(time.Time{})
	}
	w.mu.Unlock()

	n, err := c.nc.Read(w.first[:])

	w.mu.Lock()
	w.ahead = n == 1
	aborted := w.aborted
	w.mu.Unlock()
	close(ended)
	if n == 0 && !aborted && !errors.Is(err, os.ErrDeadlineExceeded) {
		of.cancel(context.Canceled)
	}
}

// endWatch returns when nobody reads any more.
func (c *serverConn) endWatch() {
	w := &c.watch
	w.mu.Lock()
	w.of = nil
	if w.timer == nil {
		w.mu.Unlock()
		return
	}
	w.timer.Stop()
	w.timer = nil
	ended := w.ended
	w.ended = nil
	if ended != nil {
		w.aborted = true
		c.lost = true
		c.nc.SetReadDeadline(time.Unix(1, 0))
	}
	w.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// requestContext is the context of a request. It ends with the handler, or when
// the client goes away, which is looked for once somebody has asked, with Done,
// and some milliseconds have passed. It is safe for concurrent use.
type requestContext struct {
	context.Context // of the connection
	conn            *serverConn
	began           time.Time

	mu     sync.Mutex // guards the rest
	done   chan struct{}
	err    error
	linked bool
	asked  bool        // with Err
	unlink func() bool // from the connection's
	after  map[*func()]struct{}
}

// Done implements context.Context.
func (r *requestContext) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = make(chan struct{})
		if r.err != nil {
			close(r.done)
		}
	}
	r.link()
	return r.done
}

// Err implements context.Context.
func (r *requestContext) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil && !r.linked {
		if err := r.Context.Err(); err != nil {
			return err
		}
		if r.asked && time.Since(r.began) > watchDelay {
			r.link() // for those who only ask from time to time
		}
		r.asked = true
	}
	return r.err
}

// AfterFunc calls f in a goroutine of its own when the context has ended. It
// saves package context a goroutine for each context that comes from this one.
func (r *requestContext) AfterFunc(f func()) (stop func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		go f()
		return func() bool { return false }
	}
	r.link()
	if r.after == nil {
		r.after = make(map[*func()]struct{})
	}
	r.after[&f] = struct{}{}
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		_, ok := r.after[&f]
		delete(r.after, &f)
		return ok
	}
}

// link needs mu.
func (r *requestContext) link() {
	if r.linked || r.err != nil {
		return
	}
	r.linked = true
	if r.Context.Done() != nil {
		r.unlink = context.AfterFunc(r.Context, func() { r.cancel(r.Context.Err()) })
	}
	r.conn.ask(r)
}

// cancel ends the context.
func (r *requestContext) cancel(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	r.err = err
	if r.done != nil {
		close(r.done)
	}
	for f := range r.after {
		go (*f)()
	}
	r.after = nil
	if r.unlink != nil {
		r.unlink()
	}
}
