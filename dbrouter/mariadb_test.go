package dbrouter

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

// TestRealServers goes through the life of a router on one primary and two
// replicas. The order of its parts matters: the later ones break the servers.
func TestRealServers(t *testing.T) {
	c := cluster(t, 2)
	r, rec := open(t, Config{Nodes: nodes(c), CheckInterval: 50 * time.Millisecond, WaitLimit: time.Second})
	upReplicas(t, r, 2)
	mustExec(t, r.DB(), "CREATE TABLE t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(100), a INT, b INT, c INT, d INT, e VARCHAR(9)) ENGINE=InnoDB")
	mustExec(t, r.DB(), "CREATE TABLE u (id BIGINT, b INT)")
	mustExec(t, r.DB(), "INSERT INTO t (v, a) VALUES ('first', 1)")
	for _, part := range []struct {
		name string
		f    func(*testing.T, *mariadb.Cluster, *Router, *record)
	}{
		{"corpus", testCorpus},
		{"functions before a space", testFunctionsBeforeASpace},
		{"safety net", testSafetyNet},
		{"session", testSession},
		{"transactions", testTransactions},
		{"results", testResults},
		{"global", testGlobal},
		{"stalled replicas", testStalled},
		{"privileges", testPrivileges},
		{"cancel and close", testCancelAndClose},
		{"killed replica", testKilledReplica},
		{"switchover", testSwitchover},
		{"failover", testFailover},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.f(t, c, r, rec) }) {
			return
		}
	}
}

// testCorpus has a real replica judge: what is classified as a read must
// neither be refused in a read-only session nor leave a trace in the GTIDs.
func testCorpus(t *testing.T, c *mariadb.Cluster, r *Router, _ *record) {
	written := one[string](t, r.DB(), "SELECT @@global.gtid_current_pos")
	replica := c.Nodes()[1]
	db, err := sql.Open("mysql", replica.AdminConfig().FormatDSN()) // read_only does not bind it
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustExec(t, conn, "SET SESSION TRANSACTION READ ONLY")
	if one[int](t, conn, "SELECT MASTER_GTID_WAIT(?, 10)", written) != 0 {
		t.Fatal("the replica does not catch up")
	}
	before := one[string](t, conn, "SELECT @@global.gtid_current_pos")
	done := 0
	for _, query := range reads {
		rows, err := conn.QueryContext(t.Context(), query)
		if err == nil {
			done++
			rows.Close()
		}
		if refused(err) {
			t.Errorf("%s: %v", query, err)
		}
	}
	if done < len(reads)/3 {
		t.Errorf("only %d of %d statements ran", done, len(reads))
	}
	if after := one[string](t, conn, "SELECT @@global.gtid_current_pos"); after != before {
		t.Errorf("the replica wrote: %s, before %s", after, before)
	}
}

// wordLiterals are the words that words.go knows.
var wordLiterals = regexp.MustCompile(`"([A-Z0-9_]+)"`)

func testFunctionsBeforeASpace(t *testing.T, c *mariadb.Cluster, _ *Router, _ *record) {
	functionsBeforeASpace(t, c.Nodes()[0].AdminConfig())
}

