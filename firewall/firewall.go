package firewall

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
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
	// ProxyAddr returns the address that a PROXY protocol header named for the
	// connection of a request, or the zero Addr if there was none. It is believed
	// if the peer is a trusted proxy, and stands between the peer and the
	// forwarding header: if it is a trusted proxy too, the header is read. Nil
	// means that there is no such header, or that a listener has put its address
	// into http.Request.RemoteAddr already.
	ProxyAddr func(*http.Request) netip.Addr
	// ClientInContext puts the address of the client into the context of each
	// request that Handler passes on, where [ClientIP] finds it. That takes a copy of
	// the request, and what is written into the copy, such as its Pattern by
	// http.ServeMux, is not seen by the handlers around this one. Zero passes
	// requests on as they came; [Firewall.ClientIP] tells the address either way.
	ClientInContext bool
	// Identity returns the identity of the peer or client that was verified,
	// or "" for none. It is called at most once a request, if a rule asks for
	// it. Nil means that identities are not known; ClientIdentity is then an
	// error.
	Identity func(*http.Request) string
	// Country returns the country of an address, as two capital letters, or "" if
	// it is not known. Nil means that countries are not known; [Country] is then an
	// error. It is called for each predicate that asks, and has to be fast.
	Country func(netip.Addr) string
	// ASN returns the number of the autonomous system of an address, or 0 if it is
	// not known, in the manner of Country.
	ASN func(netip.Addr) uint32
	// KeyFuncs are the functions that a [FuncKey] may name. They return what tells
	// the clients of a limit apart, or "" to have the address tell.
	KeyFuncs map[string]func(*http.Request) string
	// Store keeps the limits that are Shared. Nil means that there is none; Shared
	// is then an error. While it does not answer, each process keeps its part of
	// these limits alone, and asks it again after a second.
	Store Store
	// StoreTimeout is how long a request waits for the Store. Zero means 50 ms.
	StoreTimeout time.Duration
	// StoreProcesses is how many processes share the Store: while it does not
	// answer, each has that part of the rate and burst. Zero means 1; 1,024 is the
	// most.
	StoreProcesses int
	// HeaderTimeout is how long a connection of Listener may take until the head
	// of its first request has come, or, with TLS, the first message. Nothing else
	// is expected to be slow, so a server of another protocol in which clients may
	// be silent at first needs a negative one. For the heads of later requests and
	// for all inside TLS there is http.Server.ReadHeaderTimeout. Zero means 10
	// seconds; negative means no such limit.
	HeaderTimeout time.Duration
	// StallTimeout is how long a client of Listener may take in less than MinRate
	// of what the server writes, before its connection is reset, which takes up to
	// twice that. Zero means a minute; negative means any time.
	StallTimeout time.Duration
	// MinRate is how many bytes per second a client has to send of a request body,
	// after HeaderTimeout or, without one, 10 seconds, and to take in. Only the time
	// in which the client keeps the server waiting counts. A body that is too slow
	// ends with an error that is a timeout. That is left to http.Server.ReadTimeout
	// where it is set, and to servers other than http.Server. Zero means 240;
	// negative means any rate.
	MinRate int
	// RetryJitter is the most that is added at random to a Retry-After, so that
	// clients that were refused together do not come back together. Zero adds
	// nothing.
	RetryJitter time.Duration
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
	// RuleID, LimitID, SizeID or EscalationID names it, for ByRule, ByLimit, BySize
	// and ByEscalation.
	RuleID, LimitID, SizeID, EscalationID string
	// RetryAfter is when the limit lets a request through again, for an enforced
	// ByLimit at the Handler, and how long the ban lasts, for ByEscalation. Else
	// zero.
	RetryAfter time.Duration
	// Banned is the network that an escalation bans. Else the zero Prefix.
	Banned netip.Prefix
	// Request is the request, at RequestDepth, unless it is about an
	// [Firewall.Offence]. It must neither be changed nor kept.
	Request *http.Request
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
	proxyAddr  func(*http.Request) netip.Addr
	inContext  bool // the address of the client
	known      knowledge
	onDecision func(Event)
	logger     *slog.Logger
	base       time.Time // where the monotonic clock starts

	headerTimeout, stallTimeout, bodyGrace, retryJitter time.Duration
	minRate                                             int

	program  atomic.Pointer[program]
	updating sync.Mutex
	bans     *banTable
	conns    connTable

	unknownClients, banned tally
	warned                 atomic.Int64 // when it was last said that there are too many bans
}

// New returns a firewall, or an error that lists every mistake of the
// configuration.
func New(c Config) (*Firewall, error) {
	f := &Firewall{
		header:        c.ForwardedHeader,
		proxyAddr:     c.ProxyAddr,
		inContext:     c.ClientInContext,
		onDecision:    c.OnDecision,
		logger:        c.Logger,
		base:          time.Now(),
		headerTimeout: c.HeaderTimeout,
		stallTimeout:  c.StallTimeout,
		retryJitter:   c.RetryJitter,
		minRate:       c.MinRate,
		bans:          newBanTable(maxBans),
	}
	if f.logger == nil {
		f.logger = slog.Default()
	}
	if c.HeaderTimeout == 0 {
		f.headerTimeout = defaultHeaderTimeout
	}
	if f.bodyGrace = f.headerTimeout; f.bodyGrace < 0 {
		f.bodyGrace = defaultHeaderTimeout
	}
	if c.StallTimeout == 0 {
		f.stallTimeout = defaultStallTimeout
	}
	if f.minRate = max(0, c.MinRate); c.MinRate == 0 {
		f.minRate = defaultMinRate
	}
	f.known = knowledge{identify: c.Identity, country: c.Country, asn: c.ASN, keyFuncs: maps.Clone(c.KeyFuncs), conns: &f.conns}
	if c.Store != nil {
		f.known.shared = &sharedStore{Store: c.Store, timeout: c.StoreTimeout, processes: max(1, c.StoreProcesses), logger: f.logger}
		if c.StoreTimeout == 0 {
			f.known.shared.timeout = defaultStoreTimeout
		}
	}
	trusted, mistakes := canonicalPrefixes(c.TrustedProxies)
	errs := append(c.check(), prefixed("firewall: TrustedProxies", mistakes), f.trusted.store(trusted))
	p, err := compile(c.Policy, &f.known, nil)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	f.program.Store(p)
	return f, nil
}

