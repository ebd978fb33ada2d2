package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// ProxyConfig configures a [Proxy].
type ProxyConfig struct {
	// Pool has the backends. Nil is an error. The Proxy does not close it.
	Pool *Pool
	// Rewrite changes the outgoing request, once, before a backend is chosen: Out
	// is to change, In must be left alone, and the scheme and host of Out.URL
	// are set afterwards. Unlike in httputil.ReverseProxy, Out has the forwarding
	// fields already, so that SetXForwarded must not be called, and its query is
	// the client's, unchanged. Hop-by-hop fields and the client's own
	// Client-Cert, Client-Cert-Chain and X-Forwarded-Client-Cert, in any
	// spelling, have been removed. Nil changes nothing.
	Rewrite func(*httputil.ProxyRequest)
	// ModifyResponse changes the response before its head is sent. An error
	// gives 502. Nil changes nothing.
	ModifyResponse func(*http.Response) error
	// TrustedProxies are the peers whose Forwarded, X-Forwarded-* and X-Real-Ip
	// are kept and added to. Those of others are removed. Nil trusts nobody.
	TrustedProxies []netip.Prefix
	// Retries is how many further backends a request may be sent to, never the
	// same again, if it is safe to repeat: nothing of a response has come, and
	// either no connection was made or the method is idempotent (RFC 9110,
	// section 9.2.2) and there is no body, or all of it is kept (see RetryBody).
	// 0 means 2, a negative number none; 16 at most.
	Retries int
	// RetryBody is how many bytes of a request's body are kept in memory, so that
	// it can be sent again, 64 MiB at most. They are sent on as they come all the
	// same. A longer body, or one of a request whose method is not idempotent, is
	// sent once. 0 means that none is kept.
	RetryBody int64
	// RetryStatus are statuses, 400 to 599, of responses that are taken for a
	// failure as far as retries go: if the request may be sent again and another
	// backend takes it, the client never sees the response. It gets the last one.
	// 502, 503 and 504 come to mind. Nil means none.
	RetryStatus []int
	// RetryBudget bounds the retries of all requests together. Its zero value
	// allows one for every five requests.
	RetryBudget RetryBudget
	// Backoff is the longest pause before the second retry of a request; it
	// doubles with each further one, up to 1 s, and what is waited is random. The
	// first retry is at once. 0 means 20 ms, a negative number no pauses, 1 s at
	// most.
	Backoff time.Duration
	// Timeout is how long the backends may take, all attempts together, to accept
	// a request and to begin its final response; time in which the client's body
	// is awaited does not count. Then the client gets 504. 0 means 60 s.
	Timeout time.Duration
	// TryTimeout is how much of Timeout one attempt may take. If it is over, a
	// request that is safe to repeat goes to another backend. 0 means all.
	TryTimeout time.Duration
	// MaxRequestBody is how many bytes a request's body may have; more gives 413,
	// before a backend is asked if the length is known. 0 means no limit.
	MaxRequestBody int64
	// MaxResponseBody is how many bytes a response's body may have; more gives 502,
	// or, if the length is not known, aborts the response. 0 means no limit.
	MaxResponseBody int64
	// RequestID is the name of the field that carries a request's id to the
	// backend, such as "X-Request-Id". The id of a trusted proxy is kept if it has
	// up to 128 letters, digits and characters of -._~:/+=@; else one is made of 32
	// hexadecimal digits. Event has it, too. Empty means that there is none, and
	// that the client's fields pass.
	RequestID string
	// Trace sees to a valid traceparent. It is cloned. Nil means that the client's
	// traceparent and tracestate pass as they are.
	Trace *Trace
	// Hedge sends requests that are slow to be answered to a second backend. It is
	// cloned. Nil means that none is.
	Hedge *Hedge
	// Mirror sends copies of requests to another pool. It is cloned. Nil means
	// that none are.
	Mirror *Mirror
	// Affinity keeps clients at the backend that they got first. It is cloned.
	// Nil keeps nobody.
	Affinity *Affinity
	// Upgrade are the protocols that a client may upgrade to. Others are removed
	// from the request, which goes on without. Nil means "websocket"; an empty
	// list, none.
	Upgrade []string
	// UpgradeIdle is how long an upgraded connection may carry nothing in either
	// direction. 0 means an hour, a negative number without end.
	UpgradeIdle time.Duration
	// OnDone gets one record for each request. It runs in the request's goroutine
	// and must not block. Nil means nobody does.
	OnDone func(Event)
	// ErrorHandler answers a request that could not be forwarded; the error is an
	// [*Error] with the status that is due. Nil writes the status's text.
	ErrorHandler func(http.ResponseWriter, *http.Request, error)
	// Logger gets what is wrong with the set-up, once: middleware that cannot be
	// upgraded. Nil means slog.Default().
	Logger *slog.Logger
}

const (
	maxRetries     = 16
	defaultRetries = 2
)

