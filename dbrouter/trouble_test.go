package dbrouter

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

// testStalled stops the replicas' applying without the routers' knowing: Global
// must go to the primary then, Eventual shows what it promises no more than.
func testStalled(t *testing.T, c *mariadb.Cluster, r *Router, _ *record) {
	global, recGlobal := open(t, Config{Nodes: nodes(c), CheckInterval: time.Hour, WaitLimit: 10 * time.Millisecond})
	eventual, recEventual := open(t, Config{Nodes: nodes(c), CheckInterval: time.Hour, Consistency: Eventual})
	primary, recPrimary := open(t, Config{Nodes: nodes(c), Consistency: PrimaryOnly})
	upReplicas(t, global, 2)
	upReplicas(t, eventual, 2)
	for _, n := range c.Nodes()[1:] {
		if err := n.Exec(t.Context(), "STOP SLAVE SQL_THREAD"); err != nil {
			t.Fatal(err)
		}
	}
	mustExec(t, global.DB(), "INSERT INTO u VALUES (100, 100)")
	const query = "SELECT COUNT(*) FROM u WHERE id = 100"
	if n := one[int](t, global.DB(), query); n != 1 || recGlobal.last(t).Reason != tooFarBehind {
		t.Errorf("global read: %d rows, %+v", n, recGlobal.last(t))
	}
	if n := one[int](t, eventual.DB(), query); n != 0 || recEventual.last(t).Role != Replica {
		t.Errorf("eventual read: %d rows, %+v", n, recEventual.last(t))
	}
	ctx := WithPrimary(t.Context())
	var n int
	if err := eventual.DB().QueryRowContext(ctx, query).Scan(&n); err != nil || n != 1 || recEventual.last(t).Reason != "WithPrimary" {
		t.Errorf("eventual read with WithPrimary: %d rows, %v, %+v", n, err, recEventual.last(t))
	}
	if n := one[int](t, primary.DB(), query); n != 1 || recPrimary.last(t).Role != Primary {
		t.Errorf("primary read: %d rows, %+v", n, recPrimary.last(t))
	}
	until(t, "the stopped replicas are left out", func() bool { return len(r.monitor.now.Load().replicas) == 0 })
	for _, s := range r.Status()[1:] {
		if s.State != Stopped || s.LagKnown || !strings.Contains(s.LastError, `SQL thread "No"`) {
			t.Errorf("%+v", s)
		}
	}
	for _, n := range c.Nodes()[1:] {
		if err := n.Exec(t.Context(), "START SLAVE SQL_THREAD"); err != nil {
			t.Fatal(err)
		}
	}
	upReplicas(t, r, 2)
}

// testPrivileges: an account that may not see the state of replication cannot
// vouch for a replica's lag, but waiting for a position needs no privilege.
func testPrivileges(t *testing.T, c *mariadb.Cluster, shared *Router, _ *record) {
	if err := shared.Check(t.Context()); err != nil {
		t.Errorf("the application's account: %v", err)
	}
	strong := nodes(c)
	for i, n := range c.Nodes() {
		strong[i].Config = n.AdminConfig()
	}
	admin, _ := open(t, Config{Nodes: strong})
	if err := admin.Check(t.Context()); err == nil || strings.Count(err.Error(), "so that read_only does not bind it") != len(strong) {
		t.Errorf("the administrator's account: %v", err)
	}
	err := c.Nodes()[0].Exec(t.Context(), "CREATE USER small@'127.0.0.1' IDENTIFIED BY 'pw'", "GRANT SELECT ON app.* TO small@'127.0.0.1'")
	if err != nil {
		t.Fatal(err)
	}
	conf := nodes(c)
	for _, n := range conf {
		n.Config.User, n.Config.Passwd = "small", "pw"
	}
	r, rec := open(t, Config{Nodes: conf, WaitLimit: time.Second})
	upReplicas(t, r, 2)
	if one[int](t, r.DB(), "SELECT COUNT(*) FROM t"); rec.last(t).Role != Replica {
		t.Errorf("%+v", rec.last(t))
	}
	r, rec = open(t, Config{Nodes: conf, Consistency: Eventual})
	until(t, "all nodes have been looked at", func() bool { return r.Status()[1].State != StateUnknown })
	if s := r.Status()[1]; s.State != Stopped || !strings.Contains(s.LastError, "1227") {
		t.Errorf("%+v", s)
	}
	if one[int](t, r.DB(), "SELECT COUNT(*) FROM t"); rec.last(t).Role != Primary {
		t.Errorf("%+v", rec.last(t))
	}
}