const (
	defaultHeaderTimeout = 10 * time.Second
	defaultStallTimeout  = time.Minute
	defaultMinRate       = 240 // bytes per second, as ASP.NET's Kestrel has it
)

func (c *Config) check() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("firewall: "+format, args...)) }
	if c.ForwardedHeader > Forwarded {
		bad("%v, want XForwardedFor or Forwarded", c.ForwardedHeader)
	}
	if c.StoreTimeout < 0 || c.RetryJitter < 0 {
		bad("StoreTimeout %v and RetryJitter %v, want 0 or more", c.StoreTimeout, c.RetryJitter)
	}
	if c.StoreProcesses < 0 || c.StoreProcesses > mostStoreProcesses {
		bad("StoreProcesses %d, want 1 to %d, or 0 for 1", c.StoreProcesses, mostStoreProcesses)
	}
	for _, name := range slices.Sorted(maps.Keys(c.KeyFuncs)) {
		if name == "" || c.KeyFuncs[name] == nil {
			bad("KeyFuncs: %q has no name or is nil", clip(name))
		}
	}
	return errs
}

// Update puts another policy in force, for every connection and request that
// comes after. An error lists every mistake and leaves the old policy in force.
// A limit with the ID and the numbers of an old one knows what its clients have
// left; counters go on by ID; bans stay.
func (f *Firewall) Update(p Policy) error {
	f.updating.Lock()
	defer f.updating.Unlock()
	next, err := compile(p, &f.known, f.program.Load())
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
	// Limits has an entry for each limit, in order, and Sizes for each size limit:
	// what was over it.
	Limits, Sizes []Count
	// Default, Bans and UnknownClients count what was decided by the default,
	// by a ban, and because the client could not be told.
	Default, Bans, UnknownClients Count
}

// Count is a number of decisions.
type Count struct {
	// ID is that of the rule or limit, if it is about one.
	ID string
	// Connections were decided at accept or at the TLS handshake; those that passed
	// undecided are not counted.
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
	for _, s := range p.sizes {
		c.Sizes = append(c.Sizes, s.tally.load(s.ID))
	}
	return c
}

// record counts an outcome, reports what is to be reported, and escalates.
func (f *Firewall) record(p *program, depth Depth, seen *facts, o *outcome) {
	if o.monitoredRules != nil || o.monitoredLimits != nil || o.monitoredSizes != nil {
		f.recordMonitored(p, depth, seen, o)
	}
	if o.undecided {
		return
	}
	t, id := f.decidedBy(p, o)
	t.count(depth)
	if o.verdict == Accept {
		return
	}
	e := Event{Depth: depth, Verdict: o.verdict, Reason: o.reason, RetryAfter: o.wait, Client: seen.client, Request: seen.request}
	switch o.reason {
	case ByRule:
		e.RuleID = id
	case ByLimit:
		e.LimitID = id
	case BySize:
		e.SizeID = id
	}
	f.report(p, e)
	if id != "" {
		f.offend(p, depth, seen, id)
	}
}

// decidedBy returns the tally of what decided, and its ID if it has one.
func (f *Firewall) decidedBy(p *program, o *outcome) (*tally, string) {
	switch o.reason {
	case ByRule:
		return p.rules[o.rule].tally, p.rules[o.rule].ID
	case ByLimit:
		return p.limits[o.limit].tally, p.limits[o.limit].ID
	case BySize:
		return p.sizes[o.size].tally, p.sizes[o.size].ID
	case ByBan:
		return &f.banned, ""
	case ByClient:
		return &f.unknownClients, ""
	}
	return p.defaults, ""
}

// recordMonitored counts and reports what would have been refused.
func (f *Firewall) recordMonitored(p *program, depth Depth, seen *facts, o *outcome) {
	e := Event{Depth: depth, Mode: Monitor, Client: seen.client, Request: seen.request}
	for _, i := range o.monitoredRules {
		r := &p.rules[i]
		r.tally.count(depth)
		e.Verdict, e.Reason, e.RuleID = r.Verdict, ByRule, r.ID
		f.report(p, e)
	}
	e.Verdict, e.RuleID = Reject, ""
	for _, i := range o.monitoredSizes {
		s := &p.sizes[i]
		s.tally.count(depth)
		e.Reason, e.SizeID = BySize, s.ID
		f.report(p, e)
	}
	e.SizeID = ""
	for _, i := range o.monitoredLimits {
		l := &p.limits[i]
		l.tally.count(depth)
		e.Reason, e.LimitID = ByLimit, l.ID
		f.report(p, e)
	}
}

func (f *Firewall) report(p *program, e Event) {
	if f.onDecision != nil {
		e.Generation = p.generation
		f.onDecision(e)
	}
}
