package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

var (
	// ErrNoRoute is a TLS connection that no route takes: the client asks for no
	// name, or for one that is nobody's. It gets the alert unrecognized_name (RFC
	// 6066, section 3).
	ErrNoRoute = errors.New("lb: no route for the client's TLS")
	// ErrNotTLS is a connection that does not begin as TLS does where there are
	// routes. It is closed.
	ErrNotTLS = errors.New("lb: the client does not speak TLS")
	// ErrClientHello is wrapped by errors about a ClientHello that is malformed,
	// larger than 64 KiB, or too late.
	ErrClientHello = errors.New("lb: no ClientHello")
	// ErrIdle is a connection, or a session of UDP, that carried nothing for as
	// long as it may.
	ErrIdle = errors.New("lb: idle for too long")
	// ErrTooMany is a client that has as many connections, or sessions of UDP, as
	// it may have.
	ErrTooMany = errors.New("lb: too many connections of this client")
)

// TCPProxyConfig configures a [TCPProxy].
type TCPProxyConfig struct {
	// Pool takes all connections, whatever they carry. Nil means that Routes say
	// who takes them.
	Pool *Pool
	// Routes send TLS connections to pools by their ClientHello, which may have
	// 64 KiB. Nil means that Pool takes all.
	Routes []TCPRoute
	// Default takes the TLS connections that no route does. Nil means nobody:
	// they get the alert unrecognized_name.
	Default *Pool
	// Plain takes the connections that do not begin as TLS does, once the client
	// has sent something, if there are Routes. Nil means nobody: they are closed.
	Plain *Pool
	// HelloTimeout is how long a ClientHello may take to come, or the handshake
	// where the listener ends TLS. 0 means 10 s.
	HelloTimeout time.Duration
	// ProxyOut is the version of the PROXY protocol header that backends get
	// first. 0 means none.
	ProxyOut ProxyVersion
	// ModifyHeader changes that header, which has what is known already: the
	// addresses, the TLS that the listener has ended or the name in the
	// ClientHello, and the fields of a header that came in. Nil changes nothing.
	ModifyHeader func(client net.Conn, h *ProxyHeader)
	// Retries is how many further backends are tried, never the same again, if no
	// connection can be made. 0 means 2, a negative number none; 16 at most.
	Retries int
	// RetryBudget bounds the retries of all connections together. Its zero value
	// allows one for every five connections, and gives back those that succeed.
	RetryBudget RetryBudget
	// IdleTimeout is how long a connection may carry nothing in either direction,
	// give or take a quarter. 0 means an hour, a negative number without end.
	IdleTimeout time.Duration
	// MaxConns is how many connections there may be at a time. What is more waits
	// in the listener's backlog. 0 means 16,384, a negative number no limit.
	MaxConns int
	// MaxConnsPerClient is how many of them one client may have: an IPv4 address,
	// or 64 bits of an IPv6 one. What is more is reset. 0 means no limit.
	MaxConnsPerClient int
	// OnDone gets one record for each connection. It runs in the connection's
	// goroutine and must not block. Nil means nobody does.
	OnDone func(TCPEvent)
	// Logger gets failures to accept. Nil means slog.Default().
	Logger *slog.Logger
}

func (c *TCPProxyConfig) validate() (routeTable, error) {
	table, err := newRouteTable(c.Routes)
	errs := []error{err, c.RetryBudget.validate()}
	routed := len(c.Routes) > 0
	if routed == (c.Pool != nil) {
		errs = append(errs, errors.New("lb: TCPProxyConfig wants either a Pool or Routes"))
	}
	if !routed && (c.Default != nil || c.Plain != nil) {
		errs = append(errs, errors.New("lb: TCPProxyConfig.Default and Plain are for what Routes leave, want Routes"))
	}
	if c.HelloTimeout < 0 {
		errs = append(errs, fmt.Errorf("lb: TCPProxyConfig.HelloTimeout is %v, want 0 for the default or more", c.HelloTimeout))
	}
	if c.ProxyOut != 0 && !c.ProxyOut.valid() {
		errs = append(errs, fmt.Errorf("lb: TCPProxyConfig.ProxyOut is %d, want 0 for none, 1 or 2", c.ProxyOut))
	}
	if c.ModifyHeader != nil && c.ProxyOut == 0 {
		errs = append(errs, errors.New("lb: TCPProxyConfig.ModifyHeader is set and ProxyOut is 0, want 1 or 2"))
	}
	if c.Retries > maxRetries {
		errs = append(errs, fmt.Errorf("lb: TCPProxyConfig.Retries is %d, want %d at most", c.Retries, maxRetries))
	}
	if c.MaxConnsPerClient < 0 {
		errs = append(errs, fmt.Errorf("lb: TCPProxyConfig.MaxConnsPerClient is %d, want 0 for no limit or more", c.MaxConnsPerClient))
	}
	return table, errors.Join(errs...)
}

// TCPProxy forwards TCP connections to the backends of a [Pool], of whose URLs
// host and port matter only. Create it with [NewTCPProxy]. It is safe for
// concurrent use.
//
// A backend is chosen when the connection begins, by any strategy; those that
// hash go by the client's address. If it cannot be reached, another one is, until
// a connection has been made. It counts as failed if it resets the connection.
//
// Each direction ends on its own, as TCP's do. A connection that breaks off on one
// side is reset on the other, so that nobody takes what has come for all there
// was. On Linux, bulk data between TCP connections never enters the program
// (splice), also under a PROXY protocol header and after a ClientHello, and
// waiting connections hold no buffers.
type TCPProxy struct {
	conf   TCPProxyConfig
	routes routeTable
	budget budget
	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	slots  chan struct{} // nil: no limit
	limit  clientLimit

	mu        sync.Mutex // guards the rest
	listeners map[net.Listener]struct{}
	conns     map[*tcpConn]struct{}
	stopped   bool
	stopping  chan struct{} // closed when stopped
	wg        sync.WaitGroup
}

