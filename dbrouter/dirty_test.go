package dbrouter

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
)

// TestDirtyIsClosed: in whatever way a session got a state, and whatever became of
// the statement, nobody else gets its connection.
func TestDirtyIsClosed(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval, c.OnStateChange = time.Hour, nil
	r, _ := open(t, c)
	upReplicas(t, r, 1)
	const set = "SET @x = 1"
	refuse := func(server *mysqltest.Server, sql string) func() {
		return server.Inject(mysqltest.Fault{Match: match(sql), Err: &mysqltest.Error{Message: "no"}})
	}
	inTx := func(opts *sql.TxOptions, query string, end func(*sql.Tx) error) func(*sql.Conn) error {
		return func(conn *sql.Conn) error {
			tx, err := conn.BeginTx(t.Context(), opts)
			if err != nil {
				return err
			}
			_, err = tx.ExecContext(t.Context(), query)
			return errors.Join(err, end(tx))
		}
	}
	for about, do := range map[string]func(*sql.Conn) error{
		"a statement": func(conn *sql.Conn) error { _, err := conn.ExecContext(t.Context(), set); return err },
		"rows": func(conn *sql.Conn) error {
			return conn.QueryRowContext(t.Context(), "SELECT @x").Scan(new(sql.NullString))
		},
		"a statement that fails": func(conn *sql.Conn) error {
			defer refuse(p.primary, set)()
			_, err := conn.ExecContext(t.Context(), set)
			if err == nil {
				return errors.New("no error")
			}
			return nil
		},
		"a transaction":                inTx(nil, set, (*sql.Tx).Commit),
		"a transaction that is undone": inTx(nil, set, (*sql.Tx).Rollback),
		"a read-only transaction":      inTx(&sql.TxOptions{ReadOnly: true}, set, (*sql.Tx).Commit),
		"a transaction that does not begin": func(conn *sql.Conn) error {
			defer refuse(p.primary, "START TRANSACTION")()
			if _, err := conn.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelSerializable}); err == nil {
				return errors.New("no error")
			}
			return nil
		},
		"a COMMIT that fails": func(conn *sql.Conn) error {
			defer refuse(p.primary, "COMMIT")()
			if inTx(nil, update, (*sql.Tx).Commit)(conn) == nil {
				return errors.New("no error")
			}
			return nil
		},
	} {
		conn, err := r.DB().Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := do(conn); err != nil {
			t.Errorf("%s: %v", about, err)
		}
		if err := conn.Close(); err != nil {
			t.Errorf("%s: %v", about, err)
		}
		for _, s := range r.Status() {
			if s.Connections != 0 {
				t.Errorf("%s: a connection to %s is kept", about, s.Name)
			}
		}
		for _, n := range r.nodes() {
			if n.pool.busy() != 0 {
				t.Errorf("%s: a connection to %s was not given back", about, n.name)
			}
			n.pool.prune(0)
		}
	}
	// And what has none is kept.
	mustExec(t, r.DB(), update)
	one[int](t, r.DB(), query)
	for _, s := range r.Status() {
		if s.Connections != 1 {
			t.Errorf("%d connections to %s, want 1", s.Connections, s.Name)
		}
	}
}

// TestStateStays: within a session and a transaction.
func TestStateStays(t *testing.T) {
	p := newPair(t)
	r, rec := open(t, p.config())
	upReplicas(t, r, 1)
	conn, err := r.DB().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tx, err := conn.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "SET @x = 7")
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, conn, "SELECT @x"); n != 7 {
		t.Errorf("@x is %d after the transaction that set it", n)
	}
	if one[int](t, conn, query); rec.last(t).Reason != "pinned session" {
		t.Errorf("%+v", rec.last(t))
	}
	for range 5 {
		if x := one[sql.NullString](t, r.DB(), "SELECT @x"); x.Valid {
			t.Errorf("@x is %q in another session", x.String)
		}
	}
}

