package firewall

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// Unit is what a [Limit] counts.
type Unit uint8

const (
	// Requests, the zero value: requests that the rules accept, at the Handler.
	Requests Unit = iota
	// Connections: connections that the rules let pass, at the Listener.
	Connections
	// Concurrent: connections that are open at the same time, at the Listener.
	Concurrent
)

var unitNames = []string{"requests", "connections", "concurrent"}

// String returns "requests", "connections" or "concurrent".
func (u Unit) String() string { return nameOf(unitNames, uint8(u), "Unit") }

// Key is what tells the clients of a [Limit] apart. The zero value is the network
// of the client's address. A request that does not have what the key says is
// counted by that network too, so that leaving it out gains nothing; but whoever
// can make up values, of a header that nobody checks, can come as somebody new
// each time. Keys are values, and may be compared.
type Key struct {
	kind keyKind
	name string
}

type keyKind uint8

const (
	keyClient keyKind = iota
	keyHeader
	keyCookie
	keyIdentity
	keyFunc
)

var keyNames = []string{"client", "header", "cookie", "identity", "func"}

// HeaderKey is the value of a header, an API key for example.
func HeaderKey(name string) Key { return Key{keyHeader, http.CanonicalHeaderKey(name)} }

// CookieKey is the value of a cookie.
func CookieKey(name string) Key { return Key{keyCookie, name} }

// IdentityKey is the identity that Config.Identity tells.
func IdentityKey() Key { return Key{kind: keyIdentity} }

// FuncKey is what the function tells that Config.KeyFuncs has under the name.
func FuncKey(name string) Key { return Key{keyFunc, name} }

// String returns the key as it is written in the text of a policy.
func (k Key) String() string {
	kind := nameOf(keyNames, uint8(k.kind), "Key")
	if k.kind == keyClient || k.kind == keyIdentity {
		return kind
	}
	return kind + " " + quoteWord(k.name)
}

// Limit is a limit on what each client may do: a token bucket, as in
// [rate.Limiter], a sliding window, or a number of connections.
type Limit struct {
	// ID names the limit in decisions, events and counters. It must not be
	// empty and no other limit may have it.
	ID string
	// Match says which requests or connections count. Zero means all. What has
	// an unknown match counts. With a Unit of connections only predicates are
	// allowed that a connection has the facts for, such as Source.
	Match Match
	// Unit is what is counted. Zero is Requests. Connections from trusted
	// proxies, which carry the requests of many clients, are never counted.
	Unit Unit
	// Key tells clients apart. Zero is the network of the client, which is the
	// only one for a Unit of connections.
	Key Key
	// IPv4Bits and IPv6Bits say how many leading bits of an address make a
	// client. Zero means 32 and 64: a single home gets an IPv6 network of 64
	// bits or more, with which it could come from a new address every time.
	IPv4Bits, IPv6Bits int
	// Rate is how many tokens a client gets per second, above 0 and at most
	// 1,000,000. It has no default; it must be zero with a Window and for
	// Concurrent.
	Rate rate.Limit
	// Burst is how many tokens a client can save up, and has at first: 1 or
	// more. With a Window it is how many may come within it, at most 65,535, and
	// for Concurrent how many connections may be open. It has no default.
	Burst int
	// Window, if it is not zero, replaces the token bucket by a sliding window of
	// this length, of one second to a year: in no time of that length do more
	// than Burst pass. For that, a request may count for up to a fifth of the
	// window longer than the window.
	Window time.Duration
	// MaxClients is how many clients are kept apart, 17 bytes each, or 25 with a
	// Window, which are allocated at once. Zero means 65,536; 8 is the least and
	// 16,777,216 the most; a number that is no multiple of 8 is rounded down.
	// When more clients than that are active, some that are closest to having
	// all their tokens are forgotten and start anew. It means nothing for
	// Concurrent, where every client kept has a connection.
	MaxClients int
	// Announce tells clients of the limit in the fields RateLimit-Policy and
	// RateLimit of every answer (draft-ietf-httpapi-ratelimit-headers-10), under
	// the ID, which is then not secret. Only for Requests. The draft may change,
	// and the fields with it.
	Announce bool
	// Shared counts in Config.Store, for all processes that have the same one,
	// rather than in memory. Only for Requests, and not with a Window.
	Shared bool
	// Mode is Enforce or Monitor.
	Mode Mode
}

