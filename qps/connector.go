package qps

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
)

// Connector measures the calls that database/sql makes through c to one
// database, as those of an [Upstream] of that name: connects, pings, queries,
// commands, prepared statements, the begin and the end of transactions. A query
// takes until its first rows can be read. Every error is a failure, except that
// the caller cancelled.
//
// Give each node its own: a router of several nodes takes their connectors. The
// driver's connection is reached through an Unwrap() driver.Conn method.
func (m *Meter) Connector(name string, c driver.Connector) driver.Connector {
	return &connector{Connector: c, u: m.Upstream(name)}
}

type connector struct {
	driver.Connector
	u *Upstream
}

func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := timed(ctx, c.u, func() (driver.Conn, error) { return c.Connector.Connect(ctx) })
	if err != nil {
		return nil, err
	}
	return &sqlConn{Conn: conn, u: c.u}, nil
}

// Close is called by sql.DB.Close.
func (c *connector) Close() error {
	if closer, ok := c.Connector.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// timed records one call. driver.ErrSkip means that there was none.
func timed[T any](ctx context.Context, u *Upstream, do func() (T, error)) (T, error) {
	start := u.m.now()
	v, err := do()
	if errors.Is(err, driver.ErrSkip) {
		return v, err
	}
	call := Call{u: u, place: u.m.picker.pick(), start: start}
	u.enter(call.place)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		call.Done(context.Canceled)
	} else {
		call.Done(err)
	}
	return v, err
}

// sqlConn has every optional method of a driver's connection. Where the driver
// lacks one, it answers what makes database/sql do as if it were not there.
type sqlConn struct {
	driver.Conn
	u *Upstream
}

// Unwrap returns the driver's own connection.
func (c *sqlConn) Unwrap() driver.Conn { return c.Conn }

func (c *sqlConn) Ping(ctx context.Context) error {
	p, ok := c.Conn.(driver.Pinger)
	if !ok {
		return nil
	}
	_, err := timed(ctx, c.u, func() (struct{}, error) { return struct{}{}, p.Ping(ctx) })
	return err
}

func (c *sqlConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	e, ok := c.Conn.(driver.ExecerContext)
	if !ok {
		return nil, driver.ErrSkip
	}
	return timed(ctx, c.u, func() (driver.Result, error) { return e.ExecContext(ctx, query, args) })
}

func (c *sqlConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	q, ok := c.Conn.(driver.QueryerContext)
	if !ok {
		return nil, driver.ErrSkip
	}
	return timed(ctx, c.u, func() (driver.Rows, error) { return q.QueryContext(ctx, query, args) })
}

func (c *sqlConn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func (c *sqlConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	stmt, err := timed(ctx, c.u, func() (driver.Stmt, error) {
		if p, ok := c.Conn.(driver.ConnPrepareContext); ok {
			return p.PrepareContext(ctx, query)
		}
		return c.Conn.Prepare(query)
	})
	if err != nil {
		return nil, err
	}
	return &sqlStmt{Stmt: stmt, conn: c}, nil
}

func (c *sqlConn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *sqlConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	tx, err := timed(ctx, c.u, func() (driver.Tx, error) {
		if b, ok := c.Conn.(driver.ConnBeginTx); ok {
			return b.BeginTx(ctx, opts)
		}
		if opts != (driver.TxOptions{}) {
			return nil, errors.New("qps: the driver has neither isolation levels nor read-only transactions")
		}
		return c.Conn.Begin() //lint:ignore SA1019 what database/sql does for such drivers
	})
	if err != nil {
		return nil, err
	}
	return &sqlTx{tx: tx, u: c.u}, nil
}

func (c *sqlConn) ResetSession(ctx context.Context) error {
	if r, ok := c.Conn.(driver.SessionResetter); ok {
		return r.ResetSession(ctx)
	}
	return nil
}

func (c *sqlConn) IsValid() bool {
	v, ok := c.Conn.(driver.Validator)
	return !ok || v.IsValid()
}

func (c *sqlConn) CheckNamedValue(v *driver.NamedValue) error {
	if n, ok := c.Conn.(driver.NamedValueChecker); ok {
		return n.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

type sqlTx struct {
	tx driver.Tx
	u  *Upstream
}

func (t *sqlTx) Commit() error   { return t.end(t.tx.Commit) }
func (t *sqlTx) Rollback() error { return t.end(t.tx.Rollback) }

func (t *sqlTx) end(do func() error) error {
	_, err := timed(context.Background(), t.u, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

type sqlStmt struct {
	driver.Stmt
	conn *sqlConn
}

func (s *sqlStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return timed(ctx, s.conn.u, func() (driver.Result, error) {
		if e, ok := s.Stmt.(driver.StmtExecContext); ok {
			return e.ExecContext(ctx, args)
		}
		values, err := positional(ctx, args)
		if err != nil {
			return nil, err
		}
		return s.Stmt.Exec(values) //lint:ignore SA1019 what database/sql does for such drivers
	})
}

func (s *sqlStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return timed(ctx, s.conn.u, func() (driver.Rows, error) {
		if q, ok := s.Stmt.(driver.StmtQueryContext); ok {
			return q.QueryContext(ctx, args)
		}
		values, err := positional(ctx, args)
		if err != nil {
			return nil, err
		}
		return s.Stmt.Query(values) //lint:ignore SA1019 what database/sql does for such drivers
	})
}

// positional is what a driver without contexts can take.
func positional(ctx context.Context, args []driver.NamedValue) ([]driver.Value, error) {
	values := make([]driver.Value, len(args))
	for i, a := range args {
		if a.Name != "" {
			return nil, errors.New("qps: the driver has no named parameters")
		}
		values[i] = a.Value
	}
	return values, ctx.Err()
}

// CheckNamedValue asks the statement, and then the connection, as database/sql
// does.
func (s *sqlStmt) CheckNamedValue(v *driver.NamedValue) error {
	if n, ok := s.Stmt.(driver.NamedValueChecker); ok {
		return n.CheckNamedValue(v)
	}
	return s.conn.CheckNamedValue(v)
}
