package lb

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Trace passes the client's place in a trace on, or begins a trace: a backend
// always gets a valid traceparent (W3C Trace Context, level 1 and 2). The proxy
// makes no span of its own. A traceparent that is not valid is replaced by a new
// one, and tracestate, which belongs to it, is removed. It is plain data; the
// zero value is usable.
type Trace struct {
	// Sample is the share, 0 to 1, of the traces that begin here that are marked
	// as sampled, so that backends record them. 0 means none.
	Sample float64
}

// requestIDMax bounds an id that a trusted proxy sent.
const requestIDMax = 128

// validateIDs checks what concerns ids and traces.
func (c *ProxyConfig) validateIDs() error {
	var errs []error
	if name := c.RequestID; name != "" && !mayCarryID(name) {
		errs = append(errs, fmt.Errorf("lb: ProxyConfig.RequestID is %q, want the name of a field that nothing else uses", name))
	}
	if c.Trace != nil && !(c.Trace.Sample >= 0 && c.Trace.Sample <= 1) {
		errs = append(errs, fmt.Errorf("lb: ProxyConfig.Trace.Sample is %v, want 0 to 1", c.Trace.Sample))
	}
	return errors.Join(errs...)
}

func mayCarryID(name string) bool {
	if !httpguts.ValidHeaderFieldName(name) || strings.Contains(name, "_") || claimOf(name) != nothing || containsFold(hopByHop, name) {
		return false
	}
	return !containsFold([]string{"Host", "Content-Length", "Traceparent", "Tracestate", "Expect", "Cookie", "Authorization"}, name)
}

// identify gives the outgoing request its id and its place in a trace.
func (x *exchange) identify(trusted bool) {
	h := x.out.Header
	if name := x.proxy.conf.RequestID; name != "" {
		x.chooseID(h[name], trusted)
		removeMisspelt(h, name)
		h[name] = []string{x.event.RequestID}
	}
	if x.proxy.conf.Trace != nil && !x.chooseTrace(h["Traceparent"]) {
		delete(h, "Tracestate")
		h["Traceparent"] = []string{x.event.Traceparent}
	}
}

// chooseID keeps the id that a trusted proxy sent, or makes one, once.
func (x *exchange) chooseID(values []string, trusted bool) {
	if x.event.RequestID != "" {
		return
	}
	if trusted && len(values) == 1 && validRequestID(values[0]) {
		x.event.RequestID = values[0]
		return
	}
	var id [16]byte
	randomBytes(id[:])
	x.event.RequestID = hex.EncodeToString(id[:])
}

// chooseTrace keeps a valid traceparent, or makes one, once. It says whether the
// client's tracestate is of this trace.
func (x *exchange) chooseTrace(values []string) (kept bool) {
	if chosen := x.event.Traceparent; chosen != "" {
		return len(values) == 1 && values[0] == chosen
	}
	if len(values) == 1 && validTraceparent(values[0]) {
		x.event.Traceparent = values[0]
		return true
	}
	x.event.Traceparent = newTraceparent(rand.Float64() < x.proxy.conf.Trace.Sample)
	return false
}

// validRequestID allows what ids of all makes are made of, and nothing that
// means something in a log, a shell or a page.
func validRequestID(s string) bool {
	if s == "" || len(s) > requestIDMax {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9', c|0x20 >= 'a' && c|0x20 <= 'z', strings.IndexByte("-._~:/+=@", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// removeMisspelt removes a field in all spellings that a server which hands
// fields on as CGI variables takes for the same.
func removeMisspelt(h http.Header, name string) {
	for other := range h {
		if isMisspeltFor(other, name) {
			delete(h, other)
		}
	}
}

func isMisspeltFor(other, name string) bool {
	return len(other) == len(name) && strings.IndexByte(other, '_') >= 0 && strings.EqualFold(strings.ReplaceAll(other, "_", "-"), name)
}

// The parts of a traceparent: 00-traceid-parentid-flags, in lower-case hex.
const (
	traceIDAt      = 3
	parentIDAt     = traceIDAt + 32 + 1
	traceFlagsAt   = parentIDAt + 16 + 1
	traceparentLen = traceFlagsAt + 2

	traceSampled = 1 << 0
	traceRandom  = 1 << 1 // level 2: the trace's id is random
)

// validTraceparent follows section 3.2 of Trace Context. Versions after 00 may
// have more behind the parts that are known; there is no version ff.
func validTraceparent(s string) bool {
	if len(s) < traceparentLen || s[traceIDAt-1] != '-' || s[parentIDAt-1] != '-' || s[traceFlagsAt-1] != '-' {
		return false
	}
	version, trace, parent, flags := s[:traceIDAt-1], s[traceIDAt:parentIDAt-1], s[parentIDAt:traceFlagsAt-1], s[traceFlagsAt:traceparentLen]
	if !isLowerHex(version) || !isLowerHex(trace) || !isLowerHex(parent) || !isLowerHex(flags) {
		return false
	}
	if strings.Trim(trace, "0") == "" || strings.Trim(parent, "0") == "" || version == "ff" {
		return false
	}
	if len(s) > traceparentLen {
		return version != "00" && s[traceparentLen] == '-'
	}
	return true
}

func isLowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func newTraceparent(sampled bool) string {
	var ids [24]byte
	for binary.BigEndian.Uint64(ids[8:]) == 0 || binary.BigEndian.Uint64(ids[16:]) == 0 {
		randomBytes(ids[:])
	}
	flags := traceRandom
	if sampled {
		flags |= traceSampled
	}
	out := append(make([]byte, 0, traceparentLen), "00-"...)
	out = append(hex.AppendEncode(out, ids[:16]), '-')
	out = append(hex.AppendEncode(out, ids[16:]), '-', '0', byte('0'+flags))
	return string(out)
}

// randomBytes fills p, whose length is a multiple of 8. What it gives is unique,
// and no secret.
func randomBytes(p []byte) {
	for ; len(p) > 0; p = p[8:] {
		binary.BigEndian.PutUint64(p, rand.Uint64())
	}
}
