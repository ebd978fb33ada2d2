package dbrouter

import (
	"context"
	"database/sql/driver"
)

// conn is the logical connection that database/sql holds. It borrows a server
// connection for a statement, for open rows or for a transaction, and keeps the
// last one of each role while it is checked out, so that LAST_INSERT_ID() and
// FOUND_ROWS() find their session. It belongs to one goroutine at a time.
type conn struct {
	r *Router
	// primary and replica are kept connections, nil if there is none.
	primary, replica *physical
	// last is the one of the two that did the previous statement.
	last *physical
	tx   *tx
	// pinned: the session of primary holds something that must neither be lost
	// nor leak to others.
	pinned bool
	closed bool
	// recent is the statement before; nil if there is none.
	recent *cached
	// rows are those of a query, unless they are in use: one piece of memory less
	// to be made for it.
	rows rows
}

var (
	_ driver.Conn               = (*conn)(nil)
	_ driver.QueryerContext     = (*conn)(nil)
	_ driver.ExecerContext      = (*conn)(nil)
	_ driver.ConnPrepareContext = (*conn)(nil)
	_ driver.ConnBeginTx        = (*conn)(nil)
	_ driver.Pinger             = (*conn)(nil)
	_ driver.SessionResetter    = (*conn)(nil)
	_ driver.Validator          = (*conn)(nil)
	_ driver.NamedValueChecker  = (*conn)(nil)
)

// CheckNamedValue accepts everything: the arguments are converted by the
// driver's own connection.
func (c *conn) CheckNamedValue(*driver.NamedValue) error { return nil }

// ResetSession is called by database/sql before a connection is used again.
func (c *conn) ResetSession(context.Context) error {
	if c.pinned || c.closed || c.r.closed() {
		return driver.ErrBadConn
	}
	return nil
}

// IsValid is called by database/sql when the connection comes back to its pool,
// and only then: the place to give back what was borrowed.
func (c *conn) IsValid() bool {
	if c.pinned {
		return false // Close follows
	}
	c.give()
	return !c.closed && !c.r.closed()
}

// give gives back everything borrowed.
func (c *conn) give() {
	if p := c.primary; p != nil {
		c.primary = nil
		if c.pinned {
			p.pool.discard(p)
		} else {
			p.pool.release(p)
		}
	}
	if p := c.replica; p != nil {
		c.replica = nil
		p.pool.release(p)
	}
	c.last = nil
}

// Close gives back everything. A pinned session ends with it.
func (c *conn) Close() error {
	if c.closed {
		return nil
	}
	c.closed = true
	if c.tx != nil {
		c.tx.abandon()
	}
	c.give()
	return nil
}

// Begin is part of driver.Conn; database/sql calls BeginTx.
func (c *conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// Prepare is part of driver.Conn; database/sql calls PrepareContext.
func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// PrepareContext prepares nothing yet: each execution may be on another node.
func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &stmt{c: c, sql: query}, nil
}

// Ping reaches the primary.
func (c *conn) Ping(ctx context.Context) error {
	k := &call{ctx: ctx, known: &cached{Classification: Classification{Write, "ping"}}, do: func(p *physical) error {
		pinger, ok := p.conn.(driver.Pinger)
		if !ok {
			return nil
		}
		return pinger.Ping(ctx)
	}}
	return final(c.route(k))
}

// ExecContext runs a statement without rows.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.exec(ctx, query, args, false)
}

// QueryContext runs a statement with rows.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.query(ctx, query, args, false)
}

// Exec does without a context what ExecContext does with one: it is what
// go-sql-driver's documentation has those call who want its own Result.
func (c *conn) Exec(query string, args []driver.Value) (driver.Result, error) {
	return c.ExecContext(context.Background(), query, named(args))
}

// Query is to QueryContext what Exec is to ExecContext.
func (c *conn) Query(query string, args []driver.Value) (driver.Rows, error) {
	return c.QueryContext(context.Background(), query, named(args))
}

