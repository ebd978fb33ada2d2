package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// scripted is a counted connection that keeps what it is asked to do.
type scripted struct {
	counted
	done   []string
	refuse error // what ExecContext returns
	stale  bool  // the server has closed it
	broken bool  // the driver knows it to be of no use
}

func (s *scripted) IsValid() bool { return !s.broken }

func (s *scripted) ExecContext(_ context.Context, query string, _ []driver.NamedValue) (driver.Result, error) {
	s.done = append(s.done, query)
	return driver.RowsAffected(0), s.refuse
}

func (s *scripted) ResetSession(context.Context) error {
	if s.stale {
		return driver.ErrBadConn
	}
	return nil
}

// TestPoolPrunes: what has lain idle for the time is closed, and nothing else.
func TestPoolPrunes(t *testing.T) {
	l, open := countedPool(t, 3)
	a, err1 := l.acquire(t.Context(), false, false, true)
	b, err2 := l.acquire(t.Context(), false, false, true)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	l.release(a)
	l.release(b)
	l.prune(time.Minute)
	if open.Load() != 2 {
		t.Fatalf("%d are open, want 2", open.Load())
	}
	a.idleSince -= int64(time.Hour)
	l.prune(time.Minute)
	if open.Load() != 1 || !a.conn.(*counted).closed.Load() {
		t.Errorf("%d are open, the one idle for an hour closed: %v", open.Load(), a.conn.(*counted).closed.Load())
	}
	// Whatever is used is not idle since its use before.
	b.idleSince -= int64(time.Hour)
	if p, err := l.acquire(t.Context(), false, false, true); err != nil || p != b {
		t.Fatal(p, err)
	}
	l.release(b)
	l.prune(time.Minute)
	if open.Load() != 1 {
		t.Errorf("%d are open, want 1", open.Load())
	}
	// What comes back after Close is closed.
	if b, err2 = l.acquire(t.Context(), false, false, true); err2 != nil {
		t.Fatal(err2)
	}
	l.close()
	l.release(b)
	if open.Load() != 0 || l.connections() != 0 {
		t.Errorf("%d are open after Close, %d known", open.Load(), l.connections())
	}
}

