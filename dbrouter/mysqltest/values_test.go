package mysqltest

import (
	"context"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

var moment = time.Date(2026, 2, 28, 23, 59, 58, 123456000, time.UTC)

// fixed answers every statement with one result.
func fixed(r Result) Handler {
	return HandlerFunc(func(context.Context, Query) (Result, error) { return r, nil })
}

// modes runs a test over both protocols of a query with an argument: the text
// protocol, with the argument put into the text, and a prepared statement.
func modes(t *testing.T, f func(t *testing.T, change func(*mysql.Config))) {
	for name, interpolate := range map[string]bool{"text": true, "prepared": false} {
		t.Run(name, func(t *testing.T) {
			f(t, func(c *mysql.Config) { c.InterpolateParams, c.ParseTime = interpolate, true })
		})
	}
}

func TestValues(t *testing.T) {
	s := start(t, Config{Handler: fixed(Result{
		Columns: []Column{{"i", Infer}, {"u", Infer}, {"f", Infer}, {"s", Infer}, {"b", Infer}, {"yes", Infer}, {"at", Infer}, {"day", Date}, {"dec", Decimal}, {"js", JSON}, {"none", Infer}, {"text", Text}},
		Rows: [][]any{
			{nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil},
			{int8(-5), uint64(math.MaxUint64), 1.5, "äö\x00", []byte{0, 255}, true, moment, moment, "12.50", `{"a":1}`, nil, 7},
			{math.MinInt64, uint(3), float32(0.25), "", []byte{}, false, time.Time{}, time.Time{}, 3, "null", []byte(nil), "x"},
		},
	})})
	modes(t, func(t *testing.T, change func(*mysql.Config)) {
		rows, err := open(t, s, change).QueryContext(t.Context(), "SELECT * FROM t WHERE a = ?", 1)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		types, err := rows.ColumnTypes()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, c := range types {
			names = append(names, c.DatabaseTypeName())
		}
		if got, want := strings.Join(names, " "), "BIGINT UNSIGNED BIGINT DOUBLE VARCHAR BLOB BIGINT DATETIME DATE DECIMAL JSON VARCHAR VARCHAR"; got != want {
			t.Errorf("types %s, want %s", got, want)
		}
		read := func() []any {
			t.Helper()
			var i, u, f, str, b, yes, at, day, dec, js, none, text any
			if !rows.Next() {
				t.Fatalf("no row: %v", rows.Err())
			}
			if err := rows.Scan(&i, &u, &f, &str, &b, &yes, &at, &day, &dec, &js, &none, &text); err != nil {
				t.Fatal(err)
			}
			out := []any{i, u, f, str, b, yes, at, day, dec, js, none, text}
			for k, v := range out {
				if x, ok := v.([]byte); ok {
					out[k] = string(x)
				}
			}
			return out
		}
		if got := read(); !reflect.DeepEqual(got, make([]any, 12)) {
			t.Errorf("NULLs: %v", got)
		}
		big := any(uint64(math.MaxUint64))
		if t.Name() == "TestValues/prepared" {
			big = "18446744073709551615" // how the driver returns it
		}
		if got, want := read(), []any{int64(-5), big, 1.5, "äö\x00", "\x00\xff", int64(1), moment, moment.Truncate(24 * time.Hour), "12.50", `{"a":1}`, nil, "7"}; !reflect.DeepEqual(got, want) {
			t.Errorf("got\n%#v, want\n%#v", got, want)
		}
		got := read()
		if u, ok := got[1].(uint64); ok {
			got[1] = int64(u)
		}
		if want := []any{int64(math.MinInt64), int64(3), 0.25, "", "", int64(0), time.Time{}, time.Time{}, "3", "null", nil, "x"}; !reflect.DeepEqual(got, want) {
			t.Errorf("got\n%#v, want\n%#v", got, want)
		}
		if rows.Next() || rows.Err() != nil {
			t.Errorf("after the last row: %v", rows.Err())
		}
	})
}

func TestTimesWithoutParseTime(t *testing.T) {
	s := start(t, Config{Handler: fixed(Result{Columns: Columns("at"), Rows: [][]any{{moment}}})})
	for _, interpolate := range []bool{true, false} {
		db := open(t, s, func(c *mysql.Config) { c.InterpolateParams = interpolate })
		if got := one(t, db, "SELECT at FROM t WHERE a = ?", 1); got != "2026-02-28 23:59:58.123456" {
			t.Errorf("interpolate %v: %v", interpolate, got)
		}
	}
}

func TestValuesThatDoNotFit(t *testing.T) {
	for name, r := range map[string]Result{
		"too few values":   {Columns: Columns("a", "b"), Rows: [][]any{{1}}},
		"too many values":  {Columns: Columns("a"), Rows: [][]any{{1, 2}}},
		"unknown type":     {Columns: Columns("a"), Rows: [][]any{{struct{}{}}}},
		"text in an int":   {Columns: []Column{{"a", Int}}, Rows: [][]any{{"x"}}},
		"negative uint":    {Columns: []Column{{"a", Uint}}, Rows: [][]any{{-1}}},
		"int overflow":     {Columns: []Column{{"a", Int}}, Rows: [][]any{{uint64(math.MaxUint64)}}},
		"not a number":     {Columns: Columns("a"), Rows: [][]any{{math.NaN()}}},
		"infinite":         {Columns: Columns("a"), Rows: [][]any{{math.Inf(1)}}},
		"text as time":     {Columns: []Column{{"a", DateTime}}, Rows: [][]any{{"2026-01-01"}}},
		"float in an int":  {Columns: []Column{{"a", Int}}, Rows: [][]any{{1.5}}},
		"later row":        {Columns: Columns("a"), Rows: [][]any{{1}, {"x"}}},
		"too many columns": {Columns: make([]Column, maxColumns+1)},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Config{Handler: fixed(r)})
			modes(t, func(t *testing.T, change func(*mysql.Config)) {
				db := open(t, s, change)
				db.SetMaxOpenConns(1)
				rows, err := db.QueryContext(t.Context(), "SELECT a FROM t WHERE a = ?", 1)
				if err == nil {
					for rows.Next() {
					}
					err = rows.Err()
					rows.Close()
				}
				if got := code(t, err); got != 1105 && got != 1117 {
					t.Errorf("error %d (%v)", got, err)
				}
				if one(t, db, "SELECT 1") != int64(1) {
					t.Error("the connection is out of step")
				}
			})
		})
	}
}

