package http1

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"sync"
)

// Response is the head of a response as it was received, with its body. It is
// not safe for concurrent use, and nobody's after Recycle.
type Response struct {
	Status  int
	Reason  string  // with the status before it
	Fields  []Field // but Transfer-Encoding, and Trailer before chunks
	Length  int64   // of the body; -1 if it is not known, or was said in answer to HEAD and not here
	Close   bool    // the connection cannot be used again
	Chunked bool
	Minor   int           // of the version
	Trailer http.Header   // names that were announced; all of it once Body has been read
	Body    io.ReadCloser // or the connection, with the status 101
	TLS     *tls.ConnectionState

	body Body
	http http.Response
}

// recycledFields bounds the room for fields that is worth keeping.
const recycledFields = 64

// responses are those that nobody has any more; their headers are empty maps.
var responses = sync.Pool{New: func() any { return &Response{http: http.Response{Header: make(http.Header)}} }}

// Recycle takes the response back, if the caller is sure that nobody has kept it,
// its Fields, its Body or what HTTP returned. The body was read to its end or
// closed. The strings may be kept, and so may the values in the header. A nil
// response is none.
func (r *Response) Recycle() {
	if r == nil || cap(r.Fields) > recycledFields || len(r.http.Header) > recycledFields {
		return
	}
	list, h := r.Fields[:0], r.http.Header
	clear(list[:cap(list)])
	clear(h)
	*r = Response{Fields: list, http: http.Response{Header: h}}
	responses.Put(r)
}

// HTTP returns the response as net/http has it. Body and Trailer are the same; it
// is called once.
func (r *Response) HTTP() *http.Response {
	res := &r.http
	res.Proto, res.ProtoMajor, res.ProtoMinor = "HTTP/1.1", 1, r.Minor
	if r.Minor == 0 {
		res.Proto = "HTTP/1.0"
	}
	res.Status, res.StatusCode, res.ContentLength, res.Close = r.Reason, r.Status, r.Length, r.Close
	res.Body, res.Trailer, res.TLS = r.Body, r.Trailer, r.TLS
	AddFields(res.Header, r.Fields)
	if r.Chunked {
		res.TransferEncoding = []string{"chunked"}
		r.body.trailer = &res.Trailer
	}
	return res
}

// AddFields adds fields to a header.
func AddFields(h http.Header, list []Field) {
	values := make([]string, len(list)) // one array for all
	for i, f := range list {
		if old, ok := h[f.Name]; ok {
			h[f.Name] = append(old, f.Value)
			continue
		}
		values[i] = f.Value
		h[f.Name] = values[i : i+1 : i+1]
	}
}

// ReadHead reads the head of a response to a request of the given method, at
// most limit bytes. Its Body reads the rest from r; a response that has none has
// [http.NoBody]. The body of a response with the status 101 is empty: what follows
// is for the caller.
//
// The response is not Close if the connection may be used again once the body
// has been read to its end. io.EOF means that there was nothing at all.
func (r *Reader) ReadHead(method string, limit int) (*Response, error) {
	r.Acquire()
	text, lines, err := r.section(limit)
	if err != nil {
		return nil, err
	}
	status, text, ok := strings.Cut(text, "\r\n")
	if !ok {
		return nil, malformed("no status line")
	}
	if lines-1 > maxFields {
		return nil, ErrTooManyFields
	}
	res := responses.Get().(*Response)
	if err = res.parse(status, text); err == nil {
		err = res.frame(r, method)
	}
	if err != nil {
		return nil, err
	}
	return res, nil
}

// parse reads the status line and the lines of fields.
func (res *Response) parse(status, text string) error {
	if err := res.parseStatus(status); err != nil {
		return err
	}
	for text != "" {
		f, rest, err := cutField(text, true)
		if err != nil {
			return err
		}
		if text = rest; f.Name == "" {
			res.Close = true
			continue
		}
		res.Fields = append(res.Fields, f)
	}
	return nil
}

// parseStatus follows RFC 9112, section 4.
func (res *Response) parseStatus(line string) error {
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
	res.Minor, res.Status, res.Reason = minor, code, line[9:]
	return nil
}

// frame finds out where the body ends (RFC 9112, section 6.3).
func (res *Response) frame(r *Reader, method string) error {
	var room [4][1]string // so that the usual head needs no memory
	codings, lengths, options, trailers := room[0][:0], room[1][:0], room[2][:0], room[3][:0]
	coded := false
	for i := range res.Fields {
		switch f := &res.Fields[i]; f.Name {
		case "Transfer-Encoding":
			codings, coded = append(codings, f.Value), true
		case "Content-Length":
			lengths = append(lengths, f.Value)
		case "Connection":
			options = append(options, f.Value)
		case "Trailer":
			trailers = append(trailers, f.Value)
		}
	}
	length, err := framing(codings, lengths, res.Minor)
	if err != nil {
		return err
	}
	res.Close = res.Close || !persistent(options, res.Minor)
	if coded {
		if res.Trailer, err = announced(trailers); err != nil {
			return err
		}
		res.drop("Transfer-Encoding", "Trailer")
	}
	res.Body = http.NoBody
	trailer := res.Trailer
	res.Trailer = nil
	switch code := res.Status; {
	case code < 200, code == http.StatusNoContent, code == http.StatusNotModified:
		return nil
	case method == http.MethodHead:
		res.Length = max(length, -1)
		return nil
	case length == untilClose:
		res.Close = true
	}
	res.Length = max(length, -1)
	if length == 0 {
		return nil
	}
	if res.Chunked = length == chunked; res.Chunked {
		res.Trailer = trailer
	}
	res.body = Body{r: r, left: max(length, 0), length: length, trailer: &res.Trailer, from: res}
	res.Body = &res.body
	return nil
}

// drop removes the fields of two names.
func (res *Response) drop(one, other string) {
	kept := res.Fields[:0]
	for _, f := range res.Fields {
		if f.Name != one && f.Name != other {
			kept = append(kept, f)
		}
	}
	res.Fields = kept
}
