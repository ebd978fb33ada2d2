package firewall

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gaissmai/bart"
)

// ruleIndex finds the rules that a request may match. Most rules of a long policy
// want a path, a host, a header or an address that a request does not have. Each
// such rule is kept under what it wants, its guards; what a request has is looked
// up once, and only the rules that are found there are evaluated, in their order.
//
// The index decides nothing: a rule that it leaves out is one whose match is no,
// and every other is evaluated as if there were no index. So a guard has to be
// found wherever the match is yes or unknown, and may be found more often.
//
// It is for requests alone. Where less is seen, what a guard asks for is unknown,
// and nothing can be left out.
type ruleIndex struct {
	lead   int    // so many rules come first that are always asked
	always bitset // of the others, those that are asked of every request

	paths, trees, hosts, domains, methods wordRules
	deepest                               int // slashes of the path in trees that has the most

	headers          []headerRules
	query, body, tls postings              // of requests that have one
	sources          *bart.Table[postings] // with those of all networks around each; nil: none
}

// wordRules are the rules under each word, and all of them, for a request of which
// it is unknown which word it has.
type wordRules struct {
	of  map[string]postings
	all postings
}

type headerRules struct {
	name string
	postings
}

// bitset has a bit for each rule.
type bitset []uint64

// postings are the bits of a bitset that are set, without the words of it in which
// none is.
type postings []posting

type posting struct {
	word int
	bits uint64
}

func (b bitset) add(ps postings) {
	for _, p := range ps {
		b[p.word] |= p.bits
	}
}

// with returns postings that have the rule too. Rules come in order.
func (ps postings) with(rule int) postings {
	word, bit := rule/64, uint64(1)<<(rule%64)
	if last := len(ps) - 1; last >= 0 && ps[last].word == word {
		ps[last].bits |= bit
		return ps
	}
	return append(ps, posting{word, bit})
}

func (w *wordRules) put(word string, rule int) {
	if w.of == nil {
		w.of = make(map[string]postings)
	}
	w.of[word] = w.of[word].with(rule)
	w.all = w.all.with(rule)
}

// guardKind is what a guard asks for, the ones that fewest requests have first.
type guardKind uint8

const (
	guardPath guardKind = iota
	guardTree
	guardHost
	guardDomain
	guardHeader
	guardSource
	guardBody
	guardQuery
	guardTLS
	guardMethod
)

// guard is something that a request must have to match a rule.
type guard struct {
	kind   guardKind
	word   string
	prefix netip.Prefix // guardSource
}

// mostGuards is how many guards a rule may have; one with more is always asked.
const mostGuards = 256

// guards returns guards of which a request must have one, lest the match is no.
// It returns false if there are none to be named, and no guard at all if no
// request matches.
func (n *node) guards() (found []guard, ok bool) {
	switch n.op {
	case opAll:
		for _, kid := range n.kids {
			if gs, some := kid.guards(); some && (!ok || rarer(gs, found)) {
				found, ok = gs, true
			}
		}
		return found, ok
	case opAny:
		for _, kid := range n.kids {
			gs, some := kid.guards()
			if found = append(found, gs...); !some || len(found) > mostGuards {
				return nil, false
			}
		}
		return found, true
	case opICMPType, opICMPv6Type, opFragment, opEstablished:
		return nil, true // a request is nothing of it
	case opSource:
		return n.sourceGuards()
	}
	return n.fieldGuards()
}

// rarer says whether fewer requests have one of a than one of b, as far as that
// can be told.
func rarer(a, b []guard) bool {
	worst := func(gs []guard) (kind int) {
		for _, g := range gs {
			kind = max(kind, 1+int(g.kind))
		}
		return kind
	}
	return worst(a) < worst(b)
}

// sourceGuards leaves out the named sets, which change.
func (n *node) sourceGuards() (found []guard, ok bool) {
	if n.name != "" || n.set.Len() > mostGuards {
		return nil, false
	}
	for p := range n.set.table.Load().all() {
		found = append(found, guard{kind: guardSource, prefix: p})
	}
	return found, true
}

// fieldGuards returns the guards of predicates over what only requests have.
func (n *node) fieldGuards() (found []guard, ok bool) {
	switch n.op {
	case opPath:
		return []guard{{kind: guardPath, word: pathWord(n.words[0])}}, true
	case opPathPrefix:
		return []guard{{kind: guardTree, word: string(appendFolded(nil, n.words[0]))}}, n.words[0] != ""
	case opHeader:
		return []guard{{kind: guardHeader, word: n.name}}, true
	case opCookie:
		return []guard{{kind: guardHeader, word: "Cookie"}}, true
	case opQuery:
		return []guard{{kind: guardQuery}}, true
	case opBodyOver:
		return []guard{{kind: guardBody}}, true
	case opSNI, opJA4:
		return []guard{{kind: guardTLS}}, true
	case opHost:
		for _, pattern := range n.words {
			g := guard{kind: guardHost, word: pattern}
			if parent, wild := strings.CutPrefix(pattern, "*"); wild {
				g = guard{kind: guardDomain, word: parent}
			}
			found = append(found, g)
		}
		return found, true
	case opMethod:
		for _, name := range n.words {
			if !isUpper(name) {
				return nil, false
			}
			found = append(found, guard{kind: guardMethod, word: name})
		}
		return found, true
	}
	return nil, false
}

func newRuleIndex(rules []boundRule) *ruleIndex {
	x := &ruleIndex{always: make(bitset, (len(rules)+63)/64)}
	sources := make(map[netip.Prefix]postings)
	for i := range rules {
		found, ok := rules[i].match.guards()
		switch {
		case ok:
			for _, g := range found {
				x.put(g, i, sources)
			}
		case i == x.lead:
			x.lead++
		default:
			x.always[i/64] |= 1 << (i % 64)
		}
	}
	x.putSources(sources)
	return x
}

