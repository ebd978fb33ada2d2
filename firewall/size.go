package firewall

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// SizeLimit bounds how large a request may be. It applies to requests that the
// rules accept; a request has to be within all that match.
type SizeLimit struct {
	// ID names it in decisions, events and counters. It must not be empty and no
	// other SizeLimit may have it.
	ID string
	// Match says for which requests it is. Zero means all. It is for those with
	// an unknown match too.
	Match Match
	// Body is how many bytes a body may have. More gets 413: at once if the
	// request announces it, and else when more has come, if the answer has not
	// begun by then. Zero means no bound.
	Body int64
	// Header is how many bytes the names and values of the header may have
	// together, and Fields how many lines. More gets 431. The bound of the server,
	// http.Server.MaxHeaderBytes, comes before, and gets no decision. Zero means
	// no bound.
	Header, Fields int
	// URL is how many bytes the target of the request may have. More gets 414.
	// Zero means no bound.
	URL int
	// Mode is Enforce or Monitor. A body that does not say how long it is has no
	// bound in Monitor mode, and is not counted.
	Mode Mode
}

type boundSize struct {
	SizeLimit
	match *node // nil: every request
	tally *tally
}

func (s SizeLimit) bind(known *knowledge) (b boundSize, errs []error) {
	b.SizeLimit = s
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.ID == "" {
		bad("no ID, want one that names the size limit")
	}
	if s.Body < 0 || s.Header < 0 || s.Fields < 0 || s.URL < 0 {
		bad("Body %d, Header %d, Fields %d and URL %d, want 0 or more", s.Body, s.Header, s.Fields, s.URL)
	}
	if s.Body == 0 && s.Header == 0 && s.Fields == 0 && s.URL == 0 {
		bad("no bound, want Body, Header, Fields or URL")
	}
	if s.Mode > Monitor {
		bad("%v, want enforce or monitor", s.Mode)
	}
	if s.Match.n != nil {
		match, more := s.Match.n.bind(known)
		b.match, errs = match, append(errs, more...)
	}
	return b, errs
}

// over returns the status that a request gets for its size, or 0.
func (s *SizeLimit) over(r *http.Request) int {
	switch {
	case s.URL > 0 && len(r.URL.Path)+len(r.URL.RawQuery) > s.URL:
		return http.StatusRequestURITooLong
	case s.Fields > 0 || s.Header > 0:
		fields, size := 0, 0
		for name, lines := range r.Header {
			for _, line := range lines {
				fields++
				size += len(name) + len(line)
			}
		}
		if s.Fields > 0 && fields > s.Fields || s.Header > 0 && size > s.Header {
			return http.StatusRequestHeaderFieldsTooLarge
		}
	}
	if s.Body > 0 && r.ContentLength > s.Body {
		return http.StatusRequestEntityTooLarge
	}
	return 0
}

// size applies the limits of size to a request that the rules accepted. What is
// left is the bound for a body that did not say how long it is.
func (p *program) size(f *facts, o *outcome) {
	for i := range p.sizes {
		s := &p.sizes[i]
		if s.match != nil && s.match.eval(f) == no {
			continue
		}
		status := s.over(f.request)
		if o.explain {
			o.explainSize(s, status)
		}
		switch {
		case status != 0 && s.Mode == Monitor:
			o.monitoredSizes = append(o.monitoredSizes, i)
		case status != 0:
			o.verdict, o.reason, o.size, o.status = Reject, BySize, i, status
			return
		case s.Body > 0 && f.request.ContentLength < 0 && s.Mode == Enforce && (o.maxBody == 0 || s.Body < o.maxBody):
			o.maxBody = s.Body
		}
	}
}

// boundedWriter answers 413 in the place of whatever a handler answers once the
// body of its request was larger than allowed. It is around the writer only for a
// request that did not say how long its body is.
type boundedWriter struct {
	http.ResponseWriter
	r     *http.Request
	body  *requestBody
	begun bool // the answer, be it the handler's or ours
	ours  bool
}

// Unwrap is for [http.ResponseController].
func (w *boundedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (w *boundedWriter) WriteHeader(status int) {
	if w.begun {
		if !w.ours {
			w.ResponseWriter.WriteHeader(status) // which knows what to do then
		}
		return
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.begun = true
	if w.body.overran() {
		w.ours = true
		clear(w.Header())
		w.Header().Set("Connection", "close")
		refuse(w.ResponseWriter, w.r, http.StatusRequestEntityTooLarge)
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *boundedWriter) Write(p []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	if w.ours {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// Flush implements [http.Flusher], for handlers that do not know of Unwrap.
func (w *boundedWriter) Flush() {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	// A writer that cannot flush has nothing to flush.
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// ReadFrom implements [io.ReaderFrom].
func (w *boundedWriter) ReadFrom(r io.Reader) (int64, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	if w.ours {
		return io.Copy(io.Discard, r)
	}
	return io.Copy(w.ResponseWriter, r)
}

// Hijack implements [http.Hijacker], for handlers that do not know of Unwrap.
func (w *boundedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// finish answers for a handler that did not.
func (w *boundedWriter) finish() {
	if !w.begun && w.body.overran() {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}
}

// errBodyTooLarge is what reading a body that is too large fails with; it is also
// an [http.MaxBytesError].
var errBodyTooLarge = errors.New("firewall: request body too large")
