package firewall

import (
	"hash/maphash"
	"math"
	"math/bits"
	"net/netip"
	"sync"
	"time"
)

// ways is how many keys share a bucket of the table.
const ways = 8

// limiter limits many keys in a fixed amount of memory. Each is a generic cell
// rate algorithm, a token bucket of which only one number is kept: the time at
// which the bucket will be full again. It admits what a rate.Limiter of its own
// would for each key, except that it never admits more when the times it is given
// go backwards (golang/go #71360). With a window it counts in a windowLimiter
// instead.
//
// Keys are told apart by a 64-bit hash with a secret seed, which nobody outside
// can make collide. When a bucket of the table has no room the key whose tokens
// are closest to full is forgotten: one that is over its limit is the last to go.
type limiter struct {
	seed       maphash.Seed // of addresses
	valueSeed  maphash.Seed // of other keys, which so are never taken for addresses
	interval   int64        // nanoseconds for one token
	tolerance  int64        // interval × burst
	burst      int
	ipv4, ipv6 int // bits of an address that make a client
	buckets    []bucket
	window     *windowLimiter // nil: a token bucket
}

type bucket struct {
	mu    sync.Mutex // guards slots; only keys of the same bucket meet here
	slots [ways]slot
}

type slot struct {
	key  uint64 // 0: free
	full int64  // when the tokens are complete again
}

// newLimiter wants a Limit that was checked and has its defaults.
func newLimiter(l Limit) *limiter {
	out := &limiter{
		seed:      maphash.MakeSeed(),
		valueSeed: maphash.MakeSeed(),
		burst:     l.Burst,
		ipv4:      l.IPv4Bits,
		ipv6:      l.IPv6Bits,
	}
	count := max(1, l.MaxClients/ways)
	if l.Window > 0 {
		out.window = newWindowLimiter(l.Window, l.Burst, count)
		return out
	}
	out.interval = int64(math.Ceil(float64(time.Second) / float64(l.Rate)))
	out.tolerance = out.interval * int64(l.Burst)
	out.buckets = make([]bucket, count)
	return out
}

// key returns the hash of the prefix that the client belongs to.
func (l *limiter) key(client netip.Addr) uint64 {
	if !client.IsValid() {
		return 1 // all of these are one client
	}
	length := l.ipv6
	if client.Is4() {
		length = 96 + l.ipv4
	}
	b := client.As16()
	if odd := length % 8; odd != 0 {
		b[length/8] &= 0xff << (8 - odd)
	}
	clear(b[(length+7)/8:])
	return max(1, maphash.Bytes(l.seed, b[:]))
}

// valueKey returns the hash of a key that is not an address.
func (l *limiter) valueKey(value string) uint64 {
	return max(1, maphash.String(l.valueSeed, value))
}

// ask takes a token if take is set and there is one, and returns how long it
// will be until there is one: 0 if there was. now is the time since some fixed
// moment.
func (l *limiter) ask(key uint64, now int64, take bool) time.Duration {
	return l.askN(key, now, 1, take)
}

// askN is ask for n tokens at once, at most the burst.
func (l *limiter) askN(key uint64, now int64, n int, take bool) time.Duration {
	if l.window != nil {
		return l.window.ask(key, now, n, take)
	}
	b := l.bucket(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.find(key)
	full := s.fullAt(key, now) + int64(n)*l.interval
	if wait := full - now - l.tolerance; wait > 0 {
		return time.Duration(wait)
	}
	if take {
		*s = slot{key, full}
	}
	return 0
}

// peek says what a key has left.
func (l *limiter) peek(key uint64, now int64) Quota {
	if l.window != nil {
		return l.window.peek(key, now)
	}
	b := l.bucket(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	missing := b.find(key).fullAt(key, now) - now
	return Quota{
		Limit:     l.burst,
		Remaining: int(max(0, l.tolerance-missing) / l.interval),
		Wait:      time.Duration(max(0, missing+l.interval-l.tolerance)),
		Reset:     time.Duration(missing),
	}
}

func (l *limiter) bucket(key uint64) *bucket {
	i, _ := bits.Mul64(key, uint64(len(l.buckets)))
	return &l.buckets[i]
}

// fullAt returns when the bucket of the key is full, which is now for one that is
// not known.
func (s *slot) fullAt(key uint64, now int64) int64 {
	if s.key != key {
		return now
	}
	return max(now, s.full)
}

// find returns the slot of the key, or the one that it may have.
func (b *bucket) find(key uint64) *slot {
	oldest := &b.slots[0]
	for i := range b.slots {
		s := &b.slots[i]
		if s.key == key {
			return s
		}
		if s.full < oldest.full {
			oldest = s
		}
	}
	return oldest
}
