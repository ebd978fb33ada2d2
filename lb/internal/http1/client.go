package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Config configures a [Client].
type Config struct {
	// Dial makes connections. Nil means TCP, as a net.Dialer does.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is for https. It is cloned. Without a ServerName the host of the URL is
	// expected in the certificate. Nil means the roots of the system.
	TLS *tls.Config
	// HandshakeTimeout bounds a TLS handshake. 0 means no bound of its own.
	HandshakeTimeout time.Duration
	// IdleConns is how many idle connections are kept. 0 means none.
	IdleConns int
	// IdleTimeout is how long a connection may idle. 0 means without end.
	IdleTimeout time.Duration
	// HeadBytes is the largest response head. 0 means 256 KiB.
	HeadBytes int
}

// Observer is told of the interim responses to a request, in the goroutine of
// [Client.Do]. An error ends the exchange.
type Observer interface {
	Interim(status int, h http.Header) error
}

// Client talks to one backend, the one that its requests' URLs name, in the
// goroutines of its callers; only the body of a request is sent in a goroutine of
// its own. Create it with [New]; CloseIdleConnections ends what it keeps. It is
// safe for concurrent use.
//
// Before a connection is used again the client looks whether the backend has
// closed it, or sent what nobody asked for; unless it has hardly idled, nothing
// had come behind the body of its last response, and the request can be repeated.
// One that turns out to be closed only then is replaced by a new one if that cannot
// send a request twice that must not be.
type Client struct {
	conf Config

	mu      sync.Mutex // guards the rest
	idle    []*conn    // the newest last
	closing bool       // connections that fall idle are closed
	sweeper *time.Timer
}

// New returns a client.
func New(conf Config) *Client {
	if conf.Dial == nil {
		conf.Dial = new(net.Dialer).DialContext
	}
	if conf.TLS == nil {
		conf.TLS = new(tls.Config)
	} else {
		conf.TLS = conf.TLS.Clone()
	}
	if conf.HeadBytes == 0 {
		conf.HeadBytes = 256 << 10
	}
	return &Client{conf: conf}
}

// RoundTrip implements [http.RoundTripper]. It ignores interim responses.
func (c *Client) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := c.Do(req.Context(), req, 0, nil)
	if err != nil {
		return nil, err
	}
	out := res.HTTP()
	out.Request = req
	return out, nil
}

// Do sends a request and returns the head of the response. The response must
// begin within limit; 0 means without end. on is told of interim responses; nil
// ignores them. The context covers the body, too; it takes some milliseconds until
// its end is noticed.
//
// The error is an [*Error], with the context's cause if the context has ended.
// The request's body is closed, perhaps after Do has returned. The body of a
// response with the status 101 is the connection, an io.ReadWriteCloser with
// CloseWrite, which the context does not cover.
func (c *Client) Do(ctx context.Context, req *http.Request, limit time.Duration, on Observer) (*Response, error) {
	res, err := c.do(ctx, req, limit, on)
	if err != nil && req.Body != nil {
		req.Body.Close()
	}
	return res, err
}

func (c *Client) do(ctx context.Context, req *http.Request, limit time.Duration, on Observer) (*Response, error) {
	if req.URL == nil || req.URL.Host == "" || req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return nil, &Error{Invalid, fmt.Errorf("http1: URL %v", req.URL)}
	}
	scratch := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(scratch)
	head, err := AppendRequest(scratch[:0], req)
	if err != nil {
		return nil, &Error{Invalid, err}
	}
	m := Message{URL: req.URL, Method: req.Method, Head: head, Close: req.Close}
	if m.length = bodyLength(req); m.length != 0 {
		m.req = req
	}
	return c.Send(ctx, &m, limit, on)
}

// Message is a request whose head has been written.
type Message struct {
	URL    *url.URL // where it goes: scheme and host
	Method string
	Head   []byte    // all of it; there is no body
	Close  bool      // Head says that no other request follows
	Now    time.Time // zero if Send is to look

	req    *http.Request // whose body follows, nil if there is none
	length int64         // of the body
}

// repeatable says whether the request may be sent twice.
func (m *Message) repeatable() bool { return m.req == nil && isIdempotent(m.Method) }

