package firewall

import (
	"net/netip"
	"strconv"
	"strings"
)

// match reads alternatives, which bind weaker than what is joined by "and".
func (p *parser) match() (Match, bool) {
	return p.joined("or", Any, func() (Match, bool) { return p.joined("and", All, p.operand) })
}

func (p *parser) joined(word string, combine func(...Match) Match, part func() (Match, bool)) (Match, bool) {
	var parts []Match
	for {
		m, ok := part()
		if !ok {
			return m, false
		}
		parts = append(parts, m)
		if !p.skipWord(word) {
			return combine(parts...), true
		}
	}
}

// operand reads a predicate, a not, or a match in parentheses.
func (p *parser) operand() (Match, bool) {
	if p.nesting == maxNesting {
		p.failAt(p.tok.at, "nested too deep, want at most %d levels", maxNesting)
		return Match{}, false
	}
	p.nesting++
	defer func() { p.nesting-- }()
	if p.skipWord("not") {
		m, ok := p.operand()
		return Not(m), ok
	}
	if !p.isMark("(") {
		return p.predicate()
	}
	p.next()
	m, ok := p.match()
	if !ok {
		return m, false
	}
	if !p.isMark(")") {
		p.failAt(p.tok.at, "%v, want ), and, or or", p.tok)
		return m, false
	}
	p.next()
	return m, true
}

func (p *parser) predicate() (Match, bool) {
	t := p.tok
	o, known := opOf(t)
	if !known {
		p.failAt(t.at, "%v, want a predicate such as source or path, not, or (", t)
		return Match{}, false
	}
	p.next()
	m, ok := p.arguments(o)
	if !ok {
		return m, false
	}
	for _, err := range m.n.errs {
		p.failAt(t.at, "%v", err)
	}
	return m, true
}

func opOf(t token) (op, bool) {
	if t.kind == tokenWord {
		for o, name := range opNames {
			if name == t.text {
				return op(o), true
			}
		}
	}
	return 0, false
}

// arguments reads what follows the name of a predicate.
func (p *parser) arguments(o op) (Match, bool) {
	switch o {
	case opAll:
		return All(), true
	case opAny:
		return Any(), true
	case opSource, opDestination:
		return p.addresses(o)
	case opFragment:
		return Fragment(), true
	case opEstablished:
		return Established(), true
	case opHeader, opCookie, opQuery:
		return p.field(o)
	case opBodyOver:
		size, ok := p.bytes()
		return BodyOver(max(size, 0)), ok
	case opFlags:
		return p.flags()
	case opCrossOrigin:
		var origins []string
		if !p.skipWord("except") {
			return CrossOrigin(), true
		}
		ok := p.someOf("an origin such as https://example.com", func(t token) { origins = append(origins, t.text) })
		return CrossOrigin(origins...), ok
	case opASN:
		var numbers []uint32
		ok := p.list("the number of an autonomous system", func(t token) {
			n, err := strconv.ParseUint(t.text, 10, 32)
			if err != nil {
				p.failAt(t.at, "%v, want a number such as 64496", t)
				n = 1
			}
			numbers = append(numbers, uint32(n))
		})
		return ASN(numbers...), ok
	case opDestinationPort, opSourcePort:
		var spans spanList
		ok := p.list("a port or a range of ports", spans.add(p, 1<<16-1))
		return portMatch(o, spans), ok
	case opProtocol, opICMPType, opICMPv6Type:
		var spans spanList
		ok := p.list("a number or a name", spans.add(p, 1<<8-1))
		return byteMatch(o, spans), ok
	case opPath, opPathPrefix:
		v, ok := p.value("a path")
		if o == opPath {
			return Path(v.text), ok
		}
		return PathPrefix(v.text), ok
	}
	var words []string
	ok := p.list("a value", func(t token) { words = append(words, t.text) })
	switch o {
	case opMethod:
		return Method(words...), ok
	case opHost:
		return Host(words...), ok
	case opSNI:
		return SNI(words...), ok
	case opJA4:
		return JA4(words...), ok
	case opCountry:
		return Country(words...), ok
	}
	return ClientIdentity(words...), ok
}

