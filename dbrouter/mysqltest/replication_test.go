package mysqltest

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"
)

// pair is a primary and a replica with a store each.
func pair(t *testing.T, source, replica Config) (s, r *Server, sd, rd *store) {
	t.Helper()
	sd, rd = newStore(), newStore()
	source.Handler, source.ServerID = sd, 1
	s = start(t, source)
	replica.Handler, replica.ServerID, replica.Source, replica.ReadOnly = rd, 2, s, true
	return s, start(t, replica), sd, rd
}

// slave returns SHOW SLAVE STATUS by column.
func slave(t *testing.T, db execer, query string) map[string]string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	names, _ := rows.Columns()
	if !rows.Next() {
		return nil
	}
	values, into := make([]sql.NullString, len(names)), make([]any, len(names))
	for i := range values {
		into[i] = &values[i]
	}
	if err := rows.Scan(into...); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for i, n := range names {
		out[n] = values[i].String
		if !values[i].Valid {
			out[n] = "NULL"
		}
	}
	return out
}

func wantStatus(t *testing.T, db execer, want map[string]string) {
	t.Helper()
	got := slave(t, db, "SHOW SLAVE STATUS")
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %q, want %q", k, got[k], v)
		}
	}
}

func TestReplicaIsACopy(t *testing.T) {
	s, r, sd, rd := pair(t, Config{Transactions: true}, Config{Transactions: true})
	db, replica := open(t, s), open(t, r)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				if _, err := db.ExecContext(t.Context(), insert, fmt.Sprint(j), fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"x", "y"} {
		if _, err := tx.ExecContext(t.Context(), insert, k, "tx"); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := one(t, replica, "SELECT MASTER_GTID_WAIT(?, 10)", s.Position()); got != int64(0) {
		t.Fatalf("MASTER_GTID_WAIT: %v", got)
	}
	if got, want := rd.state(), sd.state(); !maps.Equal(got, want) || len(got) != 22 {
		t.Errorf("the replica has %v, the source %v", got, want)
	}
	seen := rd.statements()
	if got, want := seen[len(seen)-4:], []string{"START TRANSACTION", insert, insert, "COMMIT"}; !slices.Equal(got, want) {
		t.Errorf("the transaction arrived as %v", got)
	}
	for _, q := range rd.seen {
		if !q.Replicated || q.ConnID != 0 {
			t.Fatalf("not marked as replicated: %+v", q)
		}
	}
	if a, b := sd.ids, rd.ids; a != b {
		t.Errorf("the last id is %d at the source and %d at the replica", a, b)
	}
	for query, want := range map[string]any{
		"SELECT @@gtid_binlog_pos": "0-1-161", "SELECT @@gtid_current_pos": "0-1-161", "SELECT @@gtid_slave_pos": "0-1-161",
		"SELECT MASTER_GTID_WAIT('0-1-162', 0.01)": int64(-1), "SELECT MASTER_GTID_WAIT('0-1-161')": int64(0),
		"SELECT MASTER_GTID_WAIT('1-1-1', 0)": int64(-1), "SELECT MASTER_GTID_WAIT(NULL)": nil,
	} {
		if got := one(t, replica, query); got != want {
			t.Errorf("replica: %s: %v, want %v", query, got, want)
		}
	}
	// Nothing is ever applied from elsewhere at a server that never was a replica.
	if got := one(t, db, "SELECT MASTER_GTID_WAIT('0-1-1', 0)"); got != int64(-1) {
		t.Errorf("at the primary: %v", got)
	}
	if got := one(t, db, "SELECT @@gtid_slave_pos"); got != "" {
		t.Errorf("gtid_slave_pos of the primary: %v", got)
	}
}

func TestReplicaStatus(t *testing.T) {
	s, r, _, _ := pair(t, Config{}, Config{})
	db, replica := open(t, s), open(t, r)
	if got := slave(t, db, "SHOW SLAVE STATUS"); got != nil {
		t.Errorf("a primary shows %v", got)
	}
	exec(t, db, insert, "a", "1")
	caughtUp(t, r, s)
	wantStatus(t, replica, map[string]string{
		"Slave_IO_Running": "Yes", "Slave_SQL_Running": "Yes", "Seconds_Behind_Master": "0", "Using_Gtid": "Slave_Pos",
		"Gtid_IO_Pos": "0-1-1", "Master_Host": "127.0.0.1", "Master_Server_Id": "1", "Last_IO_Errno": "0", "Last_SQL_Errno": "0",
	})
	for _, query := range []string{"SHOW ALL SLAVES STATUS", "SHOW ALL REPLICAS STATUS;", "show replica status"} {
		if got := slave(t, replica, query); got["Slave_IO_Running"] != "Yes" {
			t.Errorf("%s: %v", query, got)
		}
	}
	if got := slave(t, replica, "SHOW ALL SLAVES STATUS"); got["Gtid_Slave_Pos"] != "0-1-1" {
		t.Errorf("SHOW ALL SLAVES STATUS: %v", got)
	}

	exec(t, replica, "STOP SLAVE SQL_THREAD")
	exec(t, db, insert, "b", "2")
	wantStatus(t, replica, map[string]string{
		"Slave_IO_Running": "Yes", "Slave_SQL_Running": "No", "Seconds_Behind_Master": "NULL", "Gtid_IO_Pos": "0-1-2"})
	if got := one(t, replica, "SELECT @@gtid_slave_pos"); got != "0-1-1" {
		t.Errorf("applied %v after STOP SLAVE SQL_THREAD", got)
	}
	exec(t, replica, "STOP REPLICA IO_THREAD")
	exec(t, db, insert, "c", "3")
	wantStatus(t, replica, map[string]string{"Slave_IO_Running": "No", "Gtid_IO_Pos": "0-1-2"})
	exec(t, replica, "START SLAVE")
	caughtUp(t, r, s)

	s.Kill()
	wantStatus(t, replica, map[string]string{
		"Slave_IO_Running": "Connecting", "Slave_SQL_Running": "Yes", "Seconds_Behind_Master": "NULL", "Last_IO_Errno": "2003"})
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, replica, map[string]string{"Slave_IO_Running": "Yes", "Last_IO_Errno": "0"})
	exec(t, db, insert, "d", "4")
	caughtUp(t, r, s)
	wantCode(t, db, 1200, "START SLAVE")
	exec(t, db, "STOP SLAVE")
	wantCode(t, db, 1064, "SHOW ALL SLAVE STATUS")
}

