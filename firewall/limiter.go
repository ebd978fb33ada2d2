package firewall

import (
	"hash/maphash"
	"math"
	"math/bits"
	"net/netip"
	"sync"
	"time"
)

// ways is how many clients share a bucket of the table.
const ways = 8

// limiter limits many clients in a fixed amount of memory. Each is a generic
// cell rate algorithm, a token bucket of which only one number is kept: the time
// at which the bucket will be full again. It admits what a rate.Limiter of its
// own would for each client, except that it never admits more when the times it
// is given go backwards (golang/go #71360).
//
// Clients are told apart by a 64-bit hash with a secret seed, which nobody
// outside can make collide. When a bucket of the table has no room the client
// whose tokens are closest to full is forgotten: one that is over its limit is
// the last to go.
type limiter struct {
	seed       maphash.Seed
	interval   int64 // nanoseconds for one token
	tolerance  int64 // interval × burst
	ipv4, ipv6 int   // bits of an address that make a client
	buckets    []bucket
}

type bucket struct {
	mu    sync.Mutex // guards slots; only clients of the same bucket meet here
	slots [ways]slot
}

type slot struct {
	key  uint64 // 0: free
	full int64  // when the tokens are complete again
}

// newLimiter wants a Limit that was checked and has its defaults.
func newLimiter(l Limit) *limiter {
	interval := int64(math.Ceil(float64(time.Second) / float64(l.Rate)))
	return &limiter{
		seed:      maphash.MakeSeed(),
		interval:  interval,
		tolerance: interval * int64(l.Burst),
		ipv4:      l.IPv4Bits,
		ipv6:      l.IPv6Bits,
		buckets:   make([]bucket, max(1, l.MaxClients/ways)),
	}
}

// key returns the hash of the prefix that the client belongs to.
func (l *limiter) key(client netip.Addr) uint64 {
	length := l.ipv6
	if client.Is4() {
		length = l.ipv4
	}
	prefix, err := client.Prefix(length)
	if err != nil {
		return 1 // no address: all of these are one client
	}
	b := prefix.Addr().As16()
	return max(1, maphash.Bytes(l.seed, b[:]))
}

// ask takes a token if take is set and there is one, and returns how long it
// will be until there is one: 0 if there was. now is the time since some fixed
// moment.
func (l *limiter) ask(key uint64, now int64, take bool) time.Duration {
	i, _ := bits.Mul64(key, uint64(len(l.buckets)))
	b := &l.buckets[i]
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.find(key)
	full := now
	if s.key == key {
		full = max(full, s.full)
	}
	full += l.interval
	if wait := full - now - l.tolerance; wait > 0 {
		return time.Duration(wait)
	}
	if take {
		*s = slot{key, full}
	}
	return 0
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
