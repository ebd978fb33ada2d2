package http1

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// version returns the minor version of HTTP/1.
func version(s string) (minor int, ok bool) {
	switch s {
	case "HTTP/1.1":
		return 1, true
	case "HTTP/1.0":
		return 0, true
	}
	return 0, false
}

// ReadRequest reads the head of a request, at most limit bytes, into req, which is
// empty. Its Body, for which there is room in body, reads the rest from r; a request
// that has none has [http.NoBody]. It is Close if the client wants no other after
// it. io.EOF means that there was nothing at all.
//
// The fields are what http.ReadRequest sets; RemoteAddr and TLS are for the
// caller.
func (r *Reader) ReadRequest(req *http.Request, body *Body, limit int) error {
	r.Acquire()
	text, lines, err := r.section(limit)
	if err == nil && text == "" {
		// RFC 9112, section 2.2: one empty line before a request is ignored.
		if text, lines, err = r.section(limit); err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		return err
	}
	start, rest, ok := strings.Cut(text, "\r\n")
	if !ok {
		return malformed("no request line")
	}
	req.ProtoMajor = 1
	if err := parseRequestLine(req, start); err != nil {
		return err
	}
	req.Header = make(http.Header, lines)
	if err := fields(req.Header, rest, lines-1); err != nil {
		return err
	}
	if err := takeHost(req); err != nil {
		return err
	}
	length, err := framing(req.Header["Transfer-Encoding"], req.Header["Content-Length"], req.ProtoMinor)
	if err != nil {
		return err
	}
	req.Close = !persistent(req.Header["Connection"], req.ProtoMinor)
	return r.frameRequest(req, body, length)
}

// parseRequestLine follows RFC 9112, section 3.
func parseRequestLine(req *http.Request, line string) error {
	method, rest, ok := strings.Cut(line, " ")
	target, proto, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !isToken(method) || target == "" || !consists(target, inTarget) {
		return malformed("the request line")
	}
	minor, ok := version(proto)
	if _, _, isHTTP := http.ParseHTTPVersion(proto); !ok && isHTTP {
		return ErrVersion
	} else if !ok {
		return malformed("the protocol")
	}
	req.Method, req.RequestURI, req.Proto, req.ProtoMinor = method, target, proto, minor
	justAuthority := method == http.MethodConnect && target[0] != '/'
	if justAuthority {
		target = "http://" + target
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return fmt.Errorf("%w: the target: %w", ErrMalformed, err)
	}
	if justAuthority {
		u.Scheme = ""
	}
	req.URL = u
	return nil
}

// takeHost moves Host out of the header (RFC 9112, section 3.2).
func takeHost(req *http.Request) error {
	hosts := req.Header["Host"]
	if len(hosts) > 1 || len(hosts) == 0 && req.ProtoMinor > 0 {
		return malformed("want one Host field")
	}
	if len(hosts) == 1 {
		if !httpguts.ValidHostHeader(hosts[0]) {
			return malformed("the Host field")
		}
		req.Host = hosts[0]
	}
	if req.URL.Host != "" {
		req.Host = req.URL.Host
	}
	delete(req.Header, "Host")
	return nil
}

func (r *Reader) frameRequest(req *http.Request, body *Body, length int64) (err error) {
	delete(req.Header, "Transfer-Encoding")
	if req.Body = http.NoBody; length == 0 || length == untilClose {
		return nil
	}
	req.ContentLength = length
	if length == chunked {
		req.TransferEncoding = []string{"chunked"}
		if req.Trailer, err = announced(req.Header["Trailer"]); err != nil {
			return err
		}
		delete(req.Header, "Trailer")
	}
	*body = Body{r: r, left: max(length, 0), length: length, trailer: &req.Trailer}
	req.Body = body
	return nil
}

// announced returns what Trailer fields say: the names that a trailer will have,
// without values yet. What governs the framing cannot be announced; other fields
// that must not be in a trailer are not taken.
func announced(lists []string) (t http.Header, err error) {
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			name = canonical(trim(name))
			switch name {
			case "Content-Length", "Transfer-Encoding", "Trailer":
				return nil, malformed("a trailer field that governs the framing")
			}
			if !isToken(name) || !httpguts.ValidTrailerHeader(name) {
				continue
			}
			if t == nil {
				t = make(http.Header)
			}
			t[name] = nil
		}
	}
	return t, nil
}
