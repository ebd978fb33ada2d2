package firewall

import (
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// Decision is what a policy says about one connection or request.
type Decision struct {
	// Verdict is what happens at this depth.
	Verdict Verdict
	// Undecided is set when a connection was accepted only because what a
	// request will say can still change the verdict.
	Undecided bool
	// Reason is what decided.
	Reason Reason
	// RuleID is the ID of the rule that decided. Empty if none did.
	RuleID string
	// LimitID is the ID of the limit that the client is over. Empty if none.
	LimitID string
	// SizeID is the ID of the size limit that the request is over, and Status
	// what it gets for it: 413, 414 or 431. Empty and zero if it is over none.
	SizeID string
	Status int
	// RetryAfter is when the limit will let a request of the client through
	// again. Zero if LimitID is empty, or if that cannot be told: a connection
	// has to end first.
	RetryAfter time.Duration
	// Client is the address of the client. The zero Addr if it cannot be told.
	Client netip.Addr
	// Monitored are the IDs of the rules, limits and size limits in Monitor mode
	// that matched. Nil if none did.
	Monitored []string
	// Generation is that of the policy: 1 for the one given to New, one more
	// for each Update.
	Generation uint64
}

// facts are what a depth sees. Parts of a request are read when a predicate
// asks for them, and once.
type facts struct {
	client   netip.Addr     // zero: not seen
	peer     netip.AddrPort // of the connection; zero: not seen
	local    netip.AddrPort // zero: not seen, or not read yet
	isPacket bool           // and no connection or request
	packet   Packet         // by value, which spares an allocation
	request  *http.Request  // nil: not seen
	hello    *helloFacts    // nil: not seen, or see the request
	known    *knowledge

	viewed, identified, named, queried bool
	views                              views
	identity                           string
	host                               string // "": not one that a server could mean
	query                              url.Values
	queryErr                           error
	asked, found                       uint64 // of the sets with these slots: those that were asked, and said yes
}

func (f *facts) pathViews() *views {
	if !f.viewed {
		f.views, f.viewed = viewsOf(f.request.URL), true
	}
	return &f.views
}

// hostName returns the host in its one form, or false if it is neither a name nor
// an address.
func (f *facts) hostName() (string, bool) {
	if !f.named {
		f.named = true
		if name, ok := normalHost(f.request.Host); ok {
			f.host = name
		}
	}
	return f.host, f.host != ""
}

func (f *facts) queryValues() (url.Values, error) {
	if !f.queried {
		f.query, f.queryErr = url.ParseQuery(f.request.URL.RawQuery)
		f.queried = true
	}
	return f.query, f.queryErr
}

// inSet says whether the set of a predicate has an address. A named set, which can
// change meanwhile, is asked once about the source and once about the destination,
// so that no two rules of a decision see it before and after a change.
func (f *facts) inSet(n *node, addr netip.Addr) truth {
	if n.slot == 0 {
		return truthOf(n.set.Contains(addr))
	}
	bit := uint64(1) << (n.slot - 1)
	if f.asked&bit == 0 {
		f.asked |= bit
		if n.set.Contains(addr) {
			f.found |= bit
		}
	}
	return truthOf(f.found&bit != 0)
}

func (f *facts) clientIdentity() string {
	if !f.identified {
		f.identity, f.identified = f.known.identify(f.request), true
	}
	return f.identity
}

// fingerprint returns the JA4 of the connection that a request came over, if it
// is known.
func (f *facts) fingerprint() (string, bool) {
	return f.known.conns.hello(helloKey{f.peer, f.localAddr()})
}

func (f *facts) localAddr() netip.AddrPort {
	if !f.local.IsValid() && f.request != nil {
		if a, ok := f.request.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
			f.local = addrPortOf(a)
		}
	}
	return f.local
}

func (f *facts) destination() netip.Addr {
	if f.isPacket {
		return f.packet.Destination
	}
	return f.localAddr().Addr()
}

// outcome is a decision by index, before anybody asks for names.
type outcome struct {
	verdict   Verdict
	undecided bool
	reason    Reason
	rule      int // for ByRule
	limit     int // for ByLimit
	size      int // for BySize
	status    int // for BySize
	wait      time.Duration
	maxBody   int64 // bound for a body that does not say how long it is; 0: none
	// The indexes of what matched in Monitor mode.
	monitoredRules, monitoredLimits, monitoredSizes []int
	// announced is what the client is told about its limits.
	announced []announcement
	// explain makes the decision write down its steps.
	explain bool
	steps   []string
}

