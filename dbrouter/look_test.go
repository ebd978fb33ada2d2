package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-sql-driver/mysql"
)

// slow is told, and takes its time for each answer.
type slow struct {
	told
	takes map[string]time.Duration
	asked map[string]time.Time // when it was, last
}

func (c slow) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.asked[query] = time.Now()
	time.Sleep(c.takes[query])
	return c.told.QueryContext(ctx, query, args)
}

// measured is a primary and its replica, which answers as the test says.
func measured(t *testing.T, conf Config) (*monitor, *node, slow) {
	t.Helper()
	r, _ := watched(t, conf, "a", "b")
	r.monitor.publish(r.nodes()[0], sawPrimary)
	r.monitor.publish(r.nodes()[1], sawReplica)
	return r.monitor, r.nodes()[1], slow{told{rows: map[string][]string{}, errors: map[string]error{}}, map[string]time.Duration{}, map[string]time.Time{}}
}

// TestMeasure: how old the data of a replica are at the most is counted from before
// the question to the primary, and what is not known is never less than that.
func TestMeasure(t *testing.T) {
	const question, patience = 40 * time.Millisecond, 50 * time.Millisecond
	wait, have := mariaDB.wait("0-1-9", patience), mariaDB.applied()
	for _, c := range []struct {
		about   string
		own     time.Duration
		history []sample // at is before now
		answer  func(slow)
		want    view // what has changed
		proved  bool
	}{
		{about: "it has all", answer: func(c slow) { c.rows[wait], c.takes[wait] = []string{"0"}, 10*time.Millisecond },
			want: view{lag: 50 * time.Millisecond, lagKnown: true}, proved: true},
		{about: "behind, within what is known", own: 9 * time.Second, history: []sample{{position{mariaDB, "0-1-5"}, time.Time{}.Add(300 * time.Millisecond)}},
			answer: func(c slow) {
				c.rows[wait], c.rows[have] = []string{"-1"}, []string{"0-1-6"}
				c.takes[wait] = patience
			},
			want: view{lag: 300*time.Millisecond + question + patience, lagKnown: true, behind: 3}},
		{about: "behind what is known, and says so itself", own: 9 * time.Second, answer: func(c slow) { c.rows[wait], c.rows[have] = []string{"-1"}, []string{"0-1-6"} },
			want: view{lag: 9 * time.Second, lagKnown: true, lagOpen: true, behind: 3}},
		{about: "behind what is known, and does not say so", answer: func(c slow) { c.rows[wait], c.rows[have] = []string{"-1"}, []string{"0-1-6"} },
			want: view{lag: question, lagKnown: true, lagOpen: true, behind: 3}},
		{about: "it does not know the question", own: 3 * time.Second, answer: func(c slow) { c.errors[wait] = &mysql.MySQLError{Number: 1305} },
			want: view{lag: 3 * time.Second}},
		{about: "no answer but NULL", answer: func(c slow) { c.rows[wait], c.rows[have] = []string{""}, []string{"0-1-9"} },
			want: view{lag: question, lagKnown: true}},
	} {
		synctest.Test(t, func(t *testing.T) {
			m, n, conn := measured(t, Config{})
			m.position = func(ctx context.Context, _ <-chan struct{}) (position, error) {
				if end, ok := ctx.Deadline(); !ok || time.Until(end) > lagQuestion {
					t.Errorf("%s: the primary may take until %v", c.about, end)
				}
				time.Sleep(question)
				return position{mariaDB, "0-1-9"}, nil
			}
			for _, s := range c.history {
				s.at = time.Now().Add(-s.at.Sub(time.Time{}))
				m.history.add(m.now.Load().primary, s, 0)
			}
			c.answer(conn)
			begun := time.Now()
			v := sawReplica
			v.lag, v.lagKnown = c.own, false
			if err := m.measure(t.Context(), n, conn, &v); err != nil {
				t.Errorf("%s: %v", c.about, err)
			}
			if got := (view{lag: v.lag, lagKnown: v.lagKnown, lagOpen: v.lagOpen, behind: v.behind}); got != c.want {
				t.Errorf("%s:\n\t%+v, want\n\t%+v", c.about, got, c.want)
			}
			if s := m.history.samples; !s[len(s)-1].at.Equal(begun) {
				t.Errorf("%s: the heartbeat is of %v after the question", c.about, s[len(s)-1].at.Sub(begun))
			}
			proof := n.waits.now.Load()
			if (proof != nil) != c.proved || c.proved && (proof.text != "0-1-9" || !proof.asked.Equal(conn.asked[wait])) {
				t.Errorf("%s: known is %+v", c.about, proof)
			}
		})
	}
}

