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

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// interimMax bounds the interim responses to one request, besides one for each
// second: some backends tell their clients so that they are still at work.
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
	limit  time.Duration   // until the response begins
	ctx    context.Context // the request's, until bound
	cancel context.CancelCauseFunc
	timer  *headTimer    // nil until bound
	body   *attemptBody  // nil if there is none, or nobody has looked
	spare  bool          // it is beside another
	late   bool          // the limit has passed, without a timer
	wait   time.Duration // until the response began
	load   *Load         // what the response says of its backend's

	// What the transport reports, perhaps from its goroutines.
	connecting, connected, answered atomic.Bool
}

func (a *attempt) init(x *exchange, picked Picked, now time.Time) {
	a.x, a.picked, a.start, a.limit, a.ctx = x, picked, now, x.tryLimit(now), x.in.Context()
}

// bound gives the attempt a context that ends with it, or when its time is over.
func (a *attempt) bound() {
	a.ctx, a.cancel = context.WithCancelCause(a.ctx)
	a.timer = startHeadTimer(a.limit, func() { a.cancel(errHeadTimeout) })
}

// end releases what bound has made.
func (a *attempt) end() {
	if a.timer != nil {
		a.timer.stop()
		a.cancel(errAttemptOver)
	}
}

// expired says whether the time was over before the response began. From then
// on it is not counted.
func (a *attempt) expired() bool { return a.late || a.timer != nil && a.timer.stop() }

// roundTrip sends the request and returns the head of the response; nil if it is
// plain, and in x.response. The context of the attempt ends when it is settled, and
// the body with it.
func (a *attempt) roundTrip() (*http.Response, error) {
	res, err := a.send()
	if err != nil {
		return nil, err
	}
	a.x.claimWriter()
	if res != nil && a.expired() {
		res.Body.Close()
		return nil, errHeadTimeout
	}
	return res, nil
}

func (a *attempt) send() (*http.Response, error) {
	t := a.picked.Backend().transport
	if x := a.x; x.plain != nil && x.out == nil {
		if t, ok := t.(*http1.Client); ok {
			return a.sendPlain(t)
		}
		if err := x.prepare(); err != nil {
			return nil, err
		}
	}
	switch t := t.(type) {
	case *http1.Client:
		return a.roundTripHTTP1(t)
	case *h2Client:
		if t.overHTTP1(a.x.out.Header) {
			return a.roundTripHTTP1(t.upgrades)
		}
		return a.roundTripOther(t)
	default:
		return a.roundTripOther(t)
	}
}

// sendPlain sends the head that writePlain has made.
func (a *attempt) sendPlain(c *http1.Client) (*http.Response, error) {
	x := a.x
	res, err := c.Send(a.ctx, &http1.Message{URL: a.picked.Backend().url, Method: x.in.Method, Head: x.plain, Now: a.start}, a.limit, a)
	switch {
	case err != nil:
		a.noteFailure(err)
		return nil, err
	case x.isPlain(res):
		x.response = res
		return nil, nil
	case x.proxy.conf.ModifyResponse == nil:
		x.response = res
	}
	return res.HTTP(), nil
}

// roundTripHTTP1 works in this goroutine. Without a body there is nothing but
// the response to wait for, which needs no timer.
func (a *attempt) roundTripHTTP1(c *http1.Client) (*http.Response, error) {
	x, b, out, limit := a.x, a.picked.Backend(), a.x.out, a.limit
	if x.body == nil && a.timer == nil && !x.shared {
		out.URL.Scheme, out.URL.Host, out.URL.User = b.url.Scheme, b.url.Host, nil
	} else {
		// What is left of an earlier attempt, or one beside this, may look at its own.
		if a.timer == nil {
			a.bound()
		}
		out, limit = new(*x.out), 0
		out.URL = withHost(x.out.URL, b.url)
		if x.body != nil {
			a.openBody(out)
		}
	}
	res, err := c.Do(a.ctx, out, limit, a)
	if err == nil {
		if x.room != nil {
			x.response = res
		}
		std := res.HTTP()
		std.Request = out
		return std, nil
	}
	a.noteFailure(err)
	return nil, err
}

