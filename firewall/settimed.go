package firewall

import (
	"fmt"
	"math"
	"net/netip"
	"time"
)

// timedPrefixes are the prefixes of a set that have an end. Nothing runs to take
// them out: one that has ended is passed over, as a ban is.
type timedPrefixes struct {
	base  time.Time // where the monotonic clock starts
	table *banTable
}

// InsertFor adds the prefixes for the time ttl, for which they are in the set
// whatever Replace and Load do; one that is in it for a time already stays until
// the later of the two ends. An error, which lists every wrong prefix or says that
// ttl is not positive, leaves the set as it was.
func (s *PrefixSet) InsertFor(ttl time.Duration, prefixes ...netip.Prefix) error {
	clean, errs := canonicalPrefixes(prefixes)
	if ttl <= 0 || ttl > math.MaxInt64/2 {
		errs = append(errs, fmt.Errorf("prefixes for %v, want a time that is positive", ttl))
	}
	if len(errs) > 0 {
		return prefixed("firewall", errs)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	timed := s.timed.Load()
	if timed == nil {
		timed = &timedPrefixes{base: time.Now(), table: newBanTable(maxPrefixes)}
		s.timed.Store(timed)
	}
	now := timed.now()
	if !timed.table.hasRoom(len(clean), now) {
		return errSetFull
	}
	for _, p := range clean {
		if err := timed.table.add(p, banEntry{until: now + int64(ttl)}, now); err != nil {
			return fmt.Errorf("%w: %w", errSetFull, err) // for which there was room
		}
	}
	return nil
}

func (t *timedPrefixes) now() int64 { return int64(time.Since(t.base)) }

// contains asks for the time only if there is something that might have ended.
func (t *timedPrefixes) contains(addr netip.Addr) bool {
	if !t.table.table.Load().Contains(addr) {
		return false
	}
	_, ok := t.table.find(addr, t.now())
	return ok
}

func (t *timedPrefixes) len() int {
	n, now := 0, t.now()
	for _, e := range t.table.table.Load().All() {
		if e.until > now {
			n++
		}
	}
	return n
}

func (t *timedPrefixes) remove(prefixes []netip.Prefix) {
	for _, p := range prefixes {
		if clean, err := canonicalPrefix(p); err == nil {
			t.table.remove(clean, t.now())
		}
	}
}
