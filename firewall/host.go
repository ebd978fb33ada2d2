package firewall

import (
	"net/netip"
	"strings"
)

// normalName returns the one form of a host name or IP address: lower case,
// without a dot at the end, addresses in their short form. It refuses anything
// else.
func normalName(s string) (string, bool) {
	// Only what can be an address is parsed as one: a failure allocates.
	if strings.Contains(s, ":") || strings.Trim(s, ".0123456789") == "" {
		addr, err := netip.ParseAddr(s)
		return addr.Unmap().String(), err == nil && addr.Zone() == ""
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if s == "" || len(s) > 253 {
		return "", false
	}
	labelBytes := 0
	for _, c := range []byte(s) {
		switch {
		case c == '.':
			if labelBytes == 0 {
				return "", false
			}
			labelBytes = 0
			continue
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return "", false
		}
		if labelBytes++; labelBytes > 63 {
			return "", false
		}
	}
	return s, labelBytes > 0
}

// plainHost returns the name of a host that has the form of normalName but for a
// port, as nearly all have. It returns false for others, and for some that are
// good.
func plainHost(host string) (string, bool) {
	letter, labelBytes, end := false, 0, len(host)
	for i := range len(host) {
		switch c := host[i]; {
		case end < len(host): // the port
			if c < '0' || c > '9' {
				return "", false
			}
		case c >= 'a' && c <= 'z':
			letter = true
			labelBytes++
		case c >= '0' && c <= '9', c == '-', c == '_':
			labelBytes++
		case c == ':':
			end = i
		case c != '.' || labelBytes == 0 || labelBytes > 63:
			return "", false
		default:
			labelBytes = 0
		}
	}
	// Without a letter it might be an address.
	return host[:end], letter && labelBytes > 0 && labelBytes <= 63 && end <= 253
}

// normalHost is normalName for a Host field: a port is taken off, and an IPv6
// address is in brackets.
func normalHost(host string) (string, bool) {
	if name, ok := plainHost(host); ok {
		return name, true
	}
	name, port, hasPort := host, "", false
	if inner, ok := strings.CutPrefix(host, "["); ok {
		var rest string
		if name, rest, ok = strings.Cut(inner, "]"); !ok || !strings.Contains(name, ":") {
			return "", false
		}
		if port, hasPort = strings.CutPrefix(rest, ":"); !hasPort && rest != "" {
			return "", false
		}
	} else if name, port, hasPort = strings.Cut(host, ":"); strings.Contains(port, ":") {
		return "", false
	}
	if hasPort && strings.Trim(port, "0123456789") != "" {
		return "", false
	}
	return normalName(name)
}

func matchName(patterns []string, name string) bool {
	for _, p := range patterns {
		if parent, wild := strings.CutPrefix(p, "*"); p == name || wild && strings.HasSuffix(name, parent) {
			return true
		}
	}
	return false
}
