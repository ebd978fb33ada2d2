package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"reflect"
	"slices"
)

// rows are the rows of a query. They have their connection until they are
// closed.
type rows struct {
	driver.Rows
	c    *conn
	p    *physical
	stmt driver.Stmt // closed after the rows, nil if none
	owns bool        // the connection is the rows' own
	// ctx is that of the query, and writes says that it may write: what it has
	// written is known at the end of the rows.
	ctx    context.Context
	writes bool
	// call is the query, here so that both are one piece of memory.
	call call
	// read is the query if it is a read by itself, nil in a transaction.
	read *call
	// again is read as long as the caller has seen no row.
	again *call
}

// query runs the query on a connection.
func (r *rows) query(p *physical) (err error) {
	r.Rows, r.stmt, err = queryOn(r.ctx, p, r.call.sql, r.call.args, r.call.prepare)
	r.p = p
	return err
}

// typed returns the rows with the optional interfaces that the driver's have.
func (r *rows) typed() driver.Rows {
	_, types := r.Rows.(driver.RowsColumnTypeScanType)
	_, sets := r.Rows.(driver.RowsNextResultSet)
	if types && sets {
		return typedRows{r} // a pointer in itself: it costs no memory
	}
	return r
}

// Next reads a row. If the connection is lost before the first one, or the
// replica refuses then what only looked like a read, the query is repeated
// elsewhere, once.
func (r *rows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	k := r.again
	r.again = nil
	if err == nil || errors.Is(err, io.EOF) || r.read == nil {
		return err
	}
	ctx := r.read.ctx
	switch {
	case r.p != nil && r.p.readOnly && refused(err):
		// MariaDB refuses before the head of the result, but does not have to.
		r.c.r.distrust(r.read.sql)
		ctx = WithPrimary(ctx)
	case !lost(ctx, r.p, err):
		return err
	}
	if k == nil {
		return err
	}
	columns, c := slices.Clone(r.Columns()), r.c
	query, args, prepare := k.sql, k.args, k.prepare
	r.p.pool.node.lookNow()
	r.Close() // first, so that its place in the pool is free
	next, again := c.queryRows(ctx, query, args, prepare)
	if again != nil {
		return err
	}
	if next != r {
		*r = *next
		next.leave()
	}
	r.read, r.again = nil, nil // once is enough
	if !slices.Equal(columns, r.Columns()) {
		return err
	}
	return r.Rows.Next(dest)
}

// Close gives the connection back, to the session if that is still checked out.
func (r *rows) Close() error {
	if r.p == nil {
		return nil
	}
	p := r.p
	err := r.Rows.Close()
	p.abandon(r.ctx)
	if r.stmt != nil {
		r.stmt.Close()
	}
	r.c.r.written(r.ctx, p, r.writes)
	switch {
	case !r.owns:
	case !p.valid():
		p.pool.discard(p)
	default:
		r.c.keep(p)
	}
	r.leave()
	return err
}

// leave lets go of what the rows hold, for the next query to use them.
func (r *rows) leave() { *r = rows{Rows: r.Rows} }

// typedRows are rows with everything that go-sql-driver's have.
type typedRows struct{ *rows }

var (
	_ driver.RowsNextResultSet              = typedRows{}
	_ driver.RowsColumnTypeScanType         = typedRows{}
	_ driver.RowsColumnTypeDatabaseTypeName = typedRows{}
	_ driver.RowsColumnTypeNullable         = typedRows{}
	_ driver.RowsColumnTypePrecisionScale   = typedRows{}
	_ driver.RowsColumnTypeLength           = typedRows{}
)

func (r typedRows) HasNextResultSet() bool {
	return r.Rows.(driver.RowsNextResultSet).HasNextResultSet()
}

func (r typedRows) NextResultSet() error {
	r.again = nil
	return r.Rows.(driver.RowsNextResultSet).NextResultSet()
}

func (r typedRows) ColumnTypeScanType(i int) reflect.Type {
	return r.Rows.(driver.RowsColumnTypeScanType).ColumnTypeScanType(i)
}

func (r typedRows) ColumnTypeDatabaseTypeName(i int) string {
	if t, ok := r.Rows.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return t.ColumnTypeDatabaseTypeName(i)
	}
	return ""
}

func (r typedRows) ColumnTypeNullable(i int) (nullable, ok bool) {
	if t, is := r.Rows.(driver.RowsColumnTypeNullable); is {
		return t.ColumnTypeNullable(i)
	}
	return false, false
}

func (r typedRows) ColumnTypePrecisionScale(i int) (precision, scale int64, ok bool) {
	if t, is := r.Rows.(driver.RowsColumnTypePrecisionScale); is {
		return t.ColumnTypePrecisionScale(i)
	}
	return 0, 0, false
}

func (r typedRows) ColumnTypeLength(i int) (length int64, ok bool) {
	if t, is := r.Rows.(driver.RowsColumnTypeLength); is {
		return t.ColumnTypeLength(i)
	}
	return 0, false
}