func (o *outcome) step(format string, args ...any) {
	o.steps = append(o.steps, fmt.Sprintf(format, args...))
}

// decision gives an outcome its names.
func (p *program) decision(f *facts, o *outcome) Decision {
	d := Decision{
		Verdict: o.verdict, Undecided: o.undecided, Reason: o.reason,
		Client: f.client, RetryAfter: o.wait, Generation: p.generation,
	}
	switch o.reason {
	case ByRule:
		d.RuleID = p.rules[o.rule].ID
	case ByLimit:
		d.LimitID = p.limits[o.limit].ID
	case BySize:
		d.SizeID, d.Status = p.sizes[o.size].ID, o.status
	}
	for _, i := range o.monitoredRules {
		d.Monitored = append(d.Monitored, p.rules[i].ID)
	}
	for _, i := range o.monitoredLimits {
		d.Monitored = append(d.Monitored, p.limits[i].ID)
	}
	for _, i := range o.monitoredSizes {
		d.Monitored = append(d.Monitored, p.sizes[i].ID)
	}
	return d
}

// rule applies the rules where everything that can be seen is seen. What is
// unknown even so is ambiguous, and counts against the request.
func (p *program) rule(f *facts, o *outcome) {
	if o.explain {
		p.ruleByRule(f, o)
		return
	}
	for i := range p.index.lead {
		if p.decides(i, f, o) {
			return
		}
	}
	if p.index.lead < len(p.rules) {
		var room [inlineWords]uint64
		for word, rules := range p.index.candidates(f, room[:0]) {
			for ; rules != 0; rules &= rules - 1 {
				if p.decides(64*word+bits.TrailingZeros64(rules), f, o) {
					return
				}
			}
		}
	}
	o.verdict, o.reason = p.verdict, ByDefault
}

// ruleByRule is rule without an index: it asks every rule, to explain them all.
func (p *program) ruleByRule(f *facts, o *outcome) {
	for i := range p.rules {
		if p.decides(i, f, o) {
			return
		}
	}
	o.verdict, o.reason = p.verdict, ByDefault
	o.step("default %v", p.verdict)
}

// decides says whether a rule settles the matter, where everything that can be
// seen is seen.
func (p *program) decides(i int, f *facts, o *outcome) bool {
	r := &p.rules[i]
	t := r.match.eval(f)
	if o.explain {
		o.explainRule(r, f, t)
	}
	switch {
	case t == no, t == unknown && r.Verdict == Accept:
		return false
	case r.Mode == Monitor:
		o.monitoredRules = append(o.monitoredRules, i)
		return false
	}
	o.verdict, o.reason, o.rule = r.Verdict, ByRule, i
	return true
}

// rulePartly applies the rules where a part is not seen. It refuses only what
// rule would refuse whatever that part turns out to be: as soon as an accepting
// rule might match, the connection passes undecided.
func (p *program) rulePartly(f *facts, o *outcome) {
	mayRefuse := false
	for i := range p.rules {
		r := &p.rules[i]
		t := r.match.eval(f)
		if o.explain {
			o.explainRule(r, f, t)
		}
		if t == yes && r.Mode == Monitor {
			o.monitoredRules = append(o.monitoredRules, i)
		}
		if t == no || r.Mode == Monitor {
			continue
		}
		if t == unknown && r.Verdict != Accept {
			mayRefuse = true
			continue
		}
		o.verdict, o.reason, o.rule = r.Verdict, ByRule, i
		o.undecided = t == unknown || r.Verdict == Accept && mayRefuse
		return
	}
	o.verdict, o.reason = p.verdict, ByDefault
	o.undecided = p.verdict == Accept && mayRefuse
	if o.explain {
		o.step("default %v", p.verdict)
	}
}

// DecideRequest says what Handler would do with the request now. It takes no
// token of a limit, counts nothing and reports nothing.
func (f *Firewall) DecideRequest(r *http.Request) Decision {
	var o outcome
	return f.peekRequest(r, &o)
}

func (f *Firewall) peekRequest(r *http.Request, o *outcome) Decision {
	p, now := f.program.Load(), f.now()
	seen := f.requestFacts(r)
	f.decideRequest(p, &seen, o, now)
	if o.verdict == Accept {
		p.limit(&seen, o, now, false)
	}
	return p.decision(&seen, o)
}