const (
	defaultMaxClients = 1 << 16
	mostMaxClients    = 1 << 24
	mostRate          = 1e6
	mostWindowBurst   = math.MaxUint16
	leastWindow       = time.Second
	mostWindow        = 366 * 24 * time.Hour
)

type boundLimit struct {
	Limit
	match   *node // nil: everything
	limiter *limiter
	open    *openConns // for Concurrent, which has no limiter
	tally   *tally
	value   func(*http.Request) string // for a FuncKey
}

func (l Limit) bind(known *knowledge) (b boundLimit, errs []error) {
	b.Limit = l.withDefaults()
	errs = b.Limit.check()
	switch l.Key.kind {
	case keyFunc:
		if b.value = known.keyFuncs[l.Key.name]; b.value == nil {
			errs = append(errs, fmt.Errorf("no function %q in Config.KeyFuncs", clip(l.Key.name)))
		}
	case keyIdentity:
		if known.identify == nil {
			errs = append(errs, errors.New("IdentityKey without Config.Identity, which tells identities"))
		}
	}
	if l.Shared && known.shared == nil {
		errs = append(errs, errors.New("limit is Shared without Config.Store"))
	}
	if l.Match.n != nil {
		match, more := l.Match.n.bind(known)
		b.match, errs = match, append(errs, more...)
		if l.Unit != Requests && match.needsRequest() {
			errs = append(errs, fmt.Errorf("match %v, want predicates that a connection has the facts for, with unit %v", l.Match, l.Unit))
		}
	}
	return b, errs
}

func (l Limit) withDefaults() Limit {
	if l.IPv4Bits == 0 {
		l.IPv4Bits = 32
	}
	if l.IPv6Bits == 0 {
		l.IPv6Bits = 64
	}
	if l.MaxClients == 0 {
		l.MaxClients = defaultMaxClients
	}
	return l
}

func (l Limit) check() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if l.ID == "" {
		bad("no ID, want one that names the limit")
	}
	if l.IPv4Bits < 1 || l.IPv4Bits > 32 || l.IPv6Bits < 1 || l.IPv6Bits > 128 {
		bad("IPv4Bits %d and IPv6Bits %d, want 1 to 32 and 1 to 128", l.IPv4Bits, l.IPv6Bits)
	}
	if l.Burst < 1 {
		bad("Burst %d, want at least 1", l.Burst)
	}
	if l.MaxClients < ways || l.MaxClients > mostMaxClients {
		bad("MaxClients %d, want %d to %d", l.MaxClients, ways, mostMaxClients)
	}
	if l.Mode > Monitor {
		bad("%v, want enforce or monitor", l.Mode)
	}
	if l.Unit > Concurrent {
		bad("%v, want requests, connections or concurrent", l.Unit)
	}
	return append(append(errs, l.checkPace()...), l.checkKey()...)
}

// checkPace checks what says how much may pass.
func (l Limit) checkPace() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case l.Unit == Concurrent:
		if l.Rate != 0 || l.Window != 0 {
			bad("Rate %v and Window %v with unit concurrent, want only Burst", float64(l.Rate), l.Window)
		}
	case l.Window != 0:
		if l.Rate != 0 {
			bad("Rate %v with a Window, want only Burst", float64(l.Rate))
		}
		if l.Window < leastWindow || l.Window > mostWindow {
			bad("Window %v, want %v to %v", l.Window, leastWindow, mostWindow)
		}
		if l.Burst > mostWindowBurst {
			bad("Burst %d with a Window, want at most %d", l.Burst, mostWindowBurst)
		}
	case !(l.Rate > 0 && l.Rate <= mostRate): // not so for NaN
		bad("Rate %v, want more than 0 and at most %v per second", float64(l.Rate), mostRate)
	case l.Burst >= 1 && float64(l.Burst)/float64(l.Rate) > math.MaxInt64/4/1e9:
		bad("Burst %d at Rate %v takes centuries to save up, want less", l.Burst, float64(l.Rate))
	}
	return errs
}

