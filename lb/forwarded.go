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
	proto := protoOf(in)
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

func protoOf(in *http.Request) string {
	if in.TLS != nil {
		return "https"
	}
	return "http"
}

// appendForwarded is setForwarded for a client that is no trusted proxy, as lines
// of a head.
func appendForwarded(b []byte, in *http.Request, peer netip.Addr) []byte {
	proto := protoOf(in)
	b = appendForwardedElement(append(b, "Forwarded: "...), peer, in.Host, proto)
	b = append(b, "\r\nX-Forwarded-For: "...)
	if peer.IsValid() {
		b = peer.AppendTo(b)
	} else {
		b = append(b, "unknown"...)
	}
	if in.Host != "" {
		b = append(append(b, "\r\nX-Forwarded-Host: "...), in.Host...)
	}
	return append(append(append(b, "\r\nX-Forwarded-Proto: "...), proto...), "\r\n"...)
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
	b := make([]byte, 0, len("for=192.168.100.100;host=;proto=https")+len(host))
	return string(appendForwardedElement(b, peer, host, proto))
}

func appendForwardedElement(b []byte, peer netip.Addr, host, proto string) []byte {
	b = append(b, "for="...)
	switch {
	case !peer.IsValid():
		b = append(b, "unknown"...)
	case peer.Is6():
		b = append(peer.AppendTo(append(b, `"[`...)), `]"`...)
	default:
		b = peer.AppendTo(b)
	}
	if host != "" {
		b = appendTokenOrQuoted(append(b, ";host="...), host)
	}
	return append(append(b, ";proto="...), proto...)
}

func appendTokenOrQuoted(b []byte, s string) []byte {
	if !strings.ContainsFunc(s, func(r rune) bool { return !httpguts.IsTokenRune(r) }) {
		return append(b, s...)
	}
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}