// TestPoolServesInOrder: who has waited longest is next, and who gives up leaves
// nothing behind.
func TestPoolServesInOrder(t *testing.T) {
	l, _ := countedPool(t, 1)
	done := make(chan struct{})
	l.done = done
	p, err := l.acquire(t.Context(), false, false, true)
	if err != nil {
		t.Fatal(err)
	}
	order := make(chan int, 3)
	wait := func(i int, ctx context.Context) {
		go func() {
			q, err := l.acquire(ctx, false, false, true)
			if err != nil {
				order <- -i
				return
			}
			order <- i
			l.release(q)
		}()
	}
	wait(1, t.Context())
	until(t, "one waits", func() bool { return l.queued.Load() == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	wait(2, ctx)
	until(t, "two wait", func() bool { return l.queued.Load() == 2 })
	wait(3, t.Context())
	until(t, "three wait", func() bool { return l.queued.Load() == 3 })
	cancel()
	if i := <-order; i != -2 || l.queued.Load() != 2 {
		t.Errorf("%d has given up, %d wait", i, l.queued.Load())
	}
	l.release(p)
	if a, b := <-order, <-order; a != 1 || b != 3 {
		t.Errorf("first %d, then %d", a, b)
	}
	until(t, "nobody has one", func() bool { return l.busy() == 0 })
	if p, err = l.acquire(t.Context(), false, false, true); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := l.acquire(context.WithoutCancel(t.Context()), false, false, true)
		failed <- err
	}()
	until(t, "one waits", func() bool { return l.queued.Load() == 1 })
	close(done)
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	l.discard(p)
}

// TestPoolConnects: a connection that cannot be made takes no place, and one for
// reads refuses writes before it is lent.
func TestPoolConnects(t *testing.T) {
	l, open := countedPool(t, 1)
	broken := errors.New("no route")
	connect := l.open
	l.open = func(context.Context) (driver.Conn, *tracker, error) { return nil, nil, broken }
	for range 3 {
		_, err := l.acquire(t.Context(), false, false, false)
		if e, ok := errors.AsType[*NodeError](err); !ok || e.Node != "db1" || !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
		if l.used.Load() != 0 || len(l.node.check) != 1 {
			t.Errorf("%d places are taken, %d looks are asked for", l.used.Load(), len(l.node.check))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	l.open = func(context.Context) (driver.Conn, *tracker, error) { cancel(); return nil, nil, broken }
	if _, err := l.acquire(ctx, false, false, true); err != context.Canceled {
		t.Errorf("a caller's cancellation: %v", err)
	}
	var made []*scripted
	var refuse error
	l.open = func(ctx context.Context) (driver.Conn, *tracker, error) {
		_, _, err := connect(ctx)
		s := &scripted{refuse: refuse}
		s.counted.open = open
		made = append(made, s)
		return s, nil, err
	}
	refuse = errors.New("no")
	if p, err := l.acquire(t.Context(), true, false, true); err == nil || open.Load() != 0 || l.used.Load() != 0 || l.connections() != 0 {
		t.Errorf("lent without its safety net: %v, %d open, %d places, %v", p, open.Load(), l.used.Load(), err)
	}
	refuse = nil
	p, err := l.acquire(t.Context(), true, false, true)
	if err != nil || !p.readOnly || !slices.Equal(made[1].done, []string{"SET SESSION TRANSACTION READ ONLY"}) {
		t.Fatalf("%v, asked to %q", err, made[1].done)
	}
	l.release(p)
	// It is of no use for a write.
	q, err := l.acquire(t.Context(), false, false, true)
	if err != nil || q == p || q.readOnly || open.Load() != 1 || len(made[2].done) != 0 {
		t.Fatalf("for a write: the same %v, %d open, asked to %q, %v", q == p, open.Load(), made[2].done, err)
	}
	l.release(q)
	made[2].stale = true
	if p, err = l.acquire(t.Context(), false, false, true); err != nil || p == q || open.Load() != 1 {
		t.Errorf("one that the server has closed: the same %v, %d open, %v", p == q, open.Load(), err)
	}
	l.release(p)
	made[3].broken = true
	if q, err = l.acquire(t.Context(), false, false, true); err != nil || p == q || open.Load() != 1 {
		t.Errorf("one that is broken: the same %v, %d open, %v", p == q, open.Load(), err)
	}
	l.discard(q)
	l.open = func(ctx context.Context) (driver.Conn, *tracker, error) { l.close(); return connect(ctx) }
	_, err = l.acquire(t.Context(), false, false, true)
	if _, is := errors.AsType[*NodeError](err); is || !errors.Is(err, ErrClosed) || open.Load() != 0 {
		t.Errorf("closed meanwhile: %v, %d open", err, open.Load())
	}
	l.open = func(context.Context) (driver.Conn, *tracker, error) {
		t.Error("it connects after Close")
		return nil, nil, broken
	}
	if _, err := l.acquire(t.Context(), false, false, true); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestPoolFreshForWhoWaits: who wants a new connection, since others have turned out
// to be broken, gets none that was given back while it waited.
func TestPoolFreshForWhoWaits(t *testing.T) {
	l, open := countedPool(t, 1)
	p, err := l.acquire(t.Context(), false, false, true)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *physical, 1)
	go func() {
		q, err := l.acquire(context.WithoutCancel(t.Context()), false, true, true)
		if err != nil {
			t.Error(err)
		}
		got <- q
	}()
	until(t, "one waits", func() bool { return l.queued.Load() == 1 })
	l.release(p)
	q := <-got
	if q == nil || q == p {
		t.Fatalf("the same one: %v", q == p)
	}
	l.discard(q)
	l.prune(0)
	if open.Load() != 0 || l.busy() != 0 {
		t.Errorf("%d are open, %d in use", open.Load(), l.busy())
	}
}

// TestPoolLends: what a connection is lent with, and what becomes of it afterwards.
func TestPoolLends(t *testing.T) {
	l, open := countedPool(t, 2)
	l.stmts = 7
	var refuse error
	var made []*scripted
	l.open = func(context.Context) (driver.Conn, *tracker, error) {
		s := &scripted{refuse: refuse}
		s.open = open
		open.Add(1)
		made = append(made, s)
		return s, &tracker{Conn: new(script), on: true}, nil
	}
	// One that reports writes, if it can; if that is not known, it is not lent.
	refuse = errors.New("lost")
	if _, err := l.acquire(t.Context(), false, false, true); !errors.Is(err, refuse) || open.Load() != 0 || l.connections() != 0 {
		t.Errorf("lent without reports: %v, %d open", err, open.Load())
	}
	refuse = &mysql.MySQLError{Number: 1193}
	p, err := l.acquire(t.Context(), false, false, true)
	if err != nil || p.track.on {
		t.Fatalf("of a server that does not report: %v", err)
	}
	l.discard(p)
	refuse = nil
	l.turn()
	if p, err = l.acquire(t.Context(), false, false, true); err != nil {
		t.Fatal(err)
	}
	if !p.track.on || p.prepared.max != 7 || !l.current(p) {
		t.Errorf("reports %v, %d prepared statements, of the node's role now: %v", p.track.on, p.prepared.max, l.current(p))
	}
	// Idle since the latest look at what is idle.
	l.clock.Store(0)
	l.prune(time.Minute)
	if l.release(p); time.Since(time.Unix(0, p.idleSince)) > time.Minute {
		t.Errorf("idle since %v", time.Unix(0, p.idleSince))
	}
	l.park(true)
	if open.Load() != 0 {
		t.Errorf("%d are kept of a node that is drained", open.Load())
	}
	l.park(false)
	if p, err = l.acquire(t.Context(), false, false, true); err != nil {
		t.Fatal(err)
	}
	made[len(made)-1].broken = true
	if l.release(p); open.Load() != 0 {
		t.Error("a broken one is kept")
	}
	l.close()
	if l.park(false); !l.shut.Load() {
		t.Error("open again after Close")
	}
}