func testCancelAndClose(t *testing.T, c *mariadb.Cluster, _ *Router, _ *record) {
	conf := nodes(c)
	for i := range conf {
		conf[i].MaxConns = 2
	}
	r, rec := open(t, Config{Nodes: conf, CheckInterval: time.Hour})
	upReplicas(t, r, 2)
	for range 4 { // so that both replicas have a connection, and its making takes none of the time
		one[int](t, r.DB(), "SELECT 1")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var v int
	if err := r.DB().QueryRowContext(ctx, "SELECT SLEEP(30)").Scan(&v); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if s := rec.last(t); s.Retried || s.Role != Replica {
		t.Errorf("a cancelled read: %+v", s)
	}
	for _, s := range r.Status() {
		if s.State != Up {
			t.Errorf("a caller's cancellation counts against the node: %+v", s)
		}
	}
	for _, n := range c.Nodes()[1:] {
		connector, err := mysql.NewConnector(n.AdminConfig())
		if err != nil {
			t.Fatal(err)
		}
		admin := sql.OpenDB(connector)
		defer admin.Close()
		until(t, "the server has ended the cancelled read", func() bool {
			return one[int](t, admin, "SELECT COUNT(*) FROM information_schema.processlist WHERE info = 'SELECT SLEEP(30)'") == 0
		})
	}
	// All connections in use: the next statement waits for one, or for its end.
	var held []*sql.Rows
	for range 2 {
		rows, err := r.DB().QueryContext(WithPrimary(t.Context()), "SELECT id FROM t")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, rows)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.DB().ExecContext(ctx, "DELETE FROM u WHERE id = -1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third connection was opened: %v", err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := r.DB().ExecContext(t.Context(), "DELETE FROM u WHERE id = -1")
		waiting <- err
	}()
	held[0].Close()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	held[1].Close()

	// Close cuts what runs, and does not wait for it.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := r.DB().ExecContext(context.Background(), "UPDATE t SET a = SLEEP(30) WHERE id = 1"); err == nil {
				t.Error("a statement outlived its router")
			}
		})
	}
	until(t, "statements run", func() bool { return r.nodes()[0].pool.busy() == 2 })
	time.Sleep(20 * time.Millisecond)
	begun := time.Now()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("Close took %v", d)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.DB().ExecContext(t.Context(), "SELECT 1"); err == nil {
		t.Error("a statement after Close")
	}
	db := sql.OpenDB(r)
	defer db.Close()
	if err := db.PingContext(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("a connection after Close: %v", err)
	}
	if n := r.Status()[0].Connections; n != 0 {
		t.Errorf("%d connections after Close", n)
	}
}

// testKilledReplica: a replica that dies under read load costs no error.
func testKilledReplica(t *testing.T, c *mariadb.Cluster, r *Router, _ *record) {
	killReplica(t, c, r, 5)
}

func killReplica(t *testing.T, c *mariadb.Cluster, r *Router, times int) {
	replica := c.Nodes()[1]
	load, stop := context.WithCancel(t.Context())
	defer stop()
	var reads atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for load.Err() == nil {
				rows, err := r.DB().QueryContext(t.Context(), "SELECT id, v FROM t ORDER BY id LIMIT 200")
				if err != nil {
					t.Error(err)
					return
				}
				for rows.Next() {
				}
				if err := rows.Err(); err != nil {
					t.Error(err)
				}
				rows.Close()
				reads.Add(1)
			}
		})
	}
	for range times {
		target := reads.Load() + 200
		until(t, "reads", func() bool { return reads.Load() > target || t.Failed() })
		replica.Kill()
		until(t, "the replica is down", func() bool { return r.Status()[1].State == Down })
		if err := replica.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		upReplicas(t, r, 2)
	}
	stop()
	wg.Wait()
}