// echo answers with its arguments.
var echo = HandlerFunc(func(_ context.Context, q Query) (Result, error) {
	r := Result{Rows: [][]any{q.Args}}
	for range q.Args {
		r.Columns = append(r.Columns, Column{Name: "a"})
	}
	return r, nil
})

func TestArguments(t *testing.T) {
	db := open(t, start(t, Config{Handler: echo}), func(c *mysql.Config) { c.ParseTime = true })
	stmt, err := db.PrepareContext(t.Context(), "SELECT ?, ?, ?, ?, ?, ?, ?, ?, ? FROM '?' /* ? */ -- ?")
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	big := strings.Repeat("x", 70000)
	for range 3 {
		var i, u, f, s, null, b, at, yes, empty any
		err := stmt.QueryRowContext(t.Context(), -7, uint64(math.MaxUint64), 2.5, "text", nil, []byte(big), moment, true, "").
			Scan(&i, &u, &f, &s, &null, &b, &at, &yes, &empty)
		if err != nil {
			t.Fatal(err)
		}
		got := []any{i, string(u.([]byte)), f, string(s.([]byte)), null, string(b.([]byte)), string(at.([]byte)), yes, string(empty.([]byte))}
		want := []any{int64(-7), "18446744073709551615", 2.5, "text", nil, big, "2026-02-28 23:59:58.123456", int64(1), ""}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %.200v, want %.200v", got, want)
		}
	}
	if _, err := stmt.QueryContext(t.Context(), 1); err == nil {
		t.Error("too few arguments were accepted")
	}
}

// What the driver sends ahead of the execution, as it is long, arrives.
func TestLongData(t *testing.T) {
	seen := make(chan Query, 1)
	s := start(t, Config{Handler: HandlerFunc(func(_ context.Context, q Query) (Result, error) { seen <- q; return Result{}, nil })})
	db := open(t, s)
	db.SetMaxOpenConns(1)
	long := strings.Repeat("0123456789", 900_000) // above half of the packet limit
	exec(t, db, "INSERT INTO t VALUES (?)", long)
	if q := <-seen; len(q.Args) != 1 || q.Args[0] != long {
		t.Error("the long value is not what was sent")
	}
	if _, err := db.ExecContext(t.Context(), "INSERT INTO t VALUES (?)", strings.Repeat("x", maxPayload)); code(t, err) != 1105 {
		t.Errorf("too long a value: %v", err)
	}
	exec(t, db, "INSERT INTO t VALUES (?)", "short")
	if q := <-seen; q.Args[0] != "short" {
		t.Error("the long value stayed")
	}
}