func (x *ruleIndex) put(g guard, rule int, sources map[netip.Prefix]postings) {
	switch g.kind {
	case guardPath:
		x.paths.put(g.word, rule)
	case guardTree:
		x.trees.put(g.word, rule)
		x.deepest = max(x.deepest, strings.Count(g.word, "/"))
	case guardHost:
		x.hosts.put(g.word, rule)
	case guardDomain:
		x.domains.put(g.word, rule)
	case guardMethod:
		x.methods.put(g.word, rule)
	case guardSource:
		sources[g.prefix] = sources[g.prefix].with(rule)
	case guardBody:
		x.body = x.body.with(rule)
	case guardQuery:
		x.query = x.query.with(rule)
	case guardTLS:
		x.tls = x.tls.with(rule)
	case guardHeader:
		i := slices.IndexFunc(x.headers, func(h headerRules) bool { return h.name == g.word })
		if i < 0 {
			i = len(x.headers)
			x.headers = append(x.headers, headerRules{name: g.word})
		}
		x.headers[i].postings = x.headers[i].with(rule)
	}
}

// putSources gives each network the rules of the networks around it as well, so
// that the longest one that has an address tells everything.
func (x *ruleIndex) putSources(own map[netip.Prefix]postings) {
	if len(own) == 0 {
		return
	}
	alone := new(bart.Table[postings])
	for p, rules := range own {
		alone.Insert(p, rules)
	}
	x.sources = new(bart.Table[postings])
	for p := range own {
		all := make(bitset, len(x.always))
		for _, rules := range alone.Supernets(p) {
			all.add(rules)
		}
		var merged postings
		for word, bits := range all {
			if bits != 0 {
				merged = append(merged, posting{word, bits})
			}
		}
		x.sources.Insert(p, merged)
	}
}

// inlineWords is for how many words of a bitset there is room on the stack.
const inlineWords = 16

// candidates returns the rules after the leading ones that the request may match.
// Room is for the result, if that is not larger.
func (x *ruleIndex) candidates(f *facts, room []uint64) bitset {
	found := bitset(append(room[:0], x.always...))
	if x.paths.all != nil || x.trees.all != nil {
		x.addPaths(found, f.pathViews())
	}
	if x.hosts.all != nil || x.domains.all != nil {
		x.addHost(found, f)
	}
	if x.methods.all != nil {
		x.addMethod(found, f.request.Method)
	}
	for i := range x.headers {
		if h := &x.headers[i]; len(f.request.Header[h.name]) > 0 {
			found.add(h.postings)
		}
	}
	if x.query != nil && f.request.URL.RawQuery != "" {
		found.add(x.query)
	}
	if f.request.ContentLength != 0 {
		found.add(x.body)
	}
	if f.request.TLS != nil {
		found.add(x.tls)
	}
	if x.sources != nil {
		if rules, ok := x.sources.Lookup(f.client); ok {
			found.add(rules)
		}
	}
	return found
}

func (x *ruleIndex) addPaths(found bitset, v *views) {
	switch {
	case v.opaque:
		found.add(x.paths.all)
		found.add(x.trees.all)
	case v.plain != "":
		x.addPath(found, v.plain)
	}
	for _, p := range v.paths {
		x.addPath(found, p)
	}
}

// addPath adds the rules with a pattern that is the path, or a beginning of it
// that ends where a segment does, but for the case of letters.
func (x *ruleIndex) addPath(found bitset, p string) {
	var room [256]byte
	folded := appendFolded(room[:0], p)
	for i, slashes := 1, 1; i <= len(folded) && slashes <= x.deepest; i++ {
		if i == len(folded) || folded[i] == '/' {
			found.add(x.trees.of[string(folded[:i])])
			slashes++
		}
	}
	if n := len(folded); n > 0 && folded[n-1] == '/' {
		folded = folded[:n-1]
	}
	if x.paths.all != nil {
		found.add(x.paths.of[string(folded)])
	}
}

func (x *ruleIndex) addHost(found bitset, f *facts) {
	name, ok := f.hostName()
	if !ok {
		found.add(x.hosts.all)
		found.add(x.domains.all)
		return
	}
	found.add(x.hosts.of[name])
	if x.domains.all == nil {
		return
	}
	for i := range len(name) {
		if name[i] == '.' {
			found.add(x.domains.of[name[i:]])
		}
	}
}

func (x *ruleIndex) addMethod(found bitset, method string) {
	switch {
	case method == "":
		found.add(x.methods.of[http.MethodGet])
	case isUpper(method):
		found.add(x.methods.of[method])
	default:
		found.add(x.methods.all)
	}
}

// isUpper says whether s has neither small letters nor anything beyond ASCII, of
// which a part is equal to a letter but for its case.
func isUpper(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || c >= 'a' && c <= 'z' {
			return false
		}
	}
	return true
}

// pathWord is under what a path is kept: pathIs does not tell a slash at the end
// and the case of letters.
func pathWord(p string) string {
	return string(appendFolded(nil, strings.TrimSuffix(p, "/")))
}

// appendFolded appends s in the one form that all strings have which
// strings.EqualFold takes for equal.
func appendFolded(to []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c >= utf8.RuneSelf {
			return appendFoldedRunes(to, s[i:])
		}
		to = append(to, lower(c))
	}
	return to
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func appendFoldedRunes(to []byte, s string) []byte {
	for _, r := range s {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		if least < utf8.RuneSelf {
			to = append(to, lower(byte(least)))
		} else {
			to = utf8.AppendRune(to, least)
		}
	}
	return to
}