func TestMySQLStatus(t *testing.T) {
	_, r, _, _ := pair(t, Config{Version: "8.0.36"}, Config{Version: "8.0.36"})
	replica := open(t, r)
	got := slave(t, replica, "SHOW REPLICA STATUS")
	if got["Replica_IO_Running"] != "Yes" || got["Seconds_Behind_Source"] != "0" || got["Source_Host"] != "127.0.0.1" {
		t.Errorf("SHOW REPLICA STATUS: %v", got)
	}
	wantCode(t, replica, 1064, "SHOW ALL SLAVES STATUS")
	wantCode(t, replica, 1193, "SELECT @@gtid_slave_pos")
	wantCode(t, replica, 1305, "SELECT MASTER_GTID_WAIT('0-1-1')")
	exec(t, replica, "SET GLOBAL super_read_only=1")
	if one(t, replica, "SELECT @@super_read_only") != int64(1) || one(t, replica, "SELECT @@read_only") != int64(1) {
		t.Error("super_read_only does not hold")
	}
	exec(t, replica, "SET GLOBAL read_only=0")
	if one(t, replica, "SELECT @@super_read_only") != int64(0) || r.ReadOnly() {
		t.Error("read_only=0 leaves super_read_only")
	}
}

func TestLag(t *testing.T) {
	s, r, _, rd := pair(t, Config{}, Config{Lag: time.Hour})
	db, replica := open(t, s), open(t, r)
	exec(t, db, insert, "a", "1")
	wantStatus(t, replica, map[string]string{"Gtid_IO_Pos": "0-1-1", "Slave_SQL_Running": "Yes"})
	if got := one(t, replica, "SELECT MASTER_GTID_WAIT('0-1-1', 0.02)"); got != int64(-1) {
		t.Errorf("applied in spite of the lag: %v", got)
	}
	if len(rd.state()) != 0 {
		t.Errorf("rows %v", rd.state())
	}
	r.SetLag(0)
	caughtUp(t, r, s)
	const lag = 30 * time.Millisecond
	r.SetLag(lag)
	began := time.Now()
	exec(t, db, insert, "b", "2")
	caughtUp(t, r, s)
	if took := time.Since(began); took < lag {
		t.Errorf("applied after %v, want %v at least", took, lag)
	}
}

func TestLagCountsInSeconds(t *testing.T) {
	s, r, _, _ := pair(t, Config{}, Config{Lag: time.Hour})
	exec(t, open(t, s), insert, "a", "1")
	repl := r.repl.Load()
	repl.mu.Lock()
	repl.relay[0].at = repl.relay[0].at.Add(-5 * time.Second)
	repl.mu.Unlock()
	wantStatus(t, open(t, r), map[string]string{"Seconds_Behind_Master": "5"})
}

