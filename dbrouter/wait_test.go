package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-sql-driver/mysql"
)

// silent is a connection that answers nothing before the context ends, and is of no
// use then.
type silent struct{ nothing }

func (silent) QueryContext(ctx context.Context, _ string, _ []driver.NamedValue) (driver.Rows, error) {
	<-ctx.Done()
	return nil, driver.ErrBadConn
}

func (silent) IsValid() bool { return false }

// waiter is a node of which one waits on a connection.
func waiter(conn driver.Conn) (*waits, *physical) {
	n := &node{name: "db2", check: make(chan struct{}, 1)}
	n.pool = &pool{node: n, open: func(context.Context) (driver.Conn, *tracker, error) { return conn, nil, nil }}
	n.waits, n.kills = newWaits(n), newKills(n)
	p := newPhysical(conn, &tracker{thread: 7})
	p.pool = n.pool
	return n.waits, p
}

var seven = position{mariaDB, "0-1-7"}

// TestWaitAlone: the first to wait asks on its own connection.
func TestWaitAlone(t *testing.T) {
	const limit = time.Second
	question := mariaDB.wait(seven.text, limit)
	refusal := &mysql.MySQLError{Number: 1317}
	answers := func(s string) driver.Conn { return told{rows: map[string][]string{question: {s}}} }
	for _, c := range []struct {
		about string
		conn  driver.Conn
		ok    bool
		err   error
		took  time.Duration
		looks int
		kills int
	}{
		{about: "applied", conn: answers("0"), ok: true},
		{about: "not in time", conn: answers("-1")},
		{about: "NULL", conn: answers("")},
		{about: "refused", conn: told{errors: map[string]error{question: refusal}}, err: refusal, looks: 1},
		{about: "no answer", conn: silent{}, took: limit + lateAnswer, looks: 1, kills: 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, p := waiter(c.conn)
			w.apart.Store(apartOnce)
			begun := time.Now()
			ok, err := w.wait(t.Context(), p, seven, limit, nil)
			if ok != c.ok || !errors.Is(err, c.err) || time.Since(begun) != c.took {
				t.Errorf("%s: %v, %v after %v", c.about, ok, err, time.Since(begun))
			}
			if looks, kills := len(w.node.check), len(w.node.kills.queue); looks != c.looks || kills != c.kills {
				t.Errorf("%s: %d looks, %d are ended", c.about, looks, kills)
			}
			have := w.now.Load()
			if (have != nil) != c.ok || (p.applied == seven.text) != c.ok || (w.apart.Load() == together) != c.ok || w.alone.Load() {
				t.Errorf("%s: known %+v, the connection's %q, apart %d, led %v", c.about, have, p.applied, w.apart.Load(), w.alone.Load())
			}
		})
	}
	// The caller's own end is that, and nothing about the node.
	synctest.Test(t, func(t *testing.T) {
		w, p := waiter(silent{})
		ctx, cancel := context.WithTimeout(t.Context(), limit/2)
		defer cancel()
		if ok, err := w.wait(ctx, p, seven, limit, nil); ok || !errors.Is(err, context.DeadlineExceeded) || len(w.node.check) != 0 {
			t.Errorf("%v, %v, %d looks", ok, err, len(w.node.check))
		}
	})
}

// TestWaitTogether: those who come while one waits share a question.
func TestWaitTogether(t *testing.T) {
	const limit = time.Second
	question := mariaDB.wait(seven.text, limit)
	for _, c := range []struct {
		about string
		conn  driver.Conn
		ok    bool
		looks int
	}{
		{"applied", told{rows: map[string][]string{question: {"0"}}}, true, 0},
		{"not in time", told{rows: map[string][]string{question: {"-1"}}}, false, 0},
		{"lost", told{}, false, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			slow := slow{c.conn.(told), map[string]time.Duration{question: limit / 10}, map[string]time.Time{}}
			w, p := waiter(slow)
			w.alone.Store(true)
			w.apart.Store(apartOnce)
			go w.run(ctx, limit)
			for range 2 { // the second one is a question of its own
				ok, err := w.wait(ctx, p, seven, limit, nil)
				have := w.now.Load()
				if ok != c.ok || (err != nil) != (c.looks > 0) || (p.applied == seven.text) != c.ok || (have != nil) != c.ok || (w.apart.Load() == together) != c.ok {
					t.Errorf("%s: %v, %v, the connection's %q, known %+v, apart %d", c.about, ok, err, p.applied, have, w.apart.Load())
				}
				if c.ok && !have.asked.Equal(slow.asked[question]) {
					t.Errorf("%s: known since %v after the question", c.about, have.asked.Sub(slow.asked[question]))
				}
				w.now.Store(nil)
				p.applied = ""
			}
			if len(w.node.check) != c.looks {
				t.Errorf("%s: %d looks", c.about, len(w.node.check))
			}
		})
	}
	// Nobody asks: each ends by itself.
	synctest.Test(t, func(t *testing.T) {
		w, p := waiter(told{})
		w.alone.Store(true)
		if ok, err := w.wait(t.Context(), p, seven, limit, nil); ok || err != nil {
			t.Errorf("at the limit: %v, %v", ok, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if ok, err := w.wait(ctx, p, seven, limit, nil); ok || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v, %v", ok, err)
		}
		done := make(chan struct{})
		close(done)
		if ok, err := w.wait(t.Context(), p, seven, limit, done); ok || !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v, %v", ok, err)
		}
	})
}

