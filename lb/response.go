package lb

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// respond forwards the response to the current attempt.
func (x *exchange) respond(res *http.Response) {
	defer res.Body.Close()
	x.current.wait, x.current.load = time.Since(x.current.start), reportedLoad(res.Header)
	if res.StatusCode == http.StatusSwitchingProtocols {
		x.respondUpgrade(res)
		return
	}
	if res.StatusCode < 200 || res.StatusCode > 999 {
		x.refuse(Failed, fmt.Errorf("status %d", res.StatusCode))
		return
	}
	if removeInvalid(res.Header) {
		x.refuse(Failed, errors.New("control characters in the head"))
		return
	}
	removeHopByHop(res.Header)
	removeHopByHop(res.Trailer)
	if err := x.boundResponse(res); err != nil {
		x.refuse(Canceled, err)
		return
	}
	x.pin(res.Header)
	if modify := x.proxy.conf.ModifyResponse; modify != nil {
		if err := modify(res); err != nil {
			x.refuse(Canceled, fmt.Errorf("ModifyResponse: %w", err))
			return
		}
	}
	streams := res.ContentLength < 0 || isEventStream(res.Header.Get("Content-Type"))
	announced := x.writeHead(res)
	x.forwardBody(res.Body, res.ContentLength, streams)
	// The trailer is known once the body has been read to its end.
	x.writeTrailer(res.Trailer, announced)
	x.settle(Succeeded, res.StatusCode, nil)
}

// forwardBody forwards the body, whose length is below 0 if it is not known, or
// aborts the response.
func (x *exchange) forwardBody(body io.Reader, length int64, streams bool) {
	if err := x.copyBody(body, length, streams); err != nil {
		// Whatever follows would make the response look whole.
		x.event.Err = err
		x.abort()
	}
}

// abort ends the response so that the client sees that something is missing.
// net/http would wait for more of the request's body before it closes a connection
// of HTTP/1, so that is taken from it.
func (x *exchange) abort() {
	if x.body != nil && x.in.ProtoMajor == 1 && !x.body.read() && replyBelow(x.w) == nil {
		x.rc.Flush()
		if conn, _, err := x.rc.Hijack(); err == nil {
			conn.Close()
		}
	}
	panic(http.ErrAbortHandler)
}

// refuse answers 502 in place of a response that will not do.
func (x *exchange) refuse(result Result, err error) {
	e := &Error{http.StatusBadGateway, x.event.Backend, err}
	x.settle(result, 0, e)
	x.fail(e)
}

// writeHead returns the number of trailer fields that were announced.
func (x *exchange) writeHead(res *http.Response) int {
	h := x.w.Header()
	addResponseFields(h, res.Header)
	if _, ok := res.Header["Content-Type"]; !ok && len(h["Content-Type"]) == 0 {
		h["Content-Type"] = nil // or the server guesses one
	}
	if len(res.Trailer) > 0 {
		names := make([]string, 0, len(res.Trailer))
		for name := range res.Trailer {
			names = append(names, name)
		}
		slices.Sort(names)
		h.Add("Trailer", strings.Join(names, ", "))
		if x.in.ProtoMajor == 1 && x.in.Method != http.MethodHead {
			// HTTP/2 allows a length beside a trailer; here a trailer needs chunks.
			delete(h, "Content-Length")
			res.ContentLength = -1
		}
	}
	x.closeUnlessRead()
	x.event.Status = res.StatusCode
	x.w.WriteHeader(res.StatusCode)
	return len(res.Trailer)
}

func (x *exchange) writeTrailer(trailer http.Header, announced int) {
	if len(trailer) == 0 {
		return
	}
	removeHopByHop(trailer)
	removeInvalid(trailer)
	// A short body that has not been flushed would get a Content-Length, and
	// then there is no place for a trailer.
	x.rc.Flush()
	h, prefix := x.w.Header(), ""
	if len(trailer) != announced {
		prefix = http.TrailerPrefix
	}
	for name, values := range trailer {
		h[prefix+name] = values
	}
}

var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// copyBody is forwardBody with the error that ends it, an *Error with the blame;
// the attempt is settled then.
func (x *exchange) copyBody(body io.Reader, length int64, streams bool) error {
	if x.in.Method == http.MethodHead {
		return nil
	}
	if streams {
		x.rc.Flush() // the client may have to see the head before there is a body
	}
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	for {
		n, readErr := body.Read(buf[:])
		if n > 0 {
			m, err := x.w.Write(buf[:n])
			x.event.ResponseBytes += int64(m)
			if err != nil {
				return x.writeFailed(err)
			}
			// Of a body of known length, too, a part that came alone goes out
			// alone; the last goes out with the end of the response.
			if streams || n < len(buf) && x.event.ResponseBytes < length {
				x.rc.Flush()
			}
		}
		switch {
		case readErr == io.EOF:
			return nil
		case readErr != nil:
			return x.readFailed(readErr)
		}
	}
}

// writeFailed settles the attempt after the client would not take the body.
func (x *exchange) writeFailed(err error) error {
	e := &Error{StatusClientClosed, x.event.Backend, fmt.Errorf("writing the response: %w", err)}
	if errors.Is(err, http.ErrContentLength) || errors.Is(err, http.ErrBodyNotAllowed) {
		// ModifyResponse has changed the body without its length.
		e.Status = http.StatusBadGateway
	} else {
		x.event.Status = StatusClientClosed
	}
	x.settle(Canceled, 0, e)
	return e
}

// readFailed settles the attempt after the backend broke off the body, or the
// context ended, which looks the same from here.
func (x *exchange) readFailed(err error) error {
	if ctxErr := x.in.Context().Err(); ctxErr != nil {
		e := x.gone(ctxErr)
		if e.Status == StatusClientClosed {
			x.event.Status = e.Status
		}
		x.settle(Canceled, 0, e)
		return e
	}
	e := &Error{http.StatusBadGateway, x.event.Backend, fmt.Errorf("the response breaks off: %w", err)}
	result := Failed
	if errors.Is(err, errResponseSize) {
		result = Canceled
	}
	x.settle(result, 0, e)
	return e
}

// isEventStream judges a Content-Type.
func isEventStream(v string) bool {
	const name = "text/event-stream"
	if len(v) < len(name) || !strings.EqualFold(v[:len(name)], name) {
		return false
	}
	rest := strings.TrimLeft(v[len(name):], " \t")
	return rest == "" || rest[0] == ';'
}
