package dbrouter

import (
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
	// writes says that the query may write: what it has written is known at the end
	// of the rows.
	writes bool
	// read: it is a read by itself, not in a transaction; and again, that the
	// caller has seen no row yet.
	read, again bool
	// call is the query, here so that both are one piece of memory.
	call call
}

// query runs the query on a connection.
func (r *rows) query(p *physical) (err error) {
	r.p = p
	k := &r.call
	if len(k.args) == 0 && !k.prepare && p.queryer != nil {
		// What queryOn does then, but shorter.
		if r.Rows, err = p.queryer.QueryContext(k.ctx, k.sql, k.args); err == nil || !errors.Is(err, driver.ErrSkip) {
			return err
		}
	}
	r.Rows, r.stmt, err = queryOn(k.ctx, p, k.sql, k.args, k.prepare)
	return err
}

// typed returns the rows with the optional interfaces that the driver's have.
func (r *rows) typed() driver.Rows {
	if _, ok := r.Rows.(driverRows); ok {
		return typedRows{r} // a pointer in itself: it costs no memory
	}
	return r
}

// driverRows is what go-sql-driver's rows can do and others need not: one
// question instead of several.
type driverRows interface {
	driver.RowsColumnTypeScanType
	driver.RowsNextResultSet
}

// Next reads a row. If the connection is lost before the first one, or the
// replica refuses then what only looked like a read, the query is repeated
// elsewhere, once.
func (r *rows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	again := r.again
	r.again = false
	if err == nil || !r.read || errors.Is(err, io.EOF) {
		return err
	}
	k := &r.call
	ctx := k.ctx
	switch {
	case r.p != nil && r.p.readOnly && refused(err):
		// MariaDB refuses before the head of the result, but does not have to.
		r.c.r.distrust(k.sql)
		ctx = WithPrimary(ctx)
	case !lost(ctx, r.p, err):
		return err
	}
	if !again {
		return err
	}
	columns, c := slices.Clone(r.Columns()), r.c
	query, args, prepare := k.sql, k.args, k.prepare
	r.p.pool.node.lookNow()
	r.Close() // first, so that its place in the pool is free
	next, failed := c.queryRows(ctx, query, args, prepare)
	if failed != nil {
		return err
	}
	if next != r {
		*r = *next
		next.leave()
	}
	r.read, r.again = false, false // once is enough
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
	p.abandon(r.call.ctx)
	if r.stmt != nil {
		r.stmt.Close()
	}
	r.c.r.written(r.call.ctx, r.call.wishes.own(), p, r.writes)
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
func (r *rows) leave() {
	driven := r.Rows
	*r = rows{}
	r.Rows = driven
}

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
	r.again = false
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
