package mysqltest

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"testing"
)

func TestReadOnly(t *testing.T) {
	data := newStore()
	s := start(t, Config{Handler: data, ReadOnly: true})
	db := pinned(t, s)
	wantCode(t, db, 1290, insert, "a", "1")
	wantCode(t, db, 1290, "CREATE TABLE t (a INT)")
	wantCode(t, db, 1146, "CREATE TEMPORARY TABLE t (a INT)") // the store's own answer
	wantCode(t, db, 1290, "SELECT a FROM t FOR UPDATE")
	exec(t, db, "SELECT k, v FROM kv")
	if got := s.Position(); got != "" {
		t.Errorf("position %q after refused writes", got)
	}
	exec(t, db, "SET GLOBAL read_only = OFF")
	if s.ReadOnly() {
		t.Error("still read-only")
	}
	exec(t, db, insert, "a", "1")
	s.SetReadOnly(true)
	wantCode(t, db, 1290, insert, "a", "2")
	wantCode(t, db, 1229, "SET SESSION read_only = 0")
	wantCode(t, db, 1231, "SET GLOBAL read_only = maybe")
	if n := len(data.state()); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

func TestReadOnlyStopsAnOpenTransaction(t *testing.T) {
	data := newStore()
	s := start(t, Config{Handler: data, Transactions: true})
	c := pinned(t, s)
	exec(t, c, "BEGIN")
	exec(t, c, insert, "a", "1")
	s.SetReadOnly(true)
	wantCode(t, c, 1290, insert, "b", "2")
	wantCode(t, c, 1290, "COMMIT")
	if len(data.state()) != 0 || s.Position() != "" {
		t.Errorf("rows %v at %q", data.state(), s.Position())
	}
	exec(t, c, "COMMIT") // nothing is left
	wantCode(t, c, 1235, "SAVEPOINT a")
	wantCode(t, c, 1235, "ROLLBACK WORK TO a")
}

func TestReadOnlyTransactions(t *testing.T) {
	s := start(t, Config{Handler: newStore()})
	c := pinned(t, s)
	refused := func() {
		t.Helper()
		wantCode(t, c, 1792, insert, "a", "1")
		wantCode(t, c, 1792, "SELECT k, v FROM kv FOR UPDATE")
		wantCode(t, c, 1792, "WITH x AS (SELECT 1) DELETE FROM kv")
		wantCode(t, c, 1792, "SET STATEMENT max_statement_time=1 FOR DELETE FROM kv")
	}
	exec(t, c, "START TRANSACTION READ ONLY")
	refused()
	exec(t, c, "SELECT k, v FROM kv")
	exec(t, c, "ROLLBACK")
	exec(t, c, insert, "a", "1")

	exec(t, c, "SET SESSION TRANSACTION READ ONLY")
	refused()
	wantCode(t, c, 1792, "TRUNCATE kv")
	if got := one(t, c, "SELECT @@tx_read_only"); got != int64(1) {
		t.Errorf("tx_read_only %v", got)
	}
	exec(t, c, "START TRANSACTION READ WRITE")
	exec(t, c, insert, "b", "2")
	exec(t, c, "COMMIT")
	refused()
	exec(t, c, "SET SESSION TRANSACTION READ WRITE")
	exec(t, c, insert, "c", "3")

	exec(t, c, "SET TRANSACTION READ ONLY") // the next one only
	wantCode(t, c, 1792, insert, "d", "4")
	wantCode(t, c, 1792, insert, "d", "4") // what is refused is not a transaction
	exec(t, c, "SELECT k, v FROM kv")
	exec(t, c, insert, "d", "4")

	exec(t, c, "SET @@session.tx_read_only = 1")
	refused()
	exec(t, c, "SET tx_read_only = 0")

	tx, err := c.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelReadCommitted})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), insert, "e", "5"); code(t, err) != 1792 {
		t.Errorf("in a read-only transaction: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	exec(t, c, "BEGIN")
	wantCode(t, c, 1568, "SET TRANSACTION READ ONLY")
}

func TestTransactionsAreLoggedAtCommit(t *testing.T) {
	data := newStore()
	s := start(t, Config{Handler: data, ServerID: 7, Transactions: true})
	c := pinned(t, s)
	exec(t, c, "START TRANSACTION")
	exec(t, c, insert, "a", "1")
	exec(t, c, insert, "b", "2")
	if got := s.Position(); got != "" {
		t.Errorf("position %q before the commit", got)
	}
	exec(t, c, "COMMIT")
	if got := one(t, c, "SELECT @@last_gtid"); got != "0-7-1" {
		t.Errorf("last_gtid %v, want 0-7-1", got)
	}
	exec(t, c, "BEGIN")
	exec(t, c, insert, "c", "3")
	exec(t, c, "ROLLBACK")
	if got := s.Position(); got != "0-7-1" || len(data.state()) != 2 {
		t.Errorf("after a rollback: position %q, rows %v", got, data.state())
	}

	// A definition commits what was before it and is a transaction of its own.
	exec(t, c, "BEGIN")
	exec(t, c, insert, "d", "4")
	wantCode(t, c, 1146, "CREATE TABLE t (a INT)")
	if got := s.Position(); got != "0-7-2" {
		t.Errorf("after an implied commit: position %q", got)
	}

	exec(t, c, "SET autocommit=0")
	exec(t, c, insert, "e", "5")
	if got := s.Position(); got != "0-7-2" {
		t.Errorf("without autocommit: position %q", got)
	}
	exec(t, c, "SET autocommit=1")
	if got := s.Position(); got != "0-7-3" {
		t.Errorf("with autocommit again: position %q", got)
	}

	exec(t, c, "SET sql_log_bin=0")
	exec(t, c, insert, "f", "6")
	if got := s.Position(); got != "0-7-3" {
		t.Errorf("an unlogged write: position %q", got)
	}
	want := []string{
		"START TRANSACTION", insert, insert, "COMMIT",
		"START TRANSACTION", insert, "ROLLBACK",
		"START TRANSACTION", insert, "COMMIT", "CREATE TABLE t (a INT)",
		"START TRANSACTION", insert, "COMMIT", insert,
	}
	if got := data.statements(); !slices.Equal(got, want) {
		t.Errorf("the handler saw\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestLostConnectionRollsBack(t *testing.T) {
	data := newStore()
	s := start(t, Config{Handler: data, Transactions: true})
	db := open(t, s)
	c := pinned(t, s)
	exec(t, c, "BEGIN")
	exec(t, c, insert, "a", "1")
	s.Inject(Fault{Match: func(q string) bool { return q == "COMMIT" }, CutBefore: true})
	if _, err := c.ExecContext(t.Context(), "COMMIT"); err == nil {
		t.Error("committed")
	}
	eventually(t, "the rollback", func() bool { return len(data.state()) == 0 })
	exec(t, db, insert, "b", "2")
	if got := data.state(); len(got) != 1 {
		t.Errorf("rows %v", got)
	}
}

// A transaction's size is bounded, and what was refused is not logged.
func TestTransactionIsBounded(t *testing.T) {
	s := newSession()
	var err error
	n := 0
	for ; err == nil; n++ {
		err = s.hold(change{sql: insert})
	}
	if n != maxTransaction+1 || asError(err).Code != 1197 {
		t.Errorf("statement %d: %v", n, err)
	}
	s.end()
	if err := s.hold(change{args: []any{strings.Repeat("x", maxTransactionBytes)}}); asError(err).Code != 1197 {
		t.Errorf("a large statement: %v", err)
	}
}

// Writes run one at a time; the one that waits can be killed.
func TestWritesRunOneAtATime(t *testing.T) {
	b := blocker{make(chan Query, 2)}
	s := start(t, Config{Handler: b})
	first, second, admin := pinned(t, s), pinned(t, s), open(t, s)
	id := one(t, second, "SELECT CONNECTION_ID()").(int64)
	done := make(chan error, 2)
	write := func(c *sql.Conn) {
		_, err := c.ExecContext(t.Context(), "UPDATE t SET a=1")
		done <- err
	}
	go write(first)
	holder := <-b.entered
	go write(second)
	eventually(t, "the kill of the waiting write", func() bool {
		if err := s.kill(uint64(id), true); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			if code(t, err) != 1317 {
				t.Errorf("the waiting write: %v", err)
			}
			return true
		default:
			return false
		}
	})
	if len(b.entered) != 0 {
		t.Error("two writes at a time")
	}
	// read_only waits, too, so that no write follows its answer.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.lockWrites(ctx); err != context.Canceled {
		t.Errorf("a second writer got %v", err)
	}
	if err := s.kill(uint64(holder.ConnID), true); err != nil {
		t.Fatal(err)
	}
	<-done
	exec(t, admin, "SET GLOBAL read_only=1")
}

func TestSessionVariables(t *testing.T) {
	s := start(t, Config{Handler: newStore()})
	c, other := pinned(t, s), pinned(t, s)
	exec(t, c, "SET @a = 1, @@session.wait_timeout = 5, sql_mode=ANSI, time_zone='+00:00', @b := 'x'")
	exec(t, c, "SET NAMES latin1 COLLATE latin1_bin")
	exec(t, c, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY")
	exec(t, c, "SET GLOBAL max_connect_errors = 9")
	exec(t, c, "USE `db x`")
	for query, want := range map[string]any{
		"SELECT @a": int64(1), "SELECT @b": "x", "SELECT @@wait_timeout": int64(5), "SELECT @@global.wait_timeout": int64(28800),
		"SELECT @@sql_mode": "ANSI", "SELECT @@time_zone": "+00:00", "SELECT @@character_set_client": "latin1",
		"SELECT @@tx_isolation": "READ-COMMITTED", "SELECT @@tx_read_only": int64(1), "SELECT @@max_connect_errors": int64(9),
		"SELECT DATABASE()": "db x", "SELECT @@autocommit": int64(1),
	} {
		if got := one(t, c, query); got != want {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	if got := one(t, other, "SELECT @a"); got != nil {
		t.Errorf("another session sees %v", got)
	}
	exec(t, c, "SET @c = @a")
	if got := one(t, c, "SELECT @c"); got != int64(1) {
		t.Errorf("@c is %v", got)
	}
	wantCode(t, c, 1064, "SET")
	wantCode(t, c, 1064, "SET a")
	wantCode(t, c, 1064, "SET a=")
	wantCode(t, c, 1064, "SET a=1 b=2,")
	wantCode(t, c, 1231, "SET a='"+strings.Repeat("x", maxVariableBytes+1)+"'")
	wantCode(t, c, 1238, "SET GLOBAL server_id=3")
	for i := range maxVariables + 1 {
		_, err := c.ExecContext(t.Context(), "SET @v"+strings.Repeat("x", i%60)+string(rune('a'+i/60))+" = 1")
		if got := code(t, err); got != 0 && got != 1193 {
			t.Fatal(err)
		} else if got == 1193 {
			return
		}
	}
	t.Error("variables are not bounded")
}

// TestReadOnlyWaitsForTheWrite that is taking effect: none follows the answer to
// SET GLOBAL read_only.
func TestReadOnlyWaitsForTheWrite(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := start(t, Config{Handler: HandlerFunc(func(_ context.Context, q Query) (Result, error) {
		if q.SQL == "INSERT INTO slow VALUES (1)" {
			close(entered)
			<-release
		}
		return Result{AffectedRows: 1}, nil
	})})
	db := open(t, s)
	wrote := make(chan error, 1)
	go func() {
		_, err := db.ExecContext(context.WithoutCancel(t.Context()), "INSERT INTO slow VALUES (1)")
		wrote <- err
	}()
	<-entered
	set := make(chan error, 1)
	go func() {
		_, err := db.ExecContext(context.WithoutCancel(t.Context()), "SET GLOBAL read_only=1")
		set <- err
	}()
	// It has arrived, and those after it are answered.
	eventually(t, "the statement arrives", func() bool { return slices.Contains(s.Queries(), "SET GLOBAL read_only=1") })
	for range 20 {
		one(t, db, "SELECT 1")
	}
	if s.ReadOnly() {
		t.Error("read-only in the middle of a write")
	}
	select {
	case err := <-set:
		t.Errorf("answered before the write: %v", err)
	default:
	}
	close(release)
	if err := <-wrote; err != nil {
		t.Errorf("the write: %v", err)
	}
	if err := <-set; err != nil || !s.ReadOnly() {
		t.Errorf("the setting: %v", err)
	}
	wantCode(t, db, 1290, "INSERT INTO t VALUES (2)")
}