// NewTCPProxy returns a proxy. The error joins every mistake in conf.
func NewTCPProxy(conf TCPProxyConfig) (*TCPProxy, error) {
	table, err := conf.validate()
	if err != nil {
		return nil, err
	}
	conf.Routes = nil
	switch {
	case conf.Retries == 0:
		conf.Retries = defaultRetries
	case conf.Retries < 0:
		conf.Retries = 0
	}
	setDefault(&conf.HelloTimeout, 10*time.Second)
	setDefault(&conf.IdleTimeout, time.Hour)
	setDefault(&conf.MaxConns, 16384)
	if conf.Logger == nil {
		conf.Logger = slog.Default()
	}
	p := &TCPProxy{
		conf: conf, routes: table, limit: clientLimit{most: conf.MaxConnsPerClient},
		listeners: make(map[net.Listener]struct{}), conns: make(map[*tcpConn]struct{}), stopping: make(chan struct{}),
	}
	if conf.MaxConns > 0 {
		p.slots = make(chan struct{}, conf.MaxConns)
	}
	p.budget.set(conf.RetryBudget)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Serve accepts connections from l and forwards them until Shutdown or Close,
// when it returns [http.ErrServerClosed], or until l fails. It closes l. It may be
// called for several listeners.
//
// l may be a [ProxyProtocolListener], whose headers go on to the backends if
// ProxyOut is set, or one of crypto/tls, over either.
func (p *TCPProxy) Serve(l net.Listener) error {
	defer l.Close()
	if !p.track(l) {
		return http.ErrServerClosed
	}
	defer p.untrack(l)
	var pause time.Duration
	for {
		conn, err := l.Accept()
		if err == nil {
			pause = 0
			if !p.takeSlot() {
				reset(conn)
				return http.ErrServerClosed
			}
			go func() {
				defer p.freeSlot()
				p.serve(conn)
			}()
			continue
		}
		if p.isStopped() {
			return http.ErrServerClosed
		}
		// What lacks is descriptors or memory, or it is the client's fault.
		if !isTemporary(err) {
			return fmt.Errorf("lb: accept: %w", err)
		}
		if pause == 0 {
			p.conf.Logger.Warn("lb: cannot accept connections", "addr", l.Addr().String(), "err", err)
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-p.stopping:
		}
	}
}

// ServeConn forwards one connection and returns when it has ended. If there are
// MaxConns already, or Shutdown or Close was called, it is reset at once.
func (p *TCPProxy) ServeConn(conn net.Conn) {
	if p.slots != nil {
		select {
		case p.slots <- struct{}{}:
		default:
			reset(conn)
			return
		}
	}
	defer p.freeSlot()
	p.serve(conn)
}

// takeSlot says false if the proxy stops before there is room.
func (p *TCPProxy) takeSlot() bool {
	if p.slots == nil {
		return true
	}
	select {
	case p.slots <- struct{}{}:
		return true
	default:
	}
	select {
	case p.slots <- struct{}{}:
		return true
	case <-p.stopping:
		return false
	}
}

func (p *TCPProxy) freeSlot() {
	if p.slots != nil {
		<-p.slots
	}
}

func (p *TCPProxy) track(l net.Listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	p.listeners[l] = struct{}{}
	return true
}

func (p *TCPProxy) untrack(l net.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.listeners, l)
}

func (p *TCPProxy) isStopped() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopped
}

// serve has a slot.
func (p *TCPProxy) serve(conn net.Conn) {
	c := newTCPConn(p, conn)
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		reset(conn)
		return
	}
	p.conns[c] = struct{}{}
	p.wg.Add(1)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
		p.wg.Done()
	}()
	c.serve()
}

// stop ends accepting.
func (p *TCPProxy) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	p.stopped = true
	close(p.stopping)
	for l := range p.listeners {
		l.Close()
	}
}

// Shutdown ends the listeners and waits for the connections to end. If ctx ends
// first, it resets those that are left and returns the error of ctx. The pools go
// on.
func (p *TCPProxy) Shutdown(ctx context.Context) error {
	p.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.wg.Wait()
	}()
	select {
	case <-done:
		return p.Close()
	case <-ctx.Done():
		p.Close()
		return ctx.Err()
	}
}

// Close ends the listeners and resets the connections. It is idempotent and
// returns when all have ended, so that OnDone must not call it.
func (p *TCPProxy) Close() error {
	p.stop()
	p.mu.Lock()
	for c := range p.conns {
		c.cut(Canceled, http.ErrServerClosed)
	}
	p.mu.Unlock()
	// Only now, lest a connection that is being made seem to have failed.
	p.cancel()
	p.wg.Wait()
	return nil
}

// clientLimit counts by client. Its zero value has no limit.
type clientLimit struct {
	most int

	mu    sync.Mutex // guards count
	count map[netip.Prefix]int
}

// clientOf is what counts as one client: whoever has an IPv6 address has 64 bits
// of them.
func clientOf(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits)
	return prefix
}

// take says whether the client may have one more, and counts it then.
func (l *clientLimit) take(client netip.Prefix) bool {
	if l.most == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count[client] >= l.most {
		return false
	}
	if l.count == nil {
		l.count = make(map[netip.Prefix]int)
	}
	l.count[client]++
	return true
}

func (l *clientLimit) free(client netip.Prefix) {
	if l.most == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count[client]--; l.count[client] == 0 {
		delete(l.count, client)
	}
}