// TestMeasureNothing: who cannot be measured keeps the replica's own account.
func TestMeasureNothing(t *testing.T) {
	for about, c := range map[string]struct {
		primary, replica func(*view)
		reason           error // of the primary, if it is asked
		lag              time.Duration
		known            bool
	}{
		"a second one that is writable": {replica: func(v *view) { v.writable = true }, lag: time.Second},
		"no positions of the replica":   {replica: func(v *view) { v.positions = false }, lag: time.Second},
		"no positions of the primary":   {primary: func(v *view) { v.positions = false }, lag: time.Second},
		"another dialect":               {primary: func(v *view) { v.dialect = mySQL }, lag: time.Second},
		"it does not replicate":         {replica: func(v *view) { v.replicating = false }, lag: time.Second},
		"the primary does not answer":   {reason: context.DeadlineExceeded, lag: time.Second},
		"nothing was ever written":      {known: true},
	} {
		r, _ := watched(t, Config{}, "a", "b")
		m, n := r.monitor, r.nodes()[1]
		primary, v := sawPrimary, sawReplica
		v.lag, v.lagKnown = time.Second, false
		if c.primary != nil {
			c.primary(&primary)
		}
		if c.replica != nil {
			c.replica(&v)
		}
		m.publish(r.nodes()[0], primary)
		m.publish(n, sawReplica)
		asked := false
		m.position = func(context.Context, <-chan struct{}) (position, error) {
			asked = true
			return position{dialect: mariaDB}, c.reason
		}
		if err := m.measure(t.Context(), n, told{}, &v); err != nil || asked != (c.known || c.reason != nil) || v.lag != c.lag || v.lagKnown != c.known {
			t.Errorf("%s: the primary was asked: %v; lag %v, known %v, %v", about, asked, v.lag, v.lagKnown, err)
		}
	}
}

// TestHistoryReachesBack for several times MaxLag, however often is measured.
func TestHistoryReachesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, n, conn := measured(t, Config{MaxLag: 1600 * time.Millisecond})
		var written int
		m.position = func(context.Context, <-chan struct{}) (position, error) {
			written++
			text := fmt.Sprintf("0-1-%d", written)
			conn.rows[mariaDB.wait(text, m.patience())] = []string{"0"}
			return position{mariaDB, text}, nil
		}
		for range 1000 {
			v := sawReplica
			if err := m.measure(t.Context(), n, conn, &v); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		s := m.history.samples
		if back := s[len(s)-1].at.Sub(s[0].at); len(s) != maxSamples || back < 3*m.conf.MaxLag {
			t.Errorf("%d heartbeats reach back for %v", len(s), back)
		}
	})
}

// TestPatience is a part of MaxLag, or looks at a replica that is behind would take
// longer than it may be behind.
func TestPatience(t *testing.T) {
	for maxLag, want := range map[time.Duration]time.Duration{time.Second: 50 * time.Millisecond, 100 * time.Millisecond: 25 * time.Millisecond} {
		m := monitor{conf: Config{MaxLag: maxLag}}
		if got := m.patience(); got != want {
			t.Errorf("MaxLag %v: %v, want %v", maxLag, got, want)
		}
	}
}

