package http1

import "time"

// probeAfter is how long a connection has idled that is looked at before it is
// used for a request that can be repeated. Those that idle for less have mostly
// not been closed meanwhile, and the look costs as much as a read.
const probeAfter = time.Millisecond

// take returns an idle connection that lives, or nil. The newest comes first, so
// that those beyond what is needed grow old and are closed.
func (c *Client) take(now time.Time, m *Message) *conn {
	for {
		conn := c.pop()
		if conn == nil {
			return nil
		}
		idled := now.Sub(conn.idled)
		expired := c.conf.IdleTimeout > 0 && idled >= c.conf.IdleTimeout
		trusted := idled < probeAfter && conn.settled && m.repeatable()
		if !expired && (trusted || conn.probe.alive()) {
			conn.reused = true
			return conn
		}
		conn.abort()
	}
}

func (c *Client) pop() *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = false
	if len(c.idle) == 0 {
		return nil
	}
	last := len(c.idle) - 1
	conn := c.idle[last]
	c.idle[last] = nil
	c.idle = c.idle[:last]
	return conn
}

// put keeps a connection for the next request. If there are too many, the oldest
// goes.
func (c *Client) put(conn *conn) {
	conn.idled = time.Now()
	if spare := c.keep(conn); spare != nil {
		spare.nc.Close()
	}
}

func (c *Client) keep(conn *conn) (spare *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.conf.IdleConns <= 0 {
		return conn
	}
	if len(c.idle) >= c.conf.IdleConns {
		spare = c.idle[0]
		c.idle = append(c.idle[:0], c.idle[1:]...)
	}
	c.idle = append(c.idle, conn)
	if c.sweeper == nil && c.conf.IdleTimeout > 0 {
		c.sweeper = time.AfterFunc(c.conf.IdleTimeout, c.sweep)
	}
	return spare
}

// sweep closes what has idled for too long. It runs about once in the idle
// timeout, for all connections together, as long as there are some.
func (c *Client) sweep() {
	for _, conn := range c.expired(time.Now()) {
		conn.nc.Close()
	}
}

func (c *Client) expired(now time.Time) (old []*conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sweeper == nil {
		return nil // closed while it fired
	}
	n := 0
	for n < len(c.idle) && now.Sub(c.idle[n].idled) >= c.conf.IdleTimeout {
		n++
	}
	old = append(old, c.idle[:n]...)
	kept := copy(c.idle, c.idle[n:])
	clear(c.idle[kept:])
	c.idle = c.idle[:kept]
	if kept == 0 {
		c.sweeper = nil
	} else {
		c.sweeper.Reset(c.idle[0].idled.Add(c.conf.IdleTimeout).Sub(now))
	}
	return old
}

// CloseIdleConnections closes the connections that are idle now, and those in
// use when they fall idle, until the next request.
func (c *Client) CloseIdleConnections() {
	c.mu.Lock()
	idle := c.idle
	c.idle, c.closing = nil, true
	if c.sweeper != nil {
		c.sweeper.Stop()
		c.sweeper = nil
	}
	c.mu.Unlock()
	for _, conn := range idle {
		conn.nc.Close()
	}
}
