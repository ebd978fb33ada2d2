package qps

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// Middleware measures the requests that next serves.
//
// The route of a request is what [SetRoute] said, or else r.Pattern, which
// http.ServeMux sets, or else "other"; a path is never a route. The pattern is
// read when next has returned, so a handler between the middleware and the mux
// must hand on the same *http.Request. A request in flight counts under the
// route that is known so far: under a mux, until it ends, that is "other",
// unless the middleware is itself registered with the mux.
//
// A panic is recorded and goes on. A request ends when next returns, or when a
// hijacked connection is closed.
func (m *Meter) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		hw := &hijackWriter{writer{inner: rw, m: m, r: r, place: m.picker.pick(), start: m.now(), method: methodOf(r.Method)}}
		w := &hw.writer
		w.begin(r.Pattern)
		if m.traceID != nil {
			if id := m.traceID(r); isTrace(id) {
				w.trace = id
			}
		}
		if m.top != nil {
			m.top.count(w.place, r)
		}
		if r.Body != nil && r.Body != http.NoBody {
			w.body = body{inner: r.Body, in: &w.in}
			r.Body = &w.body
		}
		defer w.end()
		if canHijack(rw) {
			next.ServeHTTP(hw, r)
		} else {
			next.ServeHTTP(w, r)
		}
		w.returned = true
	})
}

// maxUnwrap bounds the chain of wrappers, which might be a circle.
const maxUnwrap = 64

// SetRoute names the route of the request that w answers, for every Meter whose
// middleware is in w's chain of Unwrap methods, and says whether there was one.
// It may be called again, until the handler returns; the last name counts.
// Names should be few and chosen by the program, never taken from a request.
// An empty name changes nothing.
func SetRoute(w http.ResponseWriter, route string) bool {
	found := false
	for range maxUnwrap {
		if s, ok := w.(interface{ setRoute(string) bool }); ok && s.setRoute(route) {
			found = true
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	return found
}

// canHijack says whether http.ResponseController would find a Hijacker.
func canHijack(w http.ResponseWriter) bool {
	for range maxUnwrap {
		if _, ok := w.(http.Hijacker); ok {
			return true
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	return false
}

// body counts what is read of a request body. A transport may go on reading
// while the handler returns, hence the atomic counter.
type body struct {
	inner io.ReadCloser
	in    *atomic.Uint64
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.inner.Read(p)
	b.in.Add(uint64(max(n, 0)))
	return n, err
}

func (b *body) Close() error { return b.inner.Close() }

// find returns the series of the request under a route, and false if the table
// had no room for the route.
func (w *writer) find(route string) (*series, bool) {
	r, ok := w.m.routes.other, true
	if route != "" {
		r, ok = w.m.routes.find(route)
	}
	return r.series(w.method), ok
}

func (w *writer) begin(route string) {
	s, ok := w.find(route)
	if !ok {
		w.overflowed.Store(true)
	}
	w.first = s
	s.enter(w.place)
}

// enter moves the request to another route, and reports false if it has ended.
// The new series counts it before the old one lets it go, so no gauge is ever
// negative.
func (w *writer) enter(route string) bool {
	to, ok := w.find(route)
	to.enter(w.place)
	for {
		old := w.moved.Load()
		if old == &w.m.over {
			to.leave(w.place)
			return false
		}
		if w.moved.CompareAndSwap(old, to) {
			w.left(old).leave(w.place)
			w.overflowed.Store(!ok)
			return true
		}
	}
}

// left is the series that a value of moved stands for.
func (w *writer) left(moved *series) *series {
	if moved == nil {
		return w.first
	}
	return moved
}

// end runs deferred, when the handler has returned or panicked.
func (w *writer) end() {
	v := recover()
	if w.body.inner != nil && w.r.Body == io.ReadCloser(&w.body) {
		w.r.Body = w.body.inner
	}
	switch {
	case v == nil && !w.returned, v == http.ErrAbortHandler:
		w.finish(classAborted, w.pattern(), w.in.Load(), w.out)
	case v != nil:
		w.finish(classPanic, w.pattern(), w.in.Load(), w.out)
	case !w.hijacked.Load():
		w.finish(w.class(), w.pattern(), w.in.Load(), w.out)
	}
	if v != nil {
		panic(v)
	}
}

// pattern is the route that a mux has found; empty if there was none, or if
// SetRoute has named another.
func (w *writer) pattern() string {
	if w.named.Load() {
		return ""
	}
	return w.r.Pattern
}

// finish records the request, once, under a route that is known only now or, if
// that is empty, where it is.
func (w *writer) finish(c class, route string, in, out uint64) {
	moved := w.moved.Swap(&w.m.over)
	if moved == &w.m.over {
		return
	}
	from := w.left(moved)
	s, fits := from, !w.overflowed.Load()
	if route != "" && route != from.route {
		s, fits = w.find(route)
	}
	end := w.m.now()
	sh := s.observe(w.place, end, time.Duration(end-w.start), c)
	if w.trace != "" {
		s.exemplars.add(w.trace, time.Duration(end-w.start), end)
	}
	if in != 0 {
		sh.bytesIn.Add(in)
	}
	if out != 0 {
		sh.bytesOut.Add(out)
	}
	if !fits {
		w.m.overflow.Add(1)
	}
	from.leave(w.place)
}