func TestKilledReplicaCatchesUp(t *testing.T) {
	s, r, sd, rd := pair(t, Config{}, Config{})
	db := open(t, s)
	exec(t, db, insert, "a", "1")
	caughtUp(t, r, s)
	r.Kill()
	exec(t, db, insert, "b", "2")
	if len(rd.state()) != 1 {
		t.Error("a dead replica applied")
	}
	if err := r.Restart(); err != nil {
		t.Fatal(err)
	}
	caughtUp(t, r, s)
	if !maps.Equal(sd.state(), rd.state()) {
		t.Errorf("replica %v, source %v", rd.state(), sd.state())
	}
	if !r.ReadOnly() {
		t.Error("came back writable")
	}
}

// TestPurgeBoundary: a replica that has the last entry that fell out of the log
// needs none of those.
func TestPurgeBoundary(t *testing.T) {
	s, r, sd, rd := pair(t, Config{LogEntries: 3}, Config{})
	db := open(t, s)
	exec(t, db, insert, "a", "1")
	caughtUp(t, r, s)
	r.Kill()
	for i := range 3 {
		exec(t, db, insert, fmt.Sprint(i), "1")
	}
	if err := r.Restart(); err != nil {
		t.Fatal(err)
	}
	caughtUp(t, r, s)
	if !maps.Equal(sd.state(), rd.state()) {
		t.Errorf("replica %v, source %v", rd.state(), sd.state())
	}
	// It must be that entry, not one of the same number.
	if _, err := s.log.after(gtid{server: 1, seq: 1}); err != nil {
		t.Error(err)
	}
	for _, g := range []gtid{{server: 2, seq: 1}, {server: 1, seq: 0}} {
		if _, err := s.log.after(g); err == nil {
			t.Errorf("%v is served", g)
		}
	}
}

func TestPurgedLogStopsReplication(t *testing.T) {
	s, r, _, _ := pair(t, Config{LogEntries: 3}, Config{})
	db, replica := open(t, s), open(t, r)
	r.Kill()
	for range 5 {
		exec(t, db, insert, "a", "1")
	}
	if err := r.Restart(); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, replica, map[string]string{"Slave_IO_Running": "No", "Last_IO_Errno": "1236", "Slave_SQL_Running": "Yes", "Seconds_Behind_Master": "NULL"})
}

// A replica that may hold back few transactions catches up all the same.
func TestFullRelayCatchesUp(t *testing.T) {
	s, r, sd, rd := pair(t, Config{LogEntries: 4}, Config{})
	db := open(t, s)
	r.StopApply()
	for i := range 6 {
		exec(t, db, insert, fmt.Sprint(i), "1")
	}
	repl := r.repl.Load()
	repl.mu.Lock()
	held, connected := len(repl.relay), repl.connected
	repl.mu.Unlock()
	if held != 4 || connected {
		t.Errorf("%d entries held, connected %v; want 4 and false", held, connected)
	}
	r.StartReplication()
	caughtUp(t, r, s)
	exec(t, db, insert, "z", "1")
	caughtUp(t, r, s)
	if !maps.Equal(sd.state(), rd.state()) {
		t.Errorf("replica %v, source %v", rd.state(), sd.state())
	}
}

func TestApplyErrorStopsReplication(t *testing.T) {
	var mu sync.Mutex
	fail := true
	data := newStore()
	s := start(t, Config{Handler: newStore(), ServerID: 1})
	r := start(t, Config{ServerID: 2, Source: s, Handler: HandlerFunc(func(ctx context.Context, q Query) (Result, error) {
		mu.Lock()
		defer mu.Unlock()
		if fail {
			return Result{}, &Error{Code: 1062, State: "23000", Message: "Duplicate entry"}
		}
		return data.Handle(ctx, q)
	})})
	exec(t, open(t, s), insert, "a", "1")
	replica := open(t, r)
	eventually(t, "the error", func() bool { return slave(t, replica, "SHOW SLAVE STATUS")["Last_SQL_Errno"] == "1062" })
	wantStatus(t, replica, map[string]string{"Slave_SQL_Running": "No", "Slave_IO_Running": "Yes", "Last_SQL_Error": "Duplicate entry"})
	mu.Lock()
	fail = false
	mu.Unlock()
	r.StartReplication()
	caughtUp(t, r, s)
	if len(data.state()) != 1 {
		t.Errorf("rows %v", data.state())
	}
}

// A write of its own makes a replica diverge from its source, and the next write
// of the source stops it.
func TestOwnWriteStopsReplication(t *testing.T) {
	s, r, _, _ := pair(t, Config{}, Config{})
	r.SetReadOnly(false)
	replica := open(t, r)
	exec(t, replica, insert, "own", "1")
	exec(t, open(t, s), insert, "a", "1")
	eventually(t, "the error", func() bool { return slave(t, replica, "SHOW SLAVE STATUS")["Last_SQL_Errno"] == "1950" })
}

