package dbrouter

import (
	"context"
	"database/sql/driver"
	"sync"
	"sync/atomic"
	"time"
)

// waits has two questions at a time at most wait at a replica for a position, on
// behalf of all reads that need one there: many waiting connections would cost the
// replica more than the reads.
type waits struct {
	node *node
	wake chan struct{}
	now  atomic.Pointer[proof]
	// alone: a read waits by itself, on its own connection. It has the lead.
	alone atomic.Bool
	// apart says whether a wait may go ahead of its read.
	apart atomic.Int32

	mu   sync.Mutex // guards next
	next *waiting   // not sent yet
}

// proof is a position that a server is known to have applied.
type proof struct {
	position
	// asked is when the question was sent. A connection that was there by then
	// leads to the server that answered; a later one may lead to another server
	// at the same address, with an older copy.
	asked time.Time
}

// waiting is one question, for all who asked before it was sent.
type waiting struct {
	done    chan struct{}
	want    position
	applied bool
	err     error
}

func newWaits(n *node) *waits { return &waits{node: n, wake: make(chan struct{}, 1)} }

// known says whether the server that p leads to has applied the position.
func (w *waits) known(p *physical, want position) bool {
	switch {
	case want.text == "" || p.applied == want.text:
		return true // nothing was ever written, or this is no news
	case want.dialect == mariaDB && covers(p.applied, want.text):
		return true
	}
	have := w.now.Load()
	return have != nil && !p.since.After(have.asked) && have.covers(want)
}

// learn takes in a proof, unless there is one that says more.
func (w *waits) learn(p proof) {
	for {
		have := w.now.Load()
		if have != nil && !have.asked.Before(p.asked) && have.covers(p.position) {
			return
		}
		if w.now.CompareAndSwap(have, &p) {
			return
		}
	}
}

// mayHave says whether the node is likely to have applied the position.
func (w *waits) mayHave(want position) bool {
	have := w.now.Load()
	return have != nil && have.covers(want)
}

func (p *proof) covers(want position) bool {
	return p.dialect == want.dialect && holds(want.dialect, p.text, want.text, true)
}

// wait waits until the server of p has applied the position, up to the limit,
// and says whether it has. The wait may also go ahead of the next statement on p,
// of which [physical.waited] tells whether it counts.
func (w *waits) wait(ctx context.Context, p *physical, want position, limit time.Duration, done <-chan struct{}) (bool, error) {
	if w.known(p, want) {
		return true, nil
	}
	if w.alone.CompareAndSwap(false, true) {
		if w.goAhead(p, want, limit) {
			return true, nil
		}
		defer w.alone.Store(false)
		return w.ask(ctx, p, want, limit)
	}
	r := w.join(want)
	if r == nil {
		return false, nil
	}
	// The question before this one may take its time too.
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-r.done:
		if r.applied {
			p.applied = r.want.text
		}
		return r.applied, r.err
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	case <-done:
		return false, ErrClosed
	}
}

// lateAnswer is how much longer than its limit the answer to a question may take.
const lateAnswer = 50 * time.Millisecond

// ask waits on the read's own connection. The first that has to wait does so: it
// need not be told by another goroutine. Those who come meanwhile share questions.
func (w *waits) ask(ctx context.Context, p *physical, want position, limit time.Duration) (bool, error) {
	bounded, cancel := context.WithTimeout(ctx, limit+lateAnswer)
	defer cancel()
	asked := time.Now()
	answer, err := askOne(bounded, p.conn, want.dialect.wait(want.text, limit), 1)
	if err != nil {
		p.abandon(bounded)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case bounded.Err() != nil:
			err = nil // too late, whatever the reason
		}
		w.node.lookNow()
		return false, err
	}
	if answer[0] != "0" {
		return false, nil
	}
	p.applied = want.text
	w.learn(proof{want, asked})
	w.apart.CompareAndSwap(apartOnce, together)
	return true, nil
}

// join returns the next question with the position in it, nil if they do not go
// together.
func (w *waits) join(want position) *waiting {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next == nil {
		w.next = &waiting{done: make(chan struct{}), want: want}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	} else if !w.next.merge(want) {
		return nil
	}
	return w.next
}

// merge has the question wait for another position too.
func (r *waiting) merge(want position) bool {
	if r.want.text == want.text {
		return true
	}
	if r.want.dialect != want.dialect {
		return false
	}
	if want.dialect == mySQL {
		// A server takes several sets for their union; ours would fill gaps that
		// the primary may have for ever.
		if len(r.want.text)+len(want.text) > maxPosition {
			return false
		}
		r.want.text += "," + want.text
		return true
	}
	text, err := join(want.dialect, r.want.text, want.text)
	if err != nil {
		return false
	}
	r.want.text = text
	return true
}

// run asks until the context ends.
func (w *waits) run(ctx context.Context, limit time.Duration) {
	l := &link{node: w.node}
	defer l.close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		w.mu.Lock()
		r := w.next
		w.next = nil
		w.mu.Unlock()
		if r == nil {
			continue
		}
		w.question(ctx, l, r, limit)
		close(r.done)
	}
}

func (w *waits) question(ctx context.Context, l *link, r *waiting, limit time.Duration) {
	r.err = l.do(ctx, limit+positionLimit, func(ctx context.Context, conn driver.Conn) error {
		asked := time.Now()
		answer, err := askOne(ctx, conn, r.want.dialect.wait(r.want.text, limit), 1)
		if err != nil {
			return err
		}
		if r.applied = answer[0] == "0"; r.applied {
			w.learn(proof{r.want, asked})
			w.apart.CompareAndSwap(apartOnce, together)
		}
		return nil
	})
	if r.err != nil {
		w.node.lookNow()
	}
}
