package lb

import (
	"container/list"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// ProxyProtocolConfig configures a [ProxyProtocolListener].
type ProxyProtocolConfig struct {
	// Trusted are the peers that send a header: the proxies in front of us, and
	// nobody else. Nil is an error.
	Trusted []netip.Prefix
	// TrustedOnly refuses the connections of all others. False leaves them as they
	// are: what they send, a header too, is data.
	TrustedOnly bool
	// Version is the only version that is taken. 0 means both.
	Version ProxyVersion
	// HeaderTimeout is how long a header may take to come. 0 means 5 s.
	HeaderTimeout time.Duration
	// MaxPending is how many connections may be without their header at a time;
	// if there are more, the one that has been so for longest, and for 100 ms at
	// least, is closed. 0 means 1,024.
	MaxPending int
	// OnRefuse is told of each connection that is closed, with its peer's address
	// and the reason. It is called by many goroutines and must not block. Nil
	// means nobody is.
	OnRefuse func(peer net.Addr, err error)
}

var (
	// ErrUntrusted is the reason for refusing a peer that is not trusted.
	ErrUntrusted = errors.New("lb: the peer is not trusted to send a PROXY protocol header")
	errEvicted   = errors.New("lb: no PROXY protocol header before too many others came")
)

// validPrefixes checks a list of prefixes in a field.
func validPrefixes(field string, prefixes []netip.Prefix) error {
	var errs []error
	for i, p := range prefixes {
		if !p.IsValid() {
			errs = append(errs, fmt.Errorf("lb: %s[%d] is %v, want a valid prefix", field, i, p))
		} else if p.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("lb: %s[%d] is %v, want the IPv4 prefix it maps", field, i, p))
		}
	}
	return errors.Join(errs...)
}

func (c *ProxyProtocolConfig) validate() error {
	errs := []error{validPrefixes("ProxyProtocolConfig.Trusted", c.Trusted)}
	if len(c.Trusted) == 0 {
		errs = append(errs, errors.New("lb: ProxyProtocolConfig.Trusted is empty, want the prefixes of the proxies that send a header"))
	}
	if c.Version != 0 && !c.Version.valid() {
		errs = append(errs, fmt.Errorf("lb: ProxyProtocolConfig.Version is %d, want 0 for both, 1 or 2", c.Version))
	}
	if c.HeaderTimeout < 0 {
		errs = append(errs, fmt.Errorf("lb: ProxyProtocolConfig.HeaderTimeout is %v, want 0 for the default or more", c.HeaderTimeout))
	}
	if c.MaxPending < 0 {
		errs = append(errs, fmt.Errorf("lb: ProxyProtocolConfig.MaxPending is %d, want 0 for the default or more", c.MaxPending))
	}
	return errors.Join(errs...)
}

// ProxyProtocolListener returns a listener whose connections have the addresses
// that the trusted proxies in front of it say in a PROXY protocol header, and
// begin after that. From a trusted peer a header is required: its connection is
// closed if there is none, or a malformed one. A header that says that the proxy
// speaks for itself, or does not know, leaves the addresses as they are.
//
// Accept returns only connections whose header has come, and never waits for
// one while others are ready. The connections keep ReadFrom, WriteTo and
// CloseWrite, so that splice and sendfile go on working. Below TLS, this
// listener comes first: tls.NewListener gets what it returns.
//
// Close closes ln and the connections that nobody has accepted. The error joins
// every mistake in conf; ln is not closed then. The listener is safe for
// concurrent use.
func ProxyProtocolListener(ln net.Listener, conf ProxyProtocolConfig) (net.Listener, error) {
	if err := conf.validate(); err != nil {
		return nil, err
	}
	conf.Trusted = slices.Clone(conf.Trusted)
	setDefault(&conf.HeaderTimeout, 5*time.Second)
	setDefault(&conf.MaxPending, 1024)
	l := &proxyListener{
		Listener: ln, conf: conf,
		ready: make(chan accepted), slots: make(chan struct{}, conf.MaxPending), done: make(chan struct{}),
	}
	l.stop = sync.OnceFunc(func() { close(l.done) })
	l.close = sync.OnceValue(l.closeAll)
	return l, nil
}

// accepted is what Accept returns.
type accepted struct {
	conn net.Conn
	err  error
}

type proxyListener struct {
	net.Listener
	conf  ProxyProtocolConfig
	start sync.Once
	ready chan accepted
	slots chan struct{} // one for each connection whose header is awaited, or that is ready
	done  chan struct{}
	stop  func()
	close func() error
	wg    sync.WaitGroup

	mu      sync.Mutex // guards reading and closed
	reading list.List  // of *pendingConn, the oldest first
	closed  bool
}