// functionsBeforeASpace has a stored function of the name of each word that is
// known: what is taken for a read although a space follows on it must not call that
// one, unless the server has no function of that name at all.
func functionsBeforeASpace(t *testing.T, admin *mysql.Config) {
	text, err := os.ReadFile("words.go")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("mysql", admin.FormatDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustExec(t, conn, "CREATE DATABASE names")
	defer db.ExecContext(context.Background(), "DROP DATABASE names")
	mustExec(t, conn, "USE names")
	const stored = 4711
	called := func(query string) bool {
		var got sql.NullString
		err := conn.QueryRowContext(t.Context(), query).Scan(&got)
		return err == nil && got.String == strconv.Itoa(stored)
	}
	reading, calling := 0, 0
	for _, m := range wordLiterals.FindAllStringSubmatch(string(text), -1) {
		name := m[1]
		if _, err := conn.ExecContext(t.Context(), fmt.Sprintf("CREATE FUNCTION `%s`(a INT) RETURNS INT DETERMINISTIC RETURN %d", name, stored)); err != nil {
			continue // a name that no function can have, or has already
		}
		touching, spaced := "SELECT "+name+"(1)", "SELECT "+name+" (1)"
		read := Classify(spaced).Kind == Read
		switch {
		case modifies([]byte(name)) && (called(spaced) || called(touching)):
			t.Errorf("%s calls a stored function, and should be a modifier of SELECT", spaced)
		case called(spaced) && !called(touching):
			if calling++; read {
				t.Errorf("%s is taken for a read, and calls a stored function", spaced)
			}
		case read:
			reading++
		}
	}
	if reading < 100 || calling < 20 {
		t.Errorf("%d are reads, want 100; %d call stored functions, want 20", reading, calling)
	}
}

// testSafetyNet calls a function that writes and has the name of one that does
// not. The classifier cannot know.
func testSafetyNet(t *testing.T, c *mariadb.Cluster, _ *Router, _ *record) {
	conf := nodes(c)
	for i, n := range c.Nodes() {
		conf[i].Config = n.AdminConfig() // read_only does not bind it
	}
	r, rec := open(t, Config{Nodes: conf, WaitLimit: time.Second})
	upReplicas(t, r, 2)
	mustExec(t, r.DB(), "CREATE TABLE calls (a INT)")
	if err := c.Nodes()[0].Exec(t.Context(), "CREATE FUNCTION app.ANY_VALUE(x INT) RETURNS INT DETERMINISTIC MODIFIES SQL DATA BEGIN INSERT INTO app.calls VALUES (x); RETURN x; END"); err != nil {
		t.Fatal(err)
	}
	const query = "SELECT ANY_VALUE(7)"
	if Classify(query).Kind != Read {
		t.Fatal("this test needs a statement that only looks like a read")
	}
	for i, reason := range []string{refusedByNet, refusedByNet} {
		if got := one[int](t, r.DB(), query); got != 7 {
			t.Errorf("got %d", got)
		}
		s := rec.last(t)
		if s.Role != Primary || s.Reason != reason || s.Retried != (i == 0) {
			t.Errorf("call %d: %+v", i, s)
		}
	}
	if got := one[int](t, r.DB(), "SELECT ANY_VALUE(a) FROM t LIMIT 1"); got != 1 {
		t.Errorf("got %d", got)
	}
	if s := rec.last(t); s.Role != Primary || s.Reason != refusedByNet {
		t.Errorf("%+v", s)
	}
	if n := one[int](t, r.DB(), "SELECT COUNT(*) FROM calls"); n != 3 {
		t.Errorf("the function ran %d times, want 3", n)
	}
}

func testSession(t *testing.T, _ *mariadb.Cluster, r *Router, rec *record) {
	conn, err := r.DB().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if one[int](t, conn, "SELECT COUNT(*) FROM u"); rec.last(t).Role != Replica {
		t.Errorf("a read of a session: %+v", rec.last(t))
	}
	// LAST_INSERT_ID() is about the last write, whatever was read since.
	res := mustExec(t, conn, "INSERT INTO t (v) VALUES ('x')")
	id, _ := res.LastInsertId()
	one[int](t, conn, "SELECT COUNT(*) FROM t")
	if got := one[int64](t, conn, "SELECT LAST_INSERT_ID()"); got != id {
		t.Errorf("LAST_INSERT_ID() is %d, want %d", got, id)
	}
	// FOUND_ROWS() is about the last statement, wherever it was done.
	one[int](t, conn, "SELECT SQL_CALC_FOUND_ROWS id FROM t LIMIT 1")
	if rec.last(t).Role != Replica {
		t.Errorf("SQL_CALC_FOUND_ROWS: %+v", rec.last(t))
	}
	want := one[int](t, r.DB(), "SELECT COUNT(*) FROM t")
	if got := one[int](t, conn, "SELECT FOUND_ROWS()"); got != want {
		t.Errorf("FOUND_ROWS() is %d, want %d", got, want)
	}
	// From here on the session has a state.
	mustExec(t, conn, "SET @x = 42")
	mustExec(t, conn, "CREATE TEMPORARY TABLE secret (a INT)")
	one[int](t, conn, "SELECT GET_LOCK('l', 1)")
	if got := one[int](t, conn, "SELECT @x"); got != 42 {
		t.Errorf("@x is %d", got)
	}
	if one[int](t, conn, "SELECT COUNT(*) FROM secret"); rec.last(t).Reason != "pinned session" {
		t.Errorf("%+v", rec.last(t))
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	// Nothing of it is found by others.
	for range 20 {
		if got := one[sql.NullInt64](t, r.DB(), "SELECT @x"); got.Valid {
			t.Fatal("a user variable leaked to another session")
		}
	}
	until(t, "the lock is free", func() bool { return one[int](t, r.DB(), "SELECT IS_FREE_LOCK('l')") == 1 })
	// A lost session is reported, never replaced.
	conn, err = r.DB().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustExec(t, conn, "SET @x = 1")
	connID := one[int64](t, conn, "SELECT CONNECTION_ID()")
	mustExec(t, r.DB(), fmt.Sprintf("KILL %d", connID))
	var v sql.NullInt64
	until(t, "the session is lost", func() bool { return conn.QueryRowContext(t.Context(), "SELECT @x").Scan(&v) != nil })
	if err := conn.QueryRowContext(t.Context(), "SELECT @x").Scan(&v); err == nil {
		t.Error("the session came back without its state")
	}
}

func testTransactions(t *testing.T, _ *mariadb.Cluster, r *Router, rec *record) {
	tx, err := r.DB().BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "INSERT INTO u VALUES (1, 1)")
	if n := one[int](t, tx, "SELECT COUNT(*) FROM u"); n != 1 || rec.last(t).Role != Primary {
		t.Errorf("%d rows in the transaction, %+v", n, rec.last(t))
	}
	if n := one[int](t, r.DB(), "SELECT COUNT(*) FROM u"); n != 0 {
		t.Errorf("%d rows outside of it", n)
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	if n := one[int](t, r.DB(), "SELECT COUNT(*) FROM u"); n != 0 {
		t.Errorf("%d rows after ROLLBACK", n)
	}
	if tx, err = r.DB().BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelSerializable}); err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "INSERT INTO u VALUES (1, 1)")
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	// A read-only transaction sees it, on a replica.
	if tx, err = r.DB().BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, tx, "SELECT COUNT(*) FROM u"); n != 1 || rec.last(t).Role != Replica {
		t.Errorf("%d rows in the read-only transaction, %+v", n, rec.last(t))
	}
	if _, err := tx.ExecContext(t.Context(), "INSERT INTO u VALUES (2, 2)"); !refused(err) {
		t.Errorf("a write in a read-only transaction: %v", err)
	}
	// Even if it turns off the safety net: the connection does not come back.
	if _, err := tx.ExecContext(t.Context(), "SET SESSION TRANSACTION READ WRITE"); err != nil {
		t.Error(err)
	}
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	for _, n := range r.nodes()[1:] {
		for p := n.pool.pop(); p != nil; p = n.pool.pop() {
			if v, err := askOne(t.Context(), p.conn, "SELECT @@session.tx_read_only", 1); err != nil || v[0] != "1" {
				t.Errorf("%s has a connection without its safety net: %v, %v", n.name, v, err)
			}
			n.pool.drop(p)
		}
	}
	// A transaction by text is a state of the session.
	conn, err := r.DB().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "INSERT INTO u VALUES (3, 3)")
	if n := one[int](t, conn, "SELECT COUNT(*) FROM u"); n != 2 {
		t.Errorf("%d rows in it", n)
	}
	conn.Close()
	until(t, "the open transaction is undone", func() bool { return one[int](t, r.DB(), "SELECT COUNT(*) FROM u FOR UPDATE") == 1 })
}

