package lb

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// schemeH2C is the scheme of backends that speak HTTP/2 without TLS, known in
// advance (RFC 9113, section 3.3).
const schemeH2C = "h2c"

// h2Client talks to one backend that may speak HTTP/2, over connections of
// net/http of which it has as many as its requests need: each request goes to
// the one with the fewest streams, and if all are full a new one is made. A
// backend that turns out to speak HTTP/1.1 has one request on each. It is safe
// for concurrent use; CloseIdleConnections ends what it keeps.
type h2Client struct {
	pool      *Pool
	transport *http.Transport // makes connections and keeps none
	scheme    string
	host      string
	plain     bool          // HTTP/2 without TLS
	upgrades  *http1.Client // for what HTTP/2 cannot; nil if plain

	mu      sync.Mutex // guards the rest
	conns   []*h2Conn
	dialing *h2Dial // that others may wait for; nil: there is none
	single  bool    // the backend speaks HTTP/1.1
	streams int     // what the backend allows on a connection; 0: not known yet
	closing bool    // connections that fall idle are closed
}

// h2Conn is a connection, which is among the client's until it has failed.
type h2Conn struct {
	*http.ClientConn

	// Guarded by the client's mutex.
	idle   *time.Timer // runs while it is idle
	used   bool
	known  bool // the backend's settings have come
	claims int  // requests that are about to reserve a place
}

// room is how many more requests the connection takes, with the client's mutex.
// Of a new one net/http does not know yet, and would let them wait there.
func (c *h2Conn) room(streams int) int {
	n := c.Available()
	if !c.known && streams > 0 {
		n = min(n, streams-c.InFlight())
	}
	return n - c.claims
}

// busy needs the client's mutex.
func (c *h2Conn) busy() bool { return c.InFlight() > 0 || c.claims > 0 }

// h2Dial is a connection in the making.
type h2Dial struct {
	done chan struct{}
	err  error // after done
}

func (p *Pool) newH2Client(u *url.URL) *h2Client {
	c := &h2Client{pool: p, transport: p.newTransport(), scheme: u.Scheme, host: u.Host, plain: u.Scheme == schemeH2C}
	if c.plain {
		c.scheme = "http"
		c.transport.Protocols = new(http.Protocols)
		c.transport.Protocols.SetUnencryptedHTTP2(true)
		return c
	}
	conf := p.conf.TLS.Clone()
	conf.NextProtos = []string{"http/1.1"}
	c.upgrades = p.newHTTP1Client(conf)
	return c
}

// streamError has the shape of net/http's error of that name, which it fills.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return "lb: stream error" }

// refusedStream is the code of a request that was not processed at all (RFC
// 9113, section 8.7).
const refusedStream = 7

// isRefused says whether the backend has provably not taken the request.
func isRefused(err error) bool {
	e, ok := errors.AsType[streamError](err)
	return ok && e.Code == refusedStream
}

// RoundTrip implements [http.RoundTripper]. It tells a ClientTrace what a
// transport tells it.
func (c *h2Client) RoundTrip(req *http.Request) (*http.Response, error) {
	upgrade := len(upgradeTokens(req.Header)) > 0
	if upgrade && !c.plain {
		return c.upgrades.RoundTrip(req)
	}
	out := new(*req)
	if c.plain {
		out.URL = new(*req.URL)
		out.URL.Scheme = c.scheme
		if len(req.Header["Connection"]) > 0 || len(req.Header["Upgrade"]) > 0 {
			// HTTP/2 has none (RFC 9113, section 8.2.2).
			out.Header = req.Header.Clone()
			delete(out.Header, "Connection")
			delete(out.Header, "Upgrade")
		}
	}
	trace := httptrace.ContextClientTrace(req.Context())
	for {
		if trace != nil && trace.GetConn != nil {
			trace.GetConn(c.host)
		}
		conn, reused, err := c.take(req.Context())
		if err != nil {
			closeBody(req)
			return nil, err
		}
		if trace != nil && trace.GotConn != nil {
			trace.GotConn(httptrace.GotConnInfo{Reused: reused})
		}
		// What a server that shuts down has not taken may be sent again, as may
		// what meets a connection that was kept for too long, if it is harmless.
		res, err := conn.RoundTrip(out)
		if err == nil {
			c.learn(conn)
			res.Request = req
			return res, nil
		}
		stale := reused && conn.ended() && (req.Body == nil || req.Body == http.NoBody) && isIdempotent(req.Method)
		if !stale || req.Context().Err() != nil {
			return nil, err
		}
	}
}

// ended says whether the connection takes no more requests.
func (c *h2Conn) ended() bool { return c.Err() != nil || c.Available() == 0 && c.InFlight() == 0 }

