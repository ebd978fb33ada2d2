package lb

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// continueWait is how long a client that asked to be told waits for the
// backend's 100 before the proxy tells it to go on, since a server of HTTP/1.0
// says nothing and waits for the body (RFC 9110, section 10.1.1).
const continueWait = 5 * time.Second

// requestBody is the body of the client's request, as all attempts share it.
type requestBody struct {
	src      io.ReadCloser
	in       *http.Request
	trailer  http.Header // as it was announced; nil if there can be none
	trusted  bool        // the peer may set forwarding fields in the trailer
	expects  bool        // the client waits for a 100
	onward   chan struct{}
	sayGoOn  func() bool // tells the client to go on, unless it has been answered
	openOnce sync.Once
	most     int64     // the bytes that there may be; 0 means no limit
	kept     *keptBody // nil if nothing is kept for another attempt
	mirrored *mirrored // nil if there is no copy

	started atomic.Bool
	ended   atomic.Bool
	bytes   atomic.Int64
	failure atomic.Pointer[error] // of reading from the client
}

// goOn lets the body be read: the client knows that it is wanted.
func (b *requestBody) goOn() { b.openOnce.Do(func() { close(b.onward) }) }

// err is the failure of reading from the client; nil on a nil b.
func (b *requestBody) err() error {
	if b == nil {
		return nil
	}
	if err := b.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// read says that nothing of the body is left to read.
func (b *requestBody) read() bool {
	return b.ended.Load() || b.in.ContentLength > 0 && b.bytes.Load() >= b.in.ContentLength
}

// replayable says that a request can be sent again: nothing of its body has been
// read, or all that has is kept, or it has none.
func (b *requestBody) replayable() bool {
	return b == nil || !b.started.Load() || b.kept != nil && !b.kept.isLost()
}

// attemptBody is a requestBody as one attempt sees it. Closing it closes the
// attempt's view only: a body that nobody has read can go to another backend,
// and the client's own is closed by the server.
type attemptBody struct {
	*requestBody
	ctx     context.Context // of the attempt
	timer   *headTimer
	trailer http.Header // of the attempt's request, filled at the end
	closed  atomic.Bool
	offset  int        // of the next byte, in what is kept
	apart   *apartRead // nil if Close need not end a Read
}

// Read is called by the transport, in its own goroutine.
func (a *attemptBody) Read(p []byte) (int, error) {
	if a.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	if a.apart != nil {
		return a.readApart(p)
	}
	return a.read(p)
}

func (a *attemptBody) read(p []byte) (int, error) {
	if a.expects {
		if err := a.awaitContinue(); err != nil {
			return 0, err
		}
	}
	if a.kept != nil {
		return a.kept.read(a, p)
	}
	return a.readSource(p)
}

// readSource reads from the client.
func (a *attemptBody) readSource(p []byte) (int, error) {
	a.started.Store(true)
	left := a.most - a.bytes.Load()
	if a.most > 0 && left < int64(len(p)) {
		p = p[:left+1]
	}
	a.timer.pause()
	n, err := a.src.Read(p)
	a.timer.resume()
	if a.most > 0 && int64(n) > left {
		n, err = int(left), &http.MaxBytesError{Limit: a.most}
	}
	a.bytes.Add(int64(n))
	if a.mirrored != nil && (err == nil || err == io.EOF) {
		a.mirrored.add(p[:n], err == io.EOF)
	}
	switch {
	case err == io.EOF && !a.finishTrailer():
		err = errBadTrailer
		a.failure.CompareAndSwap(nil, &err)
	case err == io.EOF:
		a.ended.Store(true)
	case err != nil:
		a.failure.CompareAndSwap(nil, &err)
	}
	return n, err
}

// awaitContinue returns once the client has been told to send the body. If the
// backend answers without asking for it, that is never: the body is not read.
func (a *attemptBody) awaitContinue() error {
	timer := time.NewTimer(continueWait)
	defer timer.Stop()
	select {
	case <-a.onward:
		return nil
	case <-a.ctx.Done():
		return context.Cause(a.ctx)
	case <-timer.C:
	}
	if a.sayGoOn() {
		a.goOn()
	}
	select {
	case <-a.onward:
		return nil
	case <-a.ctx.Done():
		return context.Cause(a.ctx)
	}
}

var errBadTrailer = errors.New("lb: a trailer field that is none")

// finishTrailer hands over the trailer, which net/http knows at the end of the
// body and the transport sends after it. net/http lets names pass that no
// transport would send: it says whether there was none.
func (a *attemptBody) finishTrailer() bool {
	if a.trailer == nil {
		return true
	}
	for name, values := range a.in.Trailer {
		if !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		if len(values) > 0 {
			a.trailer[name] = values
		}
	}
	removeHopByHop(a.trailer)
	removeClaims(a.trailer, a.trusted)
	return true
}

// Close implements io.Closer.
func (a *attemptBody) Close() error {
	a.closed.Store(true)
	if a.apart != nil {
		a.apart.closeOnce.Do(func() { close(a.apart.closed) })
	}
	return nil
}

// apartRead is a read in a goroutine of its own, which ends when the client has
// sent something or the server closes the body. net/http's transport of HTTP/2
// must not have to wait for that: it tells nobody that the backend has gone, or
// has reset the stream, before a Read that it is in has returned, which it wants
// Close to bring about; and no server's body can be closed while it is read.
type apartRead struct {
	closeOnce sync.Once
	closed    chan struct{}
	done      chan struct{} // has an element when the rest is to be had
	buf       []byte
	n         int
	err       error
}

// apartMost is as much as the transport asks for of a body of unknown length.
const apartMost = 16 << 10

func newApartRead() *apartRead {
	return &apartRead{closed: make(chan struct{}), done: make(chan struct{}, 1)}
}

// readApart returns when there is something or the attempt's view is closed.
// Then there is no other Read, so that the goroutine may go on with r.
func (a *attemptBody) readApart(p []byte) (int, error) {
	r := a.apart
	if len(r.buf) < min(len(p), apartMost) {
		r.buf = make([]byte, min(len(p), apartMost))
	}
	part := r.buf[:min(len(p), len(r.buf))]
	go func() {
		r.n, r.err = a.read(part)
		r.done <- struct{}{}
	}()
	select {
	case <-r.done:
		return copy(p, part[:r.n]), r.err
	case <-r.closed:
		return 0, http.ErrBodyReadAfterClose
	}
}

// clientStatus is the status for a body that could not be read.
func clientStatus(in *http.Request, err error) int {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout
	case isDisconnect(err), in.ProtoMajor > 1: // whose streams end with errors of many kinds
		return StatusClientClosed
	}
	return http.StatusBadRequest
}