// DecideConn says what Listener would do with a connection from src to dst now.
// It refuses only what DecideRequest would refuse for every request over that
// connection. It counts nothing and reports nothing.
func (f *Firewall) DecideConn(src, dst netip.AddrPort) Decision {
	var o outcome
	return f.peekConn(src, dst, &o)
}

func (f *Firewall) peekConn(src, dst netip.AddrPort, o *outcome) Decision {
	p := f.program.Load()
	seen := f.decideConn(p, plainAddrPort(src), plainAddrPort(dst), o)
	if o.verdict == Accept {
		p.limitConn(&seen, o, f.now(), false)
	}
	return p.decision(&seen, o)
}

// DecidePacket says what a packet filter may do with the packet: it refuses only
// what the policy refuses whatever the depths behind will see. It counts nothing
// and reports nothing.
func (f *Firewall) DecidePacket(packet Packet) Decision {
	var o outcome
	return f.peekPacket(packet, &o)
}

func (f *Firewall) peekPacket(packet Packet, o *outcome) Decision {
	p := f.program.Load()
	seen := f.decidePacket(p, packet, o)
	return p.decision(&seen, o)
}

// DecideFrame is [Firewall.DecidePacket] for an Ethernet frame, of which
// [ParsePacket] has the rules. What is not IP is accepted and a bad packet is
// dropped, for the reason [ByPacket].
func (f *Firewall) DecideFrame(frame []byte, state ConnState) Decision {
	var o outcome
	return f.peekFrame(frame, state, &o)
}

func (f *Firewall) peekFrame(frame []byte, state ConnState, o *outcome) Decision {
	packet, err := ParsePacket(frame)
	if err == nil {
		packet.State = state
		return f.peekPacket(packet, o)
	}
	if o.reason = ByPacket; errors.Is(err, ErrNotIP) {
		o.verdict = Accept
	}
	if o.explain {
		o.step("%v", err)
	}
	return f.program.Load().decision(&facts{}, o)
}

func (f *Firewall) requestFacts(r *http.Request) facts {
	peer := parseAddrPort(r.RemoteAddr)
	return facts{
		client:  f.clientOf(peer.Addr(), r),
		peer:    peer,
		request: r,
		known:   &f.known,
	}
}

func (f *Firewall) decideRequest(p *program, seen *facts, o *outcome, now int64) {
	if o.explain {
		o.explainClient(seen.client)
	}
	if !seen.client.IsValid() {
		o.reason = ByClient
		return
	}
	if ban, banned := f.bans.find(seen.client, now); banned {
		o.reason = ByBan
		if o.explain {
			o.explainBan(ban, now)
		}
		return
	}
	if p.rule(seen, o); o.verdict == Accept && len(p.sizes) > 0 {
		p.size(seen, o)
	}
}

func (f *Firewall) decideConn(p *program, src, dst netip.AddrPort, o *outcome) facts {
	seen := facts{known: &f.known, client: src.Addr(), peer: src, local: dst}
	if !seen.client.IsValid() {
		o.reason = ByClient
		return seen
	}
	f.decidePartly(p, &seen, o, true)
	return seen
}

func (f *Firewall) decidePacket(p *program, packet Packet, o *outcome) facts {
	packet.Source, packet.Destination = plainAddr(packet.Source), plainAddr(packet.Destination)
	seen := facts{known: &f.known, client: packet.Source, isPacket: true, packet: packet}
	if !seen.client.IsValid() {
		o.reason = ByClient
		return seen
	}
	f.decidePartly(p, &seen, o, packet.mayCarryRequests())
	return seen
}

// decidePartly decides about a packet or connection from an address. Requests
// says whether one may follow that names another client.
func (f *Firewall) decidePartly(p *program, seen *facts, o *outcome, requests bool) {
	if requests && f.trusted.Contains(seen.client) {
		if o.explain {
			o.step("peer %v is a trusted proxy: a request will say who the client is", seen.client)
		}
		seen.client = netip.Addr{}
	} else {
		now := f.now()
		if o.explain {
			o.explainClient(seen.client)
		}
		if ban, banned := f.bans.find(seen.client, now); banned {
			o.reason = ByBan
			if o.explain {
				o.explainBan(ban, now)
			}
			return
		}
	}
	p.rulePartly(seen, o)
}
