package firewall

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Escalation bans clients that offend again and again. An offence is a
// connection, handshake or request that a rule, a limit or a size limit refused,
// or one that the application reports with [Firewall.Offence]. What the default or
// a ban refuses is none.
//
// Offences are counted for the address of the client and for the networks around
// it, so that a client that comes from a new address each time, as it can with
// IPv6, is banned as the network that it has. A trusted proxy is never banned by
// an escalation, nor is a network with one in it.
type Escalation struct {
	// ID names it in events and in the reason of its bans. It must not be empty
	// and no other escalation may have it.
	ID string
	// On are the IDs of the rules, limits and size limits whose refusals count,
	// and "app:" with the names that Offence is called with. Nil means all.
	On []string
	// Match says which offences count. Zero means all; an unknown match counts.
	Match Match
	// Offences is how many it takes within Window, 1 to 8,000, from one address,
	// for which it is banned for the time Ban. Each step to a wider network takes
	// twice as many as the one before. None of the three has a default. An offence
	// may count for up to a fifth of the Window longer. The Window is of one
	// second to a year.
	Offences int
	Window   time.Duration
	Ban      time.Duration
	// MaxBan, if it is more than Ban, makes each further ban of the same network
	// twice as long as the one before, up to this. What was before is forgotten
	// when the network has been free of bans for the longer of MaxBan and Window.
	// Zero means that bans do not grow.
	MaxBan time.Duration
	// IPv4Bits and IPv6Bits are the prefix lengths that offences are counted for
	// and bans are made of, from longest to shortest, four at most. Nil means 32,
	// and 128, 64, 48.
	IPv4Bits, IPv6Bits []int
	// MaxClients is how many networks of each length are kept apart, at 41 bytes
	// each, which are allocated at once. Zero means 16,384. It is otherwise like
	// MaxClients of [Limit].
	MaxClients int
	// Mode is Enforce or Monitor, which reports bans and makes none.
	Mode Mode
}

const (
	mostOffences          = 8_000 // the widest step takes eight times as many, and a part counts to 65,535
	mostSteps             = 4
	defaultMaxOffenders   = 1 << 14
	mostBan               = 10 * mostWindow
	appOffence            = "app:"
	escalationWarnAtLeast = int64(time.Minute)
)

type boundEscalation struct {
	Escalation
	match     *node // nil: every offence
	offenders []*offenderTable
}

func (e Escalation) bind(known *knowledge, ids []string) (b boundEscalation, errs []error) {
	if e.IPv4Bits == nil {
		e.IPv4Bits = []int{32}
	}
	if e.IPv6Bits == nil {
		e.IPv6Bits = []int{128, 64, 48}
	}
	if e.MaxClients == 0 {
		e.MaxClients = defaultMaxOffenders
	}
	e.MaxBan = max(e.MaxBan, e.Ban)
	b.Escalation, errs = e, e.check()
	for _, id := range e.On {
		if !slices.Contains(ids, id) && !strings.HasPrefix(id, appOffence) {
			errs = append(errs, fmt.Errorf("on %q, want the ID of a rule, limit or size limit, or app: and a name", clip(id)))
		}
	}
	if e.Match.n != nil {
		match, more := e.Match.n.bind(known)
		b.match, errs = match, append(errs, more...)
	}
	return b, errs
}

func (e Escalation) check() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if e.ID == "" {
		bad("no ID, want one that names the escalation")
	}
	if e.Offences < 1 || e.Offences > mostOffences {
		bad("Offences %d, want 1 to %d", e.Offences, mostOffences)
	}
	if e.Window < leastWindow || e.Window > mostWindow {
		bad("Window %v, want %v to %v", e.Window, leastWindow, mostWindow)
	}
	if e.Ban <= 0 || e.MaxBan > mostBan {
		bad("Ban %v and MaxBan %v, want more than 0 and at most %v", e.Ban, e.MaxBan, mostBan)
	}
	if !isNarrowing(e.IPv4Bits, 32) || !isNarrowing(e.IPv6Bits, 128) {
		bad("IPv4Bits %v and IPv6Bits %v, want 1 to %d lengths each, from longest to shortest", e.IPv4Bits, e.IPv6Bits, mostSteps)
	}
	if e.MaxClients < ways || e.MaxClients > mostMaxClients {
		bad("MaxClients %d, want %d to %d", e.MaxClients, ways, mostMaxClients)
	}
	if e.Mode > Monitor {
		bad("%v, want enforce or monitor", e.Mode)
	}
	return errs
}

// isNarrowing says whether the lengths get shorter and are possible.
func isNarrowing(lengths []int, most int) bool {
	for i, n := range lengths {
		if n < 1 || n > most || i > 0 && n >= lengths[i-1] {
			return false
		}
	}
	return len(lengths) > 0 && len(lengths) <= mostSteps
}