// TestWaitsGoTogether: what one question can be about.
func TestWaitsGoTogether(t *testing.T) {
	const a, b = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5", "4e11fa47-71ca-11e1-9e33-c80aa9429562:1-2"
	for _, c := range []struct {
		first, second position
		want          string // empty: they do not
	}{
		{position{mariaDB, "0-1-7"}, position{mariaDB, "0-1-7"}, "0-1-7"},
		{position{mariaDB, "0-1-7"}, position{mariaDB, "0-1-9"}, "0-1-9"},
		{position{mariaDB, "0-1-7"}, position{mySQL, a}, ""},
		{position{mariaDB, "0-1-7"}, position{mariaDB, "nonsense"}, ""},
		{position{mySQL, a}, position{mySQL, b}, a + "," + b},
		{position{mySQL, a}, position{mySQL, strings.Repeat("x", maxPosition-len(a)+1)}, ""},
	} {
		w, _ := waiter(told{})
		first := w.join(c.first)
		if again := w.join(c.second); (again == first) != (c.want != "") || again != nil && again.want.text != c.want {
			t.Errorf("%+v and %+v: %+v, want %q", c.first, c.second, first.want, c.want)
		}
	}
}

// TestLearn: the same position, known at a later moment, is known of more
// connections; an earlier answer that comes late takes nothing back.
func TestLearn(t *testing.T) {
	w, p := waiter(told{})
	early, late := time.Now(), time.Now().Add(time.Second)
	p.since = early.Add(time.Millisecond)
	w.learn(proof{seven, early})
	if w.known(p, seven) {
		t.Error("a connection that came after the question is taken to lead to who answered it")
	}
	w.learn(proof{seven, late})
	if !w.known(p, seven) {
		t.Error("a later proof of the same is not taken in")
	}
	if w.learn(proof{seven, early}); !w.known(p, seven) {
		t.Error("a later proof is forgotten for an earlier one")
	}
	if p.applied = "whatever"; !w.known(p, position{mySQL, "whatever"}) {
		t.Error("what the connection has seen itself is not known")
	}
}

// TestAbandon: only what the driver has left because the context ended is ended on
// the server, once.
func TestAbandon(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		about  string
		ctx    context.Context
		conn   driver.Conn
		thread uint32
		kills  int
	}{
		{"left", ended, silent{}, 7, 1},
		{"still in use", ended, told{}, 7, 0},
		{"broken by itself", t.Context(), silent{}, 7, 0},
		{"its number is not known", ended, silent{}, 0, 0},
	} {
		w, p := waiter(c.conn)
		p.track.thread = c.thread
		for range 2 {
			p.abandon(c.ctx)
		}
		if n := len(w.node.kills.queue); n != c.kills {
			t.Errorf("%s: %d are ended, want %d", c.about, n, c.kills)
		}
	}
}

// TestAskedPosition: what becomes of a question to the primary.
func TestAskedPosition(t *testing.T) {
	for _, c := range []struct {
		answer, want string
		proof        bool
		looks        bool
	}{
		{"0-1-7,\n1-1-2", "0-1-7,1-1-2", true, false},
		{"0-1-7'", "", true, true},
		{"0-1-7", "", false, false}, // no GTIDs: there is nothing to be looked for
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, _ := watched(t, Config{}, "a")
			n := r.nodes()[0]
			n.pool.open = func(context.Context) (driver.Conn, *tracker, error) {
				return told{rows: map[string][]string{mariaDB.position(): {"0", c.answer}}}, nil, nil
			}
			v := sawPrimary
			v.positions = c.proof
			r.monitor.publish(n, v)
			go r.positions.run(ctx)
			got, err := r.positions.ask(ctx, nil)
			if (err == nil) != (c.want != "") || err == nil && got != (position{mariaDB, c.want}) || asksForLook(n) != c.looks {
				t.Errorf("%q: %+v, %v", c.answer, got, err)
			}
		})
	}
	r, _ := watched(t, Config{}, "a") // nobody asks
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.positions.ask(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	done := make(chan struct{})
	close(done)
	if _, err := r.positions.ask(t.Context(), done); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
