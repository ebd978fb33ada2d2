package firewall

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Match is a predicate over connections and requests: a tree of All, Any and
// Not over the functions below. It is immutable and may be used in many
// policies at once. The zero value is not a predicate; [All] without arguments
// matches everything.
//
// A match has three values: yes, no, and unknown when it depends on something
// that cannot be told, because the depth does not see it or because servers
// read it in different ways. Not of unknown is unknown, and a no in All or a
// yes in Any settles the matter whatever the rest is (Kleene's logic). A mistake
// in an argument is reported by [New] and [Firewall.Update].
type Match struct{ n *node }

// truth is a value of Kleene's three-valued logic; All is the minimum and Any
// the maximum.
type truth uint8

const (
	no truth = iota
	unknown
	yes
)

// String returns "no", "unknown" or "yes".
func (t truth) String() string { return nameOf([]string{"no", "unknown", "yes"}, uint8(t), "truth") }

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

type op uint8

const (
	opAll op = iota
	opAny
	opNot
	opSource
	opDestination
	opDestinationPort
	opMethod
	opHost
	opPath
	opPathPrefix
	opIdentity
	opSourcePort
	opProtocol
	opFlags
	opICMPType
	opICMPv6Type
	opFragment
	opEstablished
	opHeader
	opCookie
	opQuery
	opBodyOver
	opSNI
	opJA4
	opCountry
	opASN
	opCrossOrigin
)

// node is one node of a predicate tree. It is data rather than an interface so
// that other depths can translate it, and so that evaluation does not allocate.
type node struct {
	op    op
	kids  []*node
	set   *PrefixSet // opSource, opDestination
	slot  int        // in which facts remember what a named set said, from 1; 0: none
	name  string     // of the set, when the policy supplies it, or of the header, cookie or parameter
	spans []span     // ports, and other numbers
	words []string
	size  int64       // opBodyOver
	flags [2]TCPFlags // opFlags: those set among those looked at

	numbers []uint32                    // opASN, next to the words
	origins *http.CrossOriginProtection // opCrossOrigin
	errs    []error                     // mistakes in the arguments
}

// span is a range of numbers, both ends included.
type span struct{ first, last uint16 }

func within(spans []span, v uint16) truth {
	for _, s := range spans {
		if v >= s.first && v <= s.last {
			return yes
		}
	}
	return no
}

func spansOf[T uint8 | uint16](values []T) []span {
	var out []span
	for _, v := range values {
		out = append(out, span{uint16(v), uint16(v)})
	}
	return out
}

// All matches if every one of ms matches; without arguments it matches
// everything.
func All(ms ...Match) Match { return combine(opAll, ms) }

// Any matches if one of ms matches; without arguments it matches nothing.
func Any(ms ...Match) Match { return combine(opAny, ms) }

// Not matches if m does not.
func Not(m Match) Match { return combine(opNot, []Match{m}) }

// Source matches the address of the client, which is the one behind trusted
// proxies. Config.TrustedProxies says how it is found.
func Source(prefixes ...netip.Prefix) Match { return addresses(opSource, prefixes) }

// SourceSet is [Source] with the set that Policy.Sets has under the name. The
// set can change while the policy is in force.
func SourceSet(name string) Match { return Match{&node{op: opSource, name: name}} }

// Destination matches the local address of the connection. It is unknown for a
// request whose context lacks http.LocalAddrContextKey, which a server sets.
func Destination(prefixes ...netip.Prefix) Match { return addresses(opDestination, prefixes) }

// DestinationSet is [Destination] with the set that Policy.Sets has under the
// name.
func DestinationSet(name string) Match { return Match{&node{op: opDestination, name: name}} }

// DestinationPort matches the local port of the connection.
func DestinationPort(ports ...uint16) Match { return portMatch(opDestinationPort, spansOf(ports)) }

// DestinationPortRange matches the local ports from first to last, both
// included.
func DestinationPortRange(first, last uint16) Match {
	return portMatch(opDestinationPort, []span{{first, last}})
}

func portMatch(o op, spans []span) Match {
	n := &node{op: o, spans: spans}
	if len(spans) == 0 {
		n.fail("%v without ports, want at least one", o)
	}
	for _, s := range spans {
		if s.first == 0 || s.first > s.last {
			n.fail("%v %v, want ports from 1 to 65535, the lower one first", o, s)
		}
	}
	return Match{n}
}

