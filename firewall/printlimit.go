package firewall

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// part is a part of a statement, with its value as text; an empty value is not
// written.
type part struct{ name, value string }

// number is a part with a number, of which zero is what it is anyway.
func number[T int | int64](name string, value T) part {
	if value == 0 {
		return part{}
	}
	return part{name, strconv.FormatInt(int64(value), 10)}
}

func duration(name string, value time.Duration) part {
	if value == 0 {
		return part{}
	}
	return part{name, value.String()}
}

func numbers(name string, values []int) part {
	if len(values) == 0 {
		return part{}
	}
	var all []string
	for _, v := range values {
		all = append(all, strconv.Itoa(v))
	}
	return part{name, listOf(all)}
}

func listOf(values []string) string {
	var b strings.Builder
	printList(&b, values)
	return b.String()[1:]
}

// printStatement writes a statement of parts.
func printStatement(b *strings.Builder, m Mode, kind, id string, match Match, parts ...part) {
	printMode(b, m)
	fmt.Fprintf(b, "%s %s", kind, quoteWord(id))
	for _, p := range parts {
		if p.name != "" {
			b.WriteString(" " + p.name)
			if p.value != "" {
				b.WriteString(" " + p.value)
			}
		}
	}
	if match.n != nil {
		fmt.Fprintf(b, " if %v", match)
	}
	b.WriteByte('\n')
}

func printSize(b *strings.Builder, s SizeLimit) {
	printStatement(b, s.Mode, "size", s.ID, s.Match,
		number("body", s.Body), number("header", s.Header), number("fields", s.Fields), number("url", s.URL))
}

func printLimit(b *strings.Builder, l Limit) {
	var unit, key, pace, announce, shared part
	if l.Unit != Requests {
		unit = part{"unit", l.Unit.String()}
	}
	if l.Key != (Key{}) {
		key = part{"key", l.Key.String()}
	}
	if l.Rate != 0 {
		pace = part{"rate", strconv.FormatFloat(float64(l.Rate), 'g', -1, 64)}
	}
	if l.Announce {
		announce.name = "announce"
	}
	if l.Shared {
		shared.name = "shared"
	}
	printStatement(b, l.Mode, "limit", l.ID, l.Match, unit, key, pace, number("burst", l.Burst), duration("window", l.Window),
		number("clients", l.MaxClients), number("ipv4-bits", l.IPv4Bits), number("ipv6-bits", l.IPv6Bits), announce, shared)
}

func printEscalation(b *strings.Builder, e Escalation) {
	var on part
	if len(e.On) > 0 {
		on = part{"on", listOf(e.On)}
	}
	printStatement(b, e.Mode, "escalate", e.ID, e.Match, on, number("offences", e.Offences), duration("window", e.Window),
		duration("ban", e.Ban), duration("max-ban", e.MaxBan), numbers("ipv4-bits", e.IPv4Bits), numbers("ipv6-bits", e.IPv6Bits),
		number("clients", e.MaxClients))
}
