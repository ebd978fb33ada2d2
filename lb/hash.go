package lb

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
)

// HashKey takes from a request what the hash strategies choose by, as a hash:
// requests with the same one go to the same backend. It says false for a request
// that has no key; that one goes to a backend at random. It is called for each
// request, by many goroutines at once, and should not allocate. [KeyClientIP],
// [KeyPath], [KeyHeader], [KeyCookie] and [KeyFunc] are or make one.
type HashKey func(PickInfo) (hash uint64, ok bool)

// HashString is the hash of a key. It is the same in every process and on every
// machine, so that balancers beside each other agree, and it is no secret: who
// chooses his keys can have many of them go to one backend, to which one unless
// the strategy has a Seed. [BoundedLoad] limits what that does.
func HashString(s string) uint64 {
	h := uint64(hashK2)
	n := uint64(len(s))
	for len(s) > 16 {
		h = fold(le64(s)^hashK0^h, le64(s[8:])^hashK1)
		s = s[16:]
	}
	var a, b uint64
	switch {
	case len(s) >= 8: // the two words overlap if there are fewer than 16 bytes
		a, b = le64(s), le64(s[len(s)-8:])
	case len(s) >= 4:
		a, b = le32(s), le32(s[len(s)-4:])
	case len(s) > 0:
		a = uint64(s[0])<<16 | uint64(s[len(s)/2])<<8 | uint64(s[len(s)-1])
	}
	return fold(fold(a^hashK0^h, b^hashK1)^n^hashK2, hashK1)
}

// KeyClientIP is the address of the client's connection. Behind another proxy
// that is the proxy's; take [KeyHeader] with a field which that proxy sets.
func KeyClientIP(info PickInfo) (uint64, bool) {
	if info.Request == nil {
		return 0, false
	}
	ap, err := netip.ParseAddrPort(info.Request.RemoteAddr)
	if err != nil {
		return 0, false
	}
	a := ap.Addr().As16() // an IPv4 address is the same as the IPv6 one that maps it
	upper, lower := binary.LittleEndian.Uint64(a[:]), binary.LittleEndian.Uint64(a[8:])
	return mix(lower, mix(upper, hashK2)), true
}

// KeyPath is the path of the request, without the query: each resource has its
// backend, whose cache it warms.
func KeyPath(info PickInfo) (uint64, bool) {
	if info.Request == nil || info.Request.URL == nil {
		return 0, false
	}
	return HashString(info.Request.URL.Path), true
}

// KeyHeader is the first value of a header field. A request without the field,
// or with an empty one, has no key.
func KeyHeader(name string) HashKey {
	name = http.CanonicalHeaderKey(name)
	return func(info PickInfo) (uint64, bool) {
		if info.Request == nil {
			return 0, false
		}
		values := info.Request.Header[name]
		if len(values) == 0 || values[0] == "" {
			return 0, false
		}
		return HashString(values[0]), true
	}
}

// KeyCookie is the value of a cookie, the first if there are several. A request
// without it, or with an empty one, has no key.
func KeyCookie(name string) HashKey {
	return func(info PickInfo) (uint64, bool) {
		if info.Request == nil || name == "" {
			return 0, false
		}
		value := cookieValue(info.Request.Header["Cookie"], name)
		return HashString(value), value != ""
	}
}

// KeyFunc is what a function says of the client's request. An empty string means
// that it has no key, and so does a request outside of HTTP.
func KeyFunc(f func(*http.Request) string) HashKey {
	return func(info PickInfo) (uint64, bool) {
		if info.Request == nil {
			return 0, false
		}
		key := f(info.Request)
		return HashString(key), key != ""
	}
}

// cookieValue finds a cookie as net/http does (RFC 6265, section 5.4), but
// allocates nothing. Quotes are left out, as they are no part of the value.
func cookieValue(lines []string, name string) string {
	for _, line := range lines {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			n, v, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
			if !ok || n != name {
				continue
			}
			if len(v) > 1 && v[0] == '"' && v[len(v)-1] == '"' {
				v = v[1 : len(v)-1]
			}
			return v
		}
	}
	return ""
}

// The hash multiplies 64-bit words to 128 bits and folds the halves together, as
// wyhash does. The constants are the fractional parts of the square roots of 2,
// 3 and 5, made odd.
const (
	hashK0 = 0x6a09e667f3bcc909
	hashK1 = 0xbb67ae8584caa73b
	hashK2 = 0x3c6ef372fe94f82b
)

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// mix makes of two numbers one each of whose bits depends on all of theirs.
func mix(a, b uint64) uint64 {
	return fold(fold(a^hashK0, b^hashK1)^hashK2, hashK1)
}

func le64(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

func le32(s string) uint64 {
	_ = s[3]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24
}

// HashStrategy is a [Strategy] that sends the requests with the same key to the
// same backend: [RingHash], [Maglev] or [Rendezvous].
type HashStrategy interface {
	Strategy
	// hashing returns what the strategy hashes, and where hashes lead.
	hashing(backends []*Backend) (keyed, hashTable)
}

// hashTable leads from a hash to a backend. It does not change.
type hashTable interface {
	// find returns the first backend on the way from h that f admits, or nil if
	// there is none. The way depends on h and the set of backends only.
	find(h uint64, f filter) *Backend
}

// keyed is where the hash of a request comes from.
type keyed struct {
	key  HashKey
	seed uint64
}

func newKeyed(key HashKey, seed uint64) keyed {
	if key == nil {
		key = KeyClientIP
	}
	return keyed{key, seed}
}

// hash of a request without a key is random.
func (k *keyed) hash(info PickInfo) uint64 {
	var h uint64
	if info.Key != "" {
		h = HashString(info.Key)
	} else {
		var ok bool
		if h, ok = k.key(info); !ok {
			return rand.Uint64()
		}
	}
	// A key's own hash may be poor, such as a number; the tables look at the
	// upper bits first.
	return mix(h, k.seed)
}

// filter says which backends a request may get. The zero value admits all.
type filter struct {
	tried []*Backend
	bound *bound // nil: there is none
	total int64  // the bound's number of requests in flight
}

func (f *filter) admits(b *Backend) bool {
	if len(f.tried) == 0 && f.bound == nil {
		return true
	}
	return !(PickInfo{Tried: f.tried}).HasTried(b) && (f.bound == nil || f.bound.admits(b, f.total))
}

// hashed is the [Picker] of a HashStrategy.
type hashed struct {
	keyed
	table hashTable
}

func newHashed(s HashStrategy, backends []*Backend) *hashed {
	k, t := s.hashing(backends)
	return &hashed{k, t}
}

func (p *hashed) Pick(info PickInfo) *Backend {
	return p.table.find(p.hash(info), filter{tried: info.Tried})
}

// firstAdmitted walks around the backends from that of index start.
func firstAdmitted(backends []*Backend, start int, f *filter) *Backend {
	for i := range backends {
		if b := backends[(start+i)%len(backends)]; f.admits(b) {
			return b
		}
	}
	return nil
}

// below maps h to 0 … n-1 by its upper bits, which is a division's work in one
// multiplication.
func below(h uint64, n int) int {
	hi, _ := bits.Mul64(h, uint64(n))
	return int(hi)
}
