package lb

import (
	"errors"
	"net/http"
	"slices"
	"syscall"
	"time"
)

var (
	// ErrNoBackend is returned by Pick if no backend may get the request: the
	// pool is empty, all are draining, or the request has been to all of them.
	ErrNoBackend = errors.New("lb: no backend")
	// ErrBusy is returned by Pick and Acquire if all backends that may get the
	// request are full.
	ErrBusy = errors.New("lb: all backends are busy")
	// ErrClosed is returned by methods of a [Pool] after Close.
	ErrClosed = errors.New("lb: pool closed")
)

// PickInfo is what a [Picker] knows about a request. The zero value is a
// request about which nothing is known.
type PickInfo struct {
	// Request is the client's request. A Picker must not change it. Nil outside
	// HTTP.
	Request *http.Request
	// Key, if it is not empty, is what the hash strategies choose by, instead of
	// what their HashKey says: requests with the same Key get the same backend.
	Key string
	// Tried are the backends that the request has been to. A Picker skips them.
	Tried []*Backend
}

// HasTried says whether the request has been to b.
func (i PickInfo) HasTried(b *Backend) bool {
	// The length is looked at first so that the first attempt, the common case,
	// costs one comparison for each backend.
	return len(i.Tried) > 0 && slices.Contains(i.Tried, b)
}

// Result says how a request to a backend ended, as far as the backend is to
// blame.
type Result int

const (
	// Succeeded is a response of any status, complete.
	Succeeded Result = iota
	// Failed is a request that may have reached the backend and got no response,
	// or half of one.
	Failed
	// Unreachable is a backend to which no connection could be made, so that
	// nothing was sent.
	Unreachable
	// Canceled is a request that its client gave up. It says nothing about the
	// backend.
	Canceled
)

// Outcome tells a pool how a request ended. It is plain data.
type Outcome struct {
	Result   Result
	Status   int           // of the response; 0 if there was none
	Duration time.Duration // from Pick to the end of the response
	Err      error         // nil if Result is Succeeded
	Wait     time.Duration // from Pick to the head of the response; 0 if not known
	Load     *Load         // what the backend said about its load; nil if nothing
}

// Picked is a backend that was chosen for one request and counts it as in
// flight. Its Done must be called exactly once. The zero value is not usable.
type Picked struct {
	backend  *Backend
	pool     *Pool
	observer Observer
}

// Backend returns the chosen backend.
func (p Picked) Backend() *Backend { return p.backend }

// Done ends the request: the backend has one fewer in flight. If it was
// Unreachable and the pool has health checks, the backend is unhealthy at once,
// until its checks succeed again.
func (p Picked) Done(o Outcome) {
	b := p.backend
	inFlight := b.inFlight.Add(-1) + 1
	switch o.Result {
	case Failed, Unreachable:
		b.failures.Add(1)
		b.noteError(o.Err)
		if o.Result == Unreachable && !isLocal(o.Err) {
			p.pool.unreachable(b, o.Err)
		}
	}
	p.pool.observe(b, o)
	p.pool.adapt(b, o, inFlight)
	if p.observer != nil {
		p.observer.Done(b, o)
		if q, ok := p.observer.(prober); ok {
			q.ask(p.pool.ctx)
		}
	}
	p.pool.queue.wake()
}

// isLocal says whether a connection failed for want of something on this
// machine, which is no backend's fault.
func isLocal(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EADDRNOTAVAIL)
}
