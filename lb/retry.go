package lb

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

const (
	defaultBackoff = 20 * time.Millisecond
	maxBackoff     = time.Second
)

// forward prepares the request and sends it to one backend after the other
// until one answers.
func (x *exchange) forward() {
	if !x.writePlain() {
		x.event.RequestID, x.event.Traceparent = "", "" // what Connection names is to be removed first
		if err := x.prepare(); err != nil {
			x.fail(err)
			return
		}
		x.mirror()
	}
	budget := &x.proxy.budget
	budget.earn()
	var last verdict
	for {
		if err := x.in.Context().Err(); err != nil {
			x.fail(x.gone(err))
			return
		}
		picked, err := x.pick()
		if err != nil {
			if last.err == nil {
				last.err = &Error{Status: http.StatusServiceUnavailable, Err: err}
			} else {
				budget.giveBack()
			}
			x.fail(last.err)
			return
		}
		x.begin(picked)
		res, err := x.roundTrip()
		for err == nil && res != nil && x.another(res) {
			res, err = x.roundTrip()
		}
		if err == nil {
			if last.result == Unreachable {
				budget.giveBack()
			}
			if res == nil || !slices.Contains(x.proxy.conf.RetryStatus, res.StatusCode) {
				budget.earn()
			}
			if res == nil {
				x.respondPlain(x.response)
			} else {
				x.respond(res)
			}
			return
		}
		last = x.judge(x.current, err)
		x.settle(last.result, 0, last.err)
		if !last.retry || !x.mayRetry() {
			x.fail(last.err)
			return
		}
	}
}

// mayRetry says whether there are attempts, time and budget left for another
// attempt, and returns when it is due.
func (x *exchange) mayRetry() bool {
	conf := &x.proxy.conf
	if x.event.Attempts > conf.Retries {
		return false
	}
	pause := backoff(conf.Backoff, x.event.Attempts)
	if time.Since(x.begun)+pause >= conf.Timeout || !x.proxy.budget.spend() {
		return false
	}
	pauseFor(x.in.Context(), pause) // whose end forward finds
	return true
}

// pauseFor says whether ctx has lasted longer.
func pauseFor(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// backoff is the pause after so many attempts. The first retry is at once, as it
// goes to a backend that nothing bad is known of; what follows is spread at
// random over a time that doubles, so that the requests that failed together do
// not come together again.
func backoff(base time.Duration, attempts int) time.Duration {
	if attempts < 2 || base <= 0 {
		return 0
	}
	return rand.N(min(maxBackoff, base<<(attempts-2)) + 1)
}

// tryLimit is the time that the attempt that begins now has until its response
// must begin.
func (x *exchange) tryLimit(now time.Time) time.Duration {
	conf := &x.proxy.conf
	limit := conf.Timeout - now.Sub(x.begun)
	if conf.TryTimeout > 0 {
		limit = min(limit, conf.TryTimeout)
	}
	return max(limit, 0)
}
