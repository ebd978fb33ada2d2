package dbrouter

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
)

// number is a database that holds one number.
type number struct{ n atomic.Int64 }

func (h *number) Handle(ctx context.Context, q mysqltest.Query) (mysqltest.Result, error) {
	switch {
	case strings.HasPrefix(q.SQL, "UPDATE"):
		h.n.Add(1)
		return mysqltest.Result{AffectedRows: 1}, nil
	case strings.HasPrefix(q.SQL, "SELECT SLEEP"), strings.HasPrefix(q.SQL, "DO SLEEP"):
		<-ctx.Done()
		return mysqltest.Result{}, ctx.Err()
	}
	return mysqltest.Result{Columns: mysqltest.Columns("n"), Rows: [][]any{{h.n.Load()}}}, nil
}

// pair is a primary and its replica in this process.
type pair struct {
	primary, replica *mysqltest.Server
	data             *number // of the primary
	changes          chan NodeChange
}

func newPair(t *testing.T) *pair { return newPairOf(t, "") }

// newPairOf returns a pair of a version.
func newPairOf(t *testing.T, version string) *pair {
	t.Helper()
	p := &pair{data: new(number), changes: make(chan NodeChange, 100)}
	start := func(c mysqltest.Config) *mysqltest.Server {
		c.Logger, c.Version = slog.New(slog.DiscardHandler), version
		s, err := mysqltest.New(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	p.primary = start(mysqltest.Config{Handler: p.data})
	p.replica = start(mysqltest.Config{Handler: new(number), Source: p.primary, ReadOnly: true})
	return p
}

func (p *pair) config() Config {
	return Config{
		Nodes:         []Node{{Name: "db1", Config: p.primary.Config()}, {Name: "db2", Config: p.replica.Config()}},
		CheckInterval: 20 * time.Millisecond,
		WaitLimit:     time.Second,
		OnStateChange: func(c NodeChange) { p.changes <- c },
	}
}

const (
	update = "UPDATE counter SET n = n + 1"
	query  = "SELECT n FROM counter"
)

func match(sql string) func(string) bool {
	return func(s string) bool { return s == sql }
}

// TestWriteIsNotRepeated: its connection is lost after it was done. Only the
// caller can know whether to do it again: golang/go #11978, go-sql-driver #302.
func TestWriteIsNotRepeated(t *testing.T) {
	p := newPair(t)
	r, rec := open(t, p.config())
	for i, f := range []mysqltest.Fault{{CutAfter: true}, {CutBefore: true}} {
		f.Match = match(update)
		defer p.primary.Inject(f)()
		before := p.data.n.Load()
		_, err := r.DB().ExecContext(t.Context(), update)
		if !errors.Is(err, mysql.ErrInvalidConn) {
			t.Errorf("%d: %v", i, err)
		}
		if got := p.data.n.Load() - before; got > 1 || f.CutBefore && got != 0 {
			t.Errorf("%d: done %d times", i, got)
		}
		if rec.last(t).Retried {
			t.Errorf("%+v", rec.last(t))
		}
	}
	mustExec(t, r.DB(), update)
	// In a transaction nothing is, and database/sql is not asked to either.
	tx, err := r.DB().BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.primary.Inject(mysqltest.Fault{Match: match(update), CutBefore: true})()
	before := p.data.n.Load()
	for range 3 {
		if _, err := tx.ExecContext(t.Context(), update); !errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("%v", err)
		}
	}
	if tx.Commit() == nil || p.data.n.Load() != before {
		t.Error("a lost transaction went on")
	}
}

// TestStaleConnection: the server closed an idle connection. Nothing was sent,
// so that even a write goes on, unnoticed by the caller.
func TestStaleConnection(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval = time.Hour
	r, _ := open(t, c)
	for range 3 {
		mustExec(t, r.DB(), update)
		p.primary.Kill()
		if err := p.primary.Restart(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReadIsRepeated: whatever happens to a replica, the caller gets rows.
func TestReadIsRepeated(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval = time.Hour
	r, rec := open(t, c)
	upReplicas(t, r, 1)
	mustExec(t, r.DB(), update)
	for _, f := range []mysqltest.Fault{
		{CutBefore: true},
		{CutAfter: true},
		{Err: &mysqltest.Error{Code: errReadOnlyTx, State: "25006", Message: "read only"}},
		{Err: &mysqltest.Error{Code: errReadOnlyServer, Message: "read only"}},
		{Err: &mysqltest.Error{Code: errShutdown, Message: "shutdown"}},
		{Err: &mysqltest.Error{Code: errOfflineMode, Message: "offline"}},
	} {
		text := query + " /* " + time.Now().String() + " */" // the router learns from a refusal
		f.Match = match(text)
		remove := p.replica.Inject(f)
		if got := one[int](t, r.DB(), text); got != 1 {
			t.Errorf("%+v: %d", f, got)
		}
		if s := rec.last(t); !s.Retried || s.Role != Primary || s.Err != nil {
			t.Errorf("%+v: %+v", f, s)
		}
		remove()
		upReplicas(t, r, 1)
	}
	// An error of the statement itself is not about the node.
	defer p.replica.Inject(mysqltest.Fault{Match: match(query), Err: &mysqltest.Error{Code: 1054, Message: "no such column"}})()
	var n int
	if err := r.DB().QueryRowContext(t.Context(), query).Scan(&n); serverError(err) != 1054 || rec.last(t).Retried {
		t.Errorf("%v, %+v", err, rec.last(t))
	}
}

// TestTwoWritable: the router goes on with the primary it knows, and never
// starts with a guess.
func TestTwoWritable(t *testing.T) {
	p := newPair(t)
	r, rec := open(t, p.config())
	upReplicas(t, r, 1)
	p.replica.SetReadOnly(false)
	until(t, "the conflict is seen", func() bool { return r.Status()[1].State == Conflict })
	for range 10 {
		mustExec(t, r.DB(), update)
		if one[int](t, r.DB(), query); rec.last(t).Node != "db1" {
			t.Errorf("%+v", rec.last(t))
		}
	}
	fresh, _ := newRouter(t, p.config())
	until(t, "both are looked at", func() bool { return fresh.Status()[0].State == Conflict && fresh.Status()[1].State == Conflict })
	if _, err := fresh.DB().ExecContext(t.Context(), update); !errors.Is(err, ErrNoPrimary) || !strings.Contains(err.Error(), "db1, db2") {
		t.Errorf("%v", err)
	}
	p.primary.SetReadOnly(true)
	for _, r := range []*Router{r, fresh} {
		until(t, "the other is the primary", func() bool { return r.Status()[1].Role == Primary })
	}
}

// TestDemotion: the first answer that tells of it makes the router look, and
// connections of the old role are closed (AMD-AGI/Primus-SaFE #717).
func TestDemotion(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval = time.Hour // only looks that are asked for
	r, _ := open(t, c)
	mustExec(t, r.DB(), update)
	conn, err := r.DB().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustExec(t, conn, "SET @x = 1")
	if n := r.Status()[0].Connections; n == 0 {
		t.Error("no connection to the primary")
	}
	p.primary.SetReadOnly(true)
	if _, err := r.DB().ExecContext(t.Context(), update); serverError(err) != errReadOnlyServer {
		t.Errorf("%v", err)
	}
	var change NodeChange
	for change.Node != "db1" || change.OldRole == RoleUnknown { // those before are of the start
		change = <-p.changes
	}
	if change.OldRole != Primary || change.Role != Replica {
		t.Errorf("%v", change)
	}
	until(t, "idle connections are closed", func() bool { return r.Status()[0].Connections == 1 }) // the pinned one
	if _, err := conn.ExecContext(t.Context(), update); err == nil {
		t.Error("a pinned session went on at a demoted node")
	}
	until(t, "that one too", func() bool { return r.Status()[0].Connections == 0 })
}

// TestGlobalAsksThePrimary: a reader that knows an old primary must not take
// its word. The router looks only when it is made to.
func TestGlobalAsksThePrimary(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval = time.Hour
	r, _ := open(t, c)
	upReplicas(t, r, 1)
	mustExec(t, r.DB(), update)
	if got := one[int](t, r.DB(), query); got != 1 {
		t.Fatal(got)
	}
	// The replica is of no use any more, so that the primary does the reads.
	p.replica.StopIO()
	r.nodes()[1].lookNow()
	upReplicas(t, r, 0)
	if got := one[int](t, r.DB(), query); got != 1 {
		t.Fatal(got)
	}
	// A switchover behind the router's back, and a write to the new primary.
	p.primary.SetReadOnly(true)
	p.replica.SetReadOnly(false)
	direct, _ := open(t, Config{Nodes: []Node{{Config: p.replica.Config()}}})
	mustExec(t, direct.DB(), update)
	var n int
	until(t, "the read follows", func() bool {
		err := r.DB().QueryRowContext(t.Context(), query).Scan(&n)
		if err == nil && n != 2 {
			t.Fatalf("a stale read: %d", n)
		}
		r.nodes()[1].lookNow()
		return err == nil
	})
}

// TestReadersShareAQuestion: readers that come while a question is on its way
// share the next one.
func TestReadersShareAQuestion(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval = time.Hour
	r, _ := open(t, c)
	upReplicas(t, r, 1)
	mustExec(t, r.DB(), update)
	question := mariaDB.position()
	count := func() (n int) {
		for _, q := range p.primary.Queries() {
			if q == question {
				n++
			}
		}
		return n
	}
	one[int](t, r.DB(), query)
	before := count()
	defer p.primary.Inject(mysqltest.Fault{Match: match(question), Delay: 500 * time.Millisecond, Times: 2})()
	const readers = 40
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			var n int
			if err := r.DB().QueryRowContext(t.Context(), query).Scan(&n); err != nil || n != 1 {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
	wg.Wait()
	if n := count() - before; n < 1 || n > 5 {
		t.Errorf("%d readers asked %d questions, want 2 or a few more", readers, n)
	}
}

// TestNoEarlierAnswer: the answer to a question that was on its way already may be
// older than a write acknowledged before the read.
func TestNoEarlierAnswer(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval = time.Hour
	r, _ := open(t, c)
	upReplicas(t, r, 1)
	one[int](t, r.DB(), query)
	before := p.asked()
	defer p.primary.Inject(mysqltest.Fault{Match: match(mariaDB.position()), Delay: 500 * time.Millisecond})()
	done := make(chan error, 1)
	go func() { done <- r.DB().QueryRowContext(t.Context(), query).Scan(new(int)) }()
	until(t, "the question is on its way", func() bool { return p.asked() > before })
	one[int](t, r.DB(), query)
	if n := p.asked() - before; n != 2 {
		t.Errorf("%d questions, want 2: the second read has taken the answer to the first one's", n)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestQuestionThatFails: the primary is looked at then, and asked again.
func TestQuestionThatFails(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval = time.Hour
	r, _ := open(t, c)
	upReplicas(t, r, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, times := range []int{1, positionTries - 1} {
		remove := p.primary.Inject(mysqltest.Fault{Match: match(mariaDB.position()), Err: &mysqltest.Error{Message: "not now"}, Times: times})
		oneIn[int](t, ctx, r.DB(), query)
		remove()
	}
	defer p.primary.Inject(mysqltest.Fault{Match: match(mariaDB.position()), Err: &mysqltest.Error{Message: "not now"}, Times: -1})()
	if err := r.DB().QueryRowContext(ctx, query).Scan(new(int)); serverError(err) != 1105 {
		t.Errorf("%v", err)
	}
}

// TestMySQLWithoutGTIDs: nothing proves what a replica has applied, so that no
// replica is read from.
func TestMySQLWithoutGTIDs(t *testing.T) {
	s, err := mysqltest.New(mysqltest.Config{Handler: new(number), Version: "8.0.36", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	copied, err := mysqltest.New(mysqltest.Config{Handler: new(number), Version: "8.0.36", Source: s, ReadOnly: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	for _, s := range []*mysqltest.Server{s, copied} {
		db, err := sql.Open("mysql", s.DSN())
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		mustExec(t, db, "SET GLOBAL gtid_mode=OFF")
	}
	nodes := []Node{{Name: "db1", Config: s.Config()}, {Name: "db2", Config: copied.Config()}}
	r, rec := open(t, Config{Nodes: nodes})
	upReplicas(t, r, 1)
	if one[int](t, r.DB(), query); rec.last(t).Role != Primary || rec.last(t).Reason != "the primary records no GTIDs" {
		t.Errorf("%+v", rec.last(t))
	}
	r, rec = open(t, Config{Nodes: nodes, Consistency: Eventual})
	upReplicas(t, r, 1)
	if one[int](t, r.DB(), query); rec.last(t).Role != Replica {
		t.Errorf("%+v", rec.last(t))
	}
}

// TestMySQLGTIDs: sessions and Global with MySQL's GTIDs, the reports of writes
// included.
func TestMySQLGTIDs(t *testing.T) {
	p := newPairOf(t, "8.4.0")
	for _, consistency := range []Consistency{Global, PerSession} {
		conf := p.config()
		conf.Consistency, conf.OnStateChange = consistency, nil
		r, rec := open(t, conf)
		upReplicas(t, r, 1)
		p.replica.SetLag(30 * time.Millisecond)
		ctx, s := r.NewSession(t.Context())
		before := oneIn[int](t, ctx, r.DB(), query)
		for i := range 5 {
			mustExecIn(t, ctx, r.DB(), update)
			if at, sure := s.known(); !sure || at.dialect != mySQL || at.text == "" {
				t.Errorf("the write was not reported: %+v, %v", at, sure)
			}
			if n := oneIn[int](t, ctx, r.DB(), query); n != before+i+1 || rec.last(t).Role != Replica {
				t.Errorf("%v: %d, want %d, %+v", consistency, n, before+i+1, rec.last(t))
			}
		}
	}
}

// TestEventualWithoutPrimary: Eventual needs no primary for reads.
func TestEventualWithoutPrimary(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.Consistency = Eventual
	r, rec := open(t, c)
	upReplicas(t, r, 1)
	p.primary.SetReadOnly(true)
	until(t, "there is no primary", func() bool { return r.monitor.now.Load().primary == nil })
	if one[int](t, r.DB(), query); rec.last(t).Node != "db2" {
		t.Errorf("%+v", rec.last(t))
	}
}

// TestBusyReplica: a session that holds the connection of the primary must not
// wait for one of the replica, whose holder may be waiting for the primary's.
func TestBusyReplica(t *testing.T) {
	p := newPair(t)
	c := p.config()
	for i := range c.Nodes {
		c.Nodes[i].MaxConns = 1
	}
	r, rec := open(t, c)
	upReplicas(t, r, 1)
	a, err := r.DB().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	mustExec(t, a, update)
	rows, err := r.DB().QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := a.QueryRowContext(ctx, query).Scan(new(int)); err != nil || rec.last(t).Reason != replicaBusy {
		t.Errorf("%v, %+v", err, rec.last(t))
	}
}

// TestBusyPrimary: a session that waits for the primary's connection does not
// hold the replica's meanwhile.
func TestBusyPrimary(t *testing.T) {
	p := newPair(t)
	c := p.config()
	for i := range c.Nodes {
		c.Nodes[i].MaxConns = 1
	}
	r, _ := open(t, c)
	upReplicas(t, r, 1)
	a, err := r.DB().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	one[int](t, a, query)
	rows, err := r.DB().QueryContext(WithPrimary(t.Context()), query)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	waiting := make(chan error, 1)
	go func() {
		_, err := a.ExecContext(ctx, update)
		waiting <- err
	}()
	if err := r.DB().QueryRowContext(ctx, query).Scan(new(int)); err != nil {
		t.Errorf("the replica is held by one who waits: %v", err)
	}
	rows.Close()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
}

// TestNoDeadlockBetweenPools: sessions that hold a connection of one role never wait for one
// of the other, or two of them could wait for ever.
func TestNoDeadlockBetweenPools(t *testing.T) {
	p := newPair(t)
	c := p.config()
	for i := range c.Nodes {
		c.Nodes[i].MaxConns = 1
	}
	r, _ := open(t, c)
	upReplicas(t, r, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				conn, err := r.DB().Conn(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				for k := range 4 {
					if (i+j+k)%2 == 0 {
						_, err = conn.ExecContext(ctx, update)
					} else {
						err = conn.QueryRowContext(ctx, query).Scan(new(int))
					}
					if err != nil {
						t.Error(err)
					}
				}
				conn.Close()
			}
		})
	}
	wg.Wait()
	if n := r.nodes()[0].pool.busy() + r.nodes()[1].pool.busy(); n != 0 {
		t.Errorf("%d connections were not given back", n)
	}
}
