package firewall

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"time"

	"golang.org/x/time/rate"
)

// LimiterConfig makes a [Limiter].
type LimiterConfig struct {
	// Rate and Burst are those of a token bucket, as in [rate.Limiter] and
	// [Limit]. Neither has a default. With a Window the Rate must be zero.
	Rate  rate.Limit
	Burst int
	// Window makes the limiter admit no more than Burst in any time of this
	// length, instead of a token bucket. Zero means a token bucket; else it is
	// as in [Limit].
	Window time.Duration
	// MaxKeys is how many keys are kept apart, at 17 bytes each, or 25 with a
	// Window, which are allocated at once. Zero means 65,536; otherwise it is
	// like MaxClients of [Limit].
	MaxKeys int
}

// Limiter limits how often each of many keys may do something, in memory that is
// allocated once: logins by account, say, or messages by sender. It is what a
// [Limit] does with requests, for programs. Make one with [NewLimiter].
//
// For each key it admits what a [rate.Limiter] would that has the key to itself.
// When there are more keys than it has room for, it forgets those that are
// closest to having all their tokens, so that a key over its limit stays over it.
//
// It is safe for concurrent use and does not allocate.
type Limiter[K comparable] struct {
	limiter *limiter
	seed    maphash.Seed
	base    time.Time
}

// NewLimiter returns a limiter, or an error that lists every mistake.
func NewLimiter[K comparable](c LimiterConfig) (*Limiter[K], error) {
	l := Limit{ID: "x", Rate: c.Rate, Burst: c.Burst, Window: c.Window, MaxClients: c.MaxKeys}.withDefaults()
	if errs := l.check(); len(errs) > 0 {
		return nil, prefixed("firewall: limiter", errs)
	}
	return &Limiter[K]{limiter: newLimiter(l), seed: maphash.MakeSeed(), base: time.Now()}, nil
}

func (l *Limiter[K]) key(key K) uint64 { return max(1, maphash.Comparable(l.seed, key)) }

// now never goes back.
func (l *Limiter[K]) now() int64 { return int64(time.Since(l.base)) }

// Allow takes a token of the key and says whether there was one.
func (l *Limiter[K]) Allow(key K) bool { return l.limiter.ask(l.key(key), l.now(), true) == 0 }

// Quota is what a key has left.
type Quota struct {
	// Limit is the burst.
	Limit int
	// Remaining is how many may come now.
	Remaining int
	// Wait is how long it will be until one may come. Zero if one may now.
	Wait time.Duration
	// Reset is how long it will be until all of Limit may come, if none does
	// before.
	Reset time.Duration
}

// Peek says what the key has left and takes nothing.
func (l *Limiter[K]) Peek(key K) Quota { return l.limiter.peek(l.key(key), l.now()) }

// ErrNoReservation is what [Limiter.Reserve] returns when waiting is no use: for
// more tokens than the burst, with a Window in which there is no room, and when
// the wait would take centuries.
var ErrNoReservation = errors.New("firewall: cannot be reserved")

// Reservation is a number of tokens that were taken ahead of time. It is not
// safe for concurrent use.
type Reservation struct {
	// Delay is how long to wait before acting on it. Zero means not at all.
	Delay time.Duration

	cancel func()
}

// Reserve takes n tokens of the key, also those that it does not have yet, and
// says how long to wait for them, as [rate.Limiter.ReserveN] does. With a Window
// nothing can be taken ahead of time.
func (l *Limiter[K]) Reserve(key K, n int) (*Reservation, error) {
	if n < 1 || n > l.limiter.burst {
		return nil, fmt.Errorf("%w: %d tokens of %d", ErrNoReservation, n, l.limiter.burst)
	}
	hash, now := l.key(key), l.now()
	taken, wait, ok := l.limiter.reserve(hash, now, n)
	if !ok {
		return nil, fmt.Errorf("%w: full for %v", ErrNoReservation, wait)
	}
	return &Reservation{Delay: wait, cancel: func() { l.limiter.unreserve(hash, l.now(), taken) }}, nil
}

// Cancel gives the tokens back as far as that is possible: not after the Delay,
// and without those that later reservations already wait for. A second call does
// nothing.
func (r *Reservation) Cancel() {
	if r.cancel != nil {
		r.cancel()
		r.cancel = nil
	}
}

// reservation is what unreserve needs to know.
type reservation struct {
	tokens int64
	full   int64 // of the slot, after
	act    int64 // when it may be acted upon
}

// reserve takes n tokens whether they are there or not, and says how long to
// wait for them.
func (l *limiter) reserve(key uint64, now int64, n int) (r reservation, wait time.Duration, ok bool) {
	if l.window != nil {
		wait = l.window.ask(key, now, n, true)
		return reservation{tokens: int64(n), act: now}, wait, wait == 0
	}
	b := l.bucket(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.find(key)
	full := s.fullAt(key, now)
	if full > math.MaxInt64/4 {
		return r, time.Duration(full - now), false
	}
	full += int64(n) * l.interval
	*s = slot{key, full}
	r = reservation{tokens: int64(n), full: full, act: max(now, full-l.tolerance)}
	return r, time.Duration(r.act - now), true
}

// unreserve gives back what of a reservation nobody has built upon.
func (l *limiter) unreserve(key uint64, now int64, r reservation) {
	if l.window != nil || now >= r.act {
		return
	}
	b := l.bucket(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.find(key)
	if s.key != key {
		return
	}
	if back := r.tokens*l.interval - max(0, s.full-r.full); back > 0 {
		s.full -= back
	}
}
