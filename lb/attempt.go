package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"
)

// interimMax bounds the interim responses to one request.
const interimMax = 32

var (
	errHeadTimeout = errors.New("no response in time")
	errInterimMax  = errors.New("too many interim responses")
)

// attempt is one request to one backend.
type attempt struct {
	x      *exchange
	picked Picked
	start  time.Time
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *headTimer

	// What the transport reports, from its goroutines.
	connecting, connected, answered atomic.Bool
}

func newAttempt(x *exchange, picked Picked) *attempt {
	a := &attempt{x: x, picked: picked, start: time.Now()}
	a.ctx, a.cancel = context.WithCancelCause(x.in.Context())
	a.timer = startHeadTimer(x.proxy.conf.Timeout, func() { a.cancel(errHeadTimeout) })
	return a
}

// roundTrip sends the request and returns the head of the response. The context
// of the attempt ends when it is settled, and the body with it.
func (a *attempt) roundTrip() (*http.Response, error) {
	x, b := a.x, a.picked.Backend()
	out := x.out.WithContext(httptrace.WithClientTrace(a.ctx, &httptrace.ClientTrace{
		// The transport comes here again if it repeats the request after a stale
		// connection, which it does only if it is as good as not sent.
		GetConn:              func(string) { a.connecting.Store(true); a.connected.Store(false) },
		GotConn:              func(httptrace.GotConnInfo) { a.connected.Store(true) },
		GotFirstResponseByte: func() { a.answered.Store(true) },
		Got1xxResponse:       a.interim,
	}))
	out.URL = withHost(x.out.URL, b.url)
	if x.body != nil {
		out.Body = &attemptBody{requestBody: x.body, ctx: a.ctx, timer: a.timer}
	}
	res, err := b.transport.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	x.claimWriter()
	if a.timer.stop() {
		res.Body.Close()
		return nil, errHeadTimeout
	}
	return res, nil
}

func withHost(u, backend *url.URL) *url.URL {
	v := *u
	v.Scheme, v.Host, v.User = backend.Scheme, backend.Host, nil
	return &v
}

// interim forwards an interim response. The transport calls it, in a goroutine
// of its own, while RoundTrip waits.
func (a *attempt) interim(status int, header textproto.MIMEHeader) error {
	x := a.x
	x.mu.Lock()
	defer x.mu.Unlock()
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	if x.interim++; x.interim > interimMax {
		return errInterimMax
	}
	if status == http.StatusContinue && x.body != nil && x.body.expects {
		x.continueLocked()
		x.body.goOn()
		return nil
	}
	// A client of HTTP/1.0 does not know them (RFC 9110, section 15.2).
	if x.answered || !x.in.ProtoAtLeast(1, 1) {
		return nil
	}
	h := http.Header(header)
	removeHopByHop(h)
	removeInvalid(h)
	x.writeInterim(status, h)
	return nil
}

// writeInterim needs x.mu. The header that a middleware has set is for the final
// response: it is put aside meanwhile.
func (x *exchange) writeInterim(status int, fields http.Header) {
	h := x.w.Header()
	kept := h.Clone()
	clear(h)
	addResponseFields(h, fields)
	x.w.WriteHeader(status)
	clear(h)
	maps.Copy(h, kept)
}

// sayContinue tells the client to send its body although the backend has not
// asked for it. It says whether it was in time.
func (x *exchange) sayContinue() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.answered {
		return false
	}
	x.continueLocked()
	return true
}

// continueLocked needs x.mu. In HTTP/1 it is written here, before the body is
// read, so that it is written once and never beside another write; in HTTP/2 the
// server does it at the first read.
func (x *exchange) continueLocked() {
	if !x.answered && x.in.ProtoMajor == 1 {
		x.writeInterim(http.StatusContinue, nil)
	}
}

// verdict is what follows from a failed attempt.
type verdict struct {
	err    *Error
	result Result
	retry  bool
}

// judge says whose fault the failure of the current attempt is.
func (x *exchange) judge(err error) verdict {
	a := x.current
	id := a.picked.Backend().ID()
	expired := a.timer.stop()
	switch ctxErr := x.in.Context().Err(); {
	case ctxErr != nil:
		return verdict{err: x.gone(ctxErr), result: Canceled}
	case expired:
		return verdict{err: &Error{http.StatusGatewayTimeout, id, errHeadTimeout}, result: Failed}
	case x.body.err() != nil:
		err := fmt.Errorf("reading the request: %w", x.body.err())
		return verdict{err: &Error{clientStatus(x.in, x.body.err()), id, err}, result: Canceled}
	}
	bad := &Error{http.StatusBadGateway, id, err}
	switch {
	case !a.connecting.Load():
		// The transport refused the request as such, so no other backend gets it,
		// and this one is not to blame.
		return verdict{err: bad, result: Canceled}
	case !a.connected.Load():
		return verdict{err: bad, result: Unreachable, retry: x.body.untouched()}
	case a.answered.Load():
		return verdict{err: bad, result: Failed}
	}
	return verdict{err: bad, result: Failed, retry: x.body == nil && isIdempotent(x.out.Method)}
}

// isIdempotent follows RFC 9110, section 9.2.2.
func isIdempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete, "":
		return true
	}
	return false
}

// isDisconnect says whether an error of the client's connection means that the
// client has gone.
func isDisconnect(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	for _, e := range []error{io.ErrUnexpectedEOF, io.EOF, io.ErrClosedPipe, net.ErrClosed, context.Canceled, http.ErrBodyReadAfterClose, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
