package lb

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// refuse answers a head that will not do.
func (c *serverConn) refuse(err error, req *http.Request, start time.Time) {
	status := 0
	switch {
	case errors.Is(err, http1.ErrTooManyFields):
		status = http.StatusRequestHeaderFieldsTooLarge
	case errors.Is(err, http1.ErrVersion):
		status = http.StatusHTTPVersionNotSupported
	case errors.Is(err, http1.ErrCoding):
		status = http.StatusNotImplemented
	case errors.Is(err, http1.ErrMalformed):
		status = http.StatusBadRequest
	case errors.Is(err, os.ErrDeadlineExceeded) && c.reader.Buffered() > 0:
		status = http.StatusRequestTimeout
	default:
		return // the client has gone, or has sent nothing
	}
	c.refuseStatus(status, err, req, start)
}

// refuseStatus is the last response on a connection.
func (c *serverConn) refuseStatus(status int, err error, req *http.Request, start time.Time) {
	text := strconv.Itoa(status) + " " + http.StatusText(status)
	c.nc.SetWriteDeadline(time.Now().Add(lingerFor))
	_, sendErr := fmt.Fprintf(c.nc, "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", text, len(text), text)
	c.refused(status, len(text), err, req, c.reader.Replay(), start)
	if sendErr == nil {
		c.linger()
	}
}

// refused tells of a request that has been refused. What was not understood of it is
// taken from head, which is what has come of it.
func (c *serverConn) refused(status, sent int, err error, req *http.Request, head []byte, start time.Time) {
	hook := c.server.OnRefused
	if hook == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			c.server.logPanic(c.remote, v)
		}
	}()
	hook(Event{
		Request: c.understood(req, head), Status: status, Err: &Error{Status: status, Err: err},
		Start: start, Duration: time.Since(start), ResponseBytes: int64(sent),
	})
}

// refusedInside tells of a request that the server inside has answered by itself.
func (c *serverConn) refusedInside(answer []byte) {
	h, status := c.handed, http.StatusBadRequest
	if fields := bytes.Fields(answer[:min(len(answer), len("HTTP/1.1 nnn"))]); len(fields) == 2 {
		if n, err := strconv.Atoi(string(fields[1])); err == nil {
			status = n
		}
	}
	_, body, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
	err := h.err
	if err == nil {
		err = errRefusedInside
	}
	c.refused(status, len(body), err, h.req, h.bytes, h.start)
}

var errRefusedInside = errors.New("lb: refused by net/http")

// understood is what is certain of a request, with nothing that a hook would be
// surprised not to find.
func (c *serverConn) understood(req *http.Request, head []byte) *http.Request {
	out := (&http.Request{
		Method: req.Method, RequestURI: req.RequestURI, Proto: req.Proto, ProtoMajor: req.ProtoMajor, ProtoMinor: req.ProtoMinor,
		URL: req.URL, Host: req.Host, Header: req.Header, Body: http.NoBody, RemoteAddr: c.remote, TLS: c.tls,
	}).WithContext(c.ctx)
	if out.URL == nil {
		out.URL = new(url.URL)
	}
	if out.Header == nil {
		out.Header = make(http.Header)
	}
	if out.Method == "" {
		setFirstLine(out, head)
	}
	return out
}

// setFirstLine takes from the first line what looks like a method, a target and a
// version, or else the line as it is.
func setFirstLine(out *http.Request, head []byte) {
	if end := bytes.IndexAny(head, "\r\n"); end >= 0 {
		head = head[:end]
	}
	line := string(head[:min(len(head), maxLogField)])
	out.RequestURI, out.ProtoMajor = orDash(line), 0
	method, rest, _ := strings.Cut(line, " ")
	target, proto, ok := strings.Cut(rest, " ")
	if major, minor, isHTTP := http.ParseHTTPVersion(proto); ok && isHTTP && target != "" && httpguts.ValidHeaderFieldName(method) { // a token, as methods are
		out.Method, out.RequestURI, out.Proto, out.ProtoMajor, out.ProtoMinor = method, target, proto, major, minor
	}
}