// testSwitchover moves the primary under load. Writes may fail meanwhile, but
// no read may miss an acknowledged write, and nothing may be written twice.
func testSwitchover(t *testing.T, c *mariadb.Cluster, r *Router, _ *record) {
	other, _ := open(t, Config{Nodes: nodes(c), CheckInterval: 200 * time.Millisecond})
	load, stop := context.WithCancel(t.Context())
	defer stop()
	var stale, done, failed atomic.Int64
	var wg sync.WaitGroup
	for i, pair := range [][2]*Router{{r, other}, {other, r}} {
		wg.Go(func() {
			for v := i; load.Err() == nil; v += 2 {
				if err := writeAndRead(t.Context(), pair[0].DB(), pair[1].DB(), v, &stale); err != nil {
					failed.Add(1)
					time.Sleep(time.Millisecond) // leave the servers some of the processor
				} else {
					done.Add(1)
				}
			}
		})
	}
	for _, i := range []int{1, 2, 0} {
		target := done.Load() + 100
		until(t, "pairs", func() bool { return done.Load() > target })
		if err := c.Promote(t.Context(), c.Nodes()[i]); err != nil {
			t.Fatal(err)
		}
		for _, r := range []*Router{r, other} {
			until(t, "the router follows", func() bool { return r.Status()[i].Role == Primary })
		}
	}
	stop()
	wg.Wait()
	if stale.Load() > 0 {
		t.Errorf("%d reads of %d were stale", stale.Load(), done.Load())
	}
	t.Logf("%d pairs, %d failed during three switchovers", done.Load(), failed.Load())
}

// testFailover loses the primary. The connections to it must not be found
// again when it comes back as a replica.
func testFailover(t *testing.T, c *mariadb.Cluster, r *Router, rec *record) {
	upReplicas(t, r, 2)
	c.Nodes()[0].Kill()
	_, err := r.DB().ExecContext(t.Context(), "INSERT INTO u VALUES (7, 7)")
	if err == nil {
		t.Error("a dead primary took a write")
	}
	until(t, "the primary is gone", func() bool { return r.monitor.now.Load().primary == nil })
	if _, err := r.DB().ExecContext(t.Context(), "INSERT INTO u VALUES (7, 7)"); !errors.Is(err, ErrNoPrimary) {
		t.Errorf("a write without a primary: %v", err)
	}
	if err := r.DB().QueryRowContext(t.Context(), "SELECT COUNT(*) FROM u").Scan(new(int)); !errors.Is(err, ErrNoNode) {
		t.Errorf("a global read without a primary: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := r.Ready(ctx); !errors.Is(err, ErrNoPrimary) || !strings.Contains(err.Error(), "db1: down") || strings.Contains(err.Error(), c.Nodes()[0].AppConfig().Passwd) {
		t.Errorf("Ready: %v", err)
	}
	if err := c.Promote(t.Context(), c.Nodes()[1]); err != nil {
		t.Fatal(err)
	}
	until(t, "the router follows", func() bool { return r.Status()[1].Role == Primary })
	mustExec(t, r.DB(), "INSERT INTO u VALUES (8, 8)")
	if s := rec.last(t); s.Node != "db2" || s.Role != Primary {
		t.Errorf("%+v", s)
	}
	if n := one[int](t, r.DB(), "SELECT COUNT(*) FROM u WHERE id = 8"); n != 1 {
		t.Errorf("%d rows", n)
	}
	if err := c.Nodes()[0].Restart(t.Context()); err == nil {
		t.Error("the old primary replicates already")
	}
	if err := c.Nodes()[0].Rejoin(t.Context()); err != nil {
		t.Fatal(err)
	}
	upReplicas(t, r, 2)
}
