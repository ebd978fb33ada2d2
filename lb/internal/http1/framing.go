package http1

import (
	"strings"

	"golang.org/x/net/http/httpguts"
)

// The lengths of bodies that do not say one.
const (
	chunked    = -1
	untilClose = -2 // or none, in a request
)

// framing says how long a body is (RFC 9112, section 6): chunked, untilClose, or
// a number of bytes.
func framing(codings, lengths []string, minor int) (int64, error) {
	isCoded, hasLength := len(codings) > 0, len(lengths) > 0
	switch {
	case isCoded && hasLength:
		return 0, malformed("Transfer-Encoding and Content-Length")
	case isCoded && minor == 0:
		return 0, malformed("Transfer-Encoding in HTTP/1.0")
	case isCoded:
		// EqualFold would take the Kelvin sign for a k: so the length is counted.
		if len(codings) != 1 || len(codings[0]) != len("chunked") || !strings.EqualFold(codings[0], "chunked") {
			return 0, ErrCoding
		}
		return chunked, nil
	case hasLength:
		if len(lengths) != 1 {
			return 0, malformed("more than one Content-Length")
		}
		return parseLength(lengths[0])
	}
	return untilClose, nil
}

// parseLength accepts digits only (RFC 9110, section 8.6).
func parseLength(s string) (int64, error) {
	if s == "" || len(s) > 19 {
		return 0, malformed("the Content-Length")
	}
	var n uint64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, malformed("the Content-Length")
		}
		n = 10*n + uint64(s[i]-'0')
	}
	if n > 1<<63-1 {
		return 0, malformed("the Content-Length")
	}
	return int64(n), nil
}

// persistent says whether a message lets the connection live (RFC 9112, section
// 9.3). One of HTTP/1.0 never does here: what it takes to keep its connection
// alive is not worth the risk.
func persistent(options []string, minor int) bool {
	return minor > 0 && !httpguts.HeaderValuesContainsToken(options, "close")
}
