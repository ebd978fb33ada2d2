package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// lent is a connection of a router whose nodes answer nothing but what the test says.
func lent(t *testing.T, refuse func(made int) error) (c *conn, made *[]*scripted) {
	t.Helper()
	r, _ := watched(t, Config{}, "a", "b")
	made = new([]*scripted)
	for i, v := range []view{sawPrimary, sawReplica} {
		r.nodes()[i].pool.open = func(context.Context) (driver.Conn, *tracker, error) {
			s := &scripted{counted: counted{open: new(atomic.Int32)}, refuse: refuse(len(*made))}
			*made = append(*made, s)
			return s, nil, nil
		}
		r.monitor.publish(r.nodes()[i], v)
	}
	return &conn{r: r}, made
}

func sound(int) error { return nil }

// TestKeptConnection: the one that a session has is used again only if it leads to
// where the statement goes, is sound, and of the node's role now.
func TestKeptConnection(t *testing.T) {
	for about, c := range map[string]struct {
		change func(c *conn, s *scripted)
		fresh  bool
		same   bool
	}{
		"nothing has changed": {change: func(*conn, *scripted) {}, same: true},
		"a new one is wanted": {change: func(*conn, *scripted) {}, fresh: true},
		"it is broken":        {change: func(_ *conn, s *scripted) { s.broken = true }},
		"the role is another": {change: func(c *conn, _ *scripted) { c.r.nodes()[0].pool.turn() }},
		"the node is another": {change: func(c *conn, _ *scripted) { c.primary.pool = c.r.nodes()[1].pool }},
	} {
		kept, made := lent(t, sound)
		n := kept.r.nodes()[0]
		p, err := kept.take(t.Context(), n, false, false)
		if err != nil {
			t.Fatal(err)
		}
		c.change(kept, (*made)[0])
		q, err := kept.take(t.Context(), n, false, c.fresh)
		if err != nil || (q == p) != c.same || kept.primary != q || kept.last != q {
			t.Errorf("%s: the same %v, kept %v, %v", about, q == p, kept.primary == q, err)
		}
		kept.Close()
	}
}

// TestBadConnections: what was not sent is tried on three connections, the last of
// them a new one.
func TestBadConnections(t *testing.T) {
	bad := func(made int) error {
		if made < 3 {
			return driver.ErrBadConn
		}
		return nil
	}
	c, made := lent(t, bad)
	l := c.r.nodes()[0].pool
	var idle []*physical
	for range 3 {
		p, err := l.acquire(t.Context(), false, false, true)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, p)
	}
	for _, p := range idle {
		l.release(p)
	}
	if _, err := c.ExecContext(t.Context(), update, nil); err != nil || len(*made) != 4 {
		t.Errorf("%v, %d connections were made, want 4", err, len(*made))
	}
	c, made = lent(t, func(int) error { return driver.ErrBadConn })
	if _, err := c.ExecContext(t.Context(), update, nil); err == nil || errors.Is(err, driver.ErrBadConn) || len(*made) > writeTries {
		t.Errorf("%v after %d connections, want %d at most", err, len(*made), writeTries)
	}
}

// TestPinnedIsNobodyElses: a session with a state is not given back, and is lost with
// its connection.
func TestPinnedIsNobodyElses(t *testing.T) {
	c, made := lent(t, sound)
	if _, err := c.ExecContext(t.Context(), "SET @a = 1", nil); err != nil {
		t.Fatal(err)
	}
	if c.ResetSession(t.Context()) == nil || c.IsValid() {
		t.Error("the session is for others, too")
	}
	(*made)[0].refuse = driver.ErrBadConn
	_, err := c.ExecContext(t.Context(), update, nil)
	if _, lost := errors.AsType[lostSession](err); !lost || len(*made) != 1 {
		t.Errorf("%v, %d connections were made", err, len(*made))
	}
	c.Close()
	if !(*made)[0].closed.Load() {
		t.Error("its connection is kept")
	}
}

