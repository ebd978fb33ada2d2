package qps

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
)

// statusClientGone is nginx's code for a client that left before the answer.
const statusClientGone = 499

// writer is the ResponseWriter of one request. It is never used again for
// another: a handler that keeps it must not reach another client's response.
// Its fields are atomic because handlers do write from other goroutines.
type writer struct {
	inner    http.ResponseWriter
	m        *Meter
	r        *http.Request
	place    place
	start    int64
	trace    string // empty: no exemplar
	method   method
	returned bool // the handler came back without a panic
	body     body

	series     atomic.Pointer[series] // nil once the request has been recorded
	named      atomic.Bool            // by SetRoute
	overflowed atomic.Bool            // the route did not fit in the table
	hijacked   atomic.Bool
	status     atomic.Int32 // final status; 0: none yet
	gone       atomic.Bool  // the client had left before the status was written
	failed     atomic.Bool  // a write failed
	in, out    atomic.Uint64
}

func (w *writer) setRoute(name string) bool {
	if name == "" {
		return w.series.Load() != nil
	}
	w.named.Store(true)
	return w.enter(name)
}

// Unwrap lets http.ResponseController reach the writer below.
func (w *writer) Unwrap() http.ResponseWriter { return w.inner }

func (w *writer) Header() http.Header { return w.inner.Header() }

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
	if w.status.CompareAndSwap(0, int32(status)) && status >= 500 && w.cancelled() {
		w.gone.Store(true)
	}
}

// wrote counts what went out: of the answer to HEAD, which handlers write as if
// it were GET, that is nothing.
func (w *writer) wrote(n int64, err error) {
	if w.r.Method != http.MethodHead {
		w.out.Add(uint64(max(n, 0)))
	}
	if err != nil {
		w.failed.Store(true)
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
		w.failed.Store(true)
	}
	w.setStatus(http.StatusOK)
	return err
}

func (w *writer) cancelled() bool { return errors.Is(w.r.Context().Err(), context.Canceled) }

// class says how a request ended whose handler returned. A client that left
// counts only if it missed something: a stream without a length, such as
// server-sent events, always ends because the client has left.
func (w *writer) class() class {
	status := int(w.status.Load())
	switch {
	case w.gone.Load(), w.cancelled() && (status == 0 || w.failed.Load() || w.short(status)):
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
	return err == nil && w.out.Load() < promised
}
