package firewall

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Store keeps token buckets for several processes, so that a [Limit] that is
// Shared holds for all of them together. firewall/redisstore has one. It must be
// safe for concurrent use.
type Store interface {
	// Take takes n tokens of the bucket or, if there are not as many, none. It
	// says what the bucket has left then; Wait is zero if the tokens were taken,
	// and else how long until there are as many. With n 0 it only looks, and Wait
	// is how long until there is one. It returns when the context ends.
	Take(ctx context.Context, b Bucket, n int) (Quota, error)
	// Return gives back n tokens that were taken a moment ago.
	Return(ctx context.Context, b Bucket, n int) error
}

// Bucket is a token bucket in a [Store].
type Bucket struct {
	// Key is its name: 43 letters, digits, - and _, from which nobody can tell
	// which client it is for, other than by trying.
	Key string
	// Interval is how long one token takes to come.
	Interval time.Duration
	// Burst is how many tokens it holds at most. A bucket that is new has as
	// many.
	Burst int
}

const (
	defaultStoreTimeout = 50 * time.Millisecond
	storeRetry          = time.Second
	mostStoreProcesses  = 1 << 10
)

// sharedStore asks a Store, and remembers for a while that it does not answer.
type sharedStore struct {
	Store
	timeout   time.Duration
	processes int
	logger    *slog.Logger

	retryAt atomic.Int64 // when to try again, on the clock of Firewall.now; 0: it answers
}

// take asks the store. It returns false if the store does not answer, in which
// case the limit has to be kept locally. Then only one request a second finds out
// whether it does again.
func (s *sharedStore) take(ctx context.Context, b Bucket, n int, now int64) (Quota, bool) {
	at := s.retryAt.Load()
	if at != 0 && (now < at || !s.retryAt.CompareAndSwap(at, now+int64(storeRetry))) {
		return Quota{}, false
	}
	timed, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	q, err := s.Store.Take(timed, b, n)
	switch {
	case err == nil:
		if at != 0 && s.retryAt.Swap(0) != 0 {
			s.logger.Info("firewall: store answers again, limits are shared")
		}
		return q, true
	case ctx.Err() != nil:
		// The request was given up; that says nothing about the store.
		return Quota{}, false
	}
	if s.retryAt.Swap(now+int64(storeRetry)) == 0 {
		s.logger.Warn("firewall: store does not answer, limits are kept locally", "error", err)
	}
	return Quota{}, false
}

// giveBack returns tokens. If that fails the client has fewer, not more.
func (s *sharedStore) giveBack(ctx context.Context, b Bucket) {
	timed, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	if err := s.Return(timed, b, 1); err != nil && ctx.Err() == nil {
		s.logger.Debug("firewall: token was not returned to the store", "error", err)
	}
}

// localPart is the limit that this process keeps while the store does not answer:
// its part of the whole, so that all together keep it too.
func (l Limit) localPart(processes int) Limit {
	l.Rate /= rate.Limit(max(1, processes))
	l.Burst = max(1, l.Burst/max(1, processes))
	return l
}

// sharedBucket names the bucket that a request counts in. The numbers of the
// limit are part of the name: what another version of the policy counted with
// other numbers means nothing.
func (b *boundLimit) sharedBucket(f *facts) Bucket {
	kind, value := b.Key.String(), b.keyValue(f)
	if value == "" {
		kind = "client"
		length := b.IPv6Bits
		if f.client.Is4() {
			length = b.IPv4Bits
		}
		if p, err := f.client.Prefix(length); err == nil {
			value = p.String()
		}
	}
	name := fmt.Sprintf("%q %q %q %v %d", b.ID, kind, value, float64(b.Rate), b.Burst)
	sum := sha256.Sum256([]byte(name))
	return Bucket{
		Key:      base64.RawURLEncoding.EncodeToString(sum[:]),
		Interval: time.Duration(float64(time.Second) / float64(b.Rate)),
		Burst:    b.Burst,
	}
}