func testResults(t *testing.T, c *mariadb.Cluster, _ *Router, _ *record) {
	for _, interpolate := range []bool{false, true} {
		conf := nodes(c)
		for _, n := range conf {
			n.Config.InterpolateParams, n.Config.ParseTime, n.Config.MultiStatements = interpolate, true, true
		}
		r, rec := open(t, Config{Nodes: conf})
		upReplicas(t, r, 2)
		now := time.Now().UTC().Truncate(time.Second)
		var i int64
		var u uint64
		var f float64
		var s string
		var b []byte
		var null sql.NullString
		var when time.Time
		row := r.DB().QueryRowContext(t.Context(), "SELECT ?, ?, ?, ?, ?, ?, CAST(? AS DATETIME)", 1, uint64(1<<63), 1.5, "it's", []byte{0, 255}, nil, now)
		if err := row.Scan(&i, &u, &f, &s, &b, &null, &when); err != nil {
			t.Fatal(err)
		}
		if i != 1 || u != 1<<63 || f != 1.5 || s != "it's" || len(b) != 2 || null.Valid || !when.Equal(now) {
			t.Errorf("interpolate %v: %v %v %v %q %v %v %v", interpolate, i, u, f, s, b, null, when)
		}
		if rec.last(t).Role != Replica {
			t.Errorf("%+v", rec.last(t))
		}
		st, err := r.DB().PrepareContext(t.Context(), "SELECT v, id FROM t WHERE id = ?")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := st.QueryRowContext(t.Context(), 1).Scan(&s, &i); err != nil || s != "first" || i != 1 {
				t.Errorf("prepared: %q %d %v", s, i, err)
			}
		}
		if _, err := st.QueryContext(t.Context(), 1, 2); err == nil {
			t.Error("a prepared statement took an argument too many")
		}
		st.Close()
		rows, err := r.DB().QueryContext(t.Context(), "SELECT id, v FROM t; SELECT 2 AS two")
		if err != nil {
			t.Fatal(err)
		}
		types, err := rows.ColumnTypes()
		if err != nil || types[0].DatabaseTypeName() != "BIGINT" || types[1].DatabaseTypeName() != "VARCHAR" {
			t.Errorf("%v, %v", types, err)
		}
		if nullable, ok := types[0].Nullable(); nullable || !ok {
			t.Error("a primary key may be NULL")
		}
		if !rows.NextResultSet() || !rows.Next() || rows.Scan(&i) != nil || i != 2 {
			t.Errorf("second result: %d, %v", i, rows.Err())
		}
		rows.Close()
		if err := r.DB().PingContext(t.Context()); err != nil {
			t.Error(err)
		}
		var e *mysql.MySQLError
		if _, err := r.DB().ExecContext(t.Context(), "SELECT nonsense FROM t"); !errors.As(err, &e) || e.Number != 1054 {
			t.Errorf("%v", err)
		}
	}
}

