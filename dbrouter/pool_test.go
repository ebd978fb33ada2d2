package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// counted is a connection that counts those that are open.
type counted struct {
	nothing
	open   *atomic.Int32
	closed atomic.Bool
}

func (c *counted) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.open.Add(-1)
	}
	return nil
}

// countedPool is a pool with at most limit connections, and the number of open ones.
func countedPool(t *testing.T, limit int) (*pool, *atomic.Int32) {
	t.Helper()
	open := new(atomic.Int32)
	l, err := newPool(&node{name: "db1", check: make(chan struct{}, 1)}, Node{Config: mysql.NewConfig(), MaxConns: limit, MaxWaiting: 100}, make(chan struct{}))
	if err != nil {
		t.Fatal(err)
	}
	l.open = countedOpen(open)
	return l, open
}

// countedOpen makes connections that are counted.
func countedOpen(open *atomic.Int32) func(context.Context) (driver.Conn, *tracker, error) {
	return func(context.Context) (driver.Conn, *tracker, error) {
		open.Add(1)
		return &counted{open: open}, nil, nil
	}
}

// TestPoolUnderLoad: whoever borrows and gives back, and whatever else is done to
// the pool meanwhile, a connection has one owner, there are no more owners than
// there may be, nobody waits for ever, and no connection is forgotten.
func TestPoolUnderLoad(t *testing.T) {
	const limit, borrowers, rounds = 3, 8, 2000
	l, open := countedPool(t, limit)
	var owned sync.Map
	var owners atomic.Int32
	var wg sync.WaitGroup
	for range borrowers {
		wg.Go(func() {
			for range rounds {
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if rand.N(10) == 0 {
					ctx, cancel = context.WithTimeout(ctx, rand.N(200*time.Microsecond))
				}
				wait := rand.N(4) > 0
				p, err := l.acquire(ctx, false, rand.N(20) == 0, wait)
				cancel()
				if err != nil {
					if ctx.Err() == nil && (wait || !errors.Is(err, errPoolBusy)) {
						t.Errorf("acquire: %v", err)
					}
					continue
				}
				if n := owners.Add(1); n > limit {
					t.Errorf("%d connections in use, want %d at most", n, limit)
				}
				if _, twice := owned.LoadOrStore(p, true); twice {
					t.Error("a connection has two owners")
				}
				if p.conn.(*counted).closed.Load() {
					t.Error("a closed connection was handed out")
				}
				if rand.N(3) == 0 {
					time.Sleep(rand.N(20 * time.Microsecond))
				}
				owned.Delete(p)
				owners.Add(-1)
				if rand.N(20) == 0 {
					l.discard(p)
				} else {
					l.release(p)
				}
			}
		})
	}
	stop := make(chan struct{})
	var meddling sync.WaitGroup
	meddling.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			switch rand.N(5) {
			case 0:
				l.turn()
			case 1:
				l.park(true)
				l.park(false)
			case 2:
				l.prune(0)
			case 3:
				l.prune(time.Minute)
			}
			time.Sleep(rand.N(50 * time.Microsecond))
		}
	})
	wg.Wait()
	close(stop)
	meddling.Wait()
	if n := l.busy(); n != 0 {
		t.Errorf("%d connections are in use after the last was given back", n)
	}
	l.prune(0)
	if used, left, known := l.used.Load(), open.Load(), l.connections(); used != 0 || left != 0 || known != 0 {
		t.Errorf("%d places are taken, %d connections open and %d known after all were closed", used, left, known)
	}
}

// TestWarmConnection: the connection given back last is lent again without having
// given up its place, which yet is free for whoever needs it.
func TestWarmConnection(t *testing.T) {
	l, open := countedPool(t, 1)
	borrow := func(fresh bool) *physical {
		t.Helper()
		p, err := l.acquire(t.Context(), false, fresh, true)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := borrow(false)
	l.release(p)
	if l.warm.Load() != p || l.busy() != 0 || l.used.Load() != 1 {
		t.Errorf("after the first: warm %v, %d in use, %d places", l.warm.Load() == p, l.busy(), l.used.Load())
	}
	if q := borrow(false); q != p {
		t.Error("the second got another one")
	}
	l.release(p)
	// One that must be fresh gets the only place.
	q := borrow(true)
	if q == p || open.Load() != 1 {
		t.Errorf("fresh: the old one %v, %d are open", q == p, open.Load())
	}
	// Whoever waits gets what comes back.
	got := make(chan *physical)
	go func() {
		next, err := l.acquire(t.Context(), false, false, true)
		if err != nil {
			t.Error(err)
		}
		got <- next
	}()
	until(t, "one waits", func() bool { return l.queued.Load() == 1 })
	if _, err := l.acquire(t.Context(), false, false, false); !errors.Is(err, errPoolBusy) {
		t.Errorf("one that may not wait: %v", err)
	}
	l.release(q)
	if next := <-got; next != q {
		t.Error("the one that waited did not get what came back")
	}
	// What comes back after the role has changed is closed.
	l.turn()
	l.release(q)
	if open.Load() != 0 || l.used.Load() != 0 {
		t.Errorf("after a change of role %d are open, %d places taken", open.Load(), l.used.Load())
	}
	// So is what lies warm when it changes, or when the pool is closed.
	l.release(borrow(false))
	l.turn()
	if open.Load() != 0 || l.used.Load() != 0 {
		t.Errorf("after a second one %d are open, %d places taken", open.Load(), l.used.Load())
	}
	// And what comes back at the moment: it is warm before its keeper looks again.
	for what, change := range map[string]func(){
		"the role changes": func() { l.generation.Add(1) }, "it is parked": func() { l.shut.Store(true) },
	} {
		p = borrow(false)
		l.release(p)
		change()
		l.lookAgain(p, p.generation)
		l.shut.Store(false)
		if open.Load() != 0 || l.used.Load() != 0 {
			t.Errorf("at the moment when %s: %d are open, %d places taken", what, open.Load(), l.used.Load())
		}
	}
	p = borrow(false)
	l.release(p)
	l.queued.Store(1)
	l.lookAgain(p, p.generation)
	l.queued.Store(0)
	if l.busy() != 0 || l.used.Load() != 0 || l.takeWarm() != nil {
		t.Errorf("somebody waits for a place that is kept: %d in use, %d places taken", l.busy(), l.used.Load())
	}
	l.prune(0)
	l.release(borrow(false))
	l.close()
	if open.Load() != 0 {
		t.Errorf("after close %d are open", open.Load())
	}
}