// TestLookIsOfItsBeginning: what a node says may have been so before it was refused a
// write, if it was asked before.
func TestLookIsOfItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, n, conn := measured(t, Config{})
		const hello = "SELECT VERSION(), @@server_id"
		conn.rows[hello], conn.takes[hello] = []string{"10.11.6-MariaDB", "2"}, time.Second
		conn.rows[mariaDB.facts()] = []string{"0", "1"}
		n.pool.open = func(context.Context) (driver.Conn, *tracker, error) { return conn, nil, nil }
		begun := time.Now()
		if v := m.look(t.Context(), &link{node: n}); !v.writable || !v.asked.Equal(begun) {
			t.Errorf("it is of %v after its beginning: %+v", v.asked.Sub(begun), v)
		}
	})
}

// TestDemotedIsNoReplicaYet: who has said itself that it is read-only is of no use to
// anybody before the next look at it.
func TestDemotedIsNoReplicaYet(t *testing.T) {
	r, changes := watched(t, Config{}, "a", "b")
	m, n := r.monitor, r.nodes()
	m.publish(n[0], sawPrimary)
	m.publish(n[1], sawReplica)
	*changes = nil
	m.demoted(n[0])
	s := m.now.Load()
	if s.primary != nil || slices.Contains(s.replicas, n[0]) || s.statuses[0].State != Stopped || !asksForLook(n[0]) {
		t.Errorf("%+v", s.statuses[0])
	}
	if len(*changes) != 1 || (*changes)[0].Reason != errDemoted.Error() {
		t.Errorf("told %v", *changes)
	}
	// A look that comes late, after the node was removed, counts for nothing.
	m.leave(n[0])
	before := m.now.Load()
	m.publish(n[0], sawPrimary)
	if m.now.Load() != before {
		t.Error("a look at a removed node is taken in")
	}
}

// TestEjectCounts: EjectAfter reads in a row eject a replica, for EjectFor, and none
// that has become the primary.
func TestEjectCounts(t *testing.T) {
	r, _ := watched(t, Config{EjectAfter: 3, EjectFor: time.Minute}, "a", "b")
	m, n := r.monitor, r.nodes()
	m.publish(n[0], sawPrimary)
	m.publish(n[1], sawReplica)
	for i, want := range []State{Up, Up, Ejected, Ejected} {
		m.failed(n[1])
		if got := r.Status()[1].State; got != want {
			t.Errorf("after %d: %v, want %v", i+1, got, want)
		}
	}
	if got := n[1].failures.Load(); got != 1 {
		t.Errorf("%d failures are counted since it was ejected, want 1", got)
	}
	if left := time.Until(n[1].ejected); left > time.Minute {
		t.Errorf("ejected for %v", left)
	}
	m.publish(n[0], sawNothing)
	m.publish(n[1], sawPrimary)
	if s := r.Status()[1]; s.Role != Primary || s.State != Up {
		t.Errorf("the new primary: %+v", s)
	}
}

// TestDrainedAndDown: that a drained node is down is told, and that the primary is
// drained is why there is none.
func TestDrainedAndDown(t *testing.T) {
	r, _ := watched(t, Config{}, "a", "b")
	m, n := r.monitor, r.nodes()
	m.publish(n[0], sawPrimary)
	m.publish(n[1], sawReplica)
	if err := errors.Join(r.Drain("a"), r.Drain("b")); err != nil {
		t.Fatal(err)
	}
	if err := m.now.Load().noPrimary(); !strings.Contains(err.Error(), "a, the primary, is drained") {
		t.Error(err)
	}
	m.publish(n[1], sawNothing)
	if s := r.Status()[1]; s.State != Down {
		t.Errorf("%+v", s)
	}
}

// TestIdleIsClosed: each look at a node closes what has lain idle for too long.
func TestIdleIsClosed(t *testing.T) {
	p := newPair(t)
	r, _ := open(t, p.config())
	upReplicas(t, r, 1)
	one[int](t, r.DB(), query)
	l := r.nodes()[1].pool
	until(t, "the connection is among the idle ones", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.idle) == 1 {
			l.idle[0].idleSince -= int64(2 * idleLimit)
			return true
		}
		return false
	})
	until(t, "it is closed", func() bool { return l.connections() == 0 })
}
