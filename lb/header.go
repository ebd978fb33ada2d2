package lb

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// hopByHop are the fields that end at the next recipient (RFC 9110, section
// 7.6.1), beside those that Connection names. Proxy-Status (RFC 9209) is not
// among them. Proxy, of no standard, becomes the variable HTTP_PROXY of a CGI
// program (CVE-2016-5385).
var hopByHop = []string{
	"Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
	"Proxy", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization",
}

// isHopByHop says whether hopByHop has the name.
func isHopByHop(name string) bool {
	switch name[0] {
	case 'C', 'H', 'K', 'P', 'T', 'U':
		return slices.Contains(hopByHop, name)
	}
	return false
}

func removeHopByHop(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = strings.Trim(name, " \t"); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// claim says what a field of a request, or of its trailer, pretends to be.
type claim int

const (
	nothing    claim = iota
	identity         // of the client's certificate; only the proxy may set it
	forwarding       // of the way here; only the proxy and proxies it trusts may
	misspelt         // a field that some servers take for one the proxy governs
)

// claimOf judges a field by its name. Case never matters, and servers that hand
// fields on as CGI variables take underscores for hyphens; so a field that means
// something to the proxy must not pass in a spelling that the proxy overlooks.
func claimOf(name string) claim {
	if name == "" {
		return nothing
	}
	switch name[0] | 0x20 {
	case 'c', 'f', 'x', 't', 'h', 'u', 'k', 'p':
	default:
		return nothing
	}
	if strings.IndexByte(name, '_') < 0 {
		return claimOfPlain(name)
	}
	spelt := strings.ReplaceAll(name, "_", "-")
	switch c := claimOfPlain(spelt); {
	case c == identity:
		return identity
	case c == forwarding, strings.EqualFold(spelt, "Content-Length"):
		return misspelt
	}
	for _, hop := range hopByHop {
		if strings.EqualFold(spelt, hop) {
			return misspelt
		}
	}
	return nothing
}

// claimOfPlain judges a name without underscores.
func claimOfPlain(name string) claim {
	const prefix = "X-Forwarded-"
	switch {
	case strings.EqualFold(name, "Client-Cert"), strings.EqualFold(name, "Client-Cert-Chain"), strings.EqualFold(name, "X-Forwarded-Client-Cert"):
		return identity
	case strings.EqualFold(name, "Forwarded"), strings.EqualFold(name, "X-Real-Ip"),
		len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix):
		return forwarding
	}
	return nothing
}

// removeClaims removes what a client must not claim. Forwarding fields stay if
// the peer is trusted to set them.
func removeClaims(h http.Header, trusted bool) {
	for name := range h {
		switch claimOf(name) {
		case identity, misspelt:
			delete(h, name)
		case forwarding:
			if !trusted {
				delete(h, name)
			}
		}
	}
}

// removeInvalid removes what is no field (RFC 9110, section 5): the transport
// lets names through that are none. It says whether there was a value among it:
// such a name is a mistake, but a control character in a value may be an attack.
func removeInvalid(h http.Header) (badValue bool) {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			delete(h, name)
			continue
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				delete(h, name)
				badValue = true
				break
			}
		}
	}
	return badValue
}

// upgradeTokens returns the protocols of an Upgrade field, if Connection names
// it, in their order.
func upgradeTokens(h http.Header) []string {
	if !httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade") {
		return nil
	}
	var out []string
	for _, v := range h["Upgrade"] {
		for token := range strings.SplitSeq(v, ",") {
			if token = strings.Trim(token, " \t"); token != "" {
				out = append(out, token)
			}
		}
	}
	return out
}

func containsFold(list []string, s string) bool {
	for _, l := range list {
		if strings.EqualFold(l, s) {
			return true
		}
	}
	return false
}

// singletons are the fields of a response that replace what a middleware has
// set before; others are added to it.
func isSingleton(name string) bool {
	switch name {
	case "Content-Length", "Content-Type", "Date", "Etag", "Last-Modified", "Location":
		return true
	}
	return false
}

func addResponseFields(dst, src http.Header) {
	for name, values := range src {
		if len(dst[name]) == 0 || isSingleton(name) {
			dst[name] = values
		} else {
			dst[name] = append(dst[name], values...)
		}
	}
}
