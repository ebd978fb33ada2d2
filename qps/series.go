package qps

import (
	"sync/atomic"
	"time"
)

// class is how a request ended.
type class uint8

const (
	class1xx class = iota
	class2xx
	class3xx
	class4xx
	class5xx
	classAborted
	classPanic
	classCount
)

var classNames = [classCount]string{"1xx", "2xx", "3xx", "4xx", "5xx", "aborted", "panic"}

// classOf returns the class of a final status. Three-digit codes beyond 599,
// which no standard defines, are taken for failures.
func classOf(status int) class {
	switch {
	case status == statusClientGone:
		return classAborted
	case status < 200:
		return class1xx
	case status >= 500:
		return class5xx
	}
	return class(status/100 - 1)
}

// failed says whether the server is to blame.
func (c class) failed() bool { return c == class5xx || c == classPanic }

// flow is what is recorded of every kind of event.
type flow struct {
	duration recorder
	requests ring
	errors   ring
}

// observe records an event that ended at the given time. Requests are counted
// before errors, and read after them, so that no reader sees more errors than
// requests.
func (f *flow) observe(endNanos int64, elapsed time.Duration, failed bool) {
	second := uint32(endNanos / int64(time.Second))
	f.duration.record(uint64(max(elapsed, 0)))
	f.requests.add(second)
	if failed {
		f.errors.add(second)
	}
}

// window reads the last minute. It starts again if it was so slow that a newer
// second has taken the cell of one that it needs.
func (f *flow) window(now func() int64) Window {
	var w Window
	for range 8 {
		second := uint32(now() / int64(time.Second))
		errs, ok := f.errors.before(second)
		if !ok {
			continue
		}
		requests, ok := f.requests.before(second)
		if !ok {
			continue
		}
		w = Window{Second: int64(second), Requests: requests, Errors: errs, Late: f.requests.late.Load()}
		w.Current, _ = f.requests.at(second)
		break
	}
	return w
}

// series is what is recorded of one method of one route.
type series struct {
	flow
	classes  [classCount]atomic.Uint64
	inFlight atomic.Int64
	bytesIn  atomic.Uint64
	bytesOut atomic.Uint64
}

// route has a series for each method that was seen.
type route struct {
	methods [len(methodNames)]atomic.Pointer[series]
}

func newRoute() *route { return new(route) }

func (r *route) series(m method) *series {
	s := r.methods[m].Load()
	if s == nil {
		r.methods[m].CompareAndSwap(nil, new(series))
		s = r.methods[m].Load()
	}
	return s
}
