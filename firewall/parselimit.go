package firewall

import (
	"slices"
	"strconv"
	"time"

	"golang.org/x/time/rate"
)

// parts reads the parts of a statement, each of which is a word that names it and
// what that part wants, in any order and each at most once, and then its match.
func (p *parser) parts(m *Match, part func(word token) bool) bool {
	var seen []string
	ok := true
	for ok && p.tok.kind == tokenWord && p.tok.text != "if" {
		word := p.tok
		if slices.Contains(seen, word.text) {
			p.failAt(word.at, "a second %s", word.text)
		}
		seen = append(seen, word.text)
		p.next()
		ok = part(word)
	}
	if ok && p.skipWord("if") {
		*m, ok = p.match()
	}
	return ok
}

func (p *parser) limit(mode Mode) bool {
	id, ok := p.id("limit")
	if !ok {
		return false
	}
	l := Limit{ID: id, Mode: mode}
	ok = p.parts(&l.Match, func(word token) bool { return p.limitPart(&l, word) })
	p.policy.Limits = append(p.policy.Limits, l)
	return ok
}

func (p *parser) limitPart(l *Limit, word token) (ok bool) {
	switch word.text {
	case "rate":
		l.Rate, ok = p.rate()
	case "burst":
		l.Burst, ok = p.number("a number of tokens")
	case "window":
		l.Window, ok = p.duration()
	case "unit":
		l.Unit, ok = p.unit()
	case "key":
		l.Key, ok = p.key()
	case "clients":
		l.MaxClients, ok = p.number("a number of clients")
	case "ipv4-bits":
		l.IPv4Bits, ok = p.number("a number of bits")
	case "ipv6-bits":
		l.IPv6Bits, ok = p.number("a number of bits")
	case "announce":
		l.Announce, ok = true, true
	case "shared":
		l.Shared, ok = true, true
	default:
		p.failAt(word.at, "%v, want rate, burst, window, unit, key, clients, ipv4-bits, ipv6-bits, announce, shared or if", word)
	}
	return ok
}

func (p *parser) rate() (rate.Limit, bool) {
	v, ok := p.value("tokens per second")
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(v.text, 64)
	if err != nil {
		p.failAt(v.at, "%v, want tokens per second, such as 10 or 0.5", v)
	}
	return rate.Limit(f), true
}

func (p *parser) unit() (Unit, bool) {
	v, ok := p.value("a unit")
	i := slices.Index(unitNames, v.text)
	if ok && i < 0 {
		p.failAt(v.at, "%v, want requests, connections or concurrent", v)
	}
	return Unit(max(i, 0)), ok
}

func (p *parser) key() (Key, bool) {
	v, ok := p.value("a key")
	if !ok {
		return Key{}, false
	}
	switch kind := keyKind(max(0, slices.Index(keyNames, v.text))); {
	case keyNames[kind] != v.text:
		p.failAt(v.at, "%v, want client, header, cookie, identity or func", v)
	case kind == keyIdentity:
		return IdentityKey(), true
	case kind != keyClient:
		name, ok := p.value("a name")
		if kind == keyHeader {
			return HeaderKey(name.text), ok
		}
		return Key{kind, name.text}, ok
	}
	return Key{}, true
}

func (p *parser) size(mode Mode) bool {
	id, ok := p.id("size")
	if !ok {
		return false
	}
	s := SizeLimit{ID: id, Mode: mode}
	ok = p.parts(&s.Match, func(word token) (ok bool) {
		switch word.text {
		case "body":
			s.Body, ok = p.bytes()
		case "header":
			s.Header, ok = p.number("a number of bytes")
		case "fields":
			s.Fields, ok = p.number("a number of lines")
		case "url":
			s.URL, ok = p.number("a number of bytes")
		default:
			p.failAt(word.at, "%v, want body, header, fields, url or if", word)
		}
		return ok
	})
	p.policy.Sizes = append(p.policy.Sizes, s)
	return ok
}

func (p *parser) escalation(mode Mode) bool {
	id, ok := p.id("escalation")
	if !ok {
		return false
	}
	e := Escalation{ID: id, Mode: mode}
	ok = p.parts(&e.Match, func(word token) bool { return p.escalationPart(&e, word) })
	p.policy.Escalations = append(p.policy.Escalations, e)
	return ok
}

func (p *parser) escalationPart(e *Escalation, word token) (ok bool) {
	switch word.text {
	case "on":
		ok = p.someOf("the ID of a rule, limit or size limit", func(t token) { e.On = append(e.On, t.text) })
	case "offences":
		e.Offences, ok = p.number("a number of offences")
	case "window":
		e.Window, ok = p.duration()
	case "ban":
		e.Ban, ok = p.duration()
	case "max-ban":
		e.MaxBan, ok = p.duration()
	case "clients":
		e.MaxClients, ok = p.number("a number of clients")
	case "ipv4-bits":
		ok = p.lengths(&e.IPv4Bits)
	case "ipv6-bits":
		ok = p.lengths(&e.IPv6Bits)
	default:
		p.failAt(word.at, "%v, want on, offences, window, ban, max-ban, clients, ipv4-bits, ipv6-bits or if", word)
	}
	return ok
}

func (p *parser) lengths(to *[]int) bool {
	return p.someOf("a number of bits", func(t token) {
		n, err := strconv.Atoi(t.text)
		if err != nil {
			p.failAt(t.at, "%v, want a number of bits", t)
		}
		*to = append(*to, n)
	})
}

// someOf reads a list that must not be empty.
func (p *parser) someOf(what string, add func(token)) bool {
	at, count := p.tok.at, 0
	ok := p.list(what, func(t token) { count++; add(t) })
	if ok && count == 0 {
		p.failAt(at, "nothing, want %s", what)
	}
	return ok
}

func (p *parser) number(what string) (int, bool) {
	v, ok := p.value(what)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(v.text)
	if err != nil {
		p.failAt(v.at, "%v, want %s", v, what)
	}
	return n, true
}

func (p *parser) bytes() (int64, bool) {
	v, ok := p.value("a number of bytes")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(v.text, 10, 64)
	if err != nil {
		p.failAt(v.at, "%v, want a number of bytes", v)
	}
	return n, true
}

func (p *parser) duration() (time.Duration, bool) {
	v, ok := p.value("a time such as 90s or 24h")
	if !ok {
		return 0, false
	}
	d, err := time.ParseDuration(v.text)
	if err != nil {
		p.failAt(v.at, "%v, want a time such as 90s or 24h", v)
	}
	return d, true
}
