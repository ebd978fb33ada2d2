package lb

import (
	"errors"
	"fmt"
	"math/bits"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Hedge sends a request to a second backend if the first is slow to answer, and
// takes the response that begins first; the other request is given up. It cuts
// the tail of latencies that comes from single backends ("The Tail at Scale",
// CACM 2013). Only requests whose method is safe (RFC 9110, section 9.2.1) and
// that have no body are hedged, each once, and within the [RetryBudget], so that
// backends that are all slow do not get twice the requests. It is plain data.
type Hedge struct {
	// Delay is how long the first backend may take to begin its response. With a
	// Quantile it is the least time. 0 means that Quantile alone counts.
	Delay time.Duration
	// Quantile, below 1, makes the time that which such a share of the responses
	// have taken lately: 0.95 hedges about one request in twenty. Until some 100
	// responses are known nothing is hedged. 0 means that Delay alone counts.
	Quantile float64
}

func (h *Hedge) validate() error {
	var errs []error
	if h.Delay < 0 || h.Delay == 0 && h.Quantile == 0 {
		errs = append(errs, fmt.Errorf("lb: Hedge.Delay is %v, want a time, or a Quantile", h.Delay))
	}
	if !(h.Quantile >= 0 && h.Quantile < 1) {
		errs = append(errs, fmt.Errorf("lb: Hedge.Quantile is %v, want 0 to 1, without 1", h.Quantile))
	}
	return errors.Join(errs...)
}

// waits knows how long responses took to begin, in buckets whose bounds differ by
// an eighth, of which the old ones fade. It is safe for concurrent use.
type waits struct {
	quantile float64
	seen     atomic.Uint32
	value    atomic.Int64 // the quantile; 0: not known yet
	counts   [waitBuckets]atomic.Uint32
}

const (
	waitBuckets = 8 * 25
	waitMax     = 1<<27 - 1 // µs, about two minutes
	waitEvery   = 64        // observations between two looks at all of them
	waitLeast   = 2 * waitEvery
	waitMost    = 64 * waitEvery // then they are halved
)

func waitBucket(d time.Duration) int {
	us := uint64(min(max(d.Microseconds(), 0), waitMax))
	if us < 8 {
		return int(us)
	}
	e := bits.Len64(us) - 4
	return e*8 + int(us>>e)
}

// waitBound is what all waits of a bucket are below.
func waitBound(bucket int) time.Duration {
	if bucket < 16 {
		return time.Duration(bucket+1) * time.Microsecond
	}
	e := bucket/8 - 1
	return time.Duration((bucket%8+8+1)<<e) * time.Microsecond
}

func (w *waits) observe(d time.Duration) {
	w.counts[waitBucket(d)].Add(1)
	if n := w.seen.Add(1); n%waitEvery == 0 && (n >= waitLeast || w.value.Load() > 0) {
		w.look()
	}
}

func (w *waits) look() {
	var counts [waitBuckets]uint32
	var sum uint32
	for i := range w.counts {
		counts[i] = w.counts[i].Load()
		sum += counts[i]
	}
	left := float64(sum) * w.quantile
	for i, n := range counts {
		if left -= float64(n); left < 0 {
			w.value.Store(int64(waitBound(i)))
			break
		}
	}
	if sum >= waitMost {
		for i := range w.counts {
			w.counts[i].Add(-(counts[i] / 2))
		}
	}
}

// hedge is a Hedge at work.
type hedge struct {
	conf  Hedge
	waits waits
}

func newHedge(conf *Hedge) *hedge {
	h := &hedge{conf: *conf}
	h.waits.quantile = conf.Quantile
	return h
}

// delay is when a request that begins now is hedged, 0 for never.
func (h *hedge) delay() time.Duration {
	if h.conf.Quantile == 0 {
		return h.conf.Delay
	}
	if v := h.waits.value.Load(); v > 0 {
		return max(time.Duration(v), h.conf.Delay)
	}
	return 0
}

func (h *hedge) observe(d time.Duration) {
	if h.conf.Quantile > 0 {
		h.waits.observe(d)
	}
}

var errHedged = errors.New("lb: another backend was faster")

// isSafe follows RFC 9110, section 9.2.1, but for TRACE.
func isSafe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions || method == ""
}

