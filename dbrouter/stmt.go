package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
)

// stmt is the text of a prepared statement. It is prepared on the connection of
// its execution, which keeps it.
type stmt struct {
	c   *conn
	sql string
}

var (
	_ driver.Stmt             = (*stmt)(nil)
	_ driver.StmtExecContext  = (*stmt)(nil)
	_ driver.StmtQueryContext = (*stmt)(nil)
)

func (s *stmt) Close() error { return nil }

// NumInput is not known before the statement is prepared.
func (s *stmt) NumInput() int { return -1 }

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.c.exec(ctx, s.sql, args, true)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.c.query(ctx, s.sql, args, true)
}

// Exec is part of driver.Stmt; database/sql calls ExecContext.
func (s *stmt) Exec(args []driver.Value) (driver.Result, error) {
	return s.ExecContext(context.Background(), named(args))
}

// Query is part of driver.Stmt; database/sql calls QueryContext.
func (s *stmt) Query(args []driver.Value) (driver.Rows, error) {
	return s.QueryContext(context.Background(), named(args))
}

func named(args []driver.Value) []driver.NamedValue {
	out := make([]driver.NamedValue, len(args))
	for i, a := range args {
		out[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return out
}

// execOn runs a statement on a connection, as database/sql does with a driver:
// directly if it can, and otherwise by preparing it.
func execOn(ctx context.Context, p *physical, query string, args []driver.NamedValue, prepare bool) (driver.Result, error) {
	if err := convert(p, args); err != nil {
		return nil, err
	}
	if p.execer != nil && !prepare {
		result, err := p.execer.ExecContext(ctx, query, args)
		if !errors.Is(err, driver.ErrSkip) {
			return result, err
		}
	}
	s, kept, err := prepareOn(ctx, p, query)
	if err != nil {
		return nil, err
	}
	result, err := s.(driver.StmtExecContext).ExecContext(ctx, args)
	switch {
	case !kept:
		s.Close()
	case err != nil:
		p.prepared.forget(query) // whatever it was, it was not worth keeping
	}
	return result, err
}

// queryOn is execOn for a statement with rows. The statement returned, if any,
// must be closed after the rows.
func queryOn(ctx context.Context, p *physical, query string, args []driver.NamedValue, prepare bool) (driver.Rows, driver.Stmt, error) {
	if err := convert(p, args); err != nil {
		return nil, nil, err
	}
	if p.queryer != nil && !prepare {
		rows, err := p.queryer.QueryContext(ctx, query, args)
		if !errors.Is(err, driver.ErrSkip) {
			return rows, nil, err
		}
	}
	s, kept, err := prepareOn(ctx, p, query)
	if err != nil {
		return nil, nil, err
	}
	rows, err := s.(driver.StmtQueryContext).QueryContext(ctx, args)
	switch {
	case err != nil && kept:
		p.prepared.forget(query)
		return nil, nil, err
	case err != nil:
		s.Close()
		return nil, nil, err
	case kept:
		return rows, nil, nil
	}
	return rows, s, nil
}

// prepareOn returns a prepared statement, and whether the connection keeps it;
// else it is the caller's to close.
func prepareOn(ctx context.Context, p *physical, query string) (s driver.Stmt, kept bool, err error) {
	if s := p.prepared.find(query); s != nil {
		return s, true, nil
	}
	c, ok := p.conn.(driver.ConnPrepareContext)
	if !ok {
		return nil, false, errNoText
	}
	s, err = c.PrepareContext(ctx, query)
	if serverError(err) == errTooManyPrepared && p.prepared.order.Len() > 0 {
		p.prepared.clear()
		s, err = c.PrepareContext(ctx, query)
	}
	if err != nil {
		return nil, false, err
	}
	_, execs := s.(driver.StmtExecContext)
	_, queries := s.(driver.StmtQueryContext)
	if !execs || !queries {
		s.Close()
		return nil, false, errNoText
	}
	return s, p.prepared.add(query, s), nil
}
