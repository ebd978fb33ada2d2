package dbrouter

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestKillQuery: a statement whose caller has gone ends on the server, too.
func TestKillQuery(t *testing.T) {
	p := newPair(t)
	conf := p.config()
	conf.CheckInterval = time.Hour
	r, _ := open(t, conf)
	upReplicas(t, r, 1)
	mustExec(t, r.DB(), update)
	one[int](t, r.DB(), query)                                 // which asks for a position over a connection that is kept
	own := p.primary.Connections() - r.Status()[0].Connections // that, and the monitor's
	kills := 0
	for about, end := range map[string]func() (context.Context, context.CancelFunc){
		"deadline": func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 300*time.Millisecond)
		},
		"cancel": func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			before := asleep(p)
			go func() {
				defer cancel()
				for ctx.Err() == nil && asleep(p) == before {
					time.Sleep(time.Millisecond)
				}
			}()
			return ctx, cancel
		},
	} {
		for _, s := range []struct {
			sql  string
			args []any
		}{{"SELECT SLEEP(3600)", nil}, {"SELECT SLEEP(?)", []any{3600}}} {
			mustExec(t, r.DB(), update) // so that there is a connection, and its making takes none of the time
			ctx, cancel := end()
			_, err := r.DB().ExecContext(WithPrimary(ctx), s.sql, s.args...)
			cancel()
			if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s of %s: %v", about, s.sql, err)
			}
			until(t, about+" ends "+s.sql, func() bool { return p.primary.Connections() <= r.Status()[0].Connections+own })
			if kills++; killed(p) != kills {
				t.Errorf("%d kills, want %d", killed(p), kills)
			}
		}
	}
	// Nothing to end after a statement that has ended.
	ctx, cancel := context.WithCancel(t.Context())
	var n int
	if err := r.DB().QueryRowContext(ctx, query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	cancel()
	mustExec(t, r.DB(), update)
	if n := killed(p); n != 4 {
		t.Errorf("%d kills, want 4", n)
	}
}

// killed is how often the primary was asked to end a statement, and asleep how often
// to sleep.
func killed(p *pair) int { return asked(p, "KILL QUERY ") }
func asleep(p *pair) int { return asked(p, "SELECT SLEEP") }

func asked(p *pair, prefix string) (n int) {
	for q := range slices.Values(p.primary.Queries()) {
		if strings.HasPrefix(q, prefix) {
			n++
		}
	}
	return n
}

// TestKillSparesOthers: after a restart of the server a number may be another's.
func TestKillSparesOthers(t *testing.T) {
	p := newPair(t)
	conf := p.config()
	conf.CheckInterval = time.Hour
	r, _ := open(t, conf)
	n := r.nodes()[0]
	l := &link{node: n}
	defer l.close()
	n.kills.kill(t.Context(), l, victim{thread: 1 << 30})
	if l.track == nil || l.track.thread == 0 {
		t.Fatal("no connection was made")
	}
	if got := killed(p); got != 0 {
		t.Errorf("%d kills of another's statement", got)
	}
	n.kills.kill(t.Context(), l, victim{thread: l.track.thread - 1})
	if got := killed(p); got != 1 {
		t.Errorf("%d kills, want 1", got)
	}
}
