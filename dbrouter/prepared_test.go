package dbrouter

import (
	"database/sql"
	"fmt"
	"testing"
)

// prepares is how many statements the session of conn has prepared.
func prepares(t *testing.T, conn *sql.Conn) int {
	t.Helper()
	var name string
	var n int
	if err := conn.QueryRowContext(WithPrimary(t.Context()), "SHOW SESSION STATUS LIKE 'Com_stmt_prepare'").Scan(&name, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPrepared: a statement with arguments is prepared once per connection, and
// anew once it may mean something else.
func TestPrepared(t *testing.T) {
	c := cluster(t, 0)
	ns := nodes(c)
	ns[0].Config = c.Nodes()[0].AdminConfig() // it may create databases
	ns[0].Config.DBName = "app"
	ns[0].MaxConns, ns[0].Statements = 1, 3
	r, _ := open(t, Config{Nodes: ns})
	mustExec(t, r.DB(), "CREATE TABLE s (a INT)")
	mustExec(t, r.DB(), "CREATE DATABASE elsewhere")
	mustExec(t, r.DB(), "CREATE TABLE elsewhere.s (a INT)")
	conn, err := r.DB().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	step := func(name string, want int, f func()) {
		t.Helper()
		before := prepares(t, conn)
		f()
		if got := prepares(t, conn) - before; got != want {
			t.Errorf("%s: prepared %d times, want %d", name, got, want)
		}
	}
	step("ten writes", 1, func() {
		for i := range 10 {
			mustExec(t, conn, "INSERT INTO s VALUES (?)", i)
		}
	})
	step("ten reads", 1, func() {
		for i := range 10 {
			if got := one[int](t, conn, "SELECT COUNT(*) FROM s WHERE a <= ?", i); got != i+1 {
				t.Errorf("%d: %d", i, got)
			}
		}
	})
	step("a prepared statement", 1, func() {
		st, err := conn.PrepareContext(t.Context(), "SELECT a FROM s WHERE a = ?")
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		for i := range 5 {
			var n int
			if err := st.QueryRowContext(t.Context(), i).Scan(&n); err != nil || n != i {
				t.Errorf("%d, %v", n, err)
			}
		}
	})
	step("the least used has to go", 8, func() {
		for i := range 8 {
			one[int](t, conn, fmt.Sprintf("SELECT COUNT(*) + %d FROM s WHERE a <> ?", i%4), 1)
		}
	})
	step("a mistake", 3, func() {
		for range 3 {
			if _, err := conn.ExecContext(t.Context(), "INSERT INTO s VALUES (?)", "no number"); err == nil {
				t.Error("no error")
			}
		}
	})
	mustExec(t, conn, "INSERT INTO s VALUES (?)", 100)
	step("another table of that name", 1, func() {
		mustExec(t, conn, "USE elsewhere")
		mustExec(t, conn, "INSERT INTO s VALUES (?)", 100)
	})
	if got := one[int](t, conn, "SELECT COUNT(*) FROM elsewhere.s"); got != 1 {
		t.Errorf("%d rows in elsewhere.s: written to the table of before", got)
	}
	ns[0].Statements = -1
	off, _ := open(t, Config{Nodes: ns})
	conn2, err := off.DB().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn2.Close()
	for i := range 4 {
		mustExec(t, conn2, "INSERT INTO app.s VALUES (?)", i)
	}
	if n := prepares(t, conn2); n != 4 {
		t.Errorf("switched off: prepared %d times, want 4", n)
	}
}

// BenchmarkArguments compares statements with arguments through the router with
// the driver's default, which prepares each anew.
func BenchmarkArguments(b *testing.B) {
	c := cluster(b, 0)
	r, err := New(Config{Nodes: nodes(c)})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	if err := r.Ready(b.Context()); err != nil {
		b.Fatal(err)
	}
	direct, err := sql.Open("mysql", c.Nodes()[0].AppConfig().FormatDSN())
	if err != nil {
		b.Fatal(err)
	}
	defer direct.Close()
	for name, db := range map[string]*sql.DB{"direct": direct, "router": r.DB()} {
		b.Run(name, func(b *testing.B) {
			var n int
			for b.Loop() {
				if err := db.QueryRowContext(b.Context(), "SELECT ? + 1", 41).Scan(&n); err != nil || n != 42 {
					b.Fatal(n, err)
				}
			}
		})
	}
}
