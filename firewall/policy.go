package firewall

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// Policy is a list of rules. The zero value drops everything.
type Policy struct {
	// Sets are the prefix sets that [SourceSet] and [DestinationSet] name. The
	// policy keeps the sets themselves, so that a change of one takes effect
	// at once.
	Sets map[string]*PrefixSet
	// Rules are tried in order; the first that matches decides.
	Rules []Rule
	// Limits apply to every request that the rules accept. It has to be within
	// all of them; one that is refused takes nothing from any.
	Limits []Limit
	// Default decides when no rule matches. Zero is Drop.
	Default Verdict
}

// Rule is one rule of a [Policy].
type Rule struct {
	// ID names the rule in decisions, events and counters. It must not be empty
	// and no other rule may have it.
	ID string
	// Match says what the rule is about. The zero Match is an error; All()
	// matches everything. Where the match is unknown, such as for a path that
	// servers read in different ways, a rule that refuses applies and a rule
	// that accepts does not.
	Match Match
	// Verdict is what the rule decides. Zero is Drop.
	Verdict Verdict
	// Mode is Enforce or Monitor.
	Mode Mode
}

// Limit is a limit on the rate of requests of each client: a token bucket, as in
// [rate.Limiter].
type Limit struct {
	// ID names the limit in decisions, events and counters. It must not be
	// empty and no other limit may have it.
	ID string
	// Match says which requests count. Zero means all. A request counts where
	// the match is unknown.
	Match Match
	// IPv4Bits and IPv6Bits say how many leading bits of an address make a
	// client. Zero means 32 and 64: a single home gets an IPv6 network of 64
	// bits or more, with which it could come from a new address every time.
	IPv4Bits, IPv6Bits int
	// Rate is how many tokens a client gets per second, above 0 and at most
	// 1,000,000. It has no default.
	Rate rate.Limit
	// Burst is how many tokens a client can save up, and has at first: 1 or
	// more. It has no default.
	Burst int
	// MaxClients is how many clients are kept apart, 17 bytes each, which are
	// allocated at once. Zero means 65,536; 8 is the least and 16,777,216 the
	// most; a number that is no multiple of 8 is rounded down. When more clients
	// than that are active, some that are closest to having all their tokens
	// are forgotten and start anew.
	MaxClients int
	// Mode is Enforce or Monitor.
	Mode Mode
}

const (
	defaultMaxClients = 1 << 16
	mostMaxClients    = 1 << 24
	mostRate          = 1e6
)

// program is a checked policy, bound to its sets. It is immutable; what its
// tallies and limiters point to is not.
type program struct {
	generation uint64
	rules      []boundRule
	limits     []boundLimit
	verdict    Verdict // the default
	defaults   *tally
}

type boundRule struct {
	Rule
	match *node
	tally *tally
}

type boundLimit struct {
	Limit
	match   *node // nil: every request
	limiter *limiter
	tally   *tally
}

// tally counts what a rule or limit decided, at each depth.
type tally struct{ conns, requests atomic.Uint64 }

func (t *tally) count(d Depth) {
	if d == AcceptDepth {
		t.conns.Add(1)
	} else {
		t.requests.Add(1)
	}
}

// compile checks a policy and lists every mistake. Tallies and limiters of old,
// which may be nil, live on in rules and limits with the same ID.
func compile(p Policy, identity bool, old *program) (*program, error) {
	out := &program{generation: 1, verdict: p.Default, defaults: new(tally)}
	if old != nil {
		out.generation, out.defaults = old.generation+1, old.defaults
	}
	var errs []error
	if int(p.Default) >= len(verdictNames) {
		errs = append(errs, fmt.Errorf("firewall: policy default %v, want drop, accept or reject", p.Default))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Sets)) {
		if name == "" || p.Sets[name] == nil {
			errs = append(errs, fmt.Errorf("firewall: set %q has no name or is nil", clip(name)))
		} else if s := p.Sets[name]; s.file != "" && s.table.Load() == nil {
			errs = append(errs, fmt.Errorf("firewall: set %q: file %q was not loaded, want Policy.LoadFiles first", clip(name), clip(s.file)))
		}
	}
	for i, r := range p.Rules {
		b, mistakes := r.bind(p.Sets, identity)
		if slices.ContainsFunc(p.Rules[:i], func(other Rule) bool { return other.ID == r.ID }) {
			mistakes = append(mistakes, errors.New("an earlier rule has this ID too"))
		}
		errs = append(errs, prefixed(fmt.Sprintf("firewall: rule %d, %q", i, clip(r.ID)), mistakes))
		b.tally = old.ruleTally(r.ID)
		out.rules = append(out.rules, b)
	}
	for i, l := range p.Limits {
		b, mistakes := l.bind(p.Sets, identity)
		if slices.ContainsFunc(p.Limits[:i], func(other Limit) bool { return other.ID == l.ID }) {
			mistakes = append(mistakes, errors.New("an earlier limit has this ID too"))
		}
		errs = append(errs, prefixed(fmt.Sprintf("firewall: limit %d, %q", i, clip(l.ID)), mistakes))
		out.limits = append(out.limits, b)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for i := range out.limits { // only now: they take memory
		b := &out.limits[i]
		b.limiter, b.tally = old.limiterLike(b.Limit)
	}
	return out, nil
}

