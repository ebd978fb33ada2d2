package dbrouter

import (
	"context"
	"database/sql/driver"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

// load runs workers until stop is called, which waits for them.
func load(t *testing.T, workers int, f func(ctx context.Context, worker, turn int)) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for turn := 0; ctx.Err() == nil; turn++ {
				f(t.Context(), i, turn)
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// TestOperatorSwitchover moves the primary under 32 workers, who must not notice.
func TestOperatorSwitchover(t *testing.T) {
	c := cluster(t, 2)
	r, _ := open(t, Config{Nodes: nodes(c), WaitLimit: time.Second, BufferWait: 30 * time.Second})
	upReplicas(t, r, 2)
	j := newJournal(t, r)
	stop := load(t, 32, func(ctx context.Context, worker, turn int) {
		id, err := j.write(ctx, (worker+turn)%byTransaction)
		if err != nil {
			t.Errorf("write: %v", err)
			return
		}
		var n int
		if err := r.DB().QueryRowContext(ctx, fmt.Sprintf("SELECT COUNT(*) FROM journal WHERE id = %d", id)).Scan(&n); err != nil {
			t.Errorf("read: %v", err)
		} else if n != 1 {
			t.Errorf("row %d is there %d times", id, n)
		}
	})
	for _, i := range []int{1, 2, 0} {
		target := j.good.Load() + 200
		until(t, "writes", func() bool { return j.good.Load() > target || t.Failed() })
		if t.Failed() {
			break
		}
		if err := c.Promote(t.Context(), c.Nodes()[i]); err != nil {
			t.Fatal(err)
		}
	}
	target := j.good.Load() + 200
	until(t, "writes after the last switchover", func() bool { return j.good.Load() > target || t.Failed() })
	stop()
	j.compare(t, c.Nodes()[0])
}

// semiSync has a write acknowledged only once a replica has it, if there is one.
var semiSync = []string{
	"--rpl-semi-sync-master-enabled=1", "--rpl-semi-sync-slave-enabled=1",
	"--rpl-semi-sync-master-wait-point=AFTER_SYNC", "--rpl-semi-sync-master-timeout=60000",
	"--rpl-semi-sync-master-wait-no-slave=0",
}

// TestKilledPrimary loses the primary under load and has the test promote the
// replica that has received the most: what was acknowledged must be there, and
// what was said of the failed writes must be true.
func TestKilledPrimary(t *testing.T) {
	for _, wait := range []time.Duration{0, 30 * time.Second} {
		t.Run(fmt.Sprintf("BufferWait %v", wait), func(t *testing.T) {
			if d := killPrimary(t, wait); d > 10*time.Second {
				t.Errorf("the first write came %v after the new primary was writable", d)
			}
		})
	}
}

// killPrimary returns how long after the new primary has become writable the
// first write was acknowledged.
func killPrimary(t *testing.T, wait time.Duration) time.Duration {
	c := clusterWith(t, mariadb.Config{Replicas: 2, Flags: semiSync})
	r, _ := open(t, Config{Nodes: nodes(c), WaitLimit: time.Second, BufferWait: wait})
	upReplicas(t, r, 2)
	j := newJournal(t, r)
	stop := load(t, 16, func(ctx context.Context, worker, turn int) {
		if _, err := j.write(ctx, (worker+turn)%journalWays); err != nil && wait == 0 {
			time.Sleep(time.Millisecond) // leave the servers some of the processor
		}
	})
	until(t, "writes", func() bool { return j.good.Load() > 300 })
	c.Nodes()[0].Kill()
	next := furthest(t, c)
	j.mark()
	var since time.Time
	var look sync.WaitGroup
	look.Go(func() {
		var err error
		if since, err = whenWritable(t.Context(), next); err != nil {
			t.Error(err)
		}
	})
	err := c.Promote(t.Context(), next)
	look.Wait()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "a write", func() bool { return !j.firstSince().IsZero() })
	target := j.good.Load() + 100
	until(t, "writes", func() bool { return j.good.Load() > target })
	stop()
	j.compare(t, next)
	return j.firstSince().Sub(since)
}

// furthest returns the replica that has received the most.
func furthest(t *testing.T, c *mariadb.Cluster) *mariadb.Node {
	t.Helper()
	var best *mariadb.Node
	most := ""
	for _, n := range c.Nodes()[1:] {
		has, err := received(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		if best == nil || covers(has, most) {
			best, most = n, has
		}
	}
	return best
}

// received returns what a replica has received, whatever of it has been applied.
func received(ctx context.Context, n *mariadb.Node) (position string, err error) {
	err = onServer(ctx, n, func(conn driver.Conn) error {
		rows, err := ask(ctx, conn, "SHOW SLAVE STATUS")
		if err == nil && len(rows) != 1 {
			err = fmt.Errorf("%d rows", len(rows))
		}
		if err == nil {
			position, _ = rows[0].get("Gtid_IO_Pos")
		}
		return err
	})
	return position, err
}

// whenWritable returns when a node has become writable.
func whenWritable(ctx context.Context, n *mariadb.Node) (when time.Time, err error) {
	err = onServer(ctx, n, func(conn driver.Conn) error {
		for {
			answer, err := askOne(ctx, conn, "SELECT @@global.read_only", 1)
			when = time.Now()
			if err != nil || answer[0] == "0" {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	})
	return when, err
}

// onServer runs f on a connection of the driver's, without a router.
func onServer(ctx context.Context, n *mariadb.Node, f func(driver.Conn) error) error {
	connector, err := mysql.NewConnector(n.AdminConfig())
	if err != nil {
		return err
	}
	conn, err := connector.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(conn)
}
