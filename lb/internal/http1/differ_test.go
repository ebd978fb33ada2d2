package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"golang.org/x/net/http/httpguts"
)

// differ compares this package with net/http, message by message. It reuses its
// buffers and is not safe for concurrent use.
type differ struct {
	src    splitReader
	ours   *Reader
	plain  bytes.Reader
	theirs *bufio.Reader
	mine   []byte
	want   []byte

	accepted, refused, stricter int
	reasons                     map[string]int
}

func newDiffer() *differ {
	d := &differ{theirs: bufio.NewReaderSize(nil, 64<<10), reasons: make(map[string]int)}
	d.ours = NewReader(&d.src)
	return d
}

// splitReader hands out at most step bytes at a time.
type splitReader struct {
	b    []byte
	step int
}

func (s *splitReader) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.step)], s.b)
	s.b = s.b[n:]
	return n, nil
}

const (
	limitOfHead = 64 << 10
	everything  = 1 << 20 // a step larger than any message
)

// verdict files what became of a message that one of both refuses. net/http may
// accept what we refuse if the reason is listed, and never the reverse.
func (d *differ) verdict(ours, theirs error, message []byte, why func([]byte) string) error {
	reason := ""
	if ours != nil && theirs == nil {
		reason = why(message)
	}
	switch {
	case ours == nil && theirs == nil:
		d.accepted++
	case ours == nil:
		return fmt.Errorf("accepted what net/http refuses: %w", theirs)
	case theirs != nil:
		d.refused++
	case reason == "":
		return fmt.Errorf("refused what net/http accepts, for no listed reason: %w", ours)
	default:
		d.stricter++
		d.reasons[reason]++
	}
	return nil
}

// start lets both read the message, ours in steps.
func (d *differ) start(message []byte, step int) {
	d.src = splitReader{message, step}
	d.ours.Release()
	d.plain.Reset(message)
	d.theirs.Reset(&d.plain)
}

// request compares how both read one request.
func (d *differ) request(message []byte, step int) error {
	d.start(message, step)
	if bytes.HasPrefix(message, []byte("\r\n")) {
		d.theirs.Discard(2) // see ReadRequest; net/http's server does so after a POST only
		message = message[2:]
	}
	req, err := d.ours.newRequest(limitOfHead)
	want, wantErr := http.ReadRequest(d.theirs)
	if wantErr == nil {
		wantErr = serverRefuses(want, message)
	}
	if err != nil || wantErr != nil {
		return d.verdict(err, wantErr, message, whyRequest)
	}
	if req.Method != want.Method || req.RequestURI != want.RequestURI || req.Host != want.Host || req.Proto != want.Proto || !equalURL(req.URL, want.URL) {
		return fmt.Errorf("got %+v\nwant %+v", req, want)
	}
	if req.ContentLength != want.ContentLength || !slices.Equal(req.TransferEncoding, want.TransferEncoding) {
		return fmt.Errorf("length %d %q, want %d %q", req.ContentLength, req.TransferEncoding, want.ContentLength, want.TransferEncoding)
	}
	if req.Close != want.Close && (want.Close || req.ProtoMinor > 0) {
		return fmt.Errorf("close %v, want %v", req.Close, want.Close)
	}
	if err := equalFields(req.Header, want.Header); err != nil {
		return err
	}
	return d.bodies(message, req.Body, want.Body, req.ContentLength < 0, &req.Trailer, &want.Trailer)
}

func equalURL(a, b *url.URL) bool {
	x, y := *a, *b
	x.User, y.User = nil, nil
	return x == y && a.User.String() == b.User.String()
}

// serverRefuses is what net/http's server checks beyond http.ReadRequest, which
// has taken Host out of the header.
func serverRefuses(req *http.Request, message []byte) error {
	lines, _, _ := headOf(message)
	hosts := valuesOf(lines[1:], "Host")
	switch {
	case req.ProtoMajor != 1:
		return errors.New("version")
	case req.ProtoAtLeast(1, 1) && len(hosts) == 0 && req.Method != http.MethodConnect:
		return errors.New("no host")
	case len(hosts) == 1 && !httpguts.ValidHostHeader(hosts[0]):
		return errors.New("invalid host")
	}
	return invalidField(req.Header)
}