func (c *ProxyConfig) validate() error {
	var errs []error
	if c.Pool == nil {
		errs = append(errs, errors.New("lb: ProxyConfig.Pool is nil, want a pool"))
	}
	if c.Retries > maxRetries {
		errs = append(errs, fmt.Errorf("lb: ProxyConfig.Retries is %d, want %d at most", c.Retries, maxRetries))
	}
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("lb: ProxyConfig.Timeout is %v, want 0 for the default or more", c.Timeout))
	}
	if c.TryTimeout < 0 {
		errs = append(errs, fmt.Errorf("lb: ProxyConfig.TryTimeout is %v, want 0 for none or more", c.TryTimeout))
	}
	if c.Backoff > maxBackoff {
		errs = append(errs, fmt.Errorf("lb: ProxyConfig.Backoff is %v, want %v at most", c.Backoff, maxBackoff))
	}
	errs = append(errs, c.RetryBudget.validate(), c.validateBodies(), c.validateIDs())
	if c.Hedge != nil {
		errs = append(errs, c.Hedge.validate())
	}
	if c.Mirror != nil {
		errs = append(errs, c.Mirror.validate())
	}
	if c.Affinity != nil {
		errs = append(errs, c.Affinity.validate())
	}
	for i, prefix := range c.TrustedProxies {
		if !prefix.IsValid() {
			errs = append(errs, fmt.Errorf("lb: ProxyConfig.TrustedProxies[%d] is %v, want a valid prefix", i, prefix))
		} else if prefix.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("lb: ProxyConfig.TrustedProxies[%d] is %v, want the IPv4 prefix it maps", i, prefix))
		}
	}
	for i, token := range c.Upgrade {
		if !httpguts.ValidHeaderFieldName(token) { // which is a token, too
			errs = append(errs, fmt.Errorf("lb: ProxyConfig.Upgrade[%d] is %q, want the name of a protocol", i, token))
		}
	}
	return errors.Join(errs...)
}

// Proxy forwards requests to the backends of a [Pool]. Create it with
// [NewProxy]. It is safe for concurrent use and has nothing to close.
//
// A response that breaks off is never completed: ServeHTTP panics with
// [http.ErrAbortHandler], which tells the server to end the connection, so that
// the client sees that something is missing. It does so, too, if the client has
// gone. A middleware that wants to see the end of every request must defer.
type Proxy struct {
	conf     ProxyConfig
	budget   budget
	affinity *affinity // nil: there is none
	hedge    *hedge    // nil: nothing is hedged
	mirror   *mirror   // nil: there is none
	hijacker sync.Once // guards the one complaint about a missing Hijack

	headsPlain   bool // nothing but fields is changed in requests
	repliesPlain bool // and in responses
}

// NewProxy returns a proxy. The error joins every mistake in conf.
func NewProxy(conf ProxyConfig) (*Proxy, error) {
	if err := conf.validate(); err != nil {
		return nil, err
	}
	conf.TrustedProxies = slices.Clone(conf.TrustedProxies)
	conf.RetryStatus = slices.Clone(conf.RetryStatus)
	if conf.Upgrade == nil {
		conf.Upgrade = []string{"websocket"}
	} else {
		conf.Upgrade = slices.Clone(conf.Upgrade)
	}
	switch {
	case conf.Retries == 0:
		conf.Retries = defaultRetries
	case conf.Retries < 0:
		conf.Retries = 0
	}
	if conf.Timeout == 0 {
		conf.Timeout = time.Minute
	}
	if conf.UpgradeIdle == 0 {
		conf.UpgradeIdle = time.Hour
	}
	if conf.Logger == nil {
		conf.Logger = slog.Default()
	}
	conf.RequestID = http.CanonicalHeaderKey(conf.RequestID)
	if conf.Trace != nil {
		conf.Trace = new(*conf.Trace)
	}
	setDefault(&conf.Backoff, defaultBackoff)
	p := &Proxy{conf: conf}
	p.budget.set(conf.RetryBudget)
	if conf.Hedge != nil {
		p.hedge, p.conf.Hedge = newHedge(conf.Hedge), nil
	}
	if conf.Mirror != nil {
		p.mirror, p.conf.Mirror = newMirror(conf.Mirror), nil
	}
	if conf.Affinity != nil {
		p.affinity, p.conf.Affinity = newAffinity(conf.Affinity), nil
	}
	p.headsPlain = conf.Rewrite == nil && p.hedge == nil && p.mirror == nil
	p.repliesPlain = conf.ModifyResponse == nil && len(conf.RetryStatus) == 0 && p.affinity == nil
	return p, nil
}

// ServeHTTP implements [http.Handler].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchanges.Get().(*exchange)
	defer x.recycle()
	x.proxy, x.w, x.rc, x.in = p, w, *http.NewResponseController(w), r
	x.event = Event{Request: r, Start: time.Now()}
	if p.conf.OnDone != nil {
		defer x.report()
	}
	defer x.end()
	switch done, err := x.answerHere(); {
	case err != nil:
		x.fail(err)
	case !done:
		x.forward()
	}
}

// gone is the error for a request whose context has ended: the client went
// away, or a middleware has set a limit.
func (x *exchange) gone(err error) *Error {
	status := StatusClientClosed
	if errors.Is(err, context.DeadlineExceeded) {
		status = http.StatusGatewayTimeout
	}
	return &Error{Status: status, Backend: x.event.Backend, Err: err}
}
