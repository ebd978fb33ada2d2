package firewall

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

const (
	maxHops       = 100 // entries read of a forwarding header
	maxEntryBytes = 512 // of one of them
)

// ForwardedHeader is the header in which trusted proxies name the client. The
// other one is ignored: a proxy that does not set a header passes on whatever
// the client put there.
type ForwardedHeader uint8

const (
	// XForwardedFor, the zero value, is X-Forwarded-For.
	XForwardedFor ForwardedHeader = iota
	// Forwarded is the header of RFC 7239.
	Forwarded
)

// String returns the name of the header.
func (h ForwardedHeader) String() string {
	return nameOf([]string{"X-Forwarded-For", "Forwarded"}, uint8(h), "ForwardedHeader")
}

type clientKey struct{}

// ClientIP returns the address of the client as the [Firewall.Handler] found it that
// the request went through, and whether there was one with Config.ClientInContext.
func ClientIP(ctx context.Context) (netip.Addr, bool) {
	addr, ok := ctx.Value(clientKey{}).(netip.Addr)
	return addr, ok
}

// ClientIP returns the address of the client of a request, as rules and limits see
// it, or false if nobody can tell. It reads the request, which has to have the
// RemoteAddr and the forwarding header that Handler saw.
func (f *Firewall) ClientIP(r *http.Request) (netip.Addr, bool) {
	client := f.clientOf(parseAddrPort(r.RemoteAddr).Addr(), r)
	return client, client.IsValid()
}

// clientOf returns the address of the client of a request, or the zero Addr if
// it cannot be told.
//
// The walk starts at the peer and goes from the right of the header to the
// left, for as long as the address reached is a trusted proxy, which alone may
// say who is before it. So nothing to the left of the first address that is not
// trusted is ever read, and a peer that is not trusted can say nothing.
func clientOf(peer netip.Addr, h http.Header, kind ForwardedHeader, trusted *PrefixSet) netip.Addr {
	client := peer
	if !client.IsValid() || !trusted.Contains(client) {
		return client
	}
	lines := h[kind.String()]
	hops := 0
	for i := len(lines) - 1; i >= 0; i-- {
		rest, more := lines[i], true
		if trimBlanks(rest) == "" {
			continue // an empty field line says nothing
		}
		for more {
			var entry string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, entry = rest[:comma], rest[comma+1:]
			} else {
				entry, more = rest, false
			}
			if hops++; hops > maxHops || len(entry) > maxEntryBytes {
				return netip.Addr{}
			}
			if client = parseEntry(kind, trimBlanks(entry)); !client.IsValid() || !trusted.Contains(client) {
				return client
			}
		}
	}
	return client
}

// trimBlanks is strings.Trim(s, " \t"), which takes longer than all else here.
func trimBlanks(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// clientOf is the same for a request from a peer, with what a PROXY protocol
// header has to say, which comes after the peer.
func (f *Firewall) clientOf(peer netip.Addr, r *http.Request) netip.Addr {
	if f.proxyAddr != nil && peer.IsValid() && f.trusted.Contains(peer) {
		if named := f.proxyAddr(r); named.IsValid() {
			peer = plainAddr(named)
		}
	}
	return clientOf(peer, r.Header, f.header, &f.trusted)
}

// parseEntry returns the address of one entry of a forwarding header, or the
// zero Addr.
func parseEntry(kind ForwardedHeader, s string) netip.Addr {
	if kind == Forwarded {
		var ok bool
		if s, ok = forValue(s); !ok {
			return netip.Addr{}
		}
		// RFC 7239 section 6: an IPv6 address is in brackets.
		if strings.Count(s, ":") > 1 && s[0] != '[' {
			return netip.Addr{}
		}
	}
	return parseNode(s)
}

// parseNode reads an address with or without a port. Many proxies add the port
// to X-Forwarded-For, and many write IPv6 addresses without brackets there.
func parseNode(s string) netip.Addr {
	if addr, rest, ok := cutIPv4(s); ok && rest == "" {
		return addr
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
			if addr, err = netip.ParseAddr(inner[:len(inner)-1]); err != nil || !addr.Is6() {
				return netip.Addr{}
			}
		} else {
			ap, err := netip.ParseAddrPort(s)
			if err != nil {
				return netip.Addr{}
			}
			addr = ap.Addr()
		}
	}
	if addr.Zone() != "" {
		return netip.Addr{}
	}
	return addr.Unmap()
}

