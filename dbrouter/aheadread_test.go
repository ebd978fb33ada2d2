package dbrouter

import (
	"bytes"
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

// waitWords are in every statement that waits, and in no other.
const waitWords = "SELECT MASTER_GTID_WAIT("

// isReadsWait says whether a statement is the wait of a read, with this end, and not
// that of a look at the replica, which has less patience or more.
func isReadsWait(sql, end string) bool {
	return strings.HasPrefix(sql, waitWords) && strings.HasSuffix(sql, end)
}

// countWaits counts the waits of reads.
func countWaits(s *mysqltest.Server) (n int) {
	for _, q := range s.Queries() {
		if isReadsWait(q, ", 1.000)") {
			n++
		}
	}
	return n
}

// wired counts what a router sends to a node.
type wired struct {
	dialed atomic.Int32
	// alone and ahead are the waits that were sent by themselves, and with another
	// command behind them.
	alone, ahead atomic.Int32
}

func (w *wired) counts() string {
	return fmt.Sprintf("%d connections, %d waits alone, %d ahead", w.dialed.Load(), w.alone.Load(), w.ahead.Load())
}

// watch counts on the connections of a driver's configuration.
func (w *wired) watch(conf *mysql.Config) {
	conf.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		w.dialed.Add(1)
		return wiredConn{nc, w}, nil
	}
}

type wiredConn struct {
	net.Conn
	w *wired
}

func (c wiredConn) Write(b []byte) (int, error) {
	if at := bytes.Index(b, []byte(waitWords)); at == 5 {
		size := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
		switch {
		case len(b) > 4+size:
			c.w.ahead.Add(1)
		case isReadsWait(string(b[5:]), ", 1.000)"):
			c.w.alone.Add(1)
		}
	}
	return c.Conn.Write(b)
}

// wiredPair is a router per session over a pair, and what it sends to the replica.
func wiredPair(t *testing.T, conf func(*Config)) (*pair, *Router, *record, *wired) {
	t.Helper()
	p, w := newPair(t), new(wired)
	c := p.perSession()
	w.watch(c.Nodes[1].Config)
	if conf != nil {
		conf(&c)
	}
	r, rec := open(t, c)
	upReplicas(t, r, 1)
	one[int](t, r.DB(), query) // so that there is a connection
	return p, r, rec, w
}

// TestReadsWaitAhead: a read of what its session has just written costs the replica
// one write of the client's, and no connection, in whatever way it is done.
func TestReadsWaitAhead(t *testing.T) {
	p, r, rec, w := wiredPair(t, nil)
	p.replica.SetLag(5 * time.Millisecond)
	dialed, ahead, alone := w.dialed.Load(), w.ahead.Load(), w.alone.Load()
	written := 0
	for name, read := range map[string]func(context.Context) (int, error){
		"text": func(ctx context.Context) (n int, err error) {
			return n, r.DB().QueryRowContext(ctx, query).Scan(&n)
		},
		"arguments": func(ctx context.Context) (n int, err error) {
			return n, r.DB().QueryRowContext(ctx, query+" WHERE n <> ?", -1).Scan(&n)
		},
		"a transaction": func(ctx context.Context) (n int, err error) {
			tx, err := r.DB().BeginTx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
			if err != nil {
				return 0, err
			}
			err = tx.QueryRowContext(ctx, query).Scan(&n)
			return n, errors.Join(err, tx.Commit())
		},
		"a context that ends": func(ctx context.Context) (n int, err error) {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return n, r.DB().QueryRowContext(ctx, query).Scan(&n)
		},
	} {
		for range 3 { // what is prepared the first time is there the next
			ctx, _ := r.NewSession(t.Context())
			mustExecIn(t, ctx, r.DB(), update)
			written++
			if n, err := read(ctx); err != nil || n != written {
				t.Errorf("%s: %d, %v, want %d", name, n, err, written)
			}
			if last := rec.last(t); last.Role != Replica || last.Retried {
				t.Errorf("%s: %+v", name, last)
			}
			if ahead++; w.dialed.Load() != dialed || w.alone.Load() != alone || w.ahead.Load() != ahead {
				t.Errorf("%s: %s; want %d, %d, %d", name, w.counts(), dialed, alone, ahead)
			}
		}
	}
	// An argument that cannot be sent: there is nothing for the wait to go with.
	ctx, _ := r.NewSession(t.Context())
	mustExecIn(t, ctx, r.DB(), update)
	if _, err := r.DB().QueryContext(ctx, query+" WHERE n <> ?", make(chan int)); err == nil {
		t.Error("a channel was sent")
	}
	if n := oneIn[int](t, ctx, r.DB(), query); n != written+1 || w.ahead.Load() != ahead+1 || r.nodes()[1].waits.alone.Load() {
		t.Errorf("%d, want %d; %s", n, written+1, w.counts())
	}
}

