package mysqltest

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

func TestConnects(t *testing.T) {
	s := start(t, Config{})
	db := open(t, s)
	if err := db.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]any{
		"SELECT 1":                     int64(1),
		"SELECT VERSION()":             DefaultVersion,
		"SELECT @@version":             DefaultVersion,
		"SELECT @@global.read_only":    int64(0),
		"SELECT @@max_allowed_packet":  int64(1<<24 - 1),
		"select database()":            nil,
		"SELECT USER()":                "test@127.0.0.1",
		"SELECT -7":                    int64(-7),
		"SELECT 'it''s'":               "it's",
		"SELECT @never":                nil,
		"SELECT 1 LIMIT 1":             int64(1),
		"/* c */ SELECT -- x\n 1 # y":  int64(1),
		"SELECT /*!50000 2 */":         int64(2),
		"SELECT MASTER_GTID_WAIT('')":  int64(0),
		"SELECT @@gtid_binlog_pos":     "",
		"SELECT @@hostname":            "127.0.0.1",
		"SELECT 18446744073709551615;": "18446744073709551615",
	} {
		got := one(t, db, query)
		if u, ok := got.(uint64); ok {
			got = fmt.Sprint(u)
		}
		if got != want {
			t.Errorf("%s: %v (%T), want %v", query, got, got, want)
		}
	}
	wantCode(t, db, 1235, "SELECT a FROM t")
	wantCode(t, db, 1193, "SELECT @@no_such_thing")
	wantCode(t, db, 1193, "SELECT @@super_read_only")
	wantCode(t, db, 1064, "SELECT 1; SELECT 2")
	wantCode(t, db, 1064, "SELECT 'open")
	wantCode(t, db, 1064, "SELECT 1 /* open")
	wantCode(t, db, 1065, " ; ")
	wantCode(t, db, 1941, "SELECT MASTER_GTID_WAIT('0-1')")
}

func TestSelectsNameTheirColumns(t *testing.T) {
	db := open(t, start(t, Config{Version: "8.0.36", ReadOnly: true}))
	rows, err := db.QueryContext(t.Context(), "SELECT @@global.read_only, @@super_read_only AS super, @@server_id id, CONNECTION_ID( ), ? AS `arg`", "x")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	names, _ := rows.Columns()
	if got, want := strings.Join(names, "|"), "@@global.read_only|super|id|CONNECTION_ID( )|arg"; got != want {
		t.Errorf("columns %q, want %q", got, want)
	}
	var readOnly, super, id, conn int
	var arg string
	if !rows.Next() {
		t.Fatal(rows.Err())
	}
	if err := rows.Scan(&readOnly, &super, &id, &conn, &arg); err != nil {
		t.Fatal(err)
	}
	if readOnly != 1 || super != 0 || id == 0 || conn == 0 || arg != "x" {
		t.Errorf("got %d, %d, %d, %d, %q", readOnly, super, id, conn, arg)
	}
}

func TestAccounts(t *testing.T) {
	s := start(t, Config{Users: map[string]string{"ann": "secret", "bob": ""}})
	as := func(user, password string) func(*mysql.Config) {
		return func(c *mysql.Config) { c.User, c.Passwd = user, password }
	}
	for _, c := range []struct {
		user, password string
		want           uint16
	}{
		{"ann", "secret", 0}, {"bob", "", 0},
		{"ann", "Secret", 1045}, {"ann", "", 1045}, {"bob", "x", 1045}, {"eve", "secret", 1045}, {"eve", "", 1045}, {"", "", 1045},
	} {
		if got := code(t, open(t, s, as(c.user, c.password)).PingContext(t.Context())); got != c.want {
			t.Errorf("%s with password %q: error %d, want %d", c.user, c.password, got, c.want)
		}
	}
	if got := one(t, open(t, s, as("ann", "secret"), func(c *mysql.Config) { c.DBName = "any" }), "SELECT DATABASE()"); got != "any" {
		t.Errorf("database %v", got)
	}
}

