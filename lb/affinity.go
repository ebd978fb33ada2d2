package lb

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Affinity sends a client to the backend that it got first, which a cookie
// names. A client whose backend is not healthy, drains or is gone gets another,
// and a new cookie with it; one whose backend is full gets another this once. For affinity without a cookie, by a header or the
// client's address, take a [Strategy] that hashes.
//
// The cookie does not tell a client anything, and it cannot make one: the
// backend's ID is encrypted, and authenticated with HMAC-SHA256. Balancers with
// the same keys and IDs understand each other's cookies.
type Affinity struct {
	// Keys are secret and shared by all balancers. The first makes cookies, all
	// of them are taken; so a new key is put first, and the old ones are removed
	// when the cookies they made have expired. Each has 32 bytes at least, and
	// there is one at least and 16 at most.
	Keys [][]byte
	// Cookie is the cookie's name. Empty means "backend".
	Cookie string
	// MaxAge is how long a browser keeps the cookie, in whole seconds. 0 means
	// until it is closed.
	MaxAge time.Duration
	// Secure makes browsers send the cookie over HTTPS only, also if the request
	// came in plain text, as it does behind another proxy. False means if the
	// request came by HTTPS.
	Secure bool
}

func (a *Affinity) validate() error {
	var errs []error
	if len(a.Keys) == 0 || len(a.Keys) > maxAffinityKeys {
		errs = append(errs, fmt.Errorf("lb: Affinity.Keys has %d keys, want 1 to %d", len(a.Keys), maxAffinityKeys))
	}
	for i, key := range a.Keys {
		if len(key) < minAffinityKey {
			errs = append(errs, fmt.Errorf("lb: Affinity.Keys[%d] has %d bytes, want %d at least", i, len(key), minAffinityKey))
		}
	}
	if a.Cookie != "" && !httpguts.ValidHeaderFieldName(a.Cookie) { // which is a token, too
		errs = append(errs, fmt.Errorf("lb: Affinity.Cookie is %q, want the name of a cookie", a.Cookie))
	}
	if a.MaxAge < 0 || a.MaxAge%time.Second != 0 {
		errs = append(errs, fmt.Errorf("lb: Affinity.MaxAge is %v, want 0 or whole seconds", a.MaxAge))
	}
	return errors.Join(errs...)
}

const (
	maxAffinityKeys = 16
	minAffinityKey  = 32
	// affinityTag is the size of the part of a cookie that authenticates it.
	affinityTag = 16
)

// affinity is an Affinity ready for use.
type affinity struct {
	conf Affinity
	keys []sealer
}

func newAffinity(conf *Affinity) *affinity {
	a := &affinity{conf: *conf}
	a.conf.Keys = nil
	setDefault(&a.conf.Cookie, "backend")
	for _, key := range conf.Keys {
		a.keys = append(a.keys, newSealer(key, a.conf.Cookie))
	}
	return a
}

// sealer makes values that only it can read. The construction is SIV's (RFC
// 5297) with HMAC-SHA256 for its MAC: the tag of the text is the counter's
// start, so that there is no nonce to get wrong, and the same text has the same
// value, which gives away no more than the cookie's use does.
type sealer struct {
	mac   []byte
	block cipher.Block
}

func newSealer(key []byte, name string) sealer {
	derive := func(purpose string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte("palisade lb affinity " + purpose + " " + name))
		return h.Sum(nil)
	}
	block, err := aes.NewCipher(derive("encryption"))
	if err != nil {
		panic(err) // of a key's length, which is that of a SHA-256
	}
	return sealer{derive("authentication"), block}
}

func (s sealer) tag(text []byte) []byte {
	h := hmac.New(sha256.New, s.mac)
	h.Write(text)
	return h.Sum(nil)[:affinityTag]
}

func (s sealer) seal(text string) string {
	out := slices.Concat(s.tag([]byte(text)), []byte(text))
	cipher.NewCTR(s.block, out[:affinityTag]).XORKeyStream(out[affinityTag:], out[affinityTag:])
	return base64.RawURLEncoding.EncodeToString(out)
}

// open says whether sealed is something that seal has made, and of what.
func (s sealer) open(sealed string) (string, bool) {
	if len(sealed) > base64.RawURLEncoding.EncodedLen(affinityTag+maxIDLength) {
		return "", false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil || len(raw) < affinityTag {
		return "", false
	}
	text := make([]byte, len(raw)-affinityTag)
	cipher.NewCTR(s.block, raw[:affinityTag]).XORKeyStream(text, raw[affinityTag:])
	if subtle.ConstantTimeCompare(s.tag(text), raw[:affinityTag]) != 1 {
		return "", false
	}
	return string(text), true
}

// pinned returns the ID in the client's cookie, and whether the cookie was made
// with the key of today. Only the first cookie of the name counts, as the one
// with the longest path comes first and there is no use in trying many.
func (a *affinity) pinned(r *http.Request) (id string, current bool) {
	value := cookieValue(r.Header["Cookie"], a.conf.Cookie)
	if value == "" {
		return "", false
	}
	for i, key := range a.keys {
		if id, ok := key.open(value); ok {
			return id, i == 0
		}
	}
	return "", false
}

// cookie pins a client to a backend.
func (a *affinity) cookie(r *http.Request, id string) string {
	c := http.Cookie{
		Name: a.conf.Cookie, Value: a.keys[0].seal(id), Path: "/", MaxAge: int(a.conf.MaxAge / time.Second),
		HttpOnly: true, Secure: a.conf.Secure || r.TLS != nil, SameSite: http.SameSiteLaxMode,
	}
	return c.String()
}

// pick chooses a backend for the next attempt: the one that the client's cookie
// names if it can serve, or else any.
func (x *exchange) pick() (Picked, error) {
	pool, info := x.proxy.conf.Pool, PickInfo{Request: x.in, Tried: x.tried}
	a := x.proxy.affinity
	if a == nil {
		return pool.Acquire(x.in.Context(), info)
	}
	if x.tried == nil {
		x.pinned, x.pinnedNow = a.pinned(x.in)
	}
	if x.pinned != "" {
		picked, err := pool.pickByID(x.pinned, info)
		if err == nil {
			return picked, nil
		}
		// A client is not moved for good because of a moment's crowd.
		x.keepPin = err == ErrBusy
	}
	return pool.Acquire(x.in.Context(), info)
}

// pin adds the cookie to a response if the client has none for the backend that
// answered.
func (x *exchange) pin(h http.Header) {
	a, id := x.proxy.affinity, x.event.Backend
	if a != nil && !x.keepPin && (id != x.pinned || !x.pinnedNow) {
		h.Add("Set-Cookie", a.cookie(x.in, id))
	}
}
