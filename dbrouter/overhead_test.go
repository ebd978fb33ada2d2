package dbrouter

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// nothing is a driver's connection that does nothing: what is left is the cost
// of whoever calls it.
type nothing struct{}

func (nothing) Connect(context.Context) (driver.Conn, error) { return nothing{}, nil }
func (nothing) Driver() driver.Driver                        { return refusingDriver{} }
func (nothing) Prepare(string) (driver.Stmt, error)          { return nil, errors.New("not here") }
func (nothing) Begin() (driver.Tx, error)                    { return nil, errors.New("not here") }
func (nothing) Close() error                                 { return nil }

func (nothing) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(0), nil
}

func (nothing) QueryContext(_ context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	switch {
	case strings.HasPrefix(query, "SELECT VERSION()"):
		return &fixedRows{row: []string{"10.11.6-MariaDB", "1"}}, nil
	case strings.HasPrefix(query, "SELECT @@global"):
		return &fixedRows{row: []string{"0", "1"}}, nil
	}
	return noRows{}, nil
}

type noRows struct{}

func (noRows) Columns() []string         { return nil }
func (noRows) Close() error              { return nil }
func (noRows) Next([]driver.Value) error { return io.EOF }

type fixedRows struct {
	row  []string
	done bool
}

func (r *fixedRows) Columns() []string { return r.row }
func (r *fixedRows) Close() error      { return nil }

func (r *fixedRows) Next(dest []driver.Value) error {
	if r.done {
		return io.EOF
	}
	r.done = true
	for i, v := range r.row {
		dest[i] = v
	}
	return nil
}

// BenchmarkOverhead compares a query through database/sql alone with one through
// the Router as well; the driver below does nothing.
func BenchmarkOverhead(b *testing.B) {
	const query = "SELECT v FROM t WHERE id = 7"
	run := func(b *testing.B, db *sql.DB) {
		b.ReportAllocs()
		// One that cannot end, or database/sql starts a goroutine for each query.
		ctx := context.Background()
		for b.Loop() {
			rows, err := db.QueryContext(ctx, query)
			if err != nil {
				b.Fatal(err)
			}
			rows.Close()
		}
	}
	b.Run("direct", func(b *testing.B) {
		db := sql.OpenDB(nothing{})
		defer db.Close()
		run(b, db)
	})
	b.Run("routed", func(b *testing.B) {
		conf := mysql.NewConfig()
		r, err := build(Config{Nodes: []Node{{Config: conf}}, Consistency: PrimaryOnly, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		n := r.nodes()[0]
		n.pool.open = func(context.Context) (driver.Conn, *tracker, error) { return nothing{}, nil, nil }
		r.start(n)
		defer r.Close()
		if err := r.Ready(b.Context()); err != nil {
			b.Fatal(err)
		}
		run(b, r.DB())
	})
}