// TestWaitAheadFails: whatever is wrong with the wait, the read sees what it must,
// elsewhere.
func TestWaitAheadFails(t *testing.T) {
	waits := func(sql string) bool { return isReadsWait(sql, ", 0.020)") } // WaitLimit
	for _, c := range []struct {
		name    string
		fault   mysqltest.Fault
		reason  string
		retried bool
		again   bool // the next wait goes ahead, too
	}{
		{name: "behind", reason: tooFarBehind},
		{name: "late", fault: mysqltest.Fault{Delay: time.Minute}, reason: tooFarBehind},
		{name: "refused", fault: mysqltest.Fault{Err: &mysqltest.Error{Code: 1305, Message: "no"}}, reason: "no usable replica", retried: true},
		{name: "killed", fault: mysqltest.Fault{Err: &mysqltest.Error{Code: 1317, Message: "killed"}}, reason: "no usable replica", retried: true},
		{name: "cut before", fault: mysqltest.Fault{CutBefore: true}, reason: "no usable replica", retried: true, again: true},
		{name: "cut after", fault: mysqltest.Fault{CutAfter: true}, reason: "no usable replica", retried: true, again: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, r, rec, w := wiredPair(t, func(c *Config) { c.WaitLimit = 20 * time.Millisecond })
			p.replica.SetLag(time.Hour)
			if c.name != "behind" {
				c.fault.Match = waits
				defer p.replica.Inject(c.fault)()
			}
			ctx, _ := r.NewSession(t.Context())
			mustExecIn(t, ctx, r.DB(), update)
			for i := range 2 {
				if n := oneIn[int](t, ctx, r.DB(), query); n != 1 || w.ahead.Load() != 1+boolInt(c.again)*int32(i) {
					t.Errorf("read %d, want 1; %s", n, w.counts())
				}
				if last := rec.last(t); i == 0 && (last.Reason != c.reason || last.Retried != c.retried || last.Node != "db1") {
					t.Errorf("%+v, want %q, retried %v", last, c.reason, c.retried)
				}
			}
			// What was sent behind a wait that the server has answered ends there, too.
			if kills := 1 - int(boolInt(c.again)); kills > 0 {
				until(t, "the connection is ended", func() bool { return countPrefix(p.replica, "KILL CONNECTION ") == kills })
			}
			// A replica that has caught up is as good as any.
			p.replica.SetLag(0)
			before := w.ahead.Load()
			until(t, "waits go ahead again", func() bool {
				ctx, _ := r.NewSession(t.Context())
				mustExecIn(t, ctx, r.DB(), update)
				if n := oneIn[int64](t, ctx, r.DB(), query); n != p.data.n.Load() {
					t.Errorf("read %d, want %d", n, p.data.n.Load())
				}
				return w.ahead.Load() > before
			})
		})
	}
}

