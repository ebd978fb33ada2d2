package firewall

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
)

// Config makes a [Firewall].
type Config struct {
	// Policy is what is enforced until Update. Zero drops everything.
	Policy Policy
	// TrustedProxies are the proxies whose word about the client is believed.
	// Nil means nobody: the peer is the client. They must be servers of yours
	// that set the header, not networks in which a client could be.
	TrustedProxies []netip.Prefix
	// ForwardedHeader is the header that the trusted proxies set. Zero is
	// X-Forwarded-For.
	ForwardedHeader ForwardedHeader
	// Identity returns the identity of the peer or client that was verified,
	// or "" for none. It is called at most once a request, if a rule asks for
	// it. Nil means that identities are not known; ClientIdentity is then an
	// error.
	Identity func(*http.Request) string
	// OnDecision is told of everything that is refused and of every match in
	// Monitor mode. It runs before the answer is given, concurrently, and must
	// not block. Nil tells nobody.
	OnDecision func(Event)
	// Logger takes changes of policies and bans, not requests. Nil means
	// slog.Default().
	Logger *slog.Logger
}

// Event is a refusal, or a match of a rule or limit in Monitor mode.
type Event struct {
	// Depth is where it happened.
	Depth Depth
	// Verdict is what was decided, or, in Monitor mode, would have been.
	Verdict Verdict
	// Mode is Monitor if nothing came of it.
	Mode Mode
	// Reason is what decided.
	Reason Reason
	// RuleID or LimitID names it, for ByRule and ByLimit.
	RuleID, LimitID string
	// RetryAfter is when the limit lets a request through again. Zero but for
	// an enforced ByLimit.
	RetryAfter time.Duration
	// Client is the address of the client; the zero Addr if it cannot be told.
	Client netip.Addr
	// Generation is that of the policy.
	Generation uint64
}

// Firewall enforces a [Policy]. Make one with [New]. It is safe for concurrent
// use, and has no goroutine and nothing to close.
type Firewall struct {
	trusted    PrefixSet
	header     ForwardedHeader
	identity   func(*http.Request) string
	onDecision func(Event)
	logger     *slog.Logger
	base       time.Time // where the monotonic clock starts

	program  atomic.Pointer[program]
	updating sync.Mutex
	bans     banTable

	unknownClients, banned tally
}

// New returns a firewall, or an error that lists every mistake of the
// configuration.
func New(c Config) (*Firewall, error) {
	f := &Firewall{
		header:     c.ForwardedHeader,
		identity:   c.Identity,
		onDecision: c.OnDecision,
		logger:     c.Logger,
		base:       time.Now(),
	}
	if f.logger == nil {
		f.logger = slog.Default()
	}
	f.bans.table.Store(new(bart.Table[banEntry]))
	trusted, mistakes := canonicalPrefixes(c.TrustedProxies)
	errs := []error{prefixed("firewall: TrustedProxies", mistakes), f.trusted.store(trusted)}
	if c.ForwardedHeader > Forwarded {
		errs = append(errs, fmt.Errorf("firewall: %v, want XForwardedFor or Forwarded", c.ForwardedHeader))
	}
	p, err := compile(c.Policy, c.Identity != nil, nil)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	f.program.Store(p)
	return f, nil
}

// Update puts another policy in force, for every connection and request that
// comes after. An error lists every mistake and leaves the old policy in force.
// A limit with the ID and the numbers of an old one knows what its clients have
// left; counters go on by ID; bans stay.
func (f *Firewall) Update(p Policy) error {
	f.updating.Lock()
	defer f.updating.Unlock()
	next, err := compile(p, f.identity != nil, f.program.Load())
	if err != nil {
		return err
	}
	f.program.Store(next)
	f.logger.Info("firewall: policy updated", "generation", next.generation, "rules", len(next.rules), "limits", len(next.limits))
	return nil
}

// now is a clock that never goes back.
func (f *Firewall) now() int64 { return int64(time.Since(f.base)) }

// Counters are what was decided since New, or since a rule or limit got its ID.
type Counters struct {
	// Generation is that of the policy in force.
	Generation uint64
	// Rules has an entry for each rule, in order. For a rule in Monitor mode it
	// counts what matched.
	Rules []Count
	// Limits has an entry for each limit, in order: the requests that were
	// over it.
	Limits []Count
	// Default, Bans and UnknownClients count what was decided by the default,
	// by a ban, and because the client could not be told.
	Default, Bans, UnknownClients Count
}

// Count is a number of decisions.
type Count struct {
	// ID is that of the rule or limit, if it is about one.
	ID string
	// Connections were decided at accept; those that passed undecided are not
	// counted.
	Connections uint64
	// Requests were decided by the handler.
	Requests uint64
}

func (t *tally) load(id string) Count {
	return Count{ID: id, Connections: t.conns.Load(), Requests: t.requests.Load()}
}

// Counters returns the counters. They are read one after the other while the
// firewall works.
func (f *Firewall) Counters() Counters {
	p := f.program.Load()
	c := Counters{
		Generation:     p.generation,
		Default:        p.defaults.load(""),
		Bans:           f.banned.load(""),
		UnknownClients: f.unknownClients.load(""),
	}
	for _, r := range p.rules {
		c.Rules = append(c.Rules, r.tally.load(r.ID))
	}
	for _, l := range p.limits {
		c.Limits = append(c.Limits, l.tally.load(l.ID))
	}
	return c
}

// record counts an outcome and reports what is to be reported.
func (f *Firewall) record(p *program, depth Depth, seen *facts, o *outcome) {
	for _, i := range o.monitoredRules {
		r := &p.rules[i]
		r.tally.count(depth)
		f.report(p, Event{Depth: depth, Verdict: r.Verdict, Mode: Monitor, Reason: ByRule, RuleID: r.ID, Client: seen.client})
	}
	for _, i := range o.monitoredLimits {
		l := &p.limits[i]
		l.tally.count(depth)
		f.report(p, Event{Depth: depth, Verdict: Reject, Mode: Monitor, Reason: ByLimit, LimitID: l.ID, Client: seen.client})
	}
	if o.undecided {
		return
	}
	e := Event{Depth: depth, Verdict: o.verdict, Reason: o.reason, RetryAfter: o.wait, Client: seen.client}
	switch o.reason {
	case ByDefault:
		p.defaults.count(depth)
	case ByRule:
		p.rules[o.rule].tally.count(depth)
		e.RuleID = p.rules[o.rule].ID
	case ByLimit:
		p.limits[o.limit].tally.count(depth)
		e.LimitID = p.limits[o.limit].ID
	case ByBan:
		f.banned.count(depth)
	case ByClient:
		f.unknownClients.count(depth)
	}
	if o.verdict != Accept {
		f.report(p, e)
	}
}

func (f *Firewall) report(p *program, e Event) {
	if f.onDecision != nil {
		e.Generation = p.generation
		f.onDecision(e)
	}
}
