package lb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Mirror sends copies of a [Proxy]'s requests to another pool, to try a new
// release on real traffic, say. The client never waits for them nor sees what
// comes of them: responses are read and dropped. A copy has the header and the
// body that the backend gets, Expect and trailers apart, and is sent once, when
// all of the body has come; if the backend answers before it has read all of it,
// there may be no copy. Requests that ask for an upgrade are not copied.
//
// Beware that whatever a request does, its copy does as well, if the pool leads to
// the same database. Copies that are under way end with Pool's Close. It is plain
// data.
type Mirror struct {
	// Pool gets the copies. Nil is an error. The Proxy does not close it.
	Pool *Pool
	// Share is the share of the requests, up to 1, that are copied, chosen at
	// random. 0 means 1: all.
	Share float64
	// MaxBody is how many bytes a body may have, 64 MiB at most; they are kept in
	// memory until the copy has been sent. Requests with more are not copied. 0
	// means 64 KiB.
	MaxBody int64
	// MaxInFlight is how many copies there may be at a time; what is more is
	// dropped. 0 means 100.
	MaxInFlight int
	// Timeout is how long a copy may take, with its response. 0 means 10 s.
	Timeout time.Duration
	// OnDone gets a record for each copy; one that was dropped has the error
	// ErrBusy. It is called by many goroutines at once. Nil means nobody does.
	OnDone func(Event)
}

func (m *Mirror) validate() error {
	var errs []error
	if m.Pool == nil {
		errs = append(errs, errors.New("lb: Mirror.Pool is nil, want a pool"))
	}
	if !(m.Share >= 0 && m.Share <= 1) {
		errs = append(errs, fmt.Errorf("lb: Mirror.Share is %v, want 0 to 1", m.Share))
	}
	if m.MaxBody < 0 || m.MaxBody > maxRetryBody {
		errs = append(errs, fmt.Errorf("lb: Mirror.MaxBody is %d, want 0 for the default, or up to %d", m.MaxBody, maxRetryBody))
	}
	if m.MaxInFlight < 0 {
		errs = append(errs, fmt.Errorf("lb: Mirror.MaxInFlight is %d, want 0 for the default or more", m.MaxInFlight))
	}
	if m.Timeout < 0 {
		errs = append(errs, fmt.Errorf("lb: Mirror.Timeout is %v, want 0 for the default or more", m.Timeout))
	}
	return errors.Join(errs...)
}

// mirror is a Mirror at work.
type mirror struct {
	conf     Mirror
	inFlight atomic.Int64
}

func newMirror(conf *Mirror) *mirror {
	m := &mirror{conf: *conf}
	setDefault(&m.conf.Share, 1)
	setDefault(&m.conf.MaxBody, 64<<10)
	setDefault(&m.conf.MaxInFlight, 100)
	setDefault(&m.conf.Timeout, 10*time.Second)
	return m
}

// mirror sends a copy of the request, or has the body do so when it has come.
func (x *exchange) mirror() {
	m := x.proxy.mirror
	if m == nil || len(x.upgrade) > 0 || x.out.ContentLength > m.conf.MaxBody || rand.Float64() >= m.conf.Share {
		return
	}
	c := &mirrored{mirror: m, event: x.event, length: x.out.ContentLength}
	// Nothing of it is shared with the request, whose room is used again.
	c.req = x.out.Clone(m.conf.Pool.ctx)
	c.req.Body, c.req.Trailer = nil, nil
	delete(c.req.Header, "Expect")
	if x.body == nil {
		c.send()
		return
	}
	x.body.mirrored = c
}

// mirrored is the copy of a request.
type mirrored struct {
	mirror *mirror
	req    *http.Request
	event  Event
	length int64 // of the body; negative if it is not known

	mu   sync.Mutex // guards the rest until it is sent
	body []byte
	over bool // it has been sent, or is too long
}

// add is told of each part of the body, and whether that is the last.
func (c *mirrored) add(p []byte, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	if int64(len(c.body)+len(p)) > c.mirror.conf.MaxBody {
		c.over, c.body = true, nil
		return
	}
	c.body = append(c.body, p...)
	if last || c.length >= 0 && int64(len(c.body)) >= c.length {
		c.over = true
		c.send()
	}
}

func (c *mirrored) send() {
	m := c.mirror
	c.event.Request, c.event.Start = c.req, time.Now()
	if m.inFlight.Add(1) > int64(m.conf.MaxInFlight) {
		m.inFlight.Add(-1)
		c.done(ErrBusy)
		return
	}
	go c.run()
}

func (c *mirrored) run() {
	m := c.mirror
	defer m.inFlight.Add(-1)
	ctx, cancel := context.WithTimeout(m.conf.Pool.ctx, m.conf.Timeout)
	defer cancel()
	c.done(c.exchange(ctx))
}

func (c *mirrored) done(err error) {
	if c.mirror.conf.OnDone != nil {
		c.event.Err, c.event.Duration = err, time.Since(c.event.Start)
		c.mirror.conf.OnDone(c.event)
	}
}

func (c *mirrored) exchange(ctx context.Context) error {
	req := c.req.WithContext(ctx)
	if len(c.body) > 0 {
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(c.body)), int64(len(c.body))
	} else {
		req.ContentLength = 0
	}
	picked, err := c.mirror.conf.Pool.Acquire(ctx, PickInfo{Request: req})
	if err != nil {
		return err
	}
	t := &trip{picked: picked, start: time.Now()}
	c.event.Backend, c.event.Attempts, c.event.RequestBytes = picked.Backend().ID(), 1, int64(len(c.body))
	res, err := t.do(req)
	if err != nil {
		result, _ := t.judge(req)
		picked.Done(Outcome{Result: result, Duration: time.Since(t.start), Err: err})
		return err
	}
	defer res.Body.Close()
	c.event.Status = res.StatusCode
	c.event.ResponseBytes, err = io.Copy(io.Discard, res.Body)
	return err
}
