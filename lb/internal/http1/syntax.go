package http1

import (
	"errors"
	"net/textproto"
	"strings"
)

// ErrMalformed is what is wrong with a message that is not HTTP, or whose
// framing is not certain.
var ErrMalformed = errors.New("http1: malformed message")

// ErrTooLarge is what is wrong with a head or trailer beyond its limit.
var ErrTooLarge = errors.New("http1: head too large")

// ErrTooManyFields is what is wrong with a head or trailer of more than maxFields.
var ErrTooManyFields = errors.New("http1: too many fields")

// malformed is an ErrMalformed with its reason.
type malformed string

func (m malformed) Error() string { return "http1: malformed message: " + string(m) }

func (m malformed) Is(target error) bool { return target == ErrMalformed }

// ErrVersion is an ErrMalformed: the version is one of HTTP, and neither 1.0 nor 1.1.
var ErrVersion error = malformed("the version")

// ErrCoding is an ErrMalformed: there is a transfer coding other than chunked.
var ErrCoding error = malformed("Transfer-Encoding, want chunked alone")

const (
	inToken  = 1 << iota // RFC 9110, section 5.6.2
	inValue              // a field value: no control characters but the tab
	inTarget             // a request target: no control characters, no space
	isUpper
	isLower
)

// classes says what each byte may be part of. It does not change.
var classes = func() (t [256]uint8) {
	for i := range t {
		c := byte(i)
		if c == '\t' || c >= ' ' && c != 0x7f {
			t[i] |= inValue
		}
		if c > ' ' && c != 0x7f {
			t[i] |= inTarget
		}
		switch {
		case c >= 'A' && c <= 'Z':
			t[i] |= inToken | isUpper
		case c >= 'a' && c <= 'z':
			t[i] |= inToken | isLower
		case c >= '0' && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
			t[i] |= inToken
		}
	}
	return t
}()

// consists says whether all bytes of s are of a class.
func consists(s string, class uint8) bool {
	for i := range len(s) {
		if classes[s[i]]&class == 0 {
			return false
		}
	}
	return true
}

func isToken(s string) bool { return s != "" && consists(s, inToken) }

// canonical is textproto.CanonicalMIMEHeaderKey for a token, without a copy if
// it is written so already.
func canonical(s string) string {
	first := true
	for i := range len(s) {
		c := s[i]
		if first && classes[c]&isLower != 0 || !first && classes[c]&isUpper != 0 {
			return textproto.CanonicalMIMEHeaderKey(s)
		}
		first = c == '-'
	}
	return s
}

// trim removes optional white space (RFC 9110, section 5.6.3).
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}
