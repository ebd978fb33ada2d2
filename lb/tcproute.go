package lb

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// TCPRoute sends TLS connections to a pool by what their ClientHello says,
// without ending TLS.
type TCPRoute struct {
	// ServerNames are the names that a client may ask for (RFC 6066, section 3),
	// in any case: a host name, or "*." and a host name for those with one label
	// more, or "*" for every name. A name comes before "*.", and that before "*".
	// Nil means any name, or none.
	ServerNames []string
	// ALPN are protocols of which the client must offer one (RFC 7301). Nil means
	// that it need not. A route whose protocols do not fit is passed over, so that
	// a name may have several.
	ALPN []string
	// Pool takes the connections. Nil is an error.
	Pool *Pool
}

// routeTable finds routes. It does not change. The zero value has none.
type routeTable struct {
	names, wildcards map[string][]*TCPRoute // "*.example.com" as "example.com"
	all              []*TCPRoute            // of "*"
	rest             []*TCPRoute            // of those without names
}

func (t *routeTable) empty() bool {
	return len(t.names) == 0 && len(t.wildcards) == 0 && len(t.all) == 0 && len(t.rest) == 0
}

// newRouteTable joins every mistake.
func newRouteTable(routes []TCPRoute) (routeTable, error) {
	t := routeTable{names: make(map[string][]*TCPRoute), wildcards: make(map[string][]*TCPRoute)}
	var errs []error
	complain := func(i int, format string, args ...any) {
		errs = append(errs, fmt.Errorf("lb: TCPProxyConfig.Routes[%d] %s", i, fmt.Sprintf(format, args...)))
	}
	for i := range routes {
		r := &TCPRoute{ALPN: slices.Clone(routes[i].ALPN), Pool: routes[i].Pool}
		names := routes[i].ServerNames
		if r.Pool == nil {
			complain(i, "has no Pool, want one")
		}
		if len(names) == 0 && len(r.ALPN) == 0 {
			complain(i, "has neither ServerNames nor ALPN, want one of them, or Default for all that is left")
		}
		for _, p := range r.ALPN {
			if p == "" || len(p) > 255 {
				complain(i, "has the protocol %q, want 1 to 255 bytes", p)
			}
		}
		for _, name := range names {
			if !t.add(name, r) {
				complain(i, "has the server name %q, want a host name, *.host or *", name)
			}
		}
		if len(names) == 0 {
			t.rest = append(t.rest, r)
		}
	}
	return t, errors.Join(errs...)
}

func (t *routeTable) add(name string, r *TCPRoute) bool {
	if name == "*" {
		t.all = append(t.all, r)
		return true
	}
	host, isWildcard := strings.CutPrefix(strings.ToLower(name), "*.")
	if host == "" || strings.HasSuffix(host, ".") || strings.HasPrefix(host, ".") || strings.ContainsAny(host, "*:/ \t,") || !httpguts.ValidHostHeader(host) {
		return false
	}
	table := t.names
	if isWildcard {
		table = t.wildcards
	}
	table[host] = append(table[host], r)
	return true
}

// find returns nil if no route fits. The name is in lower case.
func (t *routeTable) find(name string, protocols []string) *Pool {
	lists := [][]*TCPRoute{t.rest}
	if name != "" {
		lists = [][]*TCPRoute{t.names[name], nil, t.all, t.rest}
	}
	if label, host, ok := strings.Cut(name, "."); ok && label != "" {
		lists[1] = t.wildcards[host]
	}
	for _, list := range lists {
		for _, r := range list {
			if len(r.ALPN) == 0 || slices.ContainsFunc(protocols, func(p string) bool { return slices.Contains(r.ALPN, p) }) {
				return r.Pool
			}
		}
	}
	return nil
}
