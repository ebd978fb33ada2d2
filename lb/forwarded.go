package lb

import (
	"net/http"
	"net/netip"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// peerOf returns the address of the client's connection. The result is invalid
// if it has none, as over a Unix socket.
func peerOf(r *http.Request) netip.Addr {
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		// A zone means something on this machine only.
		return ap.Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

func (p *Proxy) trusts(peer netip.Addr) bool {
	for _, prefix := range p.conf.TrustedProxies {
		if prefix.Contains(peer) {
			return true
		}
	}
	return false
}

// setForwarded tells the backend about the client, in Forwarded (RFC 7239) and
// in the X-Forwarded fields. What is left of them in h is a trusted proxy's.
func setForwarded(h http.Header, in *http.Request, peer netip.Addr) {
	proto := "http"
	if in.TLS != nil {
		proto = "https"
	}
	appendField(h, "Forwarded", forwardedElement(peer, in.Host, proto))
	address := "unknown"
	if peer.IsValid() {
		address = peer.String()
	}
	appendField(h, "X-Forwarded-For", address)
	if len(h["X-Forwarded-Host"]) == 0 && in.Host != "" {
		h["X-Forwarded-Host"] = []string{in.Host}
	}
	if len(h["X-Forwarded-Proto"]) == 0 {
		h["X-Forwarded-Proto"] = []string{proto}
	}
}

// appendField keeps the list in one line, as some readers look at one only.
func appendField(h http.Header, name, value string) {
	if prior := h[name]; len(prior) > 0 {
		value = strings.Join(prior, ", ") + ", " + value
	}
	h[name] = []string{value}
}

// forwardedElement is the forwarded-element of RFC 7239, section 4. An address
// of IP version 6 stands in brackets and so in quotes (section 6).
func forwardedElement(peer netip.Addr, host, proto string) string {
	var b strings.Builder
	b.Grow(len("for=192.168.100.100;host=;proto=https") + len(host))
	b.WriteString("for=")
	switch {
	case !peer.IsValid():
		b.WriteString("unknown")
	case peer.Is6():
		b.WriteString(`"[` + peer.String() + `]"`)
	default:
		b.WriteString(peer.String())
	}
	if host != "" {
		b.WriteString(";host=")
		writeTokenOrQuoted(&b, host)
	}
	b.WriteString(";proto=" + proto)
	return b.String()
}

func writeTokenOrQuoted(b *strings.Builder, s string) {
	if !strings.ContainsFunc(s, func(r rune) bool { return !httpguts.IsTokenRune(r) }) {
		b.WriteString(s)
		return
	}
	b.WriteByte('"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte('"')
}
