package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
)

// stmt is the text of a prepared statement. It is prepared on the connection of
// each execution.
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
	if err := convert(p.conn, args); err != nil {
		return nil, err
	}
	if e, ok := p.conn.(driver.ExecerContext); ok && !prepare {
		result, err := e.ExecContext(ctx, query, args)
		if !errors.Is(err, driver.ErrSkip) {
			return result, err
		}
	}
	s, err := prepareOn(ctx, p, query)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	result, err := s.(driver.StmtExecContext).ExecContext(ctx, args)
	return result, err
}

// queryOn is execOn for a statement with rows. The statement returned, if any,
// must be closed after the rows.
func queryOn(ctx context.Context, p *physical, query string, args []driver.NamedValue, prepare bool) (driver.Rows, driver.Stmt, error) {
	if err := convert(p.conn, args); err != nil {
		return nil, nil, err
	}
	if q, ok := p.conn.(driver.QueryerContext); ok && !prepare {
		rows, err := q.QueryContext(ctx, query, args)
		if !errors.Is(err, driver.ErrSkip) {
			return rows, nil, err
		}
	}
	s, err := prepareOn(ctx, p, query)
	if err != nil {
		return nil, nil, err
	}
	rows, err := s.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	return rows, s, nil
}

func prepareOn(ctx context.Context, p *physical, query string) (driver.Stmt, error) {
	c, ok := p.conn.(driver.ConnPrepareContext)
	if !ok {
		return nil, errNoText
	}
	s, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	_, execs := s.(driver.StmtExecContext)
	_, queries := s.(driver.StmtQueryContext)
	if !execs || !queries {
		s.Close()
		return nil, errNoText
	}
	return s, nil
}
