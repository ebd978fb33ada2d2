package http1

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// AppendRequest appends the head of a request as a client sends it: framed by
// ContentLength and Trailer, whatever Header says of framing. A Body that is nil
// or [http.NoBody] is none; then ContentLength is not looked at. An empty
// User-Agent is left out, as net/http's transport does. The error is for what
// cannot be sent.
func AppendRequest(dst []byte, req *http.Request) ([]byte, error) {
	dst, err := appendStart(dst, req)
	if err != nil {
		return nil, err
	}
	if req.Close {
		dst = append(dst, "Connection: close\r\n"...)
	}
	switch length := bodyLength(req); {
	case length == chunked:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
		if dst, err = appendAnnounced(dst, req.Trailer); err != nil {
			return nil, err
		}
	case length > 0, needsLength(req.Method):
		dst = append(strconv.AppendInt(append(dst, "Content-Length: "...), length, 10), "\r\n"...)
	}
	for name, values := range req.Header {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue
		case "User-Agent":
			if len(values) > 0 && values[0] == "" {
				continue
			}
		case "Connection":
			if req.Close {
				continue
			}
		}
		if dst, err = AppendField(dst, name, values); err != nil {
			return nil, err
		}
	}
	return append(dst, "\r\n"...), nil
}

// AppendBodiless begins the head of a request without a body: all that does not
// come from Header. The fields and an empty line are to follow.
func AppendBodiless(dst []byte, req *http.Request) ([]byte, error) {
	dst, err := appendStart(dst, req)
	if err == nil && needsLength(req.Method) {
		dst = append(dst, "Content-Length: 0\r\n"...)
	}
	return dst, err
}

// appendStart appends the request line and Host.
func appendStart(dst []byte, req *http.Request) ([]byte, error) {
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	if !isToken(method) {
		return nil, fmt.Errorf("http1: method %q", method)
	}
	dst = append(append(dst, method...), ' ')
	dst, err := appendTarget(dst, req)
	if err != nil {
		return nil, err
	}
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	if dst, err = appendHost(dst, req); err != nil {
		return nil, err
	}
	return append(dst, "\r\n"...), nil
}

// bodyLength is chunked or the number of bytes that a request's body must have.
func bodyLength(req *http.Request) int64 {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return 0
	case req.ContentLength > 0:
		return req.ContentLength
	}
	return chunked
}

// needsLength says whether a request without a body says so (RFC 9110, section
// 8.6).
func needsLength(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// appendTarget writes URL.RequestURI without its copies.
func appendTarget(dst []byte, req *http.Request) ([]byte, error) {
	begin := len(dst)
	if u := req.URL; u.Opaque != "" {
		dst = append(dst, u.RequestURI()...)
	} else {
		path := u.EscapedPath()
		if path == "" {
			path = "/"
		}
		dst = append(dst, path...)
		if u.ForceQuery || u.RawQuery != "" {
			dst = append(append(dst, '?'), u.RawQuery...)
		}
	}
	for _, c := range dst[begin:] {
		if classes[c]&inTarget == 0 {
			return nil, fmt.Errorf("http1: target %q", dst[begin:])
		}
	}
	return dst, nil
}

func appendHost(dst []byte, req *http.Request) ([]byte, error) {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	for i := range len(host) {
		if host[i] >= 0x80 {
			ascii, err := httpguts.PunycodeHostPort(host)
			if err != nil {
				return nil, fmt.Errorf("http1: host %q", host)
			}
			host = ascii
			break
		}
	}
	if !httpguts.ValidHostHeader(host) {
		return nil, fmt.Errorf("http1: host %q", host)
	}
	return append(dst, host...), nil
}

// isMisspelt says whether a name is one of those that say how a message is framed
// and whose it is, in other letters than they are written with here. A header
// that a program has made may have it beside the right one.
func isMisspelt(name string) bool {
	right := ""
	switch len(name) {
	case len("Host"):
		right = "Host"
	case len("Trailer"):
		right = "Trailer"
	case len("Content-Length"):
		right = "Content-Length"
	case len("Transfer-Encoding"):
		right = "Transfer-Encoding"
	}
	return right != "" && name != right && strings.EqualFold(name, right)
}

// AppendField appends a field, one line for each value, but none of framing that
// is misspelt. The error is for what no field can be.
func AppendField(dst []byte, name string, values []string) ([]byte, error) {
	if !isToken(name) {
		return nil, fmt.Errorf("http1: field name %q", name)
	}
	if isMisspelt(name) {
		return dst, nil
	}
	for _, v := range values {
		if !consists(v, inValue) {
			return nil, fmt.Errorf("http1: control characters in the value of %s", name)
		}
		dst = append(append(dst, name...), ": "...)
		dst = append(append(dst, trim(v)...), "\r\n"...)
	}
	return dst, nil
}

// AppendSafeField appends a field of a response whatever it holds: one whose name
// is no token, or is one of framing that is misspelt, is left out, and control
// characters in values become spaces.
func AppendSafeField(dst []byte, name string, values []string) []byte {
	if !isToken(name) || isMisspelt(name) {
		return dst
	}
	for _, v := range values {
		dst = append(append(dst, name...), ": "...)
		begin := len(dst)
		dst = append(dst, trim(v)...)
		for i, c := range dst[begin:] {
			if classes[c]&inValue == 0 {
				dst[begin+i] = ' '
			}
		}
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// AppendSafeEnd appends what ends a chunked body: the last chunk and the trailer.
func AppendSafeEnd(dst []byte, trailer http.Header) []byte {
	dst = append(dst, "0\r\n"...)
	for name, values := range trailer {
		if httpguts.ValidTrailerHeader(name) {
			dst = AppendSafeField(dst, name, values)
		}
	}
	return append(dst, "\r\n"...)
}

func appendAnnounced(dst []byte, trailer http.Header) ([]byte, error) {
	if len(trailer) == 0 {
		return dst, nil
	}
	names := make([]string, 0, len(trailer))
	for name := range trailer {
		if !isToken(name) {
			return nil, fmt.Errorf("http1: trailer field %q", name)
		}
		if !httpguts.ValidTrailerHeader(name) {
			continue
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return dst, nil
	}
	slices.Sort(names)
	dst = append(append(dst, "Trailer: "...), strings.Join(names, ", ")...)
	return append(dst, "\r\n"...), nil
}

// appendEnd writes the last chunk and the trailer, but for fields that must not be
// in one (RFC 9110, section 6.5.1).
func appendEnd(dst []byte, trailer http.Header) ([]byte, error) {
	dst = append(dst, "0\r\n"...)
	for name, values := range trailer {
		if !httpguts.ValidTrailerHeader(name) {
			continue
		}
		var err error
		if dst, err = AppendField(dst, name, values); err != nil {
			return nil, err
		}
	}
	return append(dst, "\r\n"...), nil
}
