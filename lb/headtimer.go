package lb

import (
	"sync"
	"time"
)

// headTimer bounds how long a backend may take to accept a request and to begin
// its response. It rests while the proxy itself waits for the client's bytes,
// which are not the backend's fault. It is safe for concurrent use.
type headTimer struct {
	limit  time.Duration
	expire func()

	mu      sync.Mutex // guards the rest
	timer   *time.Timer
	due     time.Time // tells a timer that was reset while it fired
	resting bool
	over    bool // stopped or expired
	expired bool
}

func startHeadTimer(limit time.Duration, expire func()) *headTimer {
	t := &headTimer{limit: limit, expire: expire, due: time.Now().Add(limit)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = time.AfterFunc(limit, t.fire)
	return t
}

func (t *headTimer) fire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || t.resting || time.Now().Before(t.due) {
		return
	}
	t.over, t.expired = true, true
	t.expire()
}

func (t *headTimer) pause() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resting = true
	t.timer.Stop()
}

func (t *headTimer) resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resting = false
	if !t.over {
		t.due = time.Now().Add(t.limit)
		t.timer.Reset(t.limit)
	}
}

// stop says whether the time had run out.
func (t *headTimer) stop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	t.timer.Stop()
	return t.expired
}
