package firewall

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// SNI matches the name of the server that a client asks for in TLS, without
// regard to its case. A pattern is a host name, or "*.example.com" as for
// [Host]. No name, and no TLS, match nothing. It is seen by a server that has
// [Firewall.TLSConfig], before the handshake, and by Handler.
func SNI(patterns ...string) Match {
	n := &node{op: opSNI}
	if len(patterns) == 0 {
		n.fail("SNI without patterns, want at least one")
	}
	for _, p := range patterns {
		bare, wild := strings.CutPrefix(p, "*.")
		name, ok := normalName(bare)
		if _, err := netip.ParseAddr(name); !ok || err == nil {
			n.fail("SNI(%q), want a host name or *.example.com", clip(p))
		}
		if wild {
			name = "*." + name
		}
		n.words = append(n.words, name)
	}
	return Match{n}
}

// JA4 matches the fingerprint of what a client says first in TLS, such as
// t13d1516h2_8daaf6152771_e5627efa2ab1; a part may be * for any. See [JA4Of] on
// what it is made of. It tells kinds of programs apart, not people, and a program
// that wants to can have the fingerprint of another.
//
// It is seen by a server that has [Firewall.TLSConfig], before the handshake, and
// by Handler for the connections of such a server that come through
// [Firewall.Listener]; for others it is unknown. No TLS matches nothing.
func JA4(fingerprints ...string) Match {
	n := &node{op: opJA4, words: slices.Clone(fingerprints)}
	if len(fingerprints) == 0 {
		n.fail("JA4 without fingerprints, want at least one")
	}
	for _, p := range fingerprints {
		if !isJA4(p) {
			n.fail("JA4(%q), want one such as t13d1516h2_8daaf6152771_e5627efa2ab1, where a part may be *", clip(p))
		}
	}
	return Match{n}
}

// isJA4 says whether p has the form of a fingerprint or of a pattern of them.
func isJA4(p string) bool {
	parts := strings.Split(p, "_")
	return len(parts) == 3 &&
		(parts[0] == "*" || len(parts[0]) == 10 && isToken(parts[0])) &&
		(parts[1] == "*" || len(parts[1]) == 12 && strings.Trim(parts[1], "0123456789abcdef") == "") &&
		(parts[2] == "*" || len(parts[2]) == 12 && strings.Trim(parts[2], "0123456789abcdef") == "")
}

// Country matches the country of the client as Config.Country tells it, by codes
// of two capital letters (ISO 3166-1). A client of which it does not know the
// country matches nothing.
func Country(codes ...string) Match {
	n := &node{op: opCountry, words: slices.Clone(codes)}
	if len(codes) == 0 {
		n.fail("Country without codes, want at least one")
	}
	for _, c := range codes {
		if len(c) != 2 || strings.Trim(c, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			n.fail("Country(%q), want two capital letters, such as CH", clip(c))
		}
	}
	return Match{n}
}

// ASN matches the number of the autonomous system that the client is in, as
// Config.ASN tells it. A client of which it does not know that matches nothing.
func ASN(numbers ...uint32) Match {
	n := &node{op: opASN}
	if len(numbers) == 0 {
		n.fail("ASN without numbers, want at least one")
	}
	for _, a := range numbers {
		if a == 0 {
			n.fail("ASN 0, want 1 or more")
		}
		n.words = append(n.words, strconv.FormatUint(uint64(a), 10))
		n.numbers = append(n.numbers, a)
	}
	return Match{n}
}

func (n *node) evalPlace(f *facts) truth {
	if !f.client.IsValid() {
		return unknown
	}
	if n.op == opASN {
		return truthOf(slices.Contains(n.numbers, f.known.asn(f.client)))
	}
	return truthOf(slices.Contains(n.words, f.known.country(f.client)))
}

// evalTLS evaluates the predicates over what a client says first in TLS.
func (n *node) evalTLS(f *facts) truth {
	name, ja4, ja4Known := "", "", false
	switch {
	case f.hello != nil:
		name, ja4, ja4Known = f.hello.serverName, f.hello.ja4, true
	case f.request == nil:
		return unknown
	case f.request.TLS == nil:
		return no
	default:
		name = f.request.TLS.ServerName
	}
	if n.op == opSNI {
		name, ok := normalName(name)
		return truthOf(ok && matchName(n.words, name))
	}
	if !ja4Known {
		if ja4, ja4Known = f.fingerprint(); !ja4Known {
			return unknown
		}
	}
	for _, p := range n.words {
		if matchJA4(p, ja4) {
			return yes
		}
	}
	return no
}

// matchJA4 compares the three parts.
func matchJA4(pattern, ja4 string) bool {
	for range 3 {
		var p, part string
		p, pattern, _ = strings.Cut(pattern, "_")
		part, ja4, _ = strings.Cut(ja4, "_")
		if p != part && p != "*" {
			return false
		}
	}
	return true
}
