package http1

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"
)

const (
	maxFields  = 1000
	maxTrailer = 16 << 10

	recycledFields = 64 // in a header that is worth keeping
)

// message is a response and its body, in one piece.
type message struct {
	res  http.Response
	body Body
}

// messages are those that nobody has any more; their headers are empty maps.
var messages = sync.Pool{New: func() any { return &message{res: http.Response{Header: make(http.Header)}} }}

// Recycle takes back a response that [Client.Do] returned and whose body was
// closed, if the caller is sure that nobody has kept it, its header or its body.
// The values of its fields may be kept. A nil response is none.
func Recycle(res *http.Response) {
	if res == nil || len(res.Header) > recycledFields {
		return
	}
	body, ok := res.Body.(*Body)
	if !ok || body.from == nil {
		return
	}
	m, h := body.from, res.Header
	clear(h)
	m.res, m.body = http.Response{Header: h}, Body{}
	messages.Put(m)
}

// fields parses lines of fields into an empty header. In a response, it drops a field
// whose name has spaces, and says so.
func fields(h http.Header, text string, lines int, isResponse bool) (dropped bool, err error) {
	if lines > maxFields {
		return false, ErrTooLarge
	}
	values := make([]string, lines) // one array for all
	for text != "" {
		line, rest, _ := strings.Cut(text, "\r\n")
		text = rest
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || name[0] == ' ' || name[0] == '\t' {
			return false, malformed("a line that is no field")
		}
		if value = trim(value); !consists(value, inValue) {
			return false, malformed("a control character in a field")
		}
		if !isToken(name) {
			// Of names that are none, net/http knows those with spaces, too.
			if !isResponse || !isToken(strings.ReplaceAll(name, " ", "_")) || looksLikeFraming(name) {
				return false, malformed("the name of a field")
			}
			dropped = true
			continue
		}
		name = canonical(name)
		if old, ok := h[name]; ok {
			h[name] = append(old, value)
			continue
		}
		values[0] = value
		h[name] = values[:1:1]
		values = values[1:]
	}
	return dropped, nil
}

// looksLikeFraming says whether somebody might take a broken name for one that
// governs where the message ends.
func looksLikeFraming(name string) bool {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return -1
	}, name)
	return plain == "contentlength" || plain == "transferencoding"
}

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

// ReadResponse reads the head of a response to a request of the given method,
// at most limit bytes. Its Body reads the rest from r; a response that has none
// has [http.NoBody]. The body of a response with the status 101 is empty: what
// follows is for the caller.
//
// The response is not Close if the connection may be used again once the body
// has been read to its end. io.EOF means that there was nothing at all.
func (r *Reader) ReadResponse(method string, limit int) (*http.Response, error) {
	r.Acquire()
	text, lines, err := r.section(limit)
	if err != nil {
		return nil, err
	}
	status, rest, ok := strings.Cut(text, "\r\n")
	if !ok {
		return nil, malformed("no status line")
	}
	m := messages.Get().(*message)
	res := &m.res
	res.ProtoMajor = 1
	if err := parseStatusLine(res, status); err != nil {
		return nil, err
	}
	header := res.Header
	dropped, err := fields(header, rest, lines-1, true)
	if err != nil {
		return nil, err
	}
	length, err := framing(header, res.ProtoMinor)
	if err != nil {
		return nil, err
	}
	res.Close = dropped || !persistent(header, res.ProtoMinor)
	if err := r.frameResponse(m, method, length); err != nil {
		return nil, err
	}
	return res, nil
}

// parseStatusLine follows RFC 9112, section 4.
func parseStatusLine(res *http.Response, line string) error {
	if len(line) < len("HTTP/1.1 200") || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return malformed("the status line")
	}
	minor, ok := version(line[:8])
	if !ok {
		return ErrVersion
	}
	code := 0
	for _, c := range []byte(line[9:12]) {
		if c < '0' || c > '9' {
			return malformed("the status")
		}
		code = 10*code + int(c-'0')
	}
	if code < 100 {
		return malformed("the status")
	}
	if !consists(line, inValue) {
		return malformed("a control character in the reason")
	}
	res.Proto, res.ProtoMinor, res.StatusCode, res.Status = line[:8], minor, code, line[9:]
	return nil
}

// frameResponse sets what follows from the length that the header says (RFC
// 9112, section 6.3).
func (r *Reader) frameResponse(m *message, method string, length int64) (err error) {
	res := &m.res
	delete(res.Header, "Transfer-Encoding")
	res.Body, res.ContentLength = http.NoBody, 0
	var trailer http.Header
	if length == chunked {
		if trailer, err = announced(res.Header); err != nil {
			return err
		}
	}
	switch code := res.StatusCode; {
	case code < 200, code == http.StatusNoContent, code == http.StatusNotModified:
		return nil
	case method == http.MethodHead:
		res.ContentLength = max(length, -1)
		return nil
	case length == untilClose:
		res.Close = true
	}
	res.ContentLength = max(length, -1)
	if length == 0 {
		return nil
	}
	if length == chunked {
		res.TransferEncoding = []string{"chunked"}
		res.Trailer = trailer
	}
	m.body = Body{r: r, left: max(length, 0), length: length, trailer: &res.Trailer, from: m}
	res.Body = &m.body
	return nil
}

// ReadRequest reads the head of a request, at most limit bytes. Its Body reads
// the rest from r; a request that has none has [http.NoBody]. It is Close if the
// client wants no other after it. io.EOF means that there was nothing at all.
//
// The fields are what http.ReadRequest sets; RemoteAddr and TLS are for the
// caller.
func (r *Reader) ReadRequest(limit int) (*http.Request, error) {
	req, body := new(http.Request), new(Body)
	if err := r.ReadRequestInto(req, body, limit); err != nil {
		return nil, err
	}
	return req, nil
}

// ReadRequestInto is ReadRequest for those who have the room: req, which is empty,
// and the body that it will have if it has one.
func (r *Reader) ReadRequestInto(req *http.Request, body *Body, limit int) error {
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
	if _, err = fields(req.Header, rest, lines-1, false); err != nil {
		return err
	}
	if err := takeHost(req); err != nil {
		return err
	}
	length, err := framing(req.Header, req.ProtoMinor)
	if err != nil {
		return err
	}
	req.Close = !persistent(req.Header, req.ProtoMinor)
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
		if req.Trailer, err = announced(req.Header); err != nil {
			return err
		}
	}
	*body = Body{r: r, left: max(length, 0), length: length, trailer: &req.Trailer}
	req.Body = body
	return nil
}

// announced takes the Trailer field out of a header: the names that a trailer
// will have, without values yet. What governs the framing cannot be announced;
// other fields that must not be in a trailer are not taken.
func announced(h http.Header) (http.Header, error) {
	lists, ok := h["Trailer"]
	if !ok {
		return nil, nil
	}
	delete(h, "Trailer")
	var t http.Header
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