// take returns a connection on which there is a place for a request.
func (c *h2Client) take(ctx context.Context) (conn *h2Conn, reused bool, err error) {
	for {
		conn, dial := c.choose()
		if conn != nil {
			// Not under the lock: it may call the hook.
			err := conn.Reserve()
			if reused = c.chosen(conn); err == nil {
				return conn, reused, nil
			}
			continue
		}
		select {
		case <-dial.done:
			if dial.err != nil {
				return nil, false, dial.err
			}
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
	}
}

// choose returns the connection with the fewest requests, on which a place is to
// be reserved, or else one in the making.
func (c *h2Client) choose() (*h2Conn, *h2Dial) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = false
	c.conns = slices.DeleteFunc(c.conns, func(conn *h2Conn) bool { return conn.Err() != nil })
	var best *h2Conn
	least := 0
	for _, conn := range c.conns {
		if n := conn.InFlight() + conn.claims; conn.room(c.streams) > 0 && (best == nil || n < least) {
			best, least = conn, n
		}
	}
	if best != nil {
		best.claims++
		return best, nil
	}
	if c.dialing != nil {
		return nil, c.dialing
	}
	dial := &h2Dial{done: make(chan struct{})}
	if !c.single {
		c.dialing = dial
	}
	go c.dial(dial)
	return nil, dial
}

// chosen ends what choose has begun. It says whether the connection had been
// used before.
func (c *h2Client) chosen(conn *h2Conn) (reused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn.claims--
	conn.idle.Stop()
	reused, conn.used = conn.used, true
	return reused
}

// learn is called when a response has come, and so the settings before it.
func (c *h2Client) learn(conn *h2Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !conn.known {
		conn.known, c.streams = true, max(1, conn.InFlight()+conn.Available())
	}
}

// dial makes a connection. Its context is none of a request's, as several may
// wait; what bounds it are the pool's end and DialTimeout.
func (c *h2Client) dial(d *h2Dial) {
	host, port, err := net.SplitHostPort(c.host)
	if err != nil {
		host, port = (&url.URL{Host: c.host}).Hostname(), c.scheme
		if port == "http" {
			port = "80"
		} else {
			port = "443"
		}
	}
	ctx, cancel := context.WithTimeout(c.pool.ctx, 2*c.pool.conf.DialTimeout)
	defer cancel()
	cc, err := c.transport.NewClientConn(ctx, c.scheme, net.JoinHostPort(host, port))
	if err == nil {
		conn := &h2Conn{ClientConn: cc}
		conn.idle = time.AfterFunc(c.pool.conf.IdleTimeout, func() { c.expire(conn) })
		cc.SetStateHook(func(*http.ClientConn) { c.changed(conn) })
		if !c.add(conn) {
			conn.idle.Stop()
			cc.Close()
		}
	}
	c.mu.Lock()
	if c.dialing == d {
		c.dialing = nil
	}
	d.err = err
	c.mu.Unlock()
	close(d.done)
}

// add keeps a new connection, unless nobody wants one any more.
func (c *h2Client) add(conn *h2Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.single = !c.plain && conn.Available() == 1
	c.conns = append(c.conns, conn)
	return true
}

// changed is called when there is more room on a connection, or no connection.
// It may be called by the connection's own goroutine.
func (c *h2Client) changed(conn *h2Conn) {
	if conn.Err() == nil && conn.InFlight() > 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case conn.Err() != nil:
		c.remove(conn)
	case conn.busy():
	case c.closing || conn.Available() == 0 || len(c.conns) > c.pool.conf.IdleConns:
		c.remove(conn)
		go conn.Close() // which calls the hook
	default:
		conn.idle.Reset(c.pool.conf.IdleTimeout)
	}
}

// remove needs c.mu.
func (c *h2Client) remove(conn *h2Conn) {
	conn.idle.Stop()
	c.conns = slices.DeleteFunc(c.conns, func(other *h2Conn) bool { return other == conn })
}

// expire closes a connection that has been idle, if it still is.
func (c *h2Client) expire(conn *h2Conn) {
	c.mu.Lock()
	idle := !conn.busy()
	if idle {
		c.remove(conn)
	}
	c.mu.Unlock()
	if idle {
		conn.Close()
	}
}

// CloseIdleConnections closes the connections that are idle now, and those in
// use when they fall idle, until the next request.
func (c *h2Client) CloseIdleConnections() {
	if c.upgrades != nil {
		c.upgrades.CloseIdleConnections()
	}
	var idle []*h2Conn
	c.mu.Lock()
	c.closing = true
	for _, conn := range slices.Clone(c.conns) {
		if !conn.busy() {
			c.remove(conn)
			idle = append(idle, conn)
		}
	}
	c.mu.Unlock()
	for _, conn := range idle {
		conn.Close()
	}
}

// overHTTP1 says whether the request has to go by HTTP/1.1: it may be upgraded.
func (c *h2Client) overHTTP1(h http.Header) bool {
	return c.upgrades != nil && httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade")
}

// newHTTP1Client returns a client for a backend that speaks HTTP/1.1.
func (p *Pool) newHTTP1Client(conf *tls.Config) *http1.Client {
	return http1.New(http1.Config{
		Dial:             p.dial,
		TLS:              conf,
		HandshakeTimeout: p.conf.DialTimeout,
		IdleConns:        p.conf.IdleConns,
		IdleTimeout:      p.conf.IdleTimeout,
		HeadBytes:        int(min(p.conf.HeaderBytes, maxHeadBytes)),
	})
}
