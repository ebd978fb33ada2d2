package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"
)

// tx is a transaction. All of it is done by one connection.
type tx struct {
	c      *conn
	ctx    context.Context
	p      *physical
	tx     driver.Tx
	reason string
	dirty  bool // it has left something behind in the session
}

// BeginTx begins a transaction: a read-only one on a replica, where Consistency
// holds for all of it, any other one on the primary.
func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if c.tx != nil {
		return nil, errors.New("dbrouter: a transaction has begun already")
	}
	t := &tx{c: c, ctx: ctx}
	k := &call{ctx: ctx, sql: "BEGIN", known: &cached{Classification: Classification{Write, "transaction"}}, wishes: asks(ctx), begun: time.Now()}
	if opts.ReadOnly {
		k.known.Classification = Classification{Read, "read-only transaction"}
	}
	k.do = func(p *physical) (err error) {
		b, ok := p.conn.(driver.ConnBeginTx)
		if !ok {
			return errors.New("dbrouter: the driver has no transactions")
		}
		t.p = p
		t.tx, err = b.BeginTx(ctx, opts)
		return err
	}
	err := final(c.route(k))
	if c.r.told {
		c.r.tell(k, err)
	}
	if err != nil {
		// An isolation level may have been set for the next transaction.
		if p := t.p; p != nil && !c.pinned && (p == c.primary || p == c.replica) {
			c.drop(p)
		}
		return nil, err
	}
	t.reason = k.known.Reason
	c.tx = t
	// It is the transaction's until its end.
	if t.p == c.replica {
		c.replica = nil
	}
	if t.p == c.primary && !c.pinned {
		c.primary = nil
	}
	return t, nil
}

func (t *tx) Commit() error { return t.end("COMMIT", t.tx.Commit) }

func (t *tx) Rollback() error { return t.end("ROLLBACK", t.tx.Rollback) }

// end ends the transaction. Its error is the driver's: only the server knows
// whether a lost COMMIT was done.
func (t *tx) end(name string, f func() error) error {
	c, p := t.c, t.p
	if c.tx != t {
		return errors.New("dbrouter: the transaction has ended already")
	}
	k := &call{ctx: t.ctx, sql: name, known: new(cached), begun: time.Now(), do: func(*physical) error { return f() }}
	err := k.run(p, t.reason)
	c.r.written(t.ctx, asks(t.ctx).own(), p, err == nil && name == "COMMIT")
	if c.r.told {
		c.r.tell(k, err)
	}
	c.notice(p, err)
	c.tx = nil
	switch {
	case c.primary == p: // a pinned session's
	case err != nil || !p.valid(), t.dirty && p.readOnly:
		// It may still be in the transaction, or holds what nobody may get.
		c.drop(p)
	case t.dirty:
		c.primary, c.last = p, p
	default:
		c.keep(p)
	}
	return err
}

// abandon ends the transaction of a connection that is closed.
func (t *tx) abandon() {
	t.c.tx = nil
	if t.c.primary != t.p {
		t.p.pool.discard(t.p)
	}
}