func boolInt(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// TestCancelWaitAhead: who goes away while the replica waits takes the read along,
// which has been sent, and is told of that, not of the replica.
func TestCancelWaitAhead(t *testing.T) {
	p, r, rec, w := wiredPair(t, nil)
	p.replica.SetLag(time.Hour)
	ctx, _ := r.NewSession(t.Context())
	mustExecIn(t, ctx, r.DB(), update)
	for _, bounded := range []bool{false, true} {
		before, waits := w.ahead.Load(), countWaits(p.replica)
		ctx, cancel := context.WithCancel(ctx)
		if bounded {
			ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
		} else {
			go func() {
				defer cancel()
				for ctx.Err() == nil && countWaits(p.replica) == waits {
					time.Sleep(time.Millisecond)
				}
			}()
		}
		reads := countPrefix(p.replica, "SELECT 7")
		_, err := r.DB().QueryContext(ctx, "SELECT 7")
		cancel()
		if !errors.Is(err, ctx.Err()) || rec.last(t).Retried {
			t.Errorf("%v, %+v", err, rec.last(t))
		}
		if w.ahead.Load() != before+1 {
			t.Fatalf("no wait went ahead: %s", w.counts())
		}
		until(t, "the connection is ended", func() bool { return countPrefix(p.replica, "KILL CONNECTION ") == int(before)+1 })
		until(t, "the server has ended it", func() bool { return p.replica.Connections() <= 2 })
		if n := countPrefix(p.replica, "SELECT 7"); n != reads {
			t.Errorf("the read was done for nobody, %d times", n-reads)
		}
		if f := r.nodes()[1].failures.Load(); f != 0 || r.nodes()[1].waits.alone.Load() {
			t.Errorf("%d failures of the replica; the lead is taken: %v", f, r.nodes()[1].waits.alone.Load())
		}
	}
	p.replica.SetLag(0)
	if n := oneIn[int](t, ctx, r.DB(), query); n != 1 {
		t.Errorf("afterwards %d", n)
	}
}

func countPrefix(s *mysqltest.Server, prefix string) (n int) {
	for _, q := range s.Queries() {
		if strings.HasPrefix(q, prefix) {
			n++
		}
	}
	return n
}

// TestWaitsAreShared: many reads that need the same position wait together, and
// are done when the wait is, not when the read that it was sent with is.
func TestWaitsAreShared(t *testing.T) {
	p, r, rec, w := wiredPair(t, nil)
	p.replica.SetLag(100 * time.Millisecond)
	defer p.replica.Inject(mysqltest.Fault{Match: match("SELECT 7"), Delay: time.Minute})()
	ctx, _ := r.NewSession(t.Context())
	mustExecIn(t, ctx, r.DB(), update)
	slow, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := r.DB().QueryContext(slow, "SELECT 7"); !errors.Is(err, context.Canceled) {
			t.Errorf("the slow read: %v", err)
		}
	})
	until(t, "it waits", func() bool { return w.ahead.Load() == 1 })
	var quick sync.WaitGroup
	for range 20 {
		quick.Go(func() {
			var n int
			if err := r.DB().QueryRowContext(ctx, query).Scan(&n); err != nil || n != 1 {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
	quick.Wait()
	if n := countWaits(p.replica); n > 6 {
		t.Errorf("%d waits for 21 reads", n)
	}
	if n, all := rec.onReplica(); n < 21 {
		t.Errorf("%d of %d statements were done by the replica", n, all)
	}
	cancel()
	wg.Wait()
}

// TestWaitAheadOnRealServers: they take a second command before the first one is
// answered, encrypted or not, whatever kind of threads they have.
func TestWaitAheadOnRealServers(t *testing.T) {
	for _, threads := range []string{"one-thread-per-connection", "pool-of-threads"} {
		t.Run(threads, func(t *testing.T) {
			c, ca := secureCluster(t, 1, "--thread-handling="+threads)
			for _, secure := range []bool{false, true} {
				conf, w := Config{Nodes: nodes(c), Consistency: PerSession, WaitLimit: 10 * time.Second}, new(wired)
				for _, n := range conf.Nodes {
					if secure {
						n.Config.TLS = &tls.Config{RootCAs: ca.Pool()}
					}
				}
				w.watch(conf.Nodes[1].Config)
				r, rec := open(t, conf)
				upReplicas(t, r, 1)
				testWaitAhead(t, c, r, rec)
				if secure != (w.ahead.Load() == 0) {
					t.Errorf("TLS %v: %s", secure, w.counts())
				}
			}
		})
	}
}

func testWaitAhead(t *testing.T, c *mariadb.Cluster, r *Router, rec *record) {
	mustExec(t, r.DB(), "CREATE OR REPLACE TABLE ahead (id BIGINT AUTO_INCREMENT PRIMARY KEY, v INT)")
	before, all := rec.onReplica()
	one[int](t, r.DB(), "SELECT COUNT(*) FROM ahead")
	for i := range 100 {
		if i == 50 {
			// A replica that applies nothing for a while: the wait is not over at once.
			locked, done := make(chan struct{}), make(chan error)
			go func() { done <- lockFor(t.Context(), c.Nodes()[1].AdminConfig(), 200*time.Millisecond, locked) }()
			<-locked
			defer func() {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
		}
		ctx, _ := r.NewSession(t.Context())
		result, err := r.DB().ExecContext(ctx, "INSERT INTO ahead (v) VALUES (?)", i)
		if err != nil {
			t.Fatal(err)
		}
		id, _ := result.LastInsertId()
		var v int
		if i%2 == 0 {
			err = r.DB().QueryRowContext(ctx, "SELECT v FROM ahead WHERE id = ?", id).Scan(&v)
		} else {
			err = r.DB().QueryRowContext(ctx, fmt.Sprint("SELECT v FROM ahead WHERE id = ", id)).Scan(&v)
		}
		if err != nil || v != i {
			t.Errorf("%d: %d, %v", i, v, err)
		}
	}
	if n, now := rec.onReplica(); n-before < 95 {
		t.Errorf("%d of %d statements were done by the replica", n-before, now-all)
	}
	if n := r.nodes()[1]; n.waits.apart.Load() != together || !framed(n) {
		t.Errorf("waits do not go ahead: %d", n.waits.apart.Load())
	}
}

// lockFor locks the table for a while.
func lockFor(ctx context.Context, admin *mysql.Config, d time.Duration, locked chan<- struct{}) error {
	defer close(locked)
	connector, err := mysql.NewConnector(admin)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "LOCK TABLES ahead READ"); err != nil {
		return err
	}
	locked <- struct{}{}
	_, err = conn.ExecContext(ctx, "DO SLEEP("+strconv.FormatFloat(d.Seconds(), 'f', 3, 64)+")")
	return err
}

// framed says whether waits may go ahead on all idle connections to a node.
func framed(n *node) bool {
	n.pool.cool()
	n.pool.mu.Lock()
	defer n.pool.mu.Unlock()
	for _, p := range n.pool.idle {
		if p.track == nil || !p.track.framed || p.track.out != 0 {
			return false
		}
	}
	return len(n.pool.idle) > 0
}
