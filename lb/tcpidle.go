package lb

import (
	"net"
	"sync"
	"time"
)

// idleWatch cuts a connection that carries nothing. What is spliced passes by us,
// so that the kernel is asked how much there was; a check costs two system calls,
// and there are four or five in the time that a connection may idle.
type idleWatch struct {
	conn            *tcpConn
	client, backend activity
	limit           time.Duration

	mu    sync.Mutex // guards the rest
	timer *time.Timer
	total uint64
	since time.Time // when total became what it is, or a bit later
}

// watch returns what ends it.
func (c *tcpConn) watch(backend net.Conn, limit time.Duration) (stop func()) {
	w := &idleWatch{conn: c, client: activityOf(c.client), backend: activityOf(backend), limit: limit, since: time.Now()}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.total = w.sum()
	w.timer = time.AfterFunc(w.pause(0), w.check)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.timer.Stop()
		w.limit = 0
	}
}

// pause is the time to the next check.
func (w *idleWatch) pause(idle time.Duration) time.Duration {
	return min(w.limit/4+1, w.limit-idle)
}

func (w *idleWatch) sum() uint64 {
	return uint64(w.conn.carried.Load()) + w.client.bytes() + w.backend.bytes()
}

func (w *idleWatch) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.limit == 0 {
		return
	}
	now := time.Now()
	if total := w.sum(); total != w.total {
		w.total, w.since = total, now
	}
	idle := now.Sub(w.since)
	if idle >= w.limit {
		w.conn.cut(Canceled, ErrIdle)
		return
	}
	w.timer.Reset(w.pause(idle))
}
