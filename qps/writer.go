package qps

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"sync/atomic"
)

// statusClientGone is nginx's code for a client that left before the answer.
const statusClientGone = 499

// writer is the ResponseWriter of one request. It is never used again for
// another: a handler that keeps it must not reach another client's response. As
// each request allocates one, it has no field that most can do without, and is
// 80 bytes, a size that the runtime has.
//
// Other goroutines may use state, and what it guards, while the handler runs or
// after it; the fields of the answer they may not, as no ResponseWriter may be
// used by two goroutines at once. Each atomic write costs about as much as a map
// lookup, so there is none that most requests can do without.
type writer struct {
	inner  http.ResponseWriter
	m      *Meter
	r      *http.Request
	token  *token
	start  int64
	out    uint64
	at     *series // where the request counts; changed by who holds stateMoving
	extra  *extra  // nil: none
	state  atomic.Uint32
	status uint16 // final status; 0: none yet, 499: the client had left before it
	shard  uint8
	failed bool // a write failed
}

// extra is what only some requests need.
type extra struct {
	body  body
	trace string // empty: no exemplar
}

// The bits of state.
const (
	stateEnded      = 1 << iota // recorded
	stateMoving                 // somebody is changing at
	stateNamed                  // by SetRoute
	stateOverflowed             // the route did not fit in the table
	stateHijacked
)

// take sets a bit of state that nobody may set twice or while somebody moves the
// request, and reports false if the request has ended.
func (w *writer) take(bit uint32) bool {
	for {
		switch old := w.state.Load(); {
		case old&stateEnded != 0:
			return false
		case old&stateMoving != 0:
			runtime.Gosched() // it will not take long
		case w.state.CompareAndSwap(old, old|bit):
			return true
		}
	}
}

func (w *writer) is(bit uint32) bool { return w.state.Load()&bit != 0 }

func (w *writer) place() place { return place{shard: uint32(w.shard), token: w.token} }

// in is how much has been read of the body.
func (w *writer) in() uint64 {
	if w.extra == nil {
		return 0
	}
	return w.extra.body.n.Load()
}

func (w *writer) setRoute(name string) bool {
	if name == "" {
		return !w.is(stateEnded)
	}
	return w.enter(name, stateNamed)
}

// Unwrap lets http.ResponseController reach the writer below.
func (w *writer) Unwrap() http.ResponseWriter { return w.inner }

func (w *writer) Header() http.Header { return w.inner.Header() }

// PassesHeader says that nothing here changes the header, or reads it before it is
// written: a proxy may hand the fields of a response to the server as they are.
func (w *writer) PassesHeader() {}

// WriteHeader takes the first final status. The interim ones, 1xx without 101,
// may come before it (RFC 9110, section 15.2).
func (w *writer) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.setStatus(status)
	}
	w.inner.WriteHeader(status)
}

// setStatus looks for the client before it believes in a failure: a proxy whose
// client has left answers 502 to nobody.
func (w *writer) setStatus(status int) {
	if w.status != 0 {
		return
	}
	if status >= 500 && w.cancelled() {
		status = statusClientGone
	}
	w.status = uint16(min(status, 999))
}

// wrote counts what went out: of the answer to HEAD, which handlers write as if
// it were GET, that is nothing.
func (w *writer) wrote(n int64, err error) {
	// Nothing is written here once a hijacked connection may end the request.
	if n > 0 && w.r.Method != http.MethodHead {
		w.out += uint64(n)
	}
	if err != nil {
		w.failed = true
	}
}

func (w *writer) Write(p []byte) (int, error) {
	w.setStatus(http.StatusOK)
	n, err := w.inner.Write(p)
	w.wrote(int64(n), err)
	return n, err
}

// WriteString keeps the writer below from copying the string.
func (w *writer) WriteString(s string) (int, error) {
	w.setStatus(http.StatusOK)
	n, err := io.WriteString(w.inner, s)
	w.wrote(int64(n), err)
	return n, err
}

// ReadFrom keeps sendfile: it hands src itself to the writer below.
func (w *writer) ReadFrom(src io.Reader) (n int64, err error) {
	w.setStatus(http.StatusOK)
	if rf, ok := w.inner.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(src)
	} else {
		n, err = io.Copy(struct{ io.Writer }{w.inner}, src)
	}
	w.wrote(n, err)
	return n, err
}

// Flush implements http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

// FlushError is what http.ResponseController calls.
func (w *writer) FlushError() error {
	err := http.NewResponseController(w.inner).Flush()
	switch {
	case errors.Is(err, http.ErrNotSupported):
		return err
	case err != nil:
		w.failed = true
	}
	w.setStatus(http.StatusOK)
	return err
}

func (w *writer) cancelled() bool { return errors.Is(w.r.Context().Err(), context.Canceled) }

// class says how a request ended whose handler returned. A client that left
// counts only if it missed something: a stream without a length, such as
// server-sent events, always ends because the client has left.
func (w *writer) class() class {
	status := int(w.status)
	switch {
	case w.cancelled() && (status == 0 || w.failed || w.short(status)):
		return classAborted
	case status == 0:
		return class2xx // net/http answers 200
	}
	return classOf(status)
}

// short says whether less was written than Content-Length promises.
func (w *writer) short(status int) bool {
	if w.r.Method == http.MethodHead || status < 200 || status == http.StatusNoContent || status == http.StatusNotModified {
		return false
	}
	promised, err := strconv.ParseUint(w.Header().Get("Content-Length"), 10, 63)
	return err == nil && w.out < promised
}