func (r Rule) bind(sets map[string]*PrefixSet, identity bool) (b boundRule, errs []error) {
	b.Rule = r
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if r.ID == "" {
		bad("no ID, want one that names the rule")
	}
	if int(r.Verdict) >= len(verdictNames) {
		bad("%v, want drop, accept or reject", r.Verdict)
	}
	if r.Mode > Monitor {
		bad("%v, want enforce or monitor", r.Mode)
	}
	if r.Match.n == nil {
		bad("zero Match, want All() to match everything")
		return b, errs
	}
	match, more := r.Match.n.bind(sets, identity)
	b.match = match
	return b, append(errs, more...)
}

func (l Limit) bind(sets map[string]*PrefixSet, identity bool) (b boundLimit, errs []error) {
	b.Limit = l.withDefaults()
	errs = b.Limit.check()
	if l.Match.n != nil {
		match, more := l.Match.n.bind(sets, identity)
		b.match, errs = match, append(errs, more...)
	}
	return b, errs
}

func (l Limit) withDefaults() Limit {
	if l.IPv4Bits == 0 {
		l.IPv4Bits = 32
	}
	if l.IPv6Bits == 0 {
		l.IPv6Bits = 64
	}
	if l.MaxClients == 0 {
		l.MaxClients = defaultMaxClients
	}
	return l
}

func (l Limit) check() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if l.ID == "" {
		bad("no ID, want one that names the limit")
	}
	if l.IPv4Bits < 1 || l.IPv4Bits > 32 || l.IPv6Bits < 1 || l.IPv6Bits > 128 {
		bad("IPv4Bits %d and IPv6Bits %d, want 1 to 32 and 1 to 128", l.IPv4Bits, l.IPv6Bits)
	}
	if !(l.Rate > 0 && l.Rate <= mostRate) { // not so for NaN
		bad("Rate %v, want more than 0 and at most %v per second", float64(l.Rate), mostRate)
	}
	if l.Burst < 1 {
		bad("Burst %d, want at least 1", l.Burst)
	} else if l.Rate > 0 && float64(l.Burst)/float64(l.Rate) > math.MaxInt64/4/1e9 {
		bad("Burst %d at Rate %v takes centuries to save up, want less", l.Burst, float64(l.Rate))
	}
	if l.MaxClients < ways || l.MaxClients > mostMaxClients {
		bad("MaxClients %d, want %d to %d", l.MaxClients, ways, mostMaxClients)
	}
	if l.Mode > Monitor {
		bad("%v, want enforce or monitor", l.Mode)
	}
	return errs
}

func (p *program) ruleTally(id string) *tally {
	if p != nil {
		for _, r := range p.rules {
			if r.ID == id {
				return r.tally
			}
		}
	}
	return new(tally)
}

// limiterLike returns what a limit of the same ID has counted, and its limiter
// if the numbers are the same too: else what clients have left means nothing.
func (p *program) limiterLike(l Limit) (*limiter, *tally) {
	if p == nil {
		return newLimiter(l), new(tally)
	}
	for _, b := range p.limits {
		if b.ID != l.ID {
			continue
		}
		was := b.Limit
		if was.Rate == l.Rate && was.Burst == l.Burst && was.IPv4Bits == l.IPv4Bits && was.IPv6Bits == l.IPv6Bits && was.MaxClients == l.MaxClients {
			return b.limiter, b.tally
		}
		return newLimiter(l), b.tally
	}
	return newLimiter(l), new(tally)
}