// Method matches the request method. A spelling in another case, which some
// servers take for the same method, is unknown.
func Method(names ...string) Match {
	n := &node{op: opMethod, words: slices.Clone(names)}
	if len(names) == 0 {
		n.fail("Method without names, want at least one")
	}
	for _, name := range names {
		if name == "" || strings.ToUpper(name) != name || strings.ContainsAny(name, " \t\r\n") {
			n.fail("Method(%q), want upper case, such as GET", clip(name))
		}
	}
	return Match{n}
}

// Host matches the host that the request names, without regard to its port,
// its case and a dot at its end. A pattern is a name, an IP address, or
// "*.example.com" for every name below example.com, however deep, but not
// example.com itself. A host that is neither a name nor an address is unknown.
func Host(patterns ...string) Match {
	n := &node{op: opHost}
	if len(patterns) == 0 {
		n.fail("Host without patterns, want at least one")
	}
	for _, p := range patterns {
		bare, wild := strings.CutPrefix(p, "*.")
		name, ok := normalName(bare)
		if !ok {
			n.fail("Host(%q), want a host name, an IP address or *.example.com", clip(p))
		}
		if wild {
			name = "*." + name
		}
		n.words = append(n.words, name)
	}
	return Match{n}
}

// Path matches the request path as a whole. See the package comment on how
// paths are read.
func Path(path string) Match {
	return Match{&node{op: opPath, words: []string{path}, errs: checkPattern("Path", path)}}
}

// PathPrefix matches the paths at and below prefix, in whole segments:
// PathPrefix("/a/") and PathPrefix("/a") both match /a, /a/ and /a/b, and not
// /ab. PathPrefix("/") matches every request. See the package comment on how
// paths are read.
func PathPrefix(prefix string) Match {
	bare := strings.TrimSuffix(prefix, "/")
	return Match{&node{op: opPathPrefix, words: []string{bare}, errs: checkPattern("PathPrefix", prefix)}}
}

// ClientIdentity matches a peer whose verified identity, as Config.Identity
// tells it, is one of ids.
func ClientIdentity(ids ...string) Match {
	n := &node{op: opIdentity, words: slices.Clone(ids)}
	if len(ids) == 0 || slices.Contains(ids, "") {
		n.fail("ClientIdentity%q, want identities that are not empty", ids)
	}
	return Match{n}
}

func combine(o op, ms []Match) Match {
	n := &node{op: o}
	for _, m := range ms {
		if m.n == nil {
			n.fail("zero Match inside a Match, want All() to match everything")
			continue
		}
		n.kids = append(n.kids, m.n)
	}
	if o != opNot && len(ms) == 1 && len(n.kids) == 1 {
		return ms[0] // the same thing, and the only way that text has to say it
	}
	return Match{n}
}

func addresses(o op, prefixes []netip.Prefix) Match {
	n := &node{op: o, set: new(PrefixSet)}
	clean, errs := canonicalPrefixes(prefixes)
	n.errs = errs
	if len(prefixes) == 0 {
		n.fail("Source or Destination without prefixes, want at least one")
	}
	if err := n.set.store(clean); err != nil {
		n.errs = append(n.errs, err)
	}
	return Match{n}
}

func (n *node) fail(format string, args ...any) {
	n.errs = append(n.errs, fmt.Errorf(format, args...))
}

// knowledge is what a configuration knows beyond what a depth sees: what rules may
// ask about.
type knowledge struct {
	sets     map[string]*PrefixSet // of the policy that is bound
	slots    map[setUse]int        // of its sets, for facts.inSet
	identify func(*http.Request) string
	country  func(netip.Addr) string
	asn      func(netip.Addr) uint32
	keyFuncs map[string]func(*http.Request) string
	shared   *sharedStore // nil: none
	conns    *connTable
}

// setUse is a named set and which address it is asked about.
type setUse struct {
	name string
	of   op
}

// mostSlots is how many there are of them: the bits that facts have for them.
const mostSlots = 64

func (k *knowledge) slot(use setUse) int {
	slot := k.slots[use]
	if slot == 0 && len(k.slots) < mostSlots {
		slot = len(k.slots) + 1
		k.slots[use] = slot
	}
	return slot
}