// TestSameConnection: what is about the statement before goes where that was done.
func TestSameConnection(t *testing.T) {
	p := newPair(t)
	r, rec := open(t, p.config())
	upReplicas(t, r, 1)
	conn, err := r.DB().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2 {
		one[int](t, conn, query)
		if one[int](t, conn, "SELECT FOUND_ROWS()"); rec.last(t).Node != "db2" {
			t.Errorf("after a read: %+v", rec.last(t))
		}
		mustExec(t, conn, update)
		if one[int](t, conn, "SELECT ROW_COUNT()"); rec.last(t).Node != "db1" {
			t.Errorf("after a write: %+v", rec.last(t))
		}
	}
}

// TestTwoRowsAtATime of one session: each has its own connection.
func TestTwoRowsAtATime(t *testing.T) {
	p := newPair(t)
	r, _ := open(t, p.config())
	upReplicas(t, r, 1)
	mustExec(t, r.DB(), update)
	conn, err := r.DB().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, ctx := range []context.Context{t.Context(), WithPrimary(t.Context())} {
		var all []*sql.Rows
		for range 3 {
			rows, err := conn.QueryContext(ctx, query)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, rows)
		}
		for i, rows := range all {
			n := 0
			if !rows.Next() || rows.Scan(&n) != nil || n != 1 || rows.Next() || rows.Err() != nil {
				t.Errorf("rows %d: %d, %v", i, n, rows.Err())
			}
			rows.Close()
		}
	}
	conn.Close()
	if n := r.nodes()[0].pool.busy() + r.nodes()[1].pool.busy(); n != 0 {
		t.Errorf("%d connections were not given back", n)
	}
}

// looks counts the looks at a server.
func looks(s *mysqltest.Server) (n int) {
	for _, q := range s.Queries() {
		if strings.HasPrefix(q, "SELECT VERSION()") {
			n++
		}
	}
	return n
}

// TestAnswersThatTell: after one that may be about its role or its health, a node is
// looked at at once.
func TestAnswersThatTell(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval, c.OnStateChange = time.Hour, nil
	r, _ := open(t, c)
	upReplicas(t, r, 1)
	for _, f := range []mysqltest.Fault{
		{CutBefore: true},
		{Err: &mysqltest.Error{Code: errShutdown, Message: "shutdown"}},
		{Err: &mysqltest.Error{Code: errReadOnlyServer, Message: "read only"}},
		{Err: &mysqltest.Error{Code: errReadOnlyTx, Message: "read only"}},
	} {
		before := looks(p.primary)
		f.Match = match(update)
		defer p.primary.Inject(f)()
		if _, err := r.DB().ExecContext(t.Context(), update); err == nil {
			t.Errorf("%+v: no error", f)
		}
		until(t, "it is looked at", func() bool { return looks(p.primary) > before })
		until(t, "it is the primary", func() bool { return r.monitor.now.Load().primary != nil })
	}
}

// TestSilentServer: one that accepts connections and says nothing is given up after
// its Timeout, and that is no end of the caller's time.
func TestSilentServer(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval, c.OnStateChange = time.Hour, nil
	c.Nodes[0].Config.Timeout = 200 * time.Millisecond
	r, _ := open(t, c)
	p.primary.Pause()
	defer p.primary.Resume()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := r.DB().ExecContext(ctx, update)
	if e, ok := errors.AsType[*NodeError](err); !ok || e.Node != "db1" || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no connection within 200ms") || OutcomeOf(err) != NotSent {
		t.Errorf("%v", err)
	}
}

// TestCloseCutsStatements: Close does not wait for what runs.
func TestCloseCutsStatements(t *testing.T) {
	p := newPair(t)
	r, _ := open(t, p.config())
	done := make(chan error, 1)
	go func() {
		_, err := r.DB().ExecContext(context.WithoutCancel(t.Context()), "DO SLEEP(3600)")
		done <- err
	}()
	until(t, "it runs", func() bool { return r.nodes()[0].pool.busy() == 1 && asked(p, "DO SLEEP") == 1 })
	r.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(20 * time.Second):
		t.Error("a statement outlives its router")
	}
}
