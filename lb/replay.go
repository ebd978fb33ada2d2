package lb

import (
	"context"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// keptBody is what has been read of a request's body, for the attempts that
// follow. An attempt that is over may still be in a read of the client's
// connection: what comes of that belongs to the next one.
type keptBody struct {
	limit int64
	turn  chan struct{} // has an element while an attempt reads

	// The rest but lost is written by who has the turn.
	mu   sync.Mutex // guards lost, and that nothing is lost of a sealed attempt
	data []byte
	lost bool // there was more than the limit
	err  error
}

func newKeptBody(limit int64) *keptBody {
	return &keptBody{limit: limit, turn: make(chan struct{}, 1)}
}

func (k *keptBody) isLost() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lost
}

// read gives the attempt what is kept, and then what the client sends.
func (k *keptBody) read(a *attemptBody, p []byte) (int, error) {
	a.timer.pause() // an attempt before this one may wait for the client
	select {
	case k.turn <- struct{}{}:
	case <-a.ctx.Done():
		a.timer.resume()
		return 0, context.Cause(a.ctx)
	}
	a.timer.resume()
	defer func() { <-k.turn }()
	switch {
	case a.closed.Load():
		return 0, http.ErrBodyReadAfterClose
	case a.offset < len(k.data):
		n := copy(p, k.data[a.offset:])
		a.offset += n
		return n, nil
	case k.err == io.EOF:
		a.finishTrailer()
		return 0, io.EOF
	case k.err != nil:
		return 0, k.err
	}
	n, err := a.readSource(p)
	k.keep(a, p[:n])
	k.err = err
	return n, err
}

func (k *keptBody) keep(a *attemptBody, p []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.lost:
	case int64(len(k.data)+len(p)) > k.limit && !a.closed.Load():
		k.lost, k.data, a.offset = true, nil, 0
	default:
		// Of an attempt that was found replayable and closed meanwhile, one part
		// may be too much.
		k.data = append(k.data, p...)
		a.offset = len(k.data)
	}
}

// boundBody applies what the configuration says of bodies.
func (x *exchange) boundBody() *Error {
	conf, length := &x.proxy.conf, x.out.ContentLength
	if x.body.most = conf.MaxRequestBody; x.body.most > 0 && length > x.body.most {
		return &Error{Status: http.StatusRequestEntityTooLarge, Err: &http.MaxBytesError{Limit: x.body.most}}
	}
	if conf.RetryBody > 0 && length <= conf.RetryBody && isIdempotent(x.out.Method) {
		x.body.kept = newKeptBody(conf.RetryBody)
	}
	return nil
}

// openBody gives the attempt, which must be bound, its view of the body, and its
// request a trailer of its own: an attempt before it may still fill one.
func (a *attempt) openBody(out *http.Request) {
	a.body = &attemptBody{requestBody: a.x.body, ctx: a.ctx, timer: a.timer, trailer: maps.Clone(a.x.body.trailer)}
	out.Body, out.Trailer = a.body, a.body.trailer
}

// sealBody ends the attempt's reading of the body and says whether the request
// can be sent again.
func (a *attempt) sealBody() bool {
	body := a.x.body
	if a.body == nil || body.kept == nil {
		return body.replayable()
	}
	body.kept.mu.Lock()
	a.body.closed.Store(true)
	body.kept.mu.Unlock()
	return body.replayable()
}

// another says whether the response is one after which the request goes to
// another backend. Then it has been dropped, and the next attempt begun.
func (x *exchange) another(res *http.Response) bool {
	a, statuses := x.current, x.proxy.conf.RetryStatus
	if !slices.Contains(statuses, res.StatusCode) || !isIdempotent(x.method()) || !x.body.replayable() || !x.mayRetry() {
		return false
	}
	picked, err := x.pick()
	if err != nil || x.in.Context().Err() != nil || !a.sealBody() {
		if err == nil {
			picked.Done(Outcome{Result: Canceled})
		}
		x.proxy.budget.giveBack()
		return false
	}
	a.wait, a.load = time.Since(a.start), reportedLoad(res.Header)
	if body, ok := res.Body.(*http1.Body); ok {
		body.Discard()
	} else {
		res.Body.Close()
	}
	x.settle(Succeeded, res.StatusCode, nil)
	x.mu.Lock()
	x.answered = false
	x.mu.Unlock()
	x.begin(picked)
	return true
}