// noteFailure notes how far an attempt came over HTTP/1.1.
func (a *attempt) noteFailure(err error) {
	if e, ok := errors.AsType[*http1.Error](err); ok {
		a.connecting.Store(e.Phase >= http1.Connecting)
		a.connected.Store(e.Phase >= http1.Sent)
		a.answered.Store(e.Phase >= http1.Answered)
		a.late = errors.Is(err, http1.ErrTimeout)
	}
}

// roundTripOther leaves the request to a transport with goroutines of its own.
func (a *attempt) roundTripOther(t transport) (*http.Response, error) {
	if a.timer == nil {
		a.bound()
	}
	x := a.x
	if x.room != nil {
		x.room = nil // they may keep the request
	}
	out := x.out.WithContext(httptrace.WithClientTrace(a.ctx, &httptrace.ClientTrace{
		// The transport comes here again if it repeats the request after a stale
		// connection, which it does only if it is as good as not sent.
		GetConn:              func(string) { a.connecting.Store(true); a.connected.Store(false) },
		GotConn:              func(httptrace.GotConnInfo) { a.connected.Store(true) },
		GotFirstResponseByte: func() { a.answered.Store(true) },
		Got1xxResponse:       func(status int, h textproto.MIMEHeader) error { return a.Interim(status, http.Header(h)) },
	}))
	out.URL = withHost(x.out.URL, a.picked.Backend().url)
	if x.body != nil {
		a.openBody(out)
		a.body.apart = newApartRead()
	}
	return t.RoundTrip(out)
}

func withHost(u, backend *url.URL) *url.URL {
	v := *u
	v.Scheme, v.Host, v.User = backend.Scheme, backend.Host, nil
	return &v
}

// Interim forwards an interim response. The transport calls it while RoundTrip
// waits, perhaps in a goroutine of its own.
func (a *attempt) Interim(status int, h http.Header) error {
	x := a.x
	if a.spare {
		return nil // those of the other attempt are forwarded
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	if x.interim++; x.interim > interimMax+int(time.Since(x.event.Start)/time.Second) {
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

// continueLocked needs x.mu. A client is told once. In HTTP/1 it is written here, before the body is
// read, so that it is written once and never beside another write; in HTTP/2 the
// server does it at the first read.
func (x *exchange) continueLocked() {
	if !x.answered && !x.told && x.in.ProtoMajor == 1 {
		x.told = true
		x.writeInterim(http.StatusContinue, nil)
	}
}

// verdict is what follows from a failed attempt.
type verdict struct {
	err    *Error
	result Result
	retry  bool
}

// judge says whose fault the failure of an attempt is.
func (x *exchange) judge(a *attempt, err error) verdict {
	id := a.picked.Backend().ID()
	expired := a.expired()
	switch ctxErr := x.in.Context().Err(); {
	case ctxErr != nil:
		return verdict{err: x.gone(ctxErr), result: Canceled}
	case expired:
		safe := isIdempotent(x.method()) && !a.answered.Load() && a.sealBody()
		if a.connecting.Load() && !a.connected.Load() {
			safe = a.sealBody()
		}
		return verdict{err: &Error{http.StatusGatewayTimeout, id, errHeadTimeout}, result: Failed, retry: safe}
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
		return verdict{err: bad, result: Unreachable, retry: a.sealBody()}
	case a.answered.Load():
		return verdict{err: bad, result: Failed}
	case isRefused(err):
		return verdict{err: bad, result: Failed, retry: a.sealBody()}
	}
	return verdict{err: bad, result: Failed, retry: isIdempotent(x.method()) && a.sealBody()}
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
