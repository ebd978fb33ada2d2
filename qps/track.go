package qps

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Call is a call to an [Upstream] that is under way. [Upstream.Begin] and
// [Meter.Track] return it; the zero value panics. It belongs to one goroutine,
// or to several that agree which of them calls Done.
type Call struct {
	u     *Upstream
	place place
	start int64
}

// Track begins a call to the upstream of that name.
func (m *Meter) Track(name string) Call { return m.Upstream(name).Begin() }

// Begin begins a call, which is in flight until [Call.Done].
func (u *Upstream) Begin() Call {
	c := Call{u: u, place: u.m.picker.pick(), start: u.m.now()}
	u.enter(c.place)
	return c
}

// Done ends the call and must be called once. An error is a failure, unless the
// caller itself has cancelled: then the call counts, but not as failed.
func (c Call) Done(err error) {
	end := c.u.m.now()
	failed := err != nil && !errors.Is(err, context.Canceled)
	c.u.observe(c.place, end, time.Duration(end-c.start), outcome(failed), 0)
	c.u.leave(c.place, 0)
}

// RoundTripper measures the calls that next makes, as those of an [Upstream] of
// that name. A nil next means http.DefaultTransport. A call takes until the head
// of the response has arrived; it has failed if there was none, or if its status
// is 5xx. What goes wrong in the body later is not seen.
func (m *Meter) RoundTripper(name string, next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &roundTripper{next: next, u: m.Upstream(name)}
}

type roundTripper struct {
	next http.RoundTripper
	u    *Upstream
}

var errStatus = errors.New("qps: status 5xx")

func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	// A panic is for the caller to handle, but must not leave the call open.
	call, outcome := t.u.Begin(), errStatus
	defer func() { call.Done(outcome) }()
	resp, err := t.next.RoundTrip(r)
	switch {
	case err != nil && errors.Is(r.Context().Err(), context.Canceled):
		outcome = context.Canceled
	case err != nil || resp.StatusCode < 500:
		outcome = err
	}
	return resp, err
}

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (t *roundTripper) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
