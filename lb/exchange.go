package lb

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// exchange is one request and its response. It belongs to the goroutine of
// ServeHTTP; what the transport's goroutines touch is guarded by mu.
type exchange struct {
	proxy     *Proxy
	w         http.ResponseWriter
	rc        http.ResponseController
	in, out   *http.Request
	body      *requestBody // nil if there is none
	upgrade   []string     // the protocols that the client may get
	tried     []*Backend
	triedIn   [defaultRetries + 1]*Backend // room for tried
	current   *attempt                     // nil between attempts
	first     attempt                      // room for current
	room      *outgoing                    // of out, nil if that is nobody's
	shared    bool                         // another goroutine may look at out
	plain     []byte                       // the head for a backend, if out is not needed; in plainIn, or larger
	plainIn   [plainRoom]byte
	response  *http1.Response // of a backend that speaks HTTP/1.1, if nobody else has it
	begun     time.Time       // when the first attempt did
	pinned    string          // the ID in the client's cookie
	pinnedNow bool            // the cookie was made with the newest key
	keepPin   bool            // its backend is only full
	event     Event

	mu       sync.Mutex // guards answered, interim, and w until it is answered
	answered bool       // w belongs to the goroutine of ServeHTTP alone
	told     bool       // the client was told to send its body
	interim  int        // interim responses that were forwarded
}

// answerHere answers what is not for a backend.
func (x *exchange) answerHere() (done bool, err *Error) {
	if u := x.in.URL; u.Opaque != "" || u.Path == "*" && x.in.Method != http.MethodOptions {
		// net/http takes "http:x" and "*" for targets (RFC 9112, section 3.2).
		return true, &Error{Status: http.StatusBadRequest, Err: fmt.Errorf("target %q", x.in.RequestURI)}
	}
	if err := malformed(x.in); err != nil {
		return true, &Error{Status: http.StatusBadRequest, Err: err}
	}
	switch x.in.Method {
	case http.MethodConnect:
		// A tunnel to where the client likes is no work for a gateway.
		return true, &Error{Status: http.StatusNotImplemented, Err: errors.New("method CONNECT")}
	case http.MethodOptions, http.MethodTrace:
		// With no hop left, the proxy is the last recipient (RFC 9110, section
		// 7.6.2). As such it has no options, and does not echo what others sent.
		if n, ok := maxForwards(x.in.Header); !ok || n > 0 {
			return false, nil
		}
		if x.in.Method == http.MethodTrace {
			return true, &Error{Status: http.StatusNotImplemented, Err: errors.New("method TRACE with Max-Forwards: 0")}
		}
		x.event.Status = http.StatusOK
		x.w.Header().Set("Content-Length", "0")
		x.w.WriteHeader(http.StatusOK)
		return true, nil
	}
	return false, nil
}

func maxForwards(h http.Header) (uint64, bool) {
	n, err := strconv.ParseUint(h.Get("Max-Forwards"), 10, 32)
	return n, err == nil
}

// prepare makes the outgoing request, all but what depends on the backend.
func (x *exchange) prepare() *Error {
	in := x.in
	out := x.copyRequest()
	x.out = out
	out.Close = false
	out.RequestURI = ""
	out.TransferEncoding = nil
	if out.Header == nil {
		out.Header = make(http.Header)
	}
	if in.ContentLength == 0 || in.Body == http.NoBody {
		out.Body, out.ContentLength = nil, 0
	}
	if in.Method == http.MethodOptions && in.URL.Path == "" && in.URL.RawQuery == "" {
		out.URL.Path = "*" // RFC 9112, section 3.2.4
	}
	peer := peerOf(in)
	trusted := x.proxy.trusts(peer)
	x.cleanHeader(trusted)
	if err := setExpect(out.Header, in); err != nil {
		return &Error{Status: http.StatusExpectationFailed, Err: err}
	}
	setForwarded(out.Header, in, peer)
	x.identify(trusted)
	if x.proxy.conf.Rewrite != nil {
		pr := &httputil.ProxyRequest{In: in, Out: out}
		x.proxy.conf.Rewrite(pr)
		if out = pr.Out; out == nil || out.URL == nil || out.Header == nil {
			return &Error{Status: http.StatusBadGateway, Err: errors.New("no request is left after Rewrite")}
		}
		x.out = out
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // or the transport sends its own
	}
	x.upgrade = upgradeTokens(out.Header)
	return x.prepareBody(trusted)
}

