package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// These few functions speak to a driver's connection directly: what the router
// asks on its own account needs no pool above its own.

var errNoText = errors.New("dbrouter: the driver has no text queries")

// exec runs a statement without arguments.
func exec(ctx context.Context, conn driver.Conn, query string) error {
	e, ok := conn.(driver.ExecerContext)
	if !ok {
		return errNoText
	}
	_, err := e.ExecContext(ctx, query, nil)
	return err
}

// maxRows bounds the answer to a question of the router's own.
const maxRows = 256

// row is one row of an answer.
type row struct {
	values []string
	null   []bool
	names  []string
}

// ask runs a query without arguments and returns its rows.
func ask(ctx context.Context, conn driver.Conn, query string) ([]row, error) {
	q, ok := conn.(driver.QueryerContext)
	if !ok {
		return nil, errNoText
	}
	rows, err := q.QueryContext(ctx, query, nil)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names := rows.Columns()
	var out []row
	dest := make([]driver.Value, len(names))
	for len(out) < maxRows {
		if err := rows.Next(dest); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		r := row{values: make([]string, len(names)), null: make([]bool, len(names)), names: names}
		for i, v := range dest {
			r.values[i], r.null[i] = text(v), v == nil
		}
		out = append(out, r)
	}
	return out, nil
}

func text(v driver.Value) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []byte:
		return string(v)
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return fmt.Sprint(v)
}

// askOne runs a query whose answer is one row of n columns.
func askOne(ctx context.Context, conn driver.Conn, query string, n int) ([]string, error) {
	rows, err := ask(ctx, conn, query)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 || len(rows[0].values) != n {
		return nil, fmt.Errorf("dbrouter: the answer to %q is not one row of %d columns", query, n)
	}
	return rows[0].values, nil
}

// get returns the value of the first of the columns that is there.
func (r row) get(columns ...string) (value string, ok bool) {
	for _, c := range columns {
		for i, name := range r.names {
			if name == c {
				return r.values[i], !r.null[i]
			}
		}
	}
	return "", false
}

// link is a connection of the router's own to a node. It belongs to one
// goroutine.
type link struct {
	node *node
	conn driver.Conn
	// track is the connection's below the driver; nil if there is none.
	track *tracker
}

// do runs f on the connection, which is made if there is none, and once more on
// a new one if an old one turns out to be broken.
func (l *link) do(ctx context.Context, limit time.Duration, f func(context.Context, driver.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		old := l.conn != nil
		if !old {
			conn, track, err := l.node.pool.open(ctx)
			if err != nil {
				return err
			}
			l.conn, l.track = conn, track
		}
		err := f(ctx, l.conn)
		if v, ok := l.conn.(driver.Validator); err == nil || serverError(err) != 0 && (!ok || v.IsValid()) {
			return err
		}
		l.close()
		if !old || ctx.Err() != nil {
			return err
		}
	}
}

func (l *link) close() {
	if l.conn != nil {
		l.conn.Close()
		l.conn, l.track = nil, nil
	}
}
