package lb

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"
)

// AdaptiveLimit finds out how many requests each backend can have at a time, by
// what they do to its latency, and holds it there: what is more goes to others,
// waits, or is refused, as with PoolConfig.MaxInFlight. A backend that gets more
// than it can work on at once does no more work for it; its answers only take
// longer. Its zero value is usable.
//
// It is the gradient controller of Envoy, per backend: the limit is multiplied,
// some ten times a second, by the ratio of the latency without load to the
// present one, and the square root of it is added as room to grow. Unlike
// Netflix's gradient and TCP Vegas, which believe the lowest or the mean latency
// that happened to be seen, and drift when a load does not let up, it measures
// the latency without load: once in an Interval the backend is held at Min for
// some 50 requests. A pool has others to give the rest to meanwhile, and does so
// with one backend at a time; a backend that has had no more than Min in flight
// is measured as it is.
//
// The limit rises only as far as it is made use of. A response of the status 503
// or none at all lowers it, too. The latency is the median until the head of the
// response, so that a few long requests do not matter; where most wait for news,
// such as long polls, there is nothing to be learnt from it.
type AdaptiveLimit struct {
	// Min is the least limit. It should be few enough for a backend to be idle in
	// between, and cannot be none, or nothing more would be learnt. 0 means 3.
	Min int
	// Max is the largest limit. 0 means PoolConfig.MaxInFlight, or 1,000 if that
	// is 0, too; it cannot be more than MaxInFlight.
	Max int
	// Start is the limit of a backend about which nothing is known. 0 means 20,
	// or what Min and Max allow.
	Start int
	// Tolerance is how much longer than without load requests may take, as a part
	// of that. More gives more throughput, and longer queues in the backends. 0
	// means 0.25.
	Tolerance float64
	// Interval is the time between two measurements of the latency without load,
	// give or take a tenth. 0 means 30 s.
	Interval time.Duration
}

const (
	limitWindow    = 100 * time.Millisecond // the least time between changes
	limitLeast     = 20                     // samples for a change
	limitKept      = 128                    // samples, the newest
	limitSharpest  = 1.0 / 3                // of the limit is left by one change at least
	limitNear      = 0.9                    // of the latency without load may be chance
	limitFar       = 0.7                    // is not
	measureSamples = 50
	measureLeast   = 10              // samples, after measureSoon
	measureSoon    = time.Second     // when fewer samples are enough
	measureGiveUp  = 5 * time.Second // when there is not even measureLeast
	limitMax       = 1_000_000
)

func (a *AdaptiveLimit) validate(maxInFlight int) error {
	var errs []error
	complain := func(field string, found any, want string) {
		errs = append(errs, fmt.Errorf("lb: AdaptiveLimit.%s is %v, want %s", field, found, want))
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"Min", a.Min}, {"Max", a.Max}, {"Start", a.Start}} {
		if f.value < 0 || f.value > limitMax {
			complain(f.name, f.value, fmt.Sprintf("0 for the default, or up to %d", limitMax))
		}
	}
	if !(a.Tolerance >= 0 && a.Tolerance <= 10) {
		complain("Tolerance", a.Tolerance, "0 for the default, or up to 10")
	}
	if a.Interval < 0 {
		complain("Interval", a.Interval, "0 for the default or more")
	}
	if errs == nil {
		d := a.withDefaults(maxInFlight)
		switch {
		case maxInFlight > 0 && d.Max > maxInFlight:
			complain("Max", d.Max, fmt.Sprintf("PoolConfig.MaxInFlight, which is %d, at most", maxInFlight))
		case d.Min > d.Max:
			complain("Min", d.Min, fmt.Sprintf("Max, which is %d, at most", d.Max))
		case d.Start < d.Min || d.Start > d.Max:
			complain("Start", d.Start, fmt.Sprintf("from Min to Max, which are %d and %d", d.Min, d.Max))
		}
	}
	return errors.Join(errs...)
}

func (a AdaptiveLimit) withDefaults(maxInFlight int) AdaptiveLimit {
	if a.Max == 0 {
		setDefault(&maxInFlight, 1000)
		a.Max = maxInFlight
	}
	setDefault(&a.Min, min(3, a.Max))
	setDefault(&a.Start, min(max(20, a.Min), a.Max))
	setDefault(&a.Tolerance, 0.25)
	setDefault(&a.Interval, 30*time.Second)
	return a
}

// limiter adapts the limit of one backend.
type limiter struct {
	conf AdaptiveLimit

	// mu guards the rest. The end of a request that meets another one's is not
	// looked at, so that nobody waits.
	mu       sync.Mutex
	limit    float64   // but while it is measured
	base     float64   // latency without load in nanoseconds; 0 is not known
	next     time.Time // when it is measured again
	early    time.Time // the same, if there is a reason
	measured time.Time // when the measurement began; zero if there is none

	// Of the window, or of the measurement.
	began   time.Time
	length  time.Duration
	samples [limitKept]time.Duration
	seen    int // of samples
	refused int
	peak    int64 // in flight
}