// cleanHeader removes from the outgoing header what ends here, and what the
// client must not claim. What the proxy sets comes later, so that no Connection
// field of the client's can remove it.
func (x *exchange) cleanHeader(trusted bool) {
	in, h := x.in, x.out.Header
	var upgrade []string
	// A request with a body is not upgraded: its body would have to end first.
	if in.ProtoMajor == 1 && in.ProtoAtLeast(1, 1) && in.ContentLength == 0 {
		for _, token := range upgradeTokens(h) {
			if containsFold(x.proxy.conf.Upgrade, token) {
				upgrade = append(upgrade, token)
			}
		}
	}
	removeHopByHop(h)
	removeClaims(h, trusted)
	var connection []string
	if httpguts.HeaderValuesContainsToken(in.Header["Te"], "trailers") {
		h["Te"] = []string{"trailers"}
		// RFC 9110, section 10.1.4. HTTP/2 has TE but no Connection.
		if !x.proxy.conf.Pool.speaksHTTP2() {
			connection = append(connection, "TE")
		}
	}
	if len(upgrade) > 0 {
		connection = append(connection, "Upgrade")
		h["Upgrade"] = []string{strings.Join(upgrade, ", ")}
	}
	if len(connection) > 0 {
		h["Connection"] = []string{strings.Join(connection, ", ")}
	}
	if in.Method == http.MethodOptions || in.Method == http.MethodTrace {
		if n, ok := maxForwards(h); ok {
			h["Max-Forwards"] = []string{strconv.FormatUint(n-1, 10)}
		}
	}
}

// prepareBody wraps the body that Rewrite has left.
func (x *exchange) prepareBody(trusted bool) *Error {
	in, out := x.in, x.out
	if out.Body == nil || out.Body == http.NoBody {
		out.Body, out.Trailer = nil, nil
		return nil
	}
	x.body = &requestBody{
		src: out.Body, in: in, trusted: trusted, onward: make(chan struct{}), sayGoOn: x.sayContinue,
		expects: httpguts.HeaderValuesContainsToken(out.Header["Expect"], "100-continue"),
	}
	if len(in.Trailer) > 0 {
		out.ContentLength = -1 // a trailer needs chunks
	}
	if out.ContentLength < 0 {
		// Not nil: a trailer may come without having been announced.
		x.body.trailer = maps.Clone(out.Trailer)
		if x.body.trailer == nil {
			x.body.trailer = make(http.Header)
		}
		removeHopByHop(x.body.trailer)
		removeClaims(x.body.trailer, trusted)
	}
	out.Trailer = x.body.trailer
	return x.boundBody()
}

// begin starts an attempt.
func (x *exchange) begin(picked Picked) {
	now := time.Now()
	if x.tried == nil {
		x.tried, x.begun = x.triedIn[:0], now
	}
	x.tried = append(x.tried, picked.Backend())
	x.event.Backend = picked.Backend().ID()
	x.event.Attempts++
	a := &x.first
	if x.event.Attempts > 1 {
		a = new(attempt)
	}
	a.init(x, picked, now)
	x.current = a
}

// settle ends the current attempt, if it has not ended.
func (x *exchange) settle(result Result, status int, err error) {
	if a := x.current; a != nil {
		x.current = nil
		a.end()
		a.picked.Done(Outcome{
			Result: result, Status: status, Duration: time.Since(a.start), Err: err, Wait: a.wait, Load: a.load,
		})
	}
}

// end releases what a panic has left behind: of a hook, or the one that aborts
// a response.
func (x *exchange) end() {
	x.claimWriter()
	x.settle(Canceled, 0, nil)
	if x.room != nil {
		x.room.release()
	}
	x.response.Recycle()
}

// method is that of the request to the backend.
func (x *exchange) method() string {
	if x.out == nil {
		return x.in.Method
	}
	return x.out.Method
}

// claimWriter ends the forwarding of interim responses.
func (x *exchange) claimWriter() {
	x.mu.Lock()
	x.answered = true
	x.mu.Unlock()
}

// exchanges are those that are over.
var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// recycle gives the exchange back if nobody can have kept it: neither a hook nor
// a goroutine has seen it, and no strategy what was tried.
func (x *exchange) recycle() {
	if (x.room != nil || x.plain != nil && x.out == nil) && x.event.Attempts <= 1 {
		*x = exchange{}
		exchanges.Put(x)
	}
}

func (x *exchange) report() {
	e := &x.event
	e.Duration = time.Since(e.Start)
	if x.body != nil && !e.Upgraded {
		e.RequestBytes = x.body.bytes.Load()
	}
	x.proxy.conf.OnDone(*e)
}

// fail answers with an error. Nothing of a response has been sent.
func (x *exchange) fail(e *Error) {
	x.claimWriter()
	x.event.Err, x.event.Status = e, e.Status
	if e.Status == StatusClientClosed {
		panic(http.ErrAbortHandler)
	}
	x.closeUnlessRead()
	if e.Status == http.StatusServiceUnavailable {
		x.w.Header().Set("Retry-After", "1")
	}
	if x.proxy.conf.ErrorHandler == nil {
		http.Error(x.w, fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status)), e.Status)
		return
	}
	seen := &statusWriter{ResponseWriter: x.w}
	x.proxy.conf.ErrorHandler(seen, x.in, e)
	x.event.Status = seen.written()
}

// closeUnlessRead ends the client's connection after this response if there may
// be some of the request's body left on it. The server would wait for the rest
// before it sends the response, which may come early for a reason; and what
// follows a body that cannot be read must not be taken for a request.
func (x *exchange) closeUnlessRead() {
	if x.body != nil && x.in.ProtoMajor == 1 && !x.body.read() {
		x.w.Header().Set("Connection", "close")
	}
}

var errAttemptOver = errors.New("lb: the attempt is over")