// checkKey checks what goes together with keys and units.
func (l Limit) checkKey() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch l.Key.kind {
	case keyHeader, keyCookie:
		if !isToken(l.Key.name) {
			bad("key %v, want a name of letters, digits and marks", l.Key)
		}
	}
	if l.Unit != Requests && (l.Key.kind != keyClient || l.Announce || l.Shared) {
		bad("unit %v with another Key than the client, Announce or Shared, want those with requests only", l.Unit)
	}
	if l.Announce && !isFieldString(l.ID) {
		bad("Announce with ID %q, want one of printable ASCII", clip(l.ID))
	}
	if l.Shared && l.Window != 0 {
		bad("Shared with a Window, want a Rate")
	}
	return errs
}

// adopt gives a limit the memory of the one with the same ID in an old policy, as
// far as it means the same there: its counts always, and what clients have left
// if the numbers are the same.
func (b *boundLimit) adopt(old *program, known *knowledge) {
	b.tally = new(tally)
	var was *boundLimit
	if old != nil {
		for i := range old.limits {
			if old.limits[i].ID == b.ID {
				was = &old.limits[i]
				b.tally = was.tally
			}
		}
	}
	if b.Unit == Concurrent {
		if was != nil && was.open != nil && was.IPv4Bits == b.IPv4Bits && was.IPv6Bits == b.IPv6Bits {
			b.open = was.open
		} else {
			b.open = newOpenConns(b.IPv4Bits, b.IPv6Bits)
		}
		return
	}
	if was != nil && was.limiter != nil && was.countsLike(b) {
		b.limiter = was.limiter
		return
	}
	own := b.Limit
	if b.Shared {
		own = own.localPart(known.shared.processes)
	}
	b.limiter = newLimiter(own)
}

func (b *boundLimit) countsLike(other *boundLimit) bool {
	return b.Unit == other.Unit && b.Key == other.Key && b.Rate == other.Rate && b.Burst == other.Burst && b.Window == other.Window &&
		b.Shared == other.Shared && b.IPv4Bits == other.IPv4Bits && b.IPv6Bits == other.IPv6Bits && b.MaxClients == other.MaxClients
}

// keyOf returns the hash under which a limiter counts.
func (b *boundLimit) keyOf(f *facts) uint64 {
	if value := b.keyValue(f); value != "" {
		return b.limiter.valueKey(value)
	}
	return b.limiter.key(f.client)
}

// keyValue returns the value that the key of the limit has in a request, or ""
// if the address is to be taken.
func (b *boundLimit) keyValue(f *facts) string {
	switch b.Key.kind {
	case keyHeader:
		switch lines := f.request.Header[b.Key.name]; len(lines) {
		case 0:
			return ""
		case 1:
			return lines[0]
		default:
			return strings.Join(lines, ", ") // which they mean, RFC 9110 section 5.3
		}
	case keyCookie:
		return cookieValue(f.request, b.Key.name)
	case keyIdentity:
		return f.clientIdentity()
	case keyFunc:
		return b.value(f.request)
	}
	return ""
}

// cookieValue returns the first value that a request has for a cookie.
func cookieValue(r *http.Request, name string) string {
	for _, line := range r.Header["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			if n, value, _ := strings.Cut(strings.TrimSpace(pair), "="); n == name {
				return value
			}
		}
	}
	return ""
}

// isFieldString says whether s can be a string of RFC 9651 section 3.3.3.
func isFieldString(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