// needsRequest says whether the tree has a predicate for which a connection has
// no facts.
func (n *node) needsRequest() bool {
	switch n.op {
	case opMethod, opHost, opPath, opPathPrefix, opIdentity, opHeader, opCookie, opQuery, opBodyOver, opSNI, opJA4, opCrossOrigin:
		return true
	}
	return slices.ContainsFunc(n.kids, (*node).needsRequest)
}

// bind returns the tree with its named sets filled in, and every mistake in it.
func (n *node) bind(known *knowledge) (*node, []error) {
	bound := *n
	bound.kids = nil
	errs := slices.Clip(n.errs)
	if (n.op == opSource || n.op == opDestination) && n.set == nil {
		if bound.set = known.sets[n.name]; bound.set == nil {
			errs = append(errs, fmt.Errorf("no set %q in Policy.Sets", clip(n.name)))
		}
		bound.slot = known.slot(setUse{n.name, n.op})
	}
	switch {
	case n.op == opIdentity && known.identify == nil:
		errs = append(errs, errors.New("ClientIdentity without Config.Identity, which tells identities"))
	case n.op == opCountry && known.country == nil:
		errs = append(errs, errors.New("Country without Config.Country, which tells countries"))
	case n.op == opASN && known.asn == nil:
		errs = append(errs, errors.New("ASN without Config.ASN, which tells numbers of autonomous systems"))
	}
	for _, kid := range n.kids {
		k, more := kid.bind(known)
		bound.kids = append(bound.kids, k)
		errs = append(errs, more...)
	}
	return &bound, errs
}

// eval tells whether the facts match.
func (n *node) eval(f *facts) truth {
	switch n.op {
	case opAll:
		t := yes
		for _, kid := range n.kids {
			if t = min(t, kid.eval(f)); t == no {
				break
			}
		}
		return t
	case opAny:
		t := no
		for _, kid := range n.kids {
			if t = max(t, kid.eval(f)); t == yes {
				break
			}
		}
		return t
	case opNot:
		return yes - n.kids[0].eval(f)
	case opSource:
		if !f.client.IsValid() {
			return unknown
		}
		return f.inSet(n, f.client)
	case opDestination:
		if addr := f.destination(); addr.IsValid() {
			return f.inSet(n, addr)
		}
		return unknown
	case opDestinationPort, opSourcePort, opProtocol, opFlags, opICMPType, opICMPv6Type, opFragment, opEstablished:
		if f.isPacket {
			return n.evalPacket(&f.packet)
		}
		return n.evalOpening(f)
	case opCountry, opASN:
		return n.evalPlace(f)
	}
	switch {
	case f.request != nil:
		return n.evalRequest(f)
	case f.isPacket && !f.packet.mayCarryRequests():
		return no
	case n.op == opSNI || n.op == opJA4:
		return n.evalTLS(f)
	}
	return unknown
}

// evalRequest evaluates the predicates over what only a request has.
func (n *node) evalRequest(f *facts) truth {
	switch n.op {
	case opMethod:
		return matchMethod(n.words, f.request)
	case opHost:
		name, ok := f.hostName()
		if !ok {
			return unknown
		}
		return truthOf(matchName(n.words, name))
	case opPath:
		return f.pathViews().match(n.words[0], pathIs)
	case opPathPrefix:
		if n.words[0] == "" {
			return yes
		}
		return f.pathViews().match(n.words[0], pathBelow)
	case opIdentity:
		// An empty identity is in no list: ClientIdentity refuses that.
		return truthOf(slices.Contains(n.words, f.clientIdentity()))
	case opHeader, opCookie, opQuery, opBodyOver:
		return n.evalFields(f)
	case opSNI, opJA4:
		return n.evalTLS(f)
	case opCrossOrigin:
		return truthOf(n.origins.Check(f.request) != nil)
	}
	return unknown
}

func matchMethod(names []string, r *http.Request) truth {
	method := r.Method
	if method == "" { // which net/http defines to mean GET
		method = http.MethodGet
	}
	t := no
	for _, name := range names {
		switch {
		case name == method:
			return yes
		case strings.EqualFold(name, method):
			t = unknown
		}
	}
	return t
}
