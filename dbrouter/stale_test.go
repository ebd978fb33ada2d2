package dbrouter

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
)

// TestManyWaitAtATime: those who wait for a replica share questions, for positions
// of their own: none reads what is older than its own.
func TestManyWaitAtATime(t *testing.T) {
	for _, version := range []string{"", "8.4.0"} {
		for _, lag := range []time.Duration{15 * time.Millisecond, time.Hour} {
			p := newPairOf(t, version)
			c := p.perSession()
			c.OnStateChange = nil
			rounds := 12
			if c.WaitLimit = 2 * time.Second; lag == time.Hour {
				c.WaitLimit, rounds = 20*time.Millisecond, 4
			}
			r, rec := open(t, c)
			upReplicas(t, r, 1)
			p.replica.SetLag(lag)
			for i := range rounds {
				var wg sync.WaitGroup
				for j := range 2 {
					ctx, _ := r.NewSession(t.Context())
					mustExecIn(t, ctx, r.DB(), update)
					want := 2*i + j + 1
					for range 4 {
						wg.Go(func() {
							for range 2 {
								var n int
								if err := r.DB().QueryRowContext(ctx, query).Scan(&n); err != nil || n < want {
									t.Errorf("%q, lag %v: read %d, %v, want %d", version, lag, n, err, want)
								}
							}
						})
					}
					time.Sleep(5 * time.Millisecond) // so that the two are applied one after the other
				}
				wg.Wait()
			}
			if n, _ := rec.onReplica(); (n == 0) != (lag == time.Hour) {
				t.Errorf("%q, lag %v: %d reads were done by the replica", version, lag, n)
			}
		}
	}
}

// TestWaitsKnow: what was proved of a server holds for connections that were there
// by then; a later one may lead to a successor with an older copy.
func TestWaitsKnow(t *testing.T) {
	begin := time.Now()
	early, late := &physical{since: begin}, &physical{since: begin.Add(2 * time.Second)}
	w := newWaits(new(node))
	want := position{mariaDB, "0-1-5"}
	if !w.known(early, position{}) || w.known(early, want) || w.mayHave(want) {
		t.Error("nothing is proved, and it is known")
	}
	w.learn(proof{want, begin.Add(time.Second)})
	if !w.known(early, want) || w.known(late, want) || !w.mayHave(want) || w.known(early, position{mariaDB, "0-1-6"}) {
		t.Errorf("early %v, late %v", w.known(early, want), w.known(late, want))
	}
	w.learn(proof{position{mariaDB, "0-1-4"}, begin})
	if !w.known(early, want) {
		t.Error("an older proof of less takes the place of a newer one")
	}
	late.applied = "0-2-7"
	if !w.known(late, want) || w.known(late, position{mariaDB, "0-2-8"}) {
		t.Error("what the connection itself has told is not known, or more")
	}
	w = newWaits(new(node))
	w.learn(proof{position{mySQL, uuid + ":1-5:7"}, begin.Add(time.Second)})
	if w.known(early, position{mySQL, uuid + ":1-7"}) || !w.known(early, position{mySQL, uuid + ":1-5"}) {
		t.Error("a gap counts as applied")
	}
}

// TestServerThatDoesNotReport the GTIDs of writes, although it said so at the login:
// the primary is asked then.
func TestServerThatDoesNotReport(t *testing.T) {
	p := newPair(t)
	p.primary.Inject(mysqltest.Fault{Times: -1, Err: &mysqltest.Error{Code: 1193, Message: "Unknown system variable"},
		Match: func(s string) bool { return strings.HasPrefix(s, "SET SESSION session_track") }})
	c := p.perSession()
	c.OnStateChange = nil
	r, rec := open(t, c)
	upReplicas(t, r, 1)
	p.replica.SetLag(20 * time.Millisecond)
	ctx, s := r.NewSession(t.Context())
	for i, write := range map[int]func(){
		0: func() { mustExecIn(t, ctx, r.DB(), update) },
		1: func() {
			rows, err := r.DB().QueryContext(ctx, update)
			if err != nil {
				t.Fatal(err)
			}
			rows.Close()
		},
		2: func() {
			tx, err := r.DB().BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			mustExecIn(t, ctx, tx, update)
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		before, done := p.asked(), p.data.n.Load()
		write()
		if at, sure := s.known(); p.asked() == before || !sure || at.text == "" {
			t.Errorf("%d: asked %d times, %+v, %v", i, p.asked()-before, at, sure)
		}
		if n := oneIn[int](t, ctx, r.DB(), query); int64(n) != done+1 || rec.last(t).Role != Replica {
			t.Errorf("%d: %d, want %d, %+v", i, n, done+1, rec.last(t))
		}
	}
}

// TestHeldBackUntilReachable: a primary that cannot be reached is waited for like
// one that is none any more.
func TestHeldBackUntilReachable(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval, c.BufferWait, c.OnStateChange = time.Hour, time.Minute, nil
	c.Logger = slog.New(slog.DiscardHandler)
	r, err := New(c) // with no OnStatement: nobody but the wait asks for the time
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.primary.Kill()
	done := make(chan error, 1)
	go func() {
		_, err := r.DB().ExecContext(context.WithoutCancel(t.Context()), update)
		done <- err
	}()
	until(t, "it is held back", func() bool { return len(r.held) == 1 })
	if err := p.primary.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || p.data.n.Load() != 1 {
		t.Errorf("%v, done %d times", err, p.data.n.Load())
	}
}

// TestReadOnThePrimary is repeated if its connection is lost, and says what is
// missing if there is no primary.
func TestReadOnThePrimary(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval, c.OnStateChange = time.Hour, nil
	r, rec := open(t, c)
	for _, f := range []mysqltest.Fault{{CutBefore: true}, {CutAfter: true}} {
		f.Match = match(query)
		remove := p.primary.Inject(f)
		if n := oneIn[int](t, WithPrimary(t.Context()), r.DB(), query); n != 0 || !rec.last(t).Retried {
			t.Errorf("%+v: %d, %+v", f, n, rec.last(t))
		}
		remove()
	}
	p.primary.SetReadOnly(true)
	r.nodes()[0].lookNow()
	until(t, "there is no primary", func() bool { return r.monitor.now.Load().primary == nil })
	err := r.DB().QueryRowContext(WithPrimary(t.Context()), query).Scan(new(int))
	if !errors.Is(err, ErrNoNode) || !errors.Is(err, ErrNoPrimary) {
		t.Errorf("%v", err)
	}
}

// TestDistrust: what a replica refuses is no read any more; but what begins a
// transaction as text stays what it is.
func TestDistrust(t *testing.T) {
	r := &Router{cache: newCache(nil)}
	for sql, want := range map[string]Kind{query: Write, "BEGIN": Pin, "SELECT FOUND_ROWS()": Same} {
		r.distrust(sql)
		if got := r.cache.classify(sql, nil); got.Kind != want {
			t.Errorf("%s is %v", sql, got.Classification)
		}
	}
}