func TestFailover(t *testing.T) {
	s, r, _, rd := pair(t, Config{}, Config{})
	third := newStore()
	r2 := start(t, Config{Handler: third, ServerID: 3, Source: s, ReadOnly: true})
	db := open(t, s)
	exec(t, db, insert, "a", "1")
	caughtUp(t, r, s)
	caughtUp(t, r2, s)
	s.Kill()

	exec(t, open(t, r), "STOP SLAVE")
	exec(t, open(t, r), "RESET SLAVE ALL")
	exec(t, open(t, r), "SET GLOBAL read_only=0")
	if err := r2.Follow(r); err != nil {
		t.Fatal(err)
	}
	exec(t, open(t, r), insert, "b", "2")
	if got := r.Position(); got != "0-2-2" {
		t.Errorf("the new primary is at %q, want 0-2-2", got)
	}
	caughtUp(t, r2, r)
	if !maps.Equal(third.state(), rd.state()) {
		t.Errorf("the other replica has %v, the new primary %v", third.state(), rd.state())
	}

	// The old primary comes back and follows.
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := s.Follow(r); err != nil {
		t.Fatal(err)
	}
	caughtUp(t, s, r)
	if got := one(t, db, "SELECT @@gtid_slave_pos"); got != "0-2-2" {
		t.Errorf("the old primary has applied %v", got)
	}
	if err := r.Follow(r); err == nil {
		t.Error("a server follows itself")
	}
}

// An old primary with a write that nobody received does not replicate.
func TestDivergedPrimaryDoesNotReplicate(t *testing.T) {
	s, r, _, _ := pair(t, Config{}, Config{})
	db := open(t, s)
	r.StopIO()
	exec(t, db, insert, "lost", "1")
	if err := r.Follow(nil); err != nil {
		t.Fatal(err)
	}
	r.SetReadOnly(false)
	exec(t, open(t, r), insert, "a", "1")
	if err := s.Follow(r); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, db, map[string]string{"Slave_IO_Running": "No", "Last_IO_Errno": "1236"})
}

// A chain: the last one gets what the middle one applied.
func TestChain(t *testing.T) {
	s, r, sd, _ := pair(t, Config{}, Config{})
	end := newStore()
	last := start(t, Config{Handler: end, Source: r})
	exec(t, open(t, s), insert, "a", "1")
	caughtUp(t, last, s)
	if !maps.Equal(end.state(), sd.state()) {
		t.Errorf("the last one has %v", end.state())
	}
}

func TestWaitPosition(t *testing.T) {
	s := start(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.WaitPosition(ctx, "0-1-1"); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	if err := s.WaitPosition(ctx, ""); err != nil {
		t.Errorf("the start: %v", err)
	}
	for _, bad := range []string{"x", "0-1", "1-1-1", "0-1--1", "0-1-18446744073709551616"} {
		if err := s.WaitPosition(t.Context(), bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

// Follow, Kill, Restart and Close race with writes and with each other.
func TestLifeIsRaceFree(t *testing.T) {
	s, r, sd, rd := pair(t, Config{}, Config{})
	db := open(t, s)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 25 {
				db.ExecContext(t.Context(), insert, fmt.Sprint(i), fmt.Sprint(j)) // may fail: the server dies
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			s.Kill()
			r.Kill()
			if err := r.Restart(); err != nil {
				t.Error(err)
			}
			if err := s.Restart(); err != nil {
				t.Error(err)
			}
			if err := r.Follow(s); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	exec(t, db, insert, "last", "1")
	caughtUp(t, r, s)
	if !maps.Equal(sd.state(), rd.state()) {
		t.Errorf("replica %v, source %v", rd.state(), sd.state())
	}
}

// The number that the source assigned travels with the statement, and what a
// demoted primary wrote counts as applied.
func TestInsertIDAndDemotion(t *testing.T) {
	s, r, sd, rd := pair(t, Config{}, Config{})
	sd.mu.Lock()
	sd.ids = 41
	sd.mu.Unlock()
	exec(t, open(t, s), insert, "a", "1")
	caughtUp(t, r, s)
	rd.mu.Lock()
	if rd.ids != 42 {
		t.Errorf("the replica assigned %d, the source 42", rd.ids)
	}
	rd.mu.Unlock()
	if err := r.Follow(nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Follow(r); err != nil {
		t.Fatal(err)
	}
	if got := one(t, open(t, s), "SELECT MASTER_GTID_WAIT('0-1-1', 0)"); got != int64(0) {
		t.Errorf("at the demoted primary: %v", got)
	}
}
