package lb

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// RoundTripper returns a transport for a client in this program that is served
// by the pool's backends: what is the host of a request's URL becomes its Host
// field only, and scheme and address are the chosen backend's.
//
//	client := http.Client{Transport: pool.RoundTripper()}
//	res, err := client.Get("http://orders/v1/42")
//
// A request is sent again, to another backend, up to 2 times, by the same rules
// and with the same budget as a [Proxy]'s by default; one with a body needs
// GetBody for that, which http.NewRequest sets for what is in memory. A response
// must be read to its end or closed, as ever; until then the request counts as
// in flight. The errors of [Pool.Acquire] are returned as they are, and the
// others by the backend's connection. The RoundTripper has nothing to close and
// is of no use after the pool's Close.
func (p *Pool) RoundTripper() http.RoundTripper {
	rt := &roundTripper{pool: p}
	rt.budget.set(RetryBudget{})
	return rt
}

type roundTripper struct {
	pool   *Pool
	budget budget
}

// RoundTrip implements [http.RoundTripper].
func (rt *roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil {
		closeBody(req)
		return nil, errors.New("lb: a request without a URL")
	}
	if req.GetBody != nil {
		defer closeBody(req) // as copies of it are sent
	}
	rt.budget.earn()
	var tried []*Backend
	var last error
	var result Result
	for {
		picked, err := rt.pool.Acquire(req.Context(), PickInfo{Request: req, Tried: tried})
		if err != nil {
			if last != nil {
				rt.budget.giveBack()
				return nil, last
			}
			closeBody(req)
			return nil, err
		}
		t := &trip{picked: picked, start: time.Now()}
		res, err := t.do(req)
		if err == nil {
			if result == Unreachable {
				rt.budget.giveBack()
			}
			rt.budget.earn()
			return res, nil
		}
		var again bool
		result, again = t.judge(req)
		picked.Done(Outcome{Result: result, Duration: time.Since(t.start), Err: err})
		tried, last = append(tried, picked.Backend()), err
		if !again || len(tried) > defaultRetries || !rt.budget.spend() {
			return nil, last
		}
		if !pauseFor(req.Context(), backoff(defaultBackoff, len(tried))) {
			return nil, req.Context().Err()
		}
	}
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// trip is one attempt of a roundTripper.
type trip struct {
	picked Picked
	start  time.Time

	// What net/http's transport reports, from its goroutines.
	connecting, connected, answered atomic.Bool
}

// do sends the request to the picked backend. The response's body ends the
// request for the pool.
func (t *trip) do(req *http.Request) (*http.Response, error) {
	b := t.picked.Backend()
	out := req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GetConn:              func(string) { t.connecting.Store(true); t.connected.Store(false) },
		GotConn:              func(httptrace.GotConnInfo) { t.connected.Store(true) },
		GotFirstResponseByte: func() { t.answered.Store(true) },
	}))
	out.URL = withHost(req.URL, b.url)
	if out.Host == "" {
		out.Host = req.URL.Host
	}
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		out.Body = body
	}
	res, err := b.transport.RoundTrip(out)
	if e, ok := errors.AsType[*http1.Error](err); ok {
		t.connecting.Store(e.Phase >= http1.Connecting)
		t.connected.Store(e.Phase >= http1.Sent)
		t.answered.Store(e.Phase >= http1.Answered)
	}
	if err != nil {
		return nil, err
	}
	res.Request = req
	body := &tripBody{ReadCloser: res.Body, trip: t, req: req, status: res.StatusCode}
	res.Body = body
	if w, ok := body.ReadCloser.(io.Writer); ok && res.StatusCode == http.StatusSwitchingProtocols {
		res.Body = &tripConn{body, w}
	}
	return res, nil
}

// judge says whose fault a failure is, and whether the request may be sent
// again.
func (t *trip) judge(req *http.Request) (result Result, again bool) {
	replayable := req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
	switch {
	case req.Context().Err() != nil, !t.connecting.Load():
		return Canceled, false
	case !t.connected.Load():
		return Unreachable, replayable
	case t.answered.Load():
		return Failed, false
	}
	return Failed, replayable && isIdempotent(req.Method)
}

// tripBody is the body of a response.
type tripBody struct {
	io.ReadCloser
	trip   *trip
	req    *http.Request
	status int
	once   sync.Once
}

// Read implements io.Reader.
func (b *tripBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
	case err == io.EOF:
		b.end(Succeeded, nil)
	case b.req.Context().Err() != nil:
		b.end(Canceled, err)
	default:
		b.end(Failed, err)
	}
	return n, err
}

// Close implements io.Closer. A client that does not read to the end has what it
// wants; the backend is not to blame.
func (b *tripBody) Close() error {
	err := b.ReadCloser.Close()
	b.end(Canceled, nil)
	return err
}

func (b *tripBody) end(result Result, err error) {
	b.once.Do(func() {
		b.trip.picked.Done(Outcome{Result: result, Status: b.status, Duration: time.Since(b.trip.start), Err: err})
	})
}

// tripConn is the body of a response that switches protocols.
type tripConn struct {
	*tripBody
	io.Writer
}

// CloseWrite ends this direction, if the connection can.
func (c *tripConn) CloseWrite() error {
	if half, ok := c.Writer.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
