package firewall

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
)

const (
	maxBans        = 1 << 16
	maxReasonBytes = 256
)

// ErrTooManyBans is what [Firewall.Ban] returns when 65,536 bans are in force.
var ErrTooManyBans = errors.New("firewall: too many bans")

// Ban is a ban in force.
type Ban struct {
	Prefix netip.Prefix
	Reason string
	Until  time.Time
}

// Ban refuses every client in the prefix for the time ttl, at every depth and
// before any rule. Its connections that came through [Firewall.Listener] are
// reset. A connection whose peer is a trusted proxy stays; the requests on it that
// come from a banned client are refused, and those that are already being served
// go on.
//
// A ban of a prefix that is banned already ends at the later of the two times,
// and the later call gives the reason, of which 256 bytes are kept. It returns
// an error for a prefix that a [PrefixSet] would refuse and for a ttl that is
// not positive, and [ErrTooManyBans].
func (f *Firewall) Ban(prefix netip.Prefix, ttl time.Duration, reason string) error {
	p, err := canonicalPrefix(prefix)
	if err != nil {
		return fmt.Errorf("firewall: ban: %w", err)
	}
	now := f.now()
	if ttl <= 0 || int64(ttl) > math.MaxInt64-now {
		return fmt.Errorf("firewall: ban of %v for %v, want a time that is positive", p, ttl)
	}
	reason = strings.ToValidUTF8(reason[:min(len(reason), maxReasonBytes)], "")
	if err := f.bans.add(p, banEntry{until: now + int64(ttl), reason: reason}, now); err != nil {
		return fmt.Errorf("%w: no room for %v", err, p)
	}
	f.closeWithin(p)
	f.logger.Info("firewall: banned", "prefix", p, "ttl", ttl, "reason", reason)
	return nil
}

// Unban ends the ban of exactly this prefix and says whether there was one.
func (f *Firewall) Unban(prefix netip.Prefix) bool {
	p, err := canonicalPrefix(prefix)
	if err != nil || !f.bans.remove(p, f.now()) {
		return false
	}
	f.logger.Info("firewall: unbanned", "prefix", p)
	return true
}

// Bans returns the bans in force, in the order of their prefixes.
func (f *Firewall) Bans() []Ban {
	now, clock := f.now(), time.Now()
	var out []Ban
	for p, e := range f.bans.table.Load().AllSorted() {
		if e.until > now {
			out = append(out, Ban{Prefix: p, Reason: e.reason, Until: clock.Add(time.Duration(e.until - now))})
		}
	}
	return out
}

type banEntry struct {
	until  int64 // on the clock of Firewall.now
	reason string
}

// banTable holds bans, and whatever else is a prefix with an end. Readers take no
// lock. Nothing runs in the background: a ban that has ended is skipped by readers,
// and swept out when room is needed.
type banTable struct {
	table atomic.Pointer[bart.Table[banEntry]] // never nil

	mu       sync.Mutex // serialises writers and guards what follows
	most     int        // entries, whether they have ended or not
	earliest int64      // no ban ends before; saves sweeps that find nothing
}

func newBanTable(most int) *banTable {
	t := &banTable{most: most}
	t.table.Store(new(bart.Table[banEntry]))
	return t
}

func (t *banTable) find(addr netip.Addr, now int64) (banEntry, bool) {
	table := t.table.Load()
	e, ok := table.Lookup(addr)
	if !ok || e.until > now {
		return e, ok
	}
	// The longest prefix has ended; a shorter one may still be banned.
	for _, e := range table.Supernets(netip.PrefixFrom(addr, addr.BitLen())) {
		if e.until > now {
			return e, true
		}
	}
	return banEntry{}, false
}

func (t *banTable) add(p netip.Prefix, e banEntry, now int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	table := t.table.Load()
	old, exists := table.Get(p)
	if exists {
		e.until = max(e.until, old.until)
	} else if table.Size() >= t.most {
		if table = t.sweep(now); table.Size() >= t.most {
			return ErrTooManyBans
		}
	}
	if table.Size() == 0 {
		t.earliest = math.MaxInt64
	}
	t.earliest = min(t.earliest, e.until)
	t.table.Store(table.InsertPersist(p, e))
	return nil
}

// hasRoom says whether n more fit in.
func (t *banTable) hasRoom(n int, now int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.table.Load().Size()+n <= t.most || t.sweep(now).Size()+n <= t.most
}

// sweep takes out the bans that have ended. The caller holds mu.
func (t *banTable) sweep(now int64) *bart.Table[banEntry] {
	table := t.table.Load()
	if t.earliest > now {
		return table
	}
	t.earliest = math.MaxInt64
	live := new(bart.Table[banEntry])
	for p, e := range table.All() {
		if e.until > now {
			live.Insert(p, e)
			t.earliest = min(t.earliest, e.until)
		}
	}
	t.table.Store(live)
	return live
}

func (t *banTable) remove(p netip.Prefix, now int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	table := t.table.Load()
	e, ok := table.Get(p)
	if !ok {
		return false
	}
	t.table.Store(table.DeletePersist(p))
	return e.until > now
}