// testGlobal writes through one router and reads through another, both ways:
// not one read may miss the write acknowledged before it.
func testGlobal(t *testing.T, c *mariadb.Cluster, _ *Router, _ *record) {
	const pairs = 2000
	conf := nodes(c)
	a, recA := open(t, Config{Nodes: conf, WaitLimit: time.Second})
	b, recB := open(t, Config{Nodes: conf, WaitLimit: time.Second})
	upReplicas(t, a, 2)
	upReplicas(t, b, 2)
	var stale atomic.Int64
	var wg sync.WaitGroup
	for _, pair := range [][2]*Router{{a, b}, {b, a}} {
		wg.Go(func() {
			for j := range pairs {
				if err := writeAndRead(t.Context(), pair[0].DB(), pair[1].DB(), j, &stale); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if stale.Load() > 0 {
		t.Errorf("%d of %d reads were stale", stale.Load(), 2*pairs)
	}
	for _, rec := range []*record{recA, recB} {
		if n, _ := rec.onReplica(); n < pairs/2 {
			t.Errorf("only %d of %d reads were done by replicas", n, pairs)
		}
	}
}

// writeAndRead counts the reads that do not see what was written before.
func writeAndRead(ctx context.Context, w, r *sql.DB, v int, stale *atomic.Int64) error {
	res, err := w.ExecContext(ctx, "INSERT INTO t (v, a) VALUES ('pair', ?)", v)
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	id, err := res.LastInsertId()
	if err != nil {
		return err
	}
	var got int
	err = r.QueryRowContext(ctx, "SELECT a FROM t WHERE id = ?", id).Scan(&got)
	if errors.Is(err, sql.ErrNoRows) || err == nil && got != v {
		stale.Add(1)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return nil
}