// TestClosedConn does nothing any more, and what it had open is given back.
func TestClosedConn(t *testing.T) {
	p := newPair(t)
	conf := p.config()
	conf.CheckInterval = time.Hour
	conf.OnStateChange = nil
	r, rec := open(t, conf)
	upReplicas(t, r, 1)
	connect := func() *conn {
		c, err := r.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c.(*conn)
	}
	idle := func(about string) {
		t.Helper()
		if a, b := r.nodes()[0].pool.busy(), r.nodes()[1].pool.busy(); a+b != 0 {
			t.Errorf("%s: %d and %d connections are not given back", about, a, b)
		}
	}
	c := connect()
	rows, err := c.QueryContext(t.Context(), query, nil)
	if err != nil {
		t.Fatal(err)
	}
	// What is about the statement before must not disturb the rows.
	warnings, err := c.QueryContext(t.Context(), "SHOW WARNINGS", nil)
	if err != nil {
		t.Fatalf("beside open rows: %v", err)
	}
	warnings.Close()
	c.Close()
	rows.Close()
	idle("rows closed after the session")

	c = connect()
	if _, err := c.BeginTx(t.Context(), driver.TxOptions{}); err != nil {
		t.Fatal(err)
	}
	if rows, err := c.queryRows(t.Context(), query, nil, false); err != nil || rows.again || rows.read {
		t.Errorf("a read of a transaction is repeated elsewhere: %v", err)
	} else {
		rows.Close()
	}
	c.Close()
	idle("a transaction")
	if _, err := c.ExecContext(t.Context(), update, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}

	// One connection, given back once, whoever has it at the end.
	for about, c := range map[string]struct {
		first string
		opts  driver.TxOptions
	}{"a read-only transaction": {query, driver.TxOptions{ReadOnly: true}}, "a transaction of a pinned session": {first: "SET @a = 1"}} {
		session := connect()
		if _, err := session.ExecContext(t.Context(), c.first, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := session.BeginTx(t.Context(), c.opts); err != nil {
			t.Fatal(err)
		}
		session.Close()
		idle(about)
	}
	c = connect()
	if _, err := c.ExecContext(t.Context(), "SET @a = 1", nil); err != nil {
		t.Fatal(err)
	}
	if tx, err := c.BeginTx(t.Context(), driver.TxOptions{}); err != nil || tx.Commit() != nil {
		t.Fatal(err)
	}
	if _, err := c.ExecContext(t.Context(), update, nil); err != nil {
		t.Errorf("a pinned session after its transaction: %v", err)
	}
	c.Close()

	c = connect()
	if err := c.Ping(t.Context()); err != nil || c.primary == nil || c.replica != nil {
		t.Errorf("a ping that does not reach the primary: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	before := len(p.primary.Queries())
	if _, err := c.ExecContext(ended, update, nil); !errors.Is(err, context.Canceled) || len(p.primary.Queries()) != before {
		t.Errorf("after its context: %v", err)
	}
	// A read-only transaction pins nobody: its connection ends with it.
	tx, err := c.BeginTx(t.Context(), driver.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ExecContext(t.Context(), "SET @a = 1", nil); err != nil || c.pinned {
		t.Errorf("pinned: %v, %v", c.pinned, err)
	}
	done := c.tx.p
	if err := tx.Commit(); err != nil || c.replica == done || c.tx != nil {
		t.Errorf("%v; its connection is kept: %v", err, c.replica == done)
	}
	if s := rec.last(t); s.SQL != "COMMIT" || s.Duration > time.Hour {
		t.Errorf("told %+v", s)
	}
	if err := tx.Commit(); err == nil {
		t.Error("it ends twice")
	}
	// A refusal within a transaction tells that the role has changed.
	if tx, err = c.BeginTx(t.Context(), driver.TxOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.BeginTx(t.Context(), driver.TxOptions{}); err == nil {
		t.Error("a transaction within a transaction")
	}
	p.primary.SetReadOnly(true)
	if _, err := c.ExecContext(t.Context(), update, nil); !demoted(err) {
		t.Errorf("the primary is none any more: %v", err)
	}
	until(t, "it is looked at", func() bool { return r.monitor.now.Load().primary == nil })
	tx.Rollback()
	c.Close()
	idle("all")
}