func (c *conn) query(ctx context.Context, query string, args []driver.NamedValue, prepare bool) (driver.Rows, error) {
	r, err := c.queryRows(ctx, query, args, prepare)
	if err != nil {
		return nil, err
	}
	return r.typed(), nil
}

func (c *conn) exec(ctx context.Context, query string, args []driver.NamedValue, prepare bool) (driver.Result, error) {
	var result driver.Result
	k := new(call)
	c.begin(k, ctx, query)
	k.do = func(p *physical) (err error) {
		result, err = execOn(ctx, p, query, args, prepare)
		c.r.written(ctx, k.wishes.own(), p, err == nil && k.known.Kind >= Write && c.tx == nil)
		return err
	}
	err := c.route(k)
	if err != nil {
		err = final(err)
	}
	if c.r.told {
		c.r.tell(k, err)
	}
	if err != nil {
		return nil, err
	}
	return result, nil
}

func (c *conn) queryRows(ctx context.Context, query string, args []driver.NamedValue, prepare bool) (*rows, error) {
	out := &c.rows
	if c.rows.c != nil {
		out = new(rows) // those of another query are still open
	}
	out.c = c
	k := &out.call
	c.begin(k, ctx, query)
	k.args, k.prepare, k.rows = args, prepare, out
	out.writes = k.known.Kind >= Write && c.tx == nil
	err := c.route(k)
	if err != nil {
		err = final(err)
	}
	if c.r.told {
		c.r.tell(k, err)
	}
	if err != nil {
		*out = rows{}
		return nil, err
	}
	// The rows have the connection until they are closed. A pinned session and
	// a transaction keep theirs: they have no other.
	switch out.p {
	case c.txConn():
	case c.primary:
		if !c.pinned {
			c.primary, out.owns = nil, true
		}
	case c.replica:
		c.replica, out.owns = nil, true
	}
	if out.owns && c.last == out.p {
		c.last = nil
	}
	if k.known.Kind == Read && out.owns && c.tx == nil {
		out.read, out.again = true, true
	}
	return out, nil
}

func (c *conn) txConn() *physical {
	if c.tx == nil {
		return nil
	}
	return c.tx.p
}

// keep makes p the connection of its role, unless there is one or the session
// is pinned to one.
func (c *conn) keep(p *physical) {
	slot := &c.primary
	if p.readOnly {
		slot = &c.replica
	}
	if *slot != nil && *slot != p || c.closed || c.pinned && !p.readOnly {
		p.pool.release(p)
		return
	}
	*slot, c.last = p, p
}

// drop closes a kept connection that is broken.
func (c *conn) drop(p *physical) {
	if c.primary == p {
		c.primary = nil
	}
	if c.replica == p {
		c.replica = nil
	}
	if c.last == p {
		c.last = nil
	}
	p.pool.discard(p)
}

// settle closes a kept connection that was broken by an error. Without one it
// is sound, and may only seem not to be because its rows have not been read.
func (c *conn) settle(p *physical, err error) {
	if err != nil && !p.valid() {
		c.drop(p)
	}
}

// take returns a connection to node n, the kept one if it will do.
func (c *conn) take(ctx context.Context, n *node, readOnly, fresh bool) (*physical, error) {
	kept := &c.primary
	if readOnly {
		kept = &c.replica
	}
	if p := *kept; p != nil {
		if !fresh && p.pool == n.pool && p.valid() && p.pool.current(p) {
			c.last = p
			return p, nil
		}
		*kept = nil
		p.pool.release(p)
	}
	// Two sessions that each hold a connection of one role and wait for one of
	// the other would wait for ever. So none waits while it holds one: before
	// the primary's, the replica's is given back; and if there is none free on
	// the replica, a read is done on the primary.
	if !readOnly && c.replica != nil {
		c.replica.pool.release(c.replica)
		c.replica = nil
	}
	p, err := n.pool.acquire(ctx, readOnly, fresh, !readOnly || c.primary == nil)
	if err != nil {
		return nil, err
	}
	*kept, c.last = p, p
	return p, nil
}