// roundTrip makes the current attempt, and another beside it if it takes too
// long. The current attempt is then the one whose outcome is returned.
func (x *exchange) roundTrip() (*http.Response, error) {
	h := x.proxy.hedge
	if h == nil || x.event.Attempts > 1 || x.body != nil || len(x.upgrade) > 0 || !isSafe(x.out.Method) {
		return x.current.roundTrip()
	}
	main := x.current
	r := &race{x: x, main: main, tried: slices.Clone(x.tried), done: make(chan struct{})}
	delay := h.delay()
	if delay > 0 {
		x.room, x.shared = nil, true // the other attempt's goroutine may outlive this, and the request
		main.bound()
		r.timer = time.AfterFunc(delay, r.run)
	}
	res, err := main.roundTrip()
	if err == nil || r.lost() {
		h.observe(time.Since(main.start))
	}
	if delay > 0 {
		return r.join(res, err)
	}
	return res, err
}

// race is two attempts for the same request. The second one, the spare, has a
// goroutine of its own, which never touches what an exchange changes.
type race struct {
	x     *exchange
	main  *attempt
	tried []*Backend
	timer *time.Timer
	done  chan struct{} // closed when run has ended

	mu    sync.Mutex // guards the rest until done
	over  bool       // the main attempt has a response: nobody wants the spare's
	won   bool       // the spare has one, and the main attempt was ended
	ended bool       // the spare has res or err
	spare *attempt   // nil if there was none
	res   *http.Response
	err   error
}

func (r *race) lost() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.won
}

// run is the spare attempt. It starts when the delay is over.
func (r *race) run() {
	defer close(r.done)
	a := r.begin()
	if a == nil {
		return
	}
	res, err := a.send()
	if err == nil && a.expired() {
		res.Body.Close()
		res, err = nil, errHeadTimeout
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		if err == nil {
			res.Body.Close()
		}
		a.end()
		a.picked.Done(Outcome{Result: Canceled})
		return
	}
	r.res, r.err, r.ended = res, err, true
	if r.won = err == nil; r.won {
		r.main.cancel(errHedged)
	}
}

func (r *race) begin() *attempt {
	x := r.x
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over || !x.proxy.budget.spend() {
		return nil
	}
	picked, err := x.proxy.conf.Pool.Pick(PickInfo{Request: x.in, Tried: r.tried})
	if err != nil {
		x.proxy.budget.giveBack()
		return nil
	}
	a := &attempt{spare: true}
	a.init(x, picked, time.Now())
	a.bound()
	r.spare = a
	return a
}

// join returns the outcome of the attempt that has won, or of the one that has
// failed last.
func (r *race) join(res *http.Response, err error) (*http.Response, error) {
	x := r.x
	if r.timer.Stop() {
		return res, err
	}
	r.mu.Lock()
	if err == nil && !r.won {
		r.over = true
		r.mu.Unlock()
		r.retire()
		return res, nil
	}
	failed := err != nil && !r.won // by itself, and not because the spare has won
	r.mu.Unlock()
	<-r.done // which the end of the request's context, or of the time, hastens
	if r.spare == nil {
		return res, err
	}
	if failed {
		v := x.judge(r.main, err)
		x.settle(v.result, 0, v.err)
	} else {
		if err == nil {
			res.Body.Close()
		}
		x.settle(Canceled, 0, errHedged)
	}
	r.count()
	x.current, x.event.Backend = r.spare, r.spare.picked.Backend().ID()
	if r.err == nil {
		x.claimWriter()
	}
	return r.res, r.err
}

// retire ends the spare attempt after the main one has won.
func (r *race) retire() {
	a := r.spare
	if a == nil {
		return
	}
	r.count()
	if !r.ended {
		a.cancel(errAttemptOver) // and its goroutine does the rest
		return
	}
	v := r.x.judge(a, r.err)
	a.end()
	a.picked.Done(Outcome{Result: v.result, Duration: time.Since(a.start), Err: v.err})
}

// count adds the spare attempt to the exchange's.
func (r *race) count() {
	r.x.tried = append(r.x.tried, r.spare.picked.Backend())
	r.x.event.Attempts++
	r.x.event.Hedged = true
}
