package firewall

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// opNames are the predicates in text. And, or and not join them.
var opNames = [...]string{
	opAll: "all", opAny: "none", opNot: "not", opSource: "source", opDestination: "destination",
	opDestinationPort: "destination-port", opMethod: "method", opHost: "host", opPath: "path", opPathPrefix: "path-prefix",
	opIdentity: "identity", opSourcePort: "source-port", opProtocol: "protocol", opFlags: "tcp-flags",
	opICMPType: "icmp-type", opICMPv6Type: "icmpv6-type", opFragment: "fragment", opEstablished: "established",
	opHeader: "header", opCookie: "cookie", opQuery: "query", opBodyOver: "body-over", opSNI: "sni", opJA4: "ja4",
	opCountry: "country", opASN: "asn", opCrossOrigin: "cross-origin",
}

// String returns the name of the predicate in text.
func (o op) String() string { return nameOf(opNames[:], uint8(o), "op") }

// String returns the number or the range as text has it.
func (s span) String() string {
	if s.first == s.last {
		return strconv.Itoa(int(s.first))
	}
	return fmt.Sprintf("%d-%d", s.first, s.last)
}

// String returns the policy as text that [ParsePolicy] reads back to the same
// policy, with what its sets hold at the moment and without what was put into them
// for a time. Text that was parsed loses its
// comments and layout, and sets go first. What [New] would refuse may not be
// readable.
func (p Policy) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p.Sets)) {
		printSet(&b, name, p.Sets[name])
	}
	for _, r := range p.Rules {
		printMode(&b, r.Mode)
		fmt.Fprintf(&b, "%v %s", r.Verdict, quoteWord(r.ID))
		if r.Match.n == nil || r.Match.n.op != opAll || len(r.Match.n.kids) > 0 {
			fmt.Fprintf(&b, " if %v", r.Match)
		}
		b.WriteByte('\n')
	}
	for _, s := range p.Sizes {
		printSize(&b, s)
	}
	for _, l := range p.Limits {
		printLimit(&b, l)
	}
	for _, e := range p.Escalations {
		printEscalation(&b, e)
	}
	fmt.Fprintf(&b, "default %v\n", p.Default)
	return b.String()
}

func printMode(b *strings.Builder, m Mode) {
	if m != Enforce {
		fmt.Fprintf(b, "%v ", m)
	}
}

func printSet(b *strings.Builder, name string, s *PrefixSet) {
	fmt.Fprintf(b, "set %s", quoteWord(name))
	switch {
	case s == nil:
		b.WriteString(" nil\n")
		return
	case s.file != "":
		fmt.Fprintf(b, " file %s\n", quoteWord(s.file))
		return
	}
	b.WriteString(" {")
	if table := s.table.Load(); table != nil && table.size() > 0 {
		for prefix := range table.all() {
			fmt.Fprintf(b, "\n\t%v,", prefix)
		}
		b.WriteByte('\n')
	}
	b.WriteString("}\n")
}

// String returns the match as it is written in the text of a policy.
func (m Match) String() string {
	if m.n == nil {
		return "(zero Match)"
	}
	var b strings.Builder
	m.n.print(&b, nil)
	return b.String()
}

// explained is String with the truth of every predicate behind it.
func (n *node) explained(f *facts) string {
	var b strings.Builder
	n.print(&b, f)
	return b.String()
}

// print writes the tree; with facts, it also writes what each predicate makes of
// them.
func (n *node) print(b *strings.Builder, f *facts) {
	switch {
	case n.op == opNot && len(n.kids) == 1:
		b.WriteString("not ")
		n.kids[0].printInside(b, f)
	case n.op == opAll && len(n.kids) > 0:
		n.printJoined(b, " and ", f)
	case n.op == opAny && len(n.kids) > 0:
		n.printJoined(b, " or ", f)
	default:
		b.WriteString(n.op.String())
		n.printArguments(b)
		if f != nil {
			fmt.Fprintf(b, " [%v]", n.eval(f))
		}
	}
}

func (n *node) printJoined(b *strings.Builder, word string, f *facts) {
	for i, kid := range n.kids {
		if i > 0 {
			b.WriteString(word)
		}
		kid.printInside(b, f)
	}
}

func (n *node) printInside(b *strings.Builder, f *facts) {
	if len(n.kids) == 0 || n.op == opNot {
		n.print(b, f)
		return
	}
	b.WriteByte('(')
	n.print(b, f)
	b.WriteByte(')')
}

func (n *node) printArguments(b *strings.Builder) {
	switch n.op {
	case opAll, opAny, opFragment, opEstablished:
	case opHeader, opCookie, opQuery:
		b.WriteString(" " + quoteWord(n.name))
		if len(n.words) > 0 {
			b.WriteString(" is")
			printList(b, n.words)
		}
	case opBodyOver:
		fmt.Fprintf(b, " %d", n.size)
	case opCrossOrigin:
		if len(n.words) > 0 {
			b.WriteString(" except")
			printList(b, n.words)
		}
	case opFlags:
		fmt.Fprintf(b, " %v/%v", n.flags[0], n.flags[1])
	case opProtocol:
		var all []string
		for _, s := range n.spans {
			all = append(all, protocolName(s))
		}
		printList(b, all)
	case opSource, opDestination:
		if n.set == nil || n.name != "" {
			fmt.Fprintf(b, " @%s", quoteWord(n.name))
			return
		}
		var all []string
		if table := n.set.table.Load(); table != nil {
			for prefix := range table.all() {
				all = append(all, prefix.String())
			}
		}
		printList(b, all)
	case opDestinationPort, opSourcePort, opICMPType, opICMPv6Type:
		var all []string
		for _, s := range n.spans {
			all = append(all, s.String())
		}
		printList(b, all)
	case opPathPrefix:
		if n.words[0] == "" {
			b.WriteString(" /")
			return
		}
		printList(b, n.words)
	default:
		printList(b, n.words)
	}
}

// printList writes one value bare and several in braces.
func printList(b *strings.Builder, values []string) {
	if len(values) == 1 {
		b.WriteString(" " + quoteWord(values[0]))
		return
	}
	b.WriteString(" { ")
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quoteWord(v))
	}
	b.WriteString(" }")
}