// TestLongDataIsForOneExecution: the next one of the same statement has its own
// values, whatever became of the one before.
func TestLongDataIsForOneExecution(t *testing.T) {
	seen := make(chan Query, 1)
	s := start(t, Config{Handler: HandlerFunc(func(_ context.Context, q Query) (Result, error) { seen <- q; return Result{}, nil })})
	db := open(t, s)
	db.SetMaxOpenConns(1)
	st, err := db.PrepareContext(t.Context(), "INSERT INTO t VALUES (?)")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	long := strings.Repeat("0123456789", 900_000)
	for _, v := range []string{long, "short", long, "shorter"} {
		if _, err := st.ExecContext(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		if q := <-seen; q.Args[0] != v {
			t.Errorf("%d bytes arrived of %d", len(q.Args[0].(string)), len(v))
		}
	}
	if _, err := st.ExecContext(t.Context(), strings.Repeat("x", maxPayload)); code(t, err) != 1105 {
		t.Errorf("too long a value: %v", err)
	}
	if _, err := st.ExecContext(t.Context(), "short"); err != nil {
		t.Fatal(err)
	}
	if q := <-seen; q.Args[0] != "short" {
		t.Error("the long value stayed")
	}
}

func TestLargeRow(t *testing.T) {
	text := strings.Repeat("x", 10<<20)
	s := start(t, Config{Handler: HandlerFunc(func(_ context.Context, q Query) (Result, error) {
		if q.SQL == "SELECT big FROM t" {
			return Result{Columns: Columns("a"), Rows: [][]any{{text}}}, nil
		}
		return Result{Columns: Columns("a", "b"), Rows: [][]any{{text, text}}}, nil
	})})
	db := open(t, s)
	if got := one(t, db, "SELECT big FROM t"); got != text {
		t.Error("a large row arrives changed")
	}
	var a, b string
	if err := db.QueryRowContext(t.Context(), "SELECT a, b FROM t").Scan(&a, &b); code(t, err) != 1153 {
		t.Errorf("a row beyond the packet limit: %v", err)
	}
	if _, err := db.ExecContext(t.Context(), "INSERT INTO t VALUES ('"+text+text+"')"); !errors.Is(err, mysql.ErrPktTooLarge) {
		t.Errorf("a statement beyond the packet limit: %v", err)
	}
}

func TestResultNumbers(t *testing.T) {
	s := start(t, Config{Handler: fixed(Result{AffectedRows: 70000, LastInsertID: 1 << 40})})
	modes(t, func(t *testing.T, change func(*mysql.Config)) {
		c := pinned(t, s, change)
		r, err := c.ExecContext(t.Context(), "INSERT INTO t VALUES (?)", 1)
		if err != nil {
			t.Fatal(err)
		}
		id, _ := r.LastInsertId()
		n, _ := r.RowsAffected()
		if id != 1<<40 || n != 70000 {
			t.Errorf("id %d, rows %d", id, n)
		}
		var last int64
		if err := c.QueryRowContext(t.Context(), "SELECT LAST_INSERT_ID()").Scan(&last); err != nil || last != 1<<40 {
			t.Errorf("LAST_INSERT_ID() is %d (%v)", last, err)
		}
	})
}

func TestErrorsOfTheHandler(t *testing.T) {
	for _, c := range []struct {
		err  error
		want mysql.MySQLError
	}{
		{&Error{Code: 1213, State: "40001", Message: "Deadlock found"}, mysql.MySQLError{Number: 1213, SQLState: [5]byte([]byte("40001")), Message: "Deadlock found"}},
		{&mysql.MySQLError{Number: 1062, SQLState: [5]byte([]byte("23000")), Message: "dup"}, mysql.MySQLError{Number: 1062, SQLState: [5]byte([]byte("23000")), Message: "dup"}},
		{errors.New("boom"), mysql.MySQLError{Number: 1105, SQLState: [5]byte([]byte("HY000")), Message: "boom"}},
	} {
		db := open(t, start(t, Config{Handler: HandlerFunc(func(context.Context, Query) (Result, error) { return Result{}, c.err })}))
		_, err := db.ExecContext(t.Context(), "DELETE FROM t")
		if got, ok := errors.AsType[*mysql.MySQLError](err); !ok || *got != c.want {
			t.Errorf("%v arrives as %v", c.err, err)
		}
	}
}
