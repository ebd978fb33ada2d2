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
	// A middleware inside a mux has one route, which need not be looked up.
	var known atomic.Pointer[route]
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w, returned := m.begin(&known, rw, r), false
		defer w.end(&returned)
		if canHijack(rw) {
			next.ServeHTTP(w, r)
		} else {
			next.ServeHTTP(&w.writer, r)
		}
		returned = true
	})
}

// begin counts a request in, and returns the writer for its handler.
func (m *Meter) begin(known *atomic.Pointer[route], rw http.ResponseWriter, r *http.Request) *hijackWriter {
	start, p := m.now(), m.picker.pick()
	from, fits := known.Load(), true
	if from == nil || from.name != r.Pattern {
		from = m.routes.other
		if r.Pattern != "" {
			if from, fits = m.routes.find(r.Pattern); fits {
				known.CompareAndSwap(nil, from)
			}
		}
	}
	var w *hijackWriter
	hasBody := r.Body != nil && r.Body != http.NoBody
	if hasBody || m.traceID != nil {
		wide := new(struct {
			hijackWriter
			more extra
		})
		w = &wide.hijackWriter
		w.extra = &wide.more
	} else {
		w = new(hijackWriter)
	}
	w.inner, w.m, w.r, w.start, w.token, w.shard = rw, m, r, start, p.token, uint8(p.shard)
	w.at = from.series(methodOf(r.Method))
	if !fits {
		w.state.Store(stateOverflowed)
	}
	if m.traceID != nil {
		if id := m.traceID(r); isTrace(id) {
			w.extra.trace = id
		}
	}
	if m.top != nil {
		m.top.count(p, r)
	}
	if hasBody {
		w.extra.body.inner = r.Body
		r.Body = &w.extra.body
	}
	w.at.enter(w.place())
	return w
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
	n     atomic.Uint64
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.inner.Read(p)
	b.n.Add(uint64(max(n, 0)))
	return n, err
}

func (b *body) Close() error { return b.inner.Close() }

// find returns the series of the request under a route, and false if the table
// had no room for the route.
func (w *writer) find(route string) (*series, bool) {
	r, ok := w.m.routes.find(route)
	return r.series(w.at.method), ok
}

// enter moves the request to another route, and reports false if it has ended.
// The new series counts it before the old one lets it go, so no gauge is ever
// negative.
func (w *writer) enter(route string, named uint32) bool {
	if !w.take(stateMoving) {
		return false
	}
	from := w.at
	to, fits := w.find(route)
	to.enter(w.place())
	w.at = to
	for {
		old := w.state.Load()
		now := old&^(stateMoving|stateOverflowed) | named
		if !fits {
			now |= stateOverflowed
		}
		if w.state.CompareAndSwap(old, now) {
			break
		}
	}
	from.leave(w.place(), 0)
	return true
}

// end runs deferred, when the handler has returned or panicked.
func (w *writer) end(returned *bool) {
	v := recover()
	if w.extra != nil && w.extra.body.inner != nil && w.r.Body == io.ReadCloser(&w.extra.body) {
		w.r.Body = w.extra.body.inner
	}
	switch {
	case v == nil && !*returned, v == http.ErrAbortHandler:
		w.finish(classAborted, w.pattern(), w.in(), w.out)
	case v != nil:
		w.finish(classPanic, w.pattern(), w.in(), w.out)
	case !w.is(stateHijacked):
		w.finish(w.class(), w.pattern(), w.in(), w.out)
	}
	if v != nil {
		panic(v)
	}
}

// pattern is the route that a mux has found; empty if there was none, or if
// SetRoute has named another.
func (w *writer) pattern() string {
	if w.is(stateNamed) {
		return ""
	}
	return w.r.Pattern
}

// finish records the request, once, under a route that is known only now or, if
// that is empty, where it is.
func (w *writer) finish(c class, route string, in, out uint64) {
	if !w.take(stateEnded) {
		return
	}
	from := w.at
	s, fits := from, !w.is(stateOverflowed)
	if route != "" && route != from.route {
		s, fits = w.find(route)
	}
	end := w.m.now()
	if w.extra != nil && w.extra.trace != "" {
		s.exemplars.add(w.extra.trace, time.Duration(end-w.start), end)
	}
	s.observe(w.place(), end, time.Duration(end-w.start), c, in)
	if !fits {
		w.m.overflow.Add(1)
	}
	if s != from {
		s.sent(w.place(), out)
		out = 0
	}
	from.leave(w.place(), out)
}
