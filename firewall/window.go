package firewall

import (
	"math/bits"
	"sync"
	"time"
)

// parts is into how many a sliding window is cut. A request counts until the
// part in which it came has left the window altogether, so for up to a fifth of
// the window longer than it had to, and never less: no window of that length,
// wherever it starts, sees more than the limit.
const parts = 5

// windowLimiter is a limiter that counts what came in the last window of time,
// and not more than the burst of it. It has the table of limiter, with 24 bytes a
// key.
type windowLimiter struct {
	part    int64 // nanoseconds
	burst   int
	buckets []windowBucket
}

type windowBucket struct {
	mu    sync.Mutex // guards slots
	slots [ways]windowSlot
}

type windowSlot struct {
	key uint64 // 0: free
	counts
}

// counts has what came in the part with the number last, and in those before it:
// of[i] is i parts before last.
type counts struct {
	last uint32
	of   [parts + 1]uint16
}

func newWindowLimiter(window time.Duration, burst, buckets int) *windowLimiter {
	return &windowLimiter{part: int64(window+parts-1) / parts, burst: burst, buckets: make([]windowBucket, buckets)}
}

// at moves the counts on to a part. They never go back: at an earlier time they
// stay as they are, which admits less and not more.
func (c counts) at(part uint32) counts {
	if part <= c.last {
		return c
	}
	moved := counts{last: part}
	if d := part - c.last; d <= parts {
		copy(moved.of[d:], c.of[:])
	}
	return moved
}

func (c *counts) sum() int {
	n := 0
	for _, of := range c.of {
		n += int(of)
	}
	return n
}

// room returns in how many parts from last enough will have left for n to come
// under the burst; 0 if there is room now.
func (c *counts) room(n, burst int) int64 {
	sum := c.sum()
	for i := parts; i >= 0; i-- {
		if sum+n <= burst {
			return int64(parts - i)
		}
		sum -= int(c.of[i])
	}
	return parts + 1
}

func (l *windowLimiter) ask(key uint64, now int64, n int, take bool) time.Duration {
	b := l.bucket(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	part := uint32(now / l.part)
	s := b.find(key, part)
	c := s.current(key, part)
	if in := c.room(n, l.burst); in > 0 {
		return time.Duration((int64(c.last)+in)*l.part - now)
	}
	if take {
		c.counts.of[0] += uint16(n)
		*s = c
	}
	return 0
}

func (l *windowLimiter) peek(key uint64, now int64) Quota {
	b := l.bucket(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	part := uint32(now / l.part)
	c := b.find(key, part).current(key, part)
	q := Quota{Limit: l.burst, Remaining: max(0, l.burst-c.sum())}
	if in := c.room(1, l.burst); in > 0 {
		q.Wait = time.Duration((int64(c.last)+in)*l.part - now)
	}
	for i, of := range c.counts.of {
		if of > 0 {
			q.Reset = time.Duration((int64(c.last)+int64(parts-i)+1)*l.part - now)
			break
		}
	}
	return q
}

func (l *windowLimiter) bucket(key uint64) *windowBucket {
	i, _ := bits.Mul64(key, uint64(len(l.buckets)))
	return &l.buckets[i]
}

// current returns what the slot has of the key at a part, which is nothing if it
// belongs to another.
func (s *windowSlot) current(key uint64, part uint32) windowSlot {
	if s.key != key {
		return windowSlot{key, counts{last: part}}
	}
	return windowSlot{key, s.at(part)}
}

// find returns the slot of the key, or the one that it may have: that of the key
// of which the least came.
func (b *windowBucket) find(key uint64, part uint32) *windowSlot {
	var least *windowSlot
	fewest := 0
	for i := range b.slots {
		s := &b.slots[i]
		if s.key == key {
			return s
		}
		live := s.at(part)
		if n := live.sum(); least == nil || n < fewest {
			least, fewest = s, n
		}
	}
	return least
}