func newLimiter(conf AdaptiveLimit) *limiter {
	l := &limiter{conf: conf, limit: float64(conf.Start)}
	l.open(time.Now(), limitWindow)
	return l
}

// open begins a window.
func (l *limiter) open(now time.Time, length time.Duration) {
	l.began, l.length, l.seen, l.refused, l.peak = now, length, 0, 0, 0
}

// adapt learns from the end of a request to b, which had inFlight with it.
func (p *Pool) adapt(b *Backend, o Outcome, inFlight int64) {
	l := b.limiter
	if l == nil || !o.tellsLatency() || !l.mu.TryLock() {
		return
	}
	defer l.mu.Unlock()
	now := time.Now()
	if !l.measured.IsZero() {
		if limit, over := l.measure(o, now); over {
			p.measuring.Store(0)
			b.limit.Store(limit)
		}
		return
	}
	l.sampled(o)
	l.peak = max(l.peak, inFlight)
	if now.Sub(l.began) < l.length || l.seen+l.refused < limitLeast {
		return
	}
	loaded := l.peak > int64(l.conf.Min)
	l.change(now)
	if loaded && !now.Before(l.next) && p.mayMeasure(now) {
		l.measured = now
		b.limit.Store(int64(l.conf.Min))
		return
	}
	b.limit.Store(int64(l.limit))
}

// tellsLatency says whether the backend has had the request to the end, and how
// long it took is known.
func (o *Outcome) tellsLatency() bool {
	return (o.Result == Succeeded || o.Result == Failed) && o.Duration > 0 && o.Status != http.StatusSwitchingProtocols
}

// mayMeasure says whether no other backend is being measured. One that gets no
// more requests meanwhile does not stand in the way for ever.
func (p *Pool) mayMeasure(now time.Time) bool {
	until := p.measuring.Load()
	return now.UnixNano() >= until && p.measuring.CompareAndSwap(until, now.Add(measureGiveUp).UnixNano())
}

// sampled takes the latency in. What was refused is fast and says nothing.
func (l *limiter) sampled(o Outcome) {
	if o.Status == http.StatusServiceUnavailable || o.Result == Failed {
		l.refused++
		return
	}
	d := o.Wait
	if d <= 0 {
		d = o.Duration
	}
	l.samples[l.seen%limitKept] = max(d, 1)
	l.seen++
}

// median needs a sample.
func (l *limiter) median() float64 {
	s := l.samples[:min(l.seen, limitKept)]
	slices.Sort(s)
	return float64(s[len(s)/2])
}

// change ends the window.
func (l *limiter) change(now time.Time) {
	gradient, length := 1+l.conf.Tolerance, limitWindow
	if l.seen > 0 {
		latency := l.median()
		l.learnBase(latency, now)
		gradient *= min(1, l.base/latency)
		// Half of the window at least is under the limit that it began with.
		length = max(length, time.Duration(2*latency))
	}
	if l.refused > 0 {
		gradient = min(gradient, 1-float64(l.refused)/float64(l.seen+l.refused))
	}
	next := max(gradient, limitSharpest)*l.limit + math.Sqrt(l.limit)
	if next > l.limit {
		next = max(l.limit, min(next, 2*float64(l.peak)))
	}
	l.limit = min(max(next, float64(l.conf.Min)), float64(l.conf.Max))
	l.open(now, length)
}

// learnBase compares what is known of the latency without load with a window's.
// It falls slowly enough for chance not to count, and rises only if there was no
// load. If it was far from right it is measured soon.
func (l *limiter) learnBase(latency float64, now time.Time) {
	idle := l.peak <= int64(l.conf.Min)
	ratio := latency / l.base
	switch {
	case l.base == 0:
		l.base = latency
	case idle || ratio < limitNear:
		l.base += (latency - l.base) / 2
	}
	switch {
	case ratio < limitFar || idle && ratio > 1/limitFar:
		if l.early.Before(l.next) {
			l.next = l.early
		}
	case idle:
		l.next = now.Add(jitter(l.conf.Interval))
	}
}

// measure takes a request in, and returns the limit if the measurement is over.
func (l *limiter) measure(o Outcome, now time.Time) (limit int64, over bool) {
	// What began before had more beside it.
	if !now.Add(-o.Duration).Before(l.measured) {
		l.sampled(o)
	}
	since := now.Sub(l.measured)
	enough := l.seen >= measureSamples || l.seen >= measureLeast && since >= measureSoon
	if !enough && since < measureGiveUp {
		return 0, false
	}
	if enough {
		l.base = l.median()
	}
	l.measured, l.next, l.early = time.Time{}, now.Add(jitter(l.conf.Interval)), now.Add(l.conf.Interval/10)
	l.open(now, limitWindow)
	return int64(l.limit), true
}

// baseLatency is the latency without load, 0 if it is not known.
func (l *limiter) baseLatency() time.Duration {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Duration(l.base)
}