// Send is [Client.Do] for those who have written the head themselves.
func (c *Client) Send(ctx context.Context, m *Message, limit time.Duration, on Observer) (*Response, error) {
	now := m.Now
	if now.IsZero() {
		now = time.Now()
	}
	var due time.Time
	if limit > 0 {
		due = now.Add(limit)
	}
	conn := c.take(now, m)
	for {
		if conn == nil {
			var err error
			if conn, err = c.connect(ctx, m.URL, due); err != nil {
				return nil, &Error{Connecting, err}
			}
			now = time.Now()
		}
		conn.begin(ctx, now, due)
		res, stale, err := conn.exchange(m, on)
		if err == nil {
			return res, nil
		}
		phase := Sent
		if conn.answered {
			phase = Answered
		}
		conn.finish(false)
		if !stale || ctx.Err() != nil {
			return nil, &Error{phase, err}
		}
		conn = nil
	}
}

// exchange says whether an error is one of a connection that was kept too long,
// and the request as good as not sent.
func (c *conn) exchange(m *Message, on Observer) (res *Response, stale bool, err error) {
	send := c.sendBodiless
	if m.req != nil {
		send = c.send
	}
	if n, err := send(m.Head); err != nil {
		return nil, c.reused && n == 0 && err != ErrTimeout, c.cause(err)
	}
	if m.req != nil {
		c.up = &upload{conn: c, req: m.req, length: m.length}
		go c.up.run()
	}
	for {
		res, err := c.reader.ReadHead(m.Method, c.client.conf.HeadBytes)
		if err != nil {
			stale := c.reused && !c.answered && c.ctx.Err() == nil && err != ErrTimeout && m.repeatable()
			if err == io.EOF {
				err = ErrClosed
			}
			return nil, stale, err
		}
		if res.Status >= 200 || res.Status == http.StatusSwitchingProtocols {
			c.headReceived()
			c.respond(m, res)
			return res, false, nil
		}
		if on != nil {
			if err := on.Interim(res.Status, res.HTTP().Header); err != nil {
				return nil, false, err
			}
		}
	}
}

// respond binds the response to its connection.
func (c *conn) respond(m *Message, res *Response) {
	res.TLS, c.settled = c.tls, res.Body == &res.body
	switch res.Close = res.Close || m.Close; {
	case res.Status == http.StatusSwitchingProtocols:
		res.Body = c.upgrade()
	case res.Body == &res.body:
		res.body.conn = c
	default:
		c.finish(!res.Close)
	}
}

// isIdempotent follows RFC 9110, section 9.2.2.
func isIdempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete, "":
		return true
	}
	return false
}

// connect makes a new connection.
func (c *Client) connect(ctx context.Context, u *url.URL, due time.Time) (*conn, error) {
	if !due.IsZero() {
		bounded, cancel := context.WithDeadlineCause(ctx, due, ErrTimeout)
		defer cancel()
		ctx = bounded
	}
	host, addr, err := address(u)
	if err != nil {
		return nil, err
	}
	raw, err := c.conf.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	conn := &conn{client: c, nc: raw, raw: raw, probe: newProbe(raw), turn: newTurnaround(raw)}
	conn.reader = NewReader(conn)
	if u.Scheme == "https" {
		if err := conn.handshake(ctx, host); err != nil {
			raw.Close()
			return nil, causeOf(ctx, err)
		}
	}
	return conn, nil
}

// causeOf is the cause of the context's end, if it has ended for another reason
// than a deadline that somebody set.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (c *conn) handshake(ctx context.Context, host string) error {
	conf := c.client.conf.TLS
	if conf.ServerName == "" {
		conf = conf.Clone()
		conf.ServerName = host
	}
	if limit := c.client.conf.HandshakeTimeout; limit > 0 {
		bounded, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ctx = bounded
	}
	c.records = &records{Conn: c.raw}
	secure := tls.Client(c.records, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		return err
	}
	state := secure.ConnectionState()
	if p := state.NegotiatedProtocol; p != "" && p != "http/1.1" {
		return fmt.Errorf("http1: the backend speaks %q", p)
	}
	c.nc, c.tls = secure, &state
	if c.turn != nil {
		c.turn.secure = secure
	}
	return nil
}

// address returns the host of a URL, and with the port.
func address(u *url.URL) (host, addr string, err error) {
	ascii, err := httpguts.PunycodeHostPort(u.Host)
	if err != nil {
		return "", "", errors.New("http1: the host of the URL")
	}
	v := url.URL{Host: ascii}
	port := v.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return v.Hostname(), net.JoinHostPort(v.Hostname(), port), nil
}
