package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// preparing is a connection that has prepared statements, at most full of them.
type preparing struct {
	nothing
	full int
	open map[string]int
	made int
	fail error // of executing
}

func (p *preparing) CheckNamedValue(*driver.NamedValue) error { return nil }

func (p *preparing) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return nil, driver.ErrSkip
}

func (p *preparing) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return nil, driver.ErrSkip
}

func (p *preparing) PrepareContext(_ context.Context, query string) (driver.Stmt, error) {
	if len(p.open) >= p.full {
		return nil, &mysql.MySQLError{Number: errTooManyPrepared}
	}
	p.open[query]++
	p.made++
	return &preparedOnce{p, query}, nil
}

type preparedOnce struct {
	p    *preparing
	text string
}

func (s *preparedOnce) Close() error {
	if s.p.open[s.text]--; s.p.open[s.text] == 0 {
		delete(s.p.open, s.text)
	}
	return nil
}
func (s *preparedOnce) NumInput() int { return -1 }
func (s *preparedOnce) Exec([]driver.Value) (driver.Result, error) {
	return nil, errors.New("not here")
}
func (s *preparedOnce) Query([]driver.Value) (driver.Rows, error) { return nil, errors.New("not here") }

func (s *preparedOnce) ExecContext(context.Context, []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), s.p.fail
}

func (s *preparedOnce) QueryContext(context.Context, []driver.NamedValue) (driver.Rows, error) {
	return noRows{}, s.p.fail
}

// TestKeptStatements: which statements stay prepared, and that all others are closed.
func TestKeptStatements(t *testing.T) {
	server := &preparing{full: 100, open: make(map[string]int)}
	p := newPhysical(server, nil)
	p.prepared.max = 3
	run := func(query string) error {
		t.Helper()
		if strings.HasPrefix(query, "INSERT") {
			_, err := execOn(t.Context(), p, query, nil, false)
			return err
		}
		rows, stmt, err := queryOn(t.Context(), p, query, nil, false)
		if err == nil {
			rows.Close()
			if stmt != nil {
				stmt.Close()
			}
		}
		return err
	}
	check := func(about string, made int, open ...string) {
		t.Helper()
		if got := slices.Sorted(maps.Keys(server.open)); server.made != made || !slices.Equal(got, open) {
			t.Errorf("%s: %d were prepared and %.90q are kept, want %d and %q", about, server.made, got, made, open)
		}
	}
	for range 3 {
		for _, q := range []string{"INSERT a", "b", "c"} {
			if err := run(q); err != nil {
				t.Fatal(err)
			}
		}
	}
	check("three statements thrice", 3, "INSERT a", "b", "c")
	run("INSERT a")
	run("d")
	check("the one used least goes", 4, "INSERT a", "c", "d")
	long := strings.Repeat("x", maxPrepared+1)
	run(long)
	run("INSERT " + long)
	check("what is too long is not kept", 6, "INSERT a", "c", "d")
	server.fail = errors.New("no")
	for _, q := range []string{"INSERT a", "c", "e", "INSERT " + long, long} {
		if run(q) == nil {
			t.Errorf("%.20s: no error", q)
		}
	}
	check("what fails is not kept", 9, "d")
	server.fail = nil
	p.prepared.stale = true
	run("f")
	check("the session means something else", 10, "f")
	server.full = 1
	run("g")
	check("the server has no room: what is kept goes", 11, "g")
	p.prepared.clear()
	server.full = 0
	if err := run("h"); serverError(err) != errTooManyPrepared {
		t.Errorf("no room at all: %v", err)
	}
	server.full = 100
	p.prepared.max = -1
	for i := range 5 {
		run(fmt.Sprint("INSERT ", i))
		run("b")
	}
	check("switched off", 21)
}
