package lb

import (
	"errors"
	"net/http"
	"os"
	"runtime"
	"time"
)

// turnWait is how long a connection waits for the next request as if nothing of
// it could have come before the response was sent. Then it looks.
const turnWait = 10 * time.Millisecond

// atOnce is how long the look takes at most if there was something already, and
// the kernel cannot be asked.
const atOnce = 200 * time.Microsecond

// A client that sends a request, waits for the response and sends the next one
// needs no look for the next one that finds nothing: the poller is told to look
// out before the response is written, and what the client sends afterwards is
// noticed. What it has sent before would not be, so this is not for those that
// pipeline, which wait for turnWait until they have been found out.

// turns says whether the end of a response may be left to turn.
func (c *serverConn) turns() bool {
	s := c.server
	return c.ready != nil && !c.pipelines && !c.watch.ahead && c.reader.Buffered() == 0 &&
		s.ConnState == nil && s.WriteTimeout == 0 && !c.writeDeadline && !c.own.Load()
}

// idle ends a request. It says whether another one may follow.
func (c *serverConn) idle() bool {
	return c.setState(http.StateActive, http.StateIdle) && !c.server.ending.Load()
}

// turn sends the end of the response that is left in out, if any, and waits for
// the next request.
func (c *serverConn) turn() bool {
	if len(c.out) == 0 {
		return c.idle() && c.awaitNext()
	}
	now := time.Now()
	c.due = after(now, c.server.idleTimeout())
	if soon := now.Add(turnWait); c.lost || c.set.IsZero() || c.set.After(soon) || !c.set.After(now) {
		c.nc.SetReadDeadline(soon)
		c.set, c.lost = soon, false
	}
	runtime.Gosched()
	n, err := c.ready.sendAndRead(c.out, c.reader)
	if n < len(c.out) {
		_, err = c.nc.Write(c.out[n:])
		c.giveOutBack()
		return err == nil && c.idle() && c.awaitNext()
	}
	c.giveOutBack()
	overlooked := false
	switch {
	case err != nil && errors.Is(err, os.ErrDeadlineExceeded):
		c.lost = true
		began := time.Now()
		err = c.fill()
		overlooked = c.ready.foundAtOnce(began)
	case err == nil && c.ready.waited:
		n, err = c.Read(c.reader.Room())
		c.reader.Took(n)
	}
	// Once may be chance: the request came just when the wait was over.
	c.pipelines = overlooked && c.overlooked
	c.overlooked = overlooked
	return err == nil && c.reader.Buffered() > 0
}

func (c *serverConn) giveOutBack() {
	if c.outRoom != nil {
		replyRooms.Put(c.outRoom)
	}
	c.out, c.outRoom = nil, nil
}