func invalidField(h http.Header) error {
	for name := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return errors.New("invalid name")
		}
	}
	return nil
}

// response compares how both read one response to a request of the method.
func (d *differ) response(message []byte, method string, step int) error {
	d.start(message, step)
	head, err := d.ours.ReadHead(method, limitOfHead)
	want, wantErr := http.ReadResponse(d.theirs, &http.Request{Method: method})
	if err != nil || wantErr != nil {
		return d.verdict(err, wantErr, message, whyResponse)
	}
	defer head.Recycle()
	res := head.HTTP()
	if res.StatusCode != want.StatusCode || res.Proto != want.Proto || len(message) > 12 && message[12] == ' ' && res.Status != want.Status {
		return fmt.Errorf("%s %q, want %s %q", res.Proto, res.Status, want.Proto, want.Status)
	}
	bodiless := res.StatusCode < 200 || res.StatusCode == http.StatusNoContent || res.StatusCode == http.StatusNotModified
	if res.ContentLength != want.ContentLength && (method != http.MethodHead || !bodiless) {
		return fmt.Errorf("length %d, want %d", res.ContentLength, want.ContentLength)
	}
	spaced := invalidField(want.Header) != nil // such a field is dropped, and ends the connection
	if res.Close != want.Close && (want.Close || res.ProtoMinor > 0 && !spaced) {
		return fmt.Errorf("close %v, want %v", res.Close, want.Close)
	}
	if want.Close {
		delete(res.Header, "Connection") // as net/http does
		delete(want.Header, "Connection")
	}
	if res.Body == http.NoBody {
		want.Trailer = nil // net/http takes what was announced for a body that does not come
	}
	maps.DeleteFunc(want.Header, func(name string, _ []string) bool { return !httpguts.ValidHeaderFieldName(name) })
	if err := equalFields(res.Header, want.Header); err != nil {
		return err
	}
	return d.bodies(message, res.Body, want.Body, res.Body != http.NoBody && res.ContentLength < 0 && len(res.TransferEncoding) > 0, &res.Trailer, &want.Trailer)
}

// equalFields compares headers. net/http adds Cache-Control to what has Pragma
// alone; a gateway passes on what it got.
func equalFields(got, want http.Header) error {
	if pragma := want["Pragma"]; len(pragma) > 0 && pragma[0] == "no-cache" && len(got["Cache-Control"]) == 0 {
		delete(want, "Cache-Control")
	}
	if !maps.EqualFunc(got, want, slices.Equal[[]string]) {
		return fmt.Errorf("fields %q, want %q", got, want)
	}
	return nil
}

// bodies compares bodies, trailers, and what is left on the connection.
func (d *differ) bodies(message []byte, got, want io.Reader, isChunked bool, trailer, wantTrailer *http.Header) (err error) {
	var wantErr error
	d.mine, err = appendAll(d.mine[:0], got)
	d.want, wantErr = appendAll(d.want[:0], want)
	if err != nil || wantErr != nil {
		why := whyNot
		if isChunked {
			why = whyChunks
		}
		return d.verdict(err, wantErr, message, why)
	}
	if !bytes.Equal(d.mine, d.want) {
		return fmt.Errorf("body %q, want %q", d.mine, d.want)
	}
	maps.DeleteFunc(*wantTrailer, func(name string, _ []string) bool {
		// RFC 9110, section 6.5.1.
		return !httpguts.ValidTrailerHeader(name) || !httpguts.ValidHeaderFieldName(name) || name == "Host"
	})
	if err := equalFields(*trailer, *wantTrailer); err != nil {
		return fmt.Errorf("trailer: %w", err)
	}
	d.mine, _ = appendAll(d.mine[:0], d.ours)
	d.want, _ = appendAll(d.want[:0], d.theirs)
	if !bytes.Equal(d.mine, d.want) {
		return fmt.Errorf("then %q, want %q", d.mine, d.want)
	}
	return d.verdict(nil, nil, nil, nil)
}

func appendAll(dst []byte, r io.Reader) ([]byte, error) {
	for {
		dst = slices.Grow(dst, 512)
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}
