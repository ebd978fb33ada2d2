package dbrouter

import (
	"context"
	"database/sql/driver"
	"testing"
	"testing/synctest"
	"time"
)

// TestHold: what is held back goes on once there is a primary that can have been
// found after the refusal, and waits for no longer than it may, since its beginning.
func TestHold(t *testing.T) {
	const limit = time.Second
	for about, c := range map[string]struct {
		refused bool // by a, rather than that there is no primary
		see     func(*monitor, *node, *node, time.Time)
		goesOn  bool
		after   time.Duration
	}{
		"nothing happens": {see: func(*monitor, *node, *node, time.Time) {}, after: limit - 300*time.Millisecond},
		"another primary, seen before": {refused: true, goesOn: true, after: 100 * time.Millisecond, see: func(m *monitor, a, b *node, begun time.Time) {
			m.publish(a, sawReplica)
			v := sawPrimary
			v.asked = begun.Add(-time.Second)
			m.publish(b, v)
		}},
		"the same, seen before": {refused: true, after: limit - 300*time.Millisecond, see: func(m *monitor, a, _ *node, begun time.Time) {
			v := sawPrimary
			v.asked = begun.Add(-time.Millisecond)
			m.publish(a, v)
		}},
		"the same, seen since": {refused: true, goesOn: true, after: 100 * time.Millisecond, see: func(m *monitor, a, _ *node, begun time.Time) {
			v := sawPrimary
			v.asked = begun.Add(time.Millisecond)
			m.publish(a, v)
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			r, _ := watched(t, Config{BufferWait: limit}, "a", "b")
			a, b := r.nodes()[0], r.nodes()[1]
			r.monitor.publish(b, sawReplica)
			var refuser *node
			if r.monitor.publish(a, sawReplica); c.refused {
				r.monitor.publish(a, sawPrimary)
				refuser = a
			}
			begun := time.Now()
			go func() {
				time.Sleep(100 * time.Millisecond)
				c.see(r.monitor, a, b, begun)
			}()
			k := &call{ctx: t.Context(), begun: begun.Add(-300 * time.Millisecond)}
			if got := r.hold(k, r.monitor.now.Load(), refuser); got != c.goesOn || time.Since(begun) != c.after || len(r.held) != 0 {
				t.Errorf("%s: %v after %v, want %v after %v; %d are held", about, got, time.Since(begun), c.goesOn, c.after, len(r.held))
			}
		})
	}
}

// endless is a connection whose answers have no end.
type endless struct{ nothing }

func (endless) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return endlessRows{}, nil
}

type endlessRows struct{}

func (endlessRows) Columns() []string { return []string{"a"} }
func (endlessRows) Close() error      { return nil }
func (endlessRows) Next(dest []driver.Value) error {
	dest[0] = int64(1)
	return nil
}

// TestAsk: an answer is read as far as it can be of use, and is one row where one is
// asked for.
func TestAsk(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if rows, err := ask(ctx, endless{}, "SELECT 1"); err != nil || len(rows) != maxRows {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	if got, err := askOne(ctx, endless{}, "SELECT 1", 1); err == nil {
		t.Errorf("many rows for one: %v", got)
	}
	conn := told{rows: map[string][]string{"SELECT 1, 2": {"1", "2"}}}
	if got, err := askOne(ctx, conn, "SELECT 1, 2", 1); err == nil {
		t.Errorf("two columns for one: %v", got)
	}
	r := row{names: []string{"a", "b"}, values: []string{"", "2"}, null: []bool{true, false}}
	for column, known := range map[string]bool{"a": false, "b": true, "c": false} {
		if _, ok := r.get(column); ok != known {
			t.Errorf("%s: known %v", column, ok)
		}
	}
}

// TestChooseWhoKnows: a replica that need not be waited for comes before one of the
// zone.
func TestChooseWhoKnows(t *testing.T) {
	nodes := someNodes(2)
	for _, n := range nodes {
		n.waits = newWaits(n)
	}
	nodes[0].zone = "east"
	nodes[1].waits.learn(proof{seven, time.Now()})
	for range 50 {
		if n := (balance{zone: "east"}).choose(nodes, 0, nil, seven); n != nodes[1] {
			t.Fatal("one that may have to be waited for")
		}
	}
	var l latency
	l.observe(8 * time.Millisecond)
	if l.observe(16 * time.Millisecond); time.Duration(l.average()) != 9*time.Millisecond {
		t.Errorf("the average of 8 and 16 ms is %v", time.Duration(l.average()))
	}
}
