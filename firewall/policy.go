package firewall

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
)

// Policy is a list of rules. The zero value drops everything.
type Policy struct {
	// Sets are the prefix sets that [SourceSet] and [DestinationSet] name. The
	// policy keeps the sets themselves, so that a change of one takes effect
	// at once.
	Sets map[string]*PrefixSet
	// Rules are tried in order; the first that matches decides.
	Rules []Rule
	// Sizes bound how large the requests that the rules accept may be. A request
	// has to be within all of them.
	Sizes []SizeLimit
	// Limits apply to every request or connection that the rules and sizes
	// accept. It has to be within all of them; one that is refused takes nothing
	// from any.
	Limits []Limit
	// Escalations ban clients that offend again and again.
	Escalations []Escalation
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

// program is a checked policy, bound to its sets. It is immutable; what its
// tallies and limiters point to is not.
type program struct {
	generation uint64
	rules      []boundRule
	sizes      []boundSize
	limits     []boundLimit
	index      *ruleIndex // of rules
	verdict    Verdict    // the default
	defaults   *tally

	escalations   []boundEscalation
	requestLimits int  // limits with unit Requests
	limitsConns   bool // there are others
	sharesLimits  bool
}

type boundRule struct {
	Rule
	match *node
	tally *tally
}

// tally counts what a rule or limit decided, at each depth.
type tally struct{ conns, requests atomic.Uint64 }

func (t *tally) count(d Depth) {
	if d == RequestDepth {
		t.requests.Add(1)
	} else {
		t.conns.Add(1)
	}
}

// compile checks a policy and lists every mistake. Tallies and limiters of old,
// which may be nil, live on in rules and limits with the same ID.
func compile(p Policy, configured *knowledge, old *program) (*program, error) {
	known := *configured
	known.sets, known.slots = p.Sets, make(map[setUse]int)
	out := &program{generation: 1, verdict: p.Default, defaults: new(tally)}
	if old != nil {
		out.generation, out.defaults = old.generation+1, old.defaults
	}
	var errs []error
	if int(p.Default) >= len(verdictNames) {
		errs = append(errs, fmt.Errorf("firewall: policy default %v, want drop, accept or reject", p.Default))
	}
	errs = append(errs, p.checkSets()...)
	check := func(kind string, seen map[string]bool, i int, id string, mistakes []error) {
		if seen[id] {
			mistakes = append(mistakes, fmt.Errorf("an earlier %s has this ID too", kind))
		}
		seen[id] = true
		errs = append(errs, prefixed(fmt.Sprintf("firewall: %s %d, %q", kind, i, clip(id)), mistakes))
	}
	rules, sizes, limits, escalations := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i, r := range p.Rules {
		b, mistakes := r.bind(&known)
		check("rule", rules, i, r.ID, mistakes)
		out.rules = append(out.rules, b)
	}
	for i, s := range p.Sizes {
		b, mistakes := s.bind(&known)
		check("size limit", sizes, i, s.ID, mistakes)
		out.sizes = append(out.sizes, b)
	}
	for i, l := range p.Limits {
		b, mistakes := l.bind(&known)
		check("limit", limits, i, l.ID, mistakes)
		out.addLimit(b)
	}
	ids := slices.Concat(slices.Collect(maps.Keys(rules)), slices.Collect(maps.Keys(sizes)), slices.Collect(maps.Keys(limits)))
	for i, e := range p.Escalations {
		b, mistakes := e.bind(&known, ids)
		check("escalation", escalations, i, e.ID, mistakes)
		out.escalations = append(out.escalations, b)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	out.index = newRuleIndex(out.rules)
	out.adopt(old, configured) // only now: it takes memory
	return out, nil
}

func (p Policy) checkSets() (errs []error) {
	for _, name := range slices.Sorted(maps.Keys(p.Sets)) {
		if name == "" || p.Sets[name] == nil {
			errs = append(errs, fmt.Errorf("firewall: set %q has no name or is nil", clip(name)))
		} else if s := p.Sets[name]; s.file != "" && s.table.Load() == nil {
			errs = append(errs, fmt.Errorf("firewall: set %q: file %q was not loaded, want Policy.LoadFiles first", clip(name), clip(s.file)))
		}
	}
	return errs
}

func (p *program) addLimit(b boundLimit) {
	p.limits = append(p.limits, b)
	if b.Unit == Requests {
		p.requestLimits++
	} else {
		p.limitsConns = true
	}
	p.sharesLimits = p.sharesLimits || b.Shared
}

// adopt takes over what old, which may be nil, has counted.
func (p *program) adopt(old *program, known *knowledge) {
	for i := range p.rules {
		p.rules[i].tally = old.ruleTally(p.rules[i].ID)
	}
	for i := range p.sizes {
		p.sizes[i].tally = old.sizeTally(p.sizes[i].ID)
	}
	for i := range p.limits {
		p.limits[i].adopt(old, known)
	}
	for i := range p.escalations {
		p.escalations[i].adopt(old)
	}
}

func (r Rule) bind(known *knowledge) (b boundRule, errs []error) {
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
	match, more := r.Match.n.bind(known)
	b.match = match
	return b, append(errs, more...)
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

func (p *program) sizeTally(id string) *tally {
	if p != nil {
		for _, s := range p.sizes {
			if s.ID == id {
				return s.tally
			}
		}
	}
	return new(tally)
}