func TestConfigMistakes(t *testing.T) {
	_, err := New(Config{Addr: "nowhere", Users: map[string]string{"": ""}, Version: "x", Lag: -1, MaxConnections: -1, LogEntries: -1})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"Addr", "Users", "Version", "Lag", "MaxConnections", "LogEntries"} {
		if !strings.Contains(err.Error(), "Config."+want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
	for _, bad := range []Config{{Users: map[string]string{}}, {Addr: "127.0.0.1:0"}, {Addr: "127.0.0.1:http"}} {
		if s, err := New(bad); err == nil {
			s.Close()
			t.Errorf("accepted %+v", bad)
		}
	}
	s := start(t, Config{})
	if other, err := New(Config{Addr: s.Addr()}); err == nil {
		other.Close()
		t.Error("two servers on one address")
	}
}

func TestKillAndRestart(t *testing.T) {
	s := start(t, Config{Handler: newStore()})
	db := open(t, s)
	c := pinned(t, s)
	exec(t, db, "SET GLOBAL read_only=1")
	s.Kill()
	s.Kill()
	if err := c.PingContext(t.Context()); err == nil {
		t.Error("a connection outlived the server")
	}
	if _, err := net.Dial("tcp", s.Addr()); err == nil {
		t.Error("a dead server accepts connections")
	}
	eventually(t, "no connections", func() bool { return s.Connections() == 0 })
	addr := s.Addr()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if s.Restart() != nil || s.Addr() != addr {
		t.Errorf("after a second restart at %s, before at %s", s.Addr(), addr)
	}
	exec(t, db, insert, "a", "b") // read_only is gone
	s.Close()
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if err := s.Restart(); !errors.Is(err, ErrClosed) {
		t.Errorf("restart after Close: %v", err)
	}
	if err := s.Follow(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("follow after Close: %v", err)
	}
}

func TestMaxConnections(t *testing.T) {
	s := start(t, Config{MaxConnections: 2})
	a, _ := pinned(t, s), pinned(t, s)
	if got := code(t, open(t, s).PingContext(t.Context())); got != 1040 {
		t.Errorf("error %d, want 1040", got)
	}
	if s.Connections() != 2 {
		t.Errorf("%d connections", s.Connections())
	}
	a.Raw(func(dc any) error { return dc.(driver.Conn).Close() })
	eventually(t, "room", func() bool { return s.Connections() == 1 })
	if err := open(t, s).PingContext(t.Context()); err != nil {
		t.Error(err)
	}
}

// blocker is a handler that waits for the end of its context.
type blocker struct{ entered chan Query }

func (b blocker) Handle(ctx context.Context, q Query) (Result, error) {
	b.entered <- q
	<-ctx.Done()
	return Result{}, ctx.Err()
}

func TestKillStatements(t *testing.T) {
	b := blocker{make(chan Query, 1)}
	s := start(t, Config{Handler: b})
	admin := open(t, s)
	for _, c := range []struct {
		kill  string
		check func(error) bool
	}{
		{"KILL QUERY %d", func(err error) bool { return code(t, err) == 1317 }},
		{"KILL %d", func(err error) bool { return errors.Is(err, mysql.ErrInvalidConn) }},
		{"KILL HARD CONNECTION %d", func(err error) bool { return errors.Is(err, mysql.ErrInvalidConn) }},
	} {
		conn := pinned(t, s)
		failed := make(chan error)
		go func() {
			_, err := conn.ExecContext(t.Context(), "UPDATE t SET a=1")
			failed <- err
		}()
		q := <-b.entered
		exec(t, admin, fmt.Sprintf(c.kill, q.ConnID))
		if err := <-failed; !c.check(err) {
			t.Errorf("%s: %v", c.kill, err)
		}
	}
	conn := pinned(t, s)
	id := one(t, conn, "SELECT CONNECTION_ID()")
	exec(t, admin, fmt.Sprintf("KILL QUERY %d", id)) // nothing runs
	if one(t, conn, "SELECT 1") != int64(1) {
		t.Error("KILL QUERY hit the statement after it")
	}
	wantCode(t, admin, 1094, "KILL 99999")
	wantCode(t, admin, 1054, "KILL me")
	wantCode(t, admin, 1064, "KILL")
	exec(t, conn, "SELECT SLEEP(0)")
}

func TestSleepIsInterrupted(t *testing.T) {
	s := start(t, Config{})
	conn, admin := pinned(t, s), open(t, s)
	id := one(t, conn, "SELECT CONNECTION_ID()")
	var wg sync.WaitGroup
	wg.Go(func() { wantCode(t, conn, 1317, "SELECT SLEEP(3600)") })
	eventually(t, "the sleep", func() bool {
		q := s.Queries()
		return q[len(q)-1] == "SELECT SLEEP(3600)"
	})
	// The record precedes the statement by a moment.
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	eventually(t, "the interruption", func() bool {
		exec(t, admin, fmt.Sprintf("KILL QUERY %d", id))
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
}

// A client that gives up does not end its statement, as on a real server.
func TestCancelledClientLeavesItsStatement(t *testing.T) {
	b := blocker{make(chan Query, 1)}
	s := start(t, Config{Handler: b})
	db := open(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := db.QueryContext(ctx, "SELECT a FROM t")
		failed <- err
	}()
	q := <-b.entered
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("the client got %v", err)
	}
	if s.Connections() != 1 {
		t.Errorf("%d connections, want the one that still runs", s.Connections())
	}
	exec(t, db, fmt.Sprintf("KILL QUERY %d", q.ConnID))
	eventually(t, "the end of the statement", func() bool { return s.Connections() <= 1 })
}

func TestServerKillEndsHandlers(t *testing.T) {
	b := blocker{make(chan Query, 1)}
	s := start(t, Config{Handler: b})
	failed := make(chan error)
	db := open(t, s)
	go func() {
		_, err := db.ExecContext(t.Context(), "UPDATE t SET a=1")
		failed <- err
	}()
	<-b.entered
	s.Kill()
	if err := <-failed; !errors.Is(err, mysql.ErrInvalidConn) {
		t.Errorf("got %v", err)
	}
}

func TestFaults(t *testing.T) {
	data := newStore()
	s := start(t, Config{Handler: data})
	db := open(t, s)
	isInsert := func(sql string) bool { return strings.HasPrefix(sql, "INSERT") }

	s.FailNext(2, &Error{Code: 1213, State: "40001", Message: "Deadlock found"}, isInsert)
	wantCode(t, db, 1213, insert, "a", "1")
	exec(t, db, "SELECT k, v FROM kv")
	wantCode(t, db, 1213, insert, "a", "1")
	exec(t, db, insert, "a", "1")

	remove := s.Inject(Fault{Match: isInsert, Times: -1, Err: &Error{Message: "no state and no number"}})
	for range 3 {
		wantCode(t, db, 1105, insert, "b", "2")
	}
	remove()
	remove()
	exec(t, db, insert, "b", "2")

	s.Inject(Fault{Match: isInsert, CutBefore: true})
	if _, err := db.ExecContext(t.Context(), insert, "c", "3"); !errors.Is(err, mysql.ErrInvalidConn) {
		t.Errorf("cut before: %v", err)
	}
	s.Inject(Fault{Match: isInsert, CutAfter: true})
	if _, err := db.ExecContext(t.Context(), insert, "d", "4"); !errors.Is(err, mysql.ErrInvalidConn) {
		t.Errorf("cut after: %v", err)
	}
	got := data.state()
	if _, c := got["c"]; c || got["d"] != "4" {
		t.Errorf("the store has %v", got)
	}

	s.Inject(Fault{Match: isInsert, Delay: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(ctx, insert, "e", "5"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("delayed: %v", err)
	}
}

func TestManyConnections(t *testing.T) {
	data := newStore()
	s := start(t, Config{Handler: data})
	db := open(t, s)
	db.SetMaxIdleConns(50)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for j := range 10 {
				if _, err := db.ExecContext(t.Context(), insert, fmt.Sprint(i), fmt.Sprint(j)); err != nil {
					t.Error(err)
					return
				}
				if rows, err := db.QueryContext(t.Context(), "SELECT k, v FROM kv"); err != nil {
					t.Error(err)
				} else if rows.Close() != nil {
					t.Error("close")
				}
			}
		})
	}
	wg.Wait()
	if n := len(data.state()); n != 50 {
		t.Errorf("%d rows, want 50", n)
	}
	if _, seq, _ := strings.Cut(s.Position()[2:], "-"); seq != "500" {
		t.Errorf("position %s, want the 500th write", s.Position())
	}
}

func TestQueriesAreBounded(t *testing.T) {
	s := start(t, Config{})
	c := pinned(t, s)
	exec(t, c, "SELECT '"+strings.Repeat("x", 2000)+"'")
	q := s.Queries()
	if last := q[len(q)-1]; len(last) != 1024 || !strings.HasPrefix(last, "SELECT 'xxx") {
		t.Errorf("recorded %d bytes", len(last))
	}
	for range 1100 {
		exec(t, c, "SELECT 2")
	}
	q = s.Queries()
	if len(q) != 1000 || q[0] != "SELECT 2" {
		t.Errorf("%d recorded, the first %q", len(q), q[0])
	}
}