// pendingConn is a connection whose header is awaited.
type pendingConn struct {
	net.Conn
	since   time.Time
	evicted bool // guarded by the listener's mutex
}

// Accept implements [net.Listener]. Errors are those of the listener within.
func (l *proxyListener) Accept() (net.Conn, error) {
	l.start.Do(l.startAccepting)
	select {
	case a := <-l.ready:
		return a.conn, a.err
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed}
	}
}

func (l *proxyListener) startAccepting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.wg.Go(l.acceptAll)
	}
}

// Close implements [net.Listener]. It is idempotent.
func (l *proxyListener) Close() error { return l.close() }

func (l *proxyListener) closeAll() error {
	l.stop()
	err := l.Listener.Close()
	l.mu.Lock()
	l.closed = true
	for e := l.reading.Front(); e != nil; e = e.Next() {
		e.Value.(*pendingConn).Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
	return err
}

// acceptAll runs until the listener within is closed.
func (l *proxyListener) acceptAll() {
	for {
		conn, err := l.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			l.stop()
			return
		case err != nil:
			if !l.deliver(accepted{err: err}) {
				return
			}
		case l.trusts(conn.RemoteAddr()):
			if !l.takeSlot() {
				conn.Close()
				return
			}
			l.await(conn)
		case l.conf.TrustedOnly:
			l.refuse(conn, ErrUntrusted)
		default:
			if !l.deliver(accepted{conn: conn}) {
				conn.Close()
				return
			}
		}
	}
}

// deliver says whether somebody has taken it.
func (l *proxyListener) deliver(a accepted) bool {
	select {
	case l.ready <- a:
		return true
	case <-l.done:
		return false
	}
}

func (l *proxyListener) refuse(conn net.Conn, err error) {
	conn.Close()
	if l.conf.OnRefuse != nil {
		l.conf.OnRefuse(conn.RemoteAddr(), err)
	}
}

func (l *proxyListener) trusts(peer net.Addr) bool {
	addr := addrPortOf(peer).Addr()
	return slices.ContainsFunc(l.conf.Trusted, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// addrPortOf is not valid for what is no IP address. Its zone is left out.
func addrPortOf(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	case nil:
	default:
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// grace is how long a header may take before its connection makes room for others.
const grace = 100 * time.Millisecond

// takeSlot makes room if there is none: by the oldest of those that wait, as one
// that means well has sent its header with its first packet. If all are ready, or
// have just come, it waits. It says whether the listener is still open.
func (l *proxyListener) takeSlot() bool {
	for {
		select {
		case l.slots <- struct{}{}:
			return true
		default:
		}
		timer := time.NewTimer(l.makeRoom())
		select {
		case l.slots <- struct{}{}:
			timer.Stop()
			return true
		case <-timer.C:
		case <-l.done:
			timer.Stop()
			return false
		}
	}
}

// makeRoom says when to look again.
func (l *proxyListener) makeRoom() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.reading.Front()
	if e == nil {
		return grace
	}
	p := e.Value.(*pendingConn)
	if left := grace - time.Since(p.since); left > 0 {
		return left
	}
	p.evicted = true
	p.Close()
	l.reading.Remove(e)
	return grace
}

// await reads the header in a goroutine of its own, which has a slot.
func (l *proxyListener) await(conn net.Conn) {
	p := &pendingConn{Conn: conn, since: time.Now()}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		conn.Close()
		return
	}
	place := l.reading.PushBack(p)
	l.mu.Unlock()
	l.wg.Go(func() {
		defer func() { <-l.slots }()
		proxied, err := l.read(conn)
		l.mu.Lock()
		if !p.evicted {
			l.reading.Remove(place)
		} else {
			err = errEvicted
		}
		l.mu.Unlock()
		if err != nil {
			l.refuse(conn, err)
		} else if !l.deliver(accepted{conn: proxied}) {
			conn.Close()
		}
	})
}

func (l *proxyListener) read(conn net.Conn) (*proxyConn, error) {
	if err := conn.SetReadDeadline(time.Now().Add(l.conf.HeaderTimeout)); err != nil {
		return nil, err
	}
	h, rest, err := readProxyHeader(conn)
	switch {
	case err != nil:
		return nil, err
	case l.conf.Version != 0 && h.Version != l.conf.Version:
		return nil, badProxy("version %d, want %d", h.Version, l.conf.Version)
	case h.Datagram:
		return nil, badProxy("it is for UDP")
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return newProxyConn(conn, h, rest), nil
}
