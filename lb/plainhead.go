package lb

import (
	"net/http"
	"strings"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// plainRoom is for the head of most requests.
const plainRoom = 1 << 10

// writePlain writes the head for a backend straight from the client's request,
// without a copy of it to change. It says whether it could: what is rare, or needs
// more than fields left out and added, goes the long way through prepare, which
// gives the same head.
func (x *exchange) writePlain() bool {
	in := x.in
	bodiless := in.ContentLength == 0 || in.Body == http.NoBody
	if !x.proxy.headsPlain || !bodiless || in.Host == "" || in.Method == http.MethodOptions || in.Method == http.MethodTrace {
		return false
	}
	peer := peerOf(in)
	trusted := x.proxy.trusts(peer)
	head, err := http1.AppendBodiless(x.plainIn[:0], in)
	if err != nil {
		return false
	}
	keepsState := x.choosePlain(trusted)
	for name, values := range in.Header {
		if x.replaces(name, keepsState) {
			continue
		}
		switch fateOf(name, values) {
		case ends:
			continue
		case matters:
			return false
		case claims:
			if trusted {
				return false
			}
			continue
		}
		if head, err = http1.AppendField(head, name, values); err != nil {
			return false
		}
	}
	head = appendForwarded(head, in, peer)
	x.plain = append(x.appendIDs(head), "\r\n"...)
	return true
}

// choosePlain is identify, but for the fields. It says whether the client's
// tracestate goes on.
func (x *exchange) choosePlain(trusted bool) (keepsState bool) {
	h := x.in.Header
	if name := x.proxy.conf.RequestID; name != "" {
		x.chooseID(h[name], trusted)
	}
	return x.proxy.conf.Trace == nil || x.chooseTrace(h["Traceparent"])
}

// replaces says whether a field of the client's gives way to one that appendIDs
// writes.
func (x *exchange) replaces(name string, keepsState bool) bool {
	if id := x.proxy.conf.RequestID; id != "" && (name == id || isMisspeltFor(name, id)) {
		return true
	}
	return x.proxy.conf.Trace != nil && name == "Traceparent" || !keepsState && name == "Tracestate"
}

func (x *exchange) appendIDs(head []byte) []byte {
	if name := x.proxy.conf.RequestID; name != "" {
		head = appendLine(head, name, x.event.RequestID)
	}
	if x.proxy.conf.Trace != nil {
		head = appendLine(head, "Traceparent", x.event.Traceparent)
	}
	return head
}

// appendLine appends a field that is known to be one.
func appendLine(b []byte, name, value string) []byte {
	return append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
}

// fate is what becomes of a field of a request.
type fate int

const (
	passes  fate = iota
	ends         // it is for this hop, or nobody may claim it
	claims       // it may be claimed by those who are trusted
	matters      // it says something about the request as a whole
)

// fateOf judges a field as prepare does.
func fateOf(name string, values []string) fate {
	if name == "" {
		return matters
	}
	switch name[0] | 0x20 {
	case 'c', 'e', 'f', 'h', 'k', 'p', 't', 'u', 'x':
	default:
		return passes
	}
	switch name {
	case "Connection":
		if !isPersistence(values) {
			return matters
		}
		return ends
	case "Te", "Upgrade", "Expect":
		return matters
	case "Host", "Content-Length":
		return ends
	case "User-Agent":
		if len(values) > 0 && values[0] == "" {
			return ends
		}
		return passes
	}
	if isHopByHop(name) {
		return ends
	}
	switch claimOf(name) {
	case identity, misspelt:
		return ends
	case forwarding:
		return claims
	}
	return passes
}

// isPersistence says whether Connection says nothing but whether the connection
// stays, and so names no field that ends here.
func isPersistence(values []string) bool {
	for _, v := range values {
		if !strings.EqualFold(v, "keep-alive") && !strings.EqualFold(v, "close") {
			return false
		}
	}
	return true
}
