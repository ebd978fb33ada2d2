package lb

import (
	"container/list"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// rePicks is how often the strategy is asked again after it has chosen a
// backend that is full, before all are looked at.
const rePicks = 4

// acquire counts a request as in flight, unless b has as many as it may have.
func (b *Backend) acquire() bool {
	limit := b.limit.Load()
	if limit == 0 {
		b.inFlight.Add(1)
		b.requests.Add(1)
		return true
	}
	for {
		n := b.inFlight.Load()
		if n >= limit {
			return false
		}
		if b.inFlight.CompareAndSwap(n, n+1) {
			b.requests.Add(1)
			return true
		}
	}
}

// pickRoom chooses a backend with room after the strategy has chosen one
// without.
func (p *Pool) pickRoom(s *snapshot, info PickInfo, b *Backend, observer Observer) (Picked, error) {
	info.Tried = slices.Clone(info.Tried)
	for range rePicks {
		if observer != nil {
			observer.Done(b, Outcome{Result: Canceled, Err: ErrBusy})
		}
		info.Tried = append(info.Tried, b)
		if b, observer = s.pick(info); b == nil {
			return Picked{}, ErrBusy
		}
		if b.acquire() {
			return Picked{backend: b, pool: p, observer: observer}, nil
		}
	}
	if observer != nil {
		observer.Done(b, Outcome{Result: Canceled, Err: ErrBusy})
	}
	for _, t := range s.tiers {
		start := rand.IntN(len(t.backends))
		for i := range t.backends {
			b := t.backends[(start+i)%len(t.backends)]
			if !info.HasTried(b) && b.acquire() {
				return Picked{backend: b, pool: p}, nil
			}
		}
	}
	return Picked{}, ErrBusy
}

// Acquire is Pick for those who can wait: if all backends have as many requests
// as MaxInFlight or AdaptiveLimit allow, it joins the queue until one has room,
// for QueueTimeout at most. A request that has been to a backend already does not
// join, as it might wait for less than the others do and hold them up. The error
// is that of ctx if it ends, or Pick's.
func (p *Pool) Acquire(ctx context.Context, info PickInfo) (Picked, error) {
	if p.queue.most == 0 || len(info.Tried) > 0 {
		return p.Pick(info)
	}
	// Nobody is overtaken.
	if p.queue.length.Load() == 0 {
		picked, err := p.Pick(info)
		if err != ErrBusy {
			return picked, err
		}
	}
	w := p.queue.join()
	if w == nil {
		return Picked{}, ErrBusy
	}
	defer p.queue.leave(w)
	timer := time.NewTimer(p.conf.QueueTimeout)
	defer timer.Stop()
	for {
		select {
		case <-w.ready:
			picked, err := p.Pick(info)
			if err != ErrBusy {
				return picked, err
			}
		case <-timer.C:
			return Picked{}, ErrBusy
		case <-ctx.Done():
			return Picked{}, ctx.Err()
		case <-p.ctx.Done():
			return Picked{}, ErrClosed
		}
	}
}

// Queued returns the number of requests that wait for a backend to have room.
func (p *Pool) Queued() int { return int(p.queue.length.Load()) }

// queue is the requests that wait, first come, first served. Its zero value
// takes nobody.
type queue struct {
	most   int
	length atomic.Int64 // of waiters

	mu      sync.Mutex // guards waiters
	waiters list.List  // of *waiter
}

type waiter struct {
	ready chan struct{} // has an element if there may be room
	place *list.Element
}

// join returns nil if the queue is full.
func (q *queue) join() *waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiters.Len() >= q.most {
		return nil
	}
	w := &waiter{ready: make(chan struct{}, 1)}
	w.place = q.waiters.PushBack(w)
	q.length.Add(1)
	// Room that came up before w was counted has been announced to nobody.
	q.wakeLocked()
	return w
}

// leave lets the next one look: there may be room for two, or w may have been
// woken as it gave up.
func (q *queue) leave(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiters.Remove(w.place)
	q.length.Add(-1)
	q.wakeLocked()
}

// wake is called whenever there may be room. Whoever joins is counted before it
// looks for room, and whoever makes room does so before it looks at the count;
// so one of them sees the other.
func (q *queue) wake() {
	if q.length.Load() > 0 {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.wakeLocked()
	}
}

func (q *queue) wakeLocked() {
	if front := q.waiters.Front(); front != nil {
		select {
		case front.Value.(*waiter).ready <- struct{}{}:
		default: // it has been woken and has not looked yet
		}
	}
}
