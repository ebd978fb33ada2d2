package lb

import (
	"math"
	"net/http"
	"sync/atomic"
	"time"
)

// tick is a time in units of 2²⁰ ns, about a millisecond, that wraps around
// after seven weeks: only differences mean something.
type tick uint32

// epoch makes ticks out of the monotonic clock.
var epoch = time.Now()

func tickNow() tick { return tick(time.Since(epoch) >> 20) }

// since returns how many ticks t is before now, 0 if it is after.
func (t tick) since(now tick) float32 { return float32(max(0, int32(now-t))) }

func ticksOf(d time.Duration) float32 { return float32(d >> 20) }

// coarseClock tells the time without looking at a clock: it is as late as the
// last one who looked. Each request that ends does, and those that begin need
// not.
type coarseClock struct{ at atomic.Uint32 }

func (c *coarseClock) now() tick { return tick(c.at.Load()) }

func (c *coarseClock) advance() tick {
	now := tickNow()
	// Most requests end in the tick of another one, and then nothing is written
	// that processors would pass to each other.
	if tick(c.at.Load()) != now {
		c.at.Store(uint32(now))
	}
	return now
}

// forgetAfter is when an estimate is too old to say anything: the backend is
// tried again, with one request.
const (
	forgetAfter = 10 * time.Second
	forgetTicks = float32(forgetAfter >> 20)
)

// latencyMax bounds estimates, that failures may let grow.
const latencyMax = float32(time.Minute)

// estimate is a latency that was observed, averaged over time, in one word, so
// that it is updated without a lock: a float32 of nanoseconds above the tick of
// the last observation. The zero value knows nothing.
type estimate struct{ word atomic.Uint64 }

// latency is an estimate at one moment.
type latency struct {
	nanos float32 // 0: nothing is known
	age   float32 // ticks since the last observation
}

func nanosIn(word uint64) float32 { return math.Float32frombits(uint32(word >> 32)) }

func unpack(word uint64, now tick) latency {
	l := latency{nanosIn(word), tick(word).since(now)}
	if l.age > forgetTicks {
		l.nanos = 0
	}
	return l
}

func (e *estimate) load(now tick) latency { return unpack(e.word.Load(), now) }

// faded is the estimate as far as it is worth believing now: an old one counts
// less, so that a backend which was slow is tried again, and the sooner the less
// it costs.
func (l latency) faded(window float32) float32 { return l.nanos * window / (window + l.age) }

// observe takes nanos into the average, whose window is in ticks. Within a tick
// the first observation stands for all: under load that is a fair sample, and
// spares the others the write. If peak is set, a larger one than the average
// replaces it at once.
func (e *estimate) observe(nanos, window float32, now tick, peak bool) {
	for {
		word := e.word.Load()
		old := unpack(word, now)
		next := nanos
		switch {
		case old.nanos == 0, peak && nanos > old.nanos:
		case old.age == 0:
			return
		default:
			next = old.nanos + (nanos-old.nanos)*old.age/(window+old.age)
		}
		next = min(max(next, 1), latencyMax)
		if e.word.CompareAndSwap(word, uint64(math.Float32bits(next))<<32|uint64(now)) {
			return
		}
	}
}

// sample is what an outcome says about latency. A failure must not make a
// backend look fast: it counts as several times what was known. Nor may one long
// answer among many, such as of a request that waits for news, count as it is.
func (l latency) sample(o Outcome) (nanos float32, ok bool) {
	nanos = float32(o.Wait)
	if nanos <= 0 {
		nanos = float32(o.Duration)
	}
	failed := o.Result != Succeeded || o.Status >= http.StatusInternalServerError
	switch {
	case o.Result == Canceled || o.Status == http.StatusSwitchingProtocols:
		return 0, false
	case failed:
		nanos = max(nanos, failureFactor*l.nanos)
	case nanos <= 0:
		return 0, false
	}
	if l.nanos > 0 {
		nanos = min(nanos, leapFactor*l.nanos)
	}
	return nanos, true
}

const (
	failureFactor = 4
	leapFactor    = 8
)

// slowness compares the latencies of backends with what is usual among them.
type slowness struct {
	clock  coarseClock
	usual  estimate // of all backends
	window float32  // ticks over which is averaged
	slack  float32  // up to how many times what is usual is not slow
	peak   bool     // a backend's latency is its newest peak, that fades
}

// begin takes what is known of the backends from before.
func (s *slowness) begin(backends []*Backend, window time.Duration, slack float32) {
	s.window, s.slack = ticksOf(window), slack
	now := s.clock.advance()
	sum, n := float32(0), float32(0)
	for _, b := range backends {
		if l := b.latency.load(now); l.nanos > 0 {
			sum, n = sum+l.nanos, n+1
		}
	}
	if n > 0 {
		s.usual.observe(sum/n, s.window, now, false)
	}
}

// Done implements [Observer].
func (s *slowness) Done(b *Backend, o Outcome) {
	now := s.clock.advance()
	nanos, ok := b.latency.load(now).sample(o)
	if !ok {
		return
	}
	b.latency.observe(nanos, s.window, now, s.peak)
	s.usual.observe(nanos, s.window, now, false)
}