// addresses reads the name of a set or prefixes.
func (p *parser) addresses(o op) (Match, bool) {
	if p.isMark("@") {
		p.next()
		name, ok := p.value("the name of a set")
		p.uses = append(p.uses, name)
		return Match{&node{op: o, name: name.text}}, ok
	}
	var prefixes prefixList
	if !p.list("a prefix, or @ and the name of a set", prefixes.add(p)) {
		return Match{}, false
	}
	return addresses(o, prefixes), true
}

// list reads one value, or several in braces.
func (p *parser) list(what string, add func(token)) bool {
	if !p.isMark("{") {
		t, ok := p.value(what)
		if ok {
			add(t)
		}
		return ok
	}
	p.next()
	for !p.isMark("}") {
		t, ok := p.value(what + " or }")
		if !ok {
			return false
		}
		add(t)
		if p.isMark(",") {
			p.next()
		} else if !p.isMark("}") {
			p.failAt(p.tok.at, "%v, want a comma or }", p.tok)
			return false
		}
	}
	p.next()
	return true
}

// field reads the name of a field and, after "is", the values it may have.
func (p *parser) field(o op) (Match, bool) {
	name, ok := p.value("a name")
	var values []string
	if ok && p.skipWord("is") {
		at := p.tok.at
		ok = p.list("a value", func(t token) { values = append(values, t.text) })
		if ok && len(values) == 0 {
			p.failAt(at, "no values, want at least one")
		}
	}
	switch o {
	case opHeader:
		return Header(name.text, values...), ok
	case opCookie:
		return Cookie(name.text, values...), ok
	}
	return Query(name.text, values...), ok
}

// flags reads flags as pf has them: those that are set, a slash, and those that
// are looked at.
func (p *parser) flags() (Match, bool) {
	v, ok := p.value("TCP flags such as S/SA")
	if !ok {
		return Match{}, false
	}
	set, mask, hasMask := strings.Cut(v.text, "/")
	f, ok1 := parseFlags(set)
	m, ok2 := parseFlags(mask)
	if !ok1 || !ok2 || !hasMask {
		p.failAt(v.at, "%v, want TCP flags such as S/SA, each one of %s", v, flagLetters)
		f, m = SYN, SYN
	}
	return Flags(f, m), true
}

func parseFlags(s string) (f TCPFlags, ok bool) {
	for i := range len(s) {
		at := strings.IndexByte(flagLetters, s[i])
		if at < 0 || f&(1<<at) != 0 {
			return 0, false
		}
		f |= 1 << at
	}
	return f, true
}

type prefixList []netip.Prefix

// add returns a function that reads prefixes; it reports wrong ones and goes
// on, to list them all.
func (l *prefixList) add(p *parser) func(token) {
	return func(t token) {
		prefix, err := parsePrefix(t.text)
		if err != nil {
			p.failAt(t.at, "%v", err)
			prefix = netip.PrefixFrom(netip.IPv6Unspecified(), 128) // in its place
		}
		*l = append(*l, prefix)
	}
}

type spanList []span

// add returns a function that reads numbers and ranges up to most, and, where
// they are protocols, the names of those.
func (l *spanList) add(p *parser, most uint16) func(token) {
	return func(t token) {
		if s, ok := namedProtocol(t.text); ok && most < 256 {
			*l = append(*l, s)
			return
		}
		from, to, isRange := strings.Cut(t.text, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || max(first, last) > uint64(most) {
			p.failAt(t.at, "%v, want a number up to %d, or a range such as 8-10", t, most)
			first, last = 1, 1
		}
		*l = append(*l, span{uint16(first), uint16(last)})
	}
}