// forValue returns the value of the one for parameter of an element of RFC 7239.
//
// Elements are split at every comma, also inside quotes. That is deliberate: a
// quote that a client left open must not swallow what a proxy added after it.
// An element with a comma in a quoted value falls apart into pieces with an odd
// number of quotes, none of which can be read.
func forValue(element string) (value string, ok bool) {
	found := false
	for rest := element; ; {
		name, after, hasValue := strings.Cut(strings.TrimLeft(rest, " \t"), "=")
		if !hasValue || !isToken(name) {
			return "", false
		}
		v, tail, good := cutValue(after)
		if !good {
			return "", false
		}
		if strings.EqualFold(name, "for") {
			if found {
				return "", false
			}
			value, found = v, true
		}
		if tail = strings.TrimLeft(tail, " \t"); tail == "" {
			return value, found
		}
		if tail[0] != ';' {
			return "", false
		}
		rest = tail[1:]
	}
}

// cutValue cuts a token or quoted string off the front of s.
func cutValue(s string) (value, tail string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexByte(s, ';')
		if end < 0 {
			end = len(s)
		}
		// Strictly, a colon needs quotes; proxies that add a port forget them.
		value = strings.TrimRight(s[:end], " \t")
		return value, s[end:], isToken(strings.ReplaceAll(value, ":", ""))
	}
	var out []byte
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return string(out), s[i+1:], true
		case c == '\\' && i+1 < len(s):
			i++
			out = append(out, s[i])
		case c < ' ' && c != '\t' || c == 0x7f:
			return "", "", false
		default:
			out = append(out, c)
		}
	}
	return "", "", false
}

// isToken says whether s is a token of RFC 9110 section 5.6.2.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// addrPortOf returns the address and port of an end of a connection without
// its zone, or the zero AddrPort for one that is not an IP address.
func addrPortOf(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok && tcp != nil {
		return plainAddrPort(tcp.AddrPort())
	}
	if a == nil {
		return netip.AddrPort{}
	}
	return parseAddrPort(a.String())
}

// parseAddrPort returns the zero AddrPort for what is none.
func parseAddrPort(s string) netip.AddrPort {
	if addr, rest, ok := cutIPv4(s); ok {
		if port, ok := parsePort(rest); ok {
			return netip.AddrPortFrom(addr, port)
		}
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}
	}
	return plainAddrPort(ap)
}

func plainAddrPort(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(plainAddr(ap.Addr()), ap.Port())
}

func plainAddr(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return addr
	}
	return addr.Unmap().WithZone("")
}

// cutIPv4 cuts an address off the front of s. It is netip.ParseAddr for what is
// parsed with every request, in half the time.
func cutIPv4(s string) (addr netip.Addr, rest string, ok bool) {
	var b [4]byte
	field, value, digits := 0, 0, 0
	i := 0
	for ; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= '0' && c <= '9':
			if value = 10*value + int(c-'0'); value > 255 || digits > 0 && value < 10 { // a zero in front
				return netip.Addr{}, s, false
			}
			digits++
			continue
		case c == '.' && digits > 0 && field < 3:
			b[field] = byte(value)
			field, value, digits = field+1, 0, 0
			continue
		}
		break
	}
	if field < 3 || digits == 0 {
		return netip.Addr{}, s, false
	}
	b[3] = byte(value)
	return netip.AddrFrom4(b), s[i:], true
}

// parsePort reads a colon and a number.
func parsePort(s string) (uint16, bool) {
	if len(s) < 2 || len(s) > 6 || s[0] != ':' {
		return 0, false
	}
	port := 0
	for _, c := range []byte(s[1:]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		port = 10*port + int(c-'0')
	}
	return uint16(port), port <= 65535
}