// adopt takes the offenders of the escalation with the same ID and numbers in an
// old policy, or makes room for new ones.
func (b *boundEscalation) adopt(old *program) {
	if old != nil {
		for i := range old.escalations {
			was := &old.escalations[i]
			if was.ID == b.ID && was.Offences == b.Offences && was.Window == b.Window && was.MaxClients == b.MaxClients &&
				slices.Equal(was.IPv4Bits, b.IPv4Bits) && slices.Equal(was.IPv6Bits, b.IPv6Bits) {
				b.offenders = was.offenders
				return
			}
		}
	}
	for range max(len(b.IPv4Bits), len(b.IPv6Bits)) {
		b.offenders = append(b.offenders, newOffenderTable(b.Window, b.MaxClients))
	}
}

// Offence reports an offence of a client that the application saw, such as a
// login that failed, to the escalations that have "app:" and the name among their
// On, or no On. It may ban the client before it returns.
func (f *Firewall) Offence(client netip.Addr, name string) {
	seen := facts{known: &f.known, client: plainAddr(client)}
	f.offend(f.program.Load(), RequestDepth, &seen, appOffence+name)
}

// offend counts an offence, which has the ID of what refused it.
func (f *Firewall) offend(p *program, depth Depth, seen *facts, id string) {
	if len(p.escalations) == 0 || !seen.client.IsValid() || f.trusted.Contains(seen.client) {
		return
	}
	now := f.now()
	for i := range p.escalations {
		e := &p.escalations[i]
		if len(e.On) > 0 && !slices.Contains(e.On, id) || e.match != nil && e.match.eval(seen) == no {
			continue
		}
		lengths := e.IPv6Bits
		if seen.client.Is4() {
			lengths = e.IPv4Bits
		}
		for step, length := range lengths {
			prefix, err := seen.client.Prefix(length)
			if err != nil || f.trusted.overlaps(prefix) {
				break // and no wider one either
			}
			if ttl := e.offenders[step].offend(prefix, e, step, now); ttl > 0 {
				f.escalate(p, depth, seen, e, prefix, ttl, id)
			}
		}
	}
}

// escalate bans a network for its offences.
func (f *Firewall) escalate(p *program, depth Depth, seen *facts, e *boundEscalation, prefix netip.Prefix, ttl time.Duration, id string) {
	f.report(p, Event{
		Depth: depth, Verdict: Drop, Mode: e.Mode, Reason: ByEscalation, EscalationID: e.ID,
		Client: seen.client, Banned: prefix, RetryAfter: ttl, Request: seen.request,
	})
	if e.Mode == Monitor {
		return
	}
	err := f.Ban(prefix, ttl, fmt.Sprintf("%s: offences, the last by %s", e.ID, id))
	if errors.Is(err, ErrTooManyBans) {
		now, last := f.now(), f.warned.Load()
		if (last == 0 || now-last > escalationWarnAtLeast) && f.warned.CompareAndSwap(last, now) {
			f.logger.Warn("firewall: offenders are not banned", "error", err)
		}
	}
}

// offenderTable counts the offences and remembers the bans of many networks of
// one prefix length, in the manner of limiter.
type offenderTable struct {
	seed    maphash.Seed
	part    int64 // nanoseconds of a part of the window
	buckets []offenderBucket
}

type offenderBucket struct {
	mu    sync.Mutex // guards slots
	slots [ways]offender
}

type offender struct {
	key uint64 // 0: free
	counts
	strikes uint16 // bans so far
	until   int64  // the end of the last one
}

func newOffenderTable(window time.Duration, clients int) *offenderTable {
	return &offenderTable{
		seed:    maphash.MakeSeed(),
		part:    int64(window+parts-1) / parts,
		buckets: make([]offenderBucket, max(1, clients/ways)),
	}
}

// offend counts an offence and returns for how long it brings a ban, or 0.
func (t *offenderTable) offend(p netip.Prefix, e *boundEscalation, step int, now int64) time.Duration {
	b := p.Addr().As16()
	key := max(1, maphash.Bytes(t.seed, b[:]))
	i, _ := bits.Mul64(key, uint64(len(t.buckets)))
	bucket := &t.buckets[i]
	bucket.mu.Lock()
	defer bucket.mu.Unlock()
	part := uint32(now / t.part)
	forget := int64(max(e.MaxBan, e.Window))
	s := bucket.find(key, part, now-forget)
	if s.key != key {
		*s = offender{key: key, counts: counts{last: part}}
	}
	s.counts = s.at(part)
	if s.until < now-forget {
		s.strikes = 0
	}
	s.of[0]++
	if s.sum() < e.Offences<<step {
		return 0
	}
	ttl := e.Ban
	for range s.strikes {
		if ttl = min(2*ttl, e.MaxBan); ttl == e.MaxBan {
			break
		}
	}
	s.counts = counts{last: s.last}
	s.strikes = min(s.strikes+1, 1<<15)
	s.until = now + int64(ttl)
	return ttl
}

// find returns the slot of the key, or the one that it may have: one without
// bans since the time given rather than one with, and of those the one with the
// fewest offences.
func (b *offenderBucket) find(key uint64, part uint32, since int64) *offender {
	least, lowest := &b.slots[0], -1
	for i := range b.slots {
		s := &b.slots[i]
		if s.key == key {
			return s
		}
		live := s.at(part)
		n := live.sum()
		if s.until >= since {
			n += int(s.strikes) << 20
		}
		if lowest < 0 || n < lowest {
			least, lowest = s, n
		}
	}
	return least
}
