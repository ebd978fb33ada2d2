package lb

import (
	"container/list"
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

// UDPProxyConfig configures a [UDPProxy].
type UDPProxyConfig struct {
	// Pool has the backends. Nil is an error. The UDPProxy does not close it.
	Pool *Pool
	// IdleTimeout is how long a session may carry nothing. 0 means 60 s.
	IdleTimeout time.Duration
	// MaxSessions is how many sessions there may be at a time; each has a socket,
	// and up to 64 KiB of memory. If there are as many, a new one takes the place of
	// the one that was idle for longest, unless that was so for less than a tenth
	// of IdleTimeout: then the datagram is dropped, so that a flood from forged
	// addresses does not end the sessions that are in use. 0 means 4,096.
	MaxSessions int
	// MaxSessionsPerClient is how many of them one client may have: an IPv4
	// address, or 64 bits of an IPv6 one. What is more is dropped. 0 means no
	// limit.
	MaxSessionsPerClient int
	// ReplyRatio is how many bytes a client may get for each that it has sent. What
	// is more is dropped, so that nobody can have a victim flooded in whose name he
	// sends. 0 means no limit; QUIC has 3 until an address is known to be real (RFC
	// 9000, section 8).
	ReplyRatio int
	// Retries is how many further backends a session may move to, never the same
	// again, if one refuses its datagrams. Those that were sent before the first
	// reply, a few, are sent again. 0 means 2, a negative number none; 16 at most.
	Retries int
	// OnDone gets one record for each session. It runs in the session's goroutine
	// and must not block. Nil means nobody does.
	OnDone func(UDPEvent)
	// Logger gets failures to receive. Nil means slog.Default().
	Logger *slog.Logger
}

// UDPEvent is the record of one session of a [UDPProxy], made when it has ended.
// It is plain data.
type UDPEvent struct {
	// Client is the address of the client, and Local what it sends to. Local may be
	// without an address if the socket has many.
	Client, Local netip.AddrPort
	// Backend is the ID of the backend that was tried last. Empty means none was.
	Backend string
	// Attempts counts the backends that were tried.
	Attempts int
	// Err is why the session did not end by being idle; nil if it did.
	Err error
	// Start is when the session began, Duration how long it was.
	Start    time.Time
	Duration time.Duration
	// FromClient and FromBackend count the bytes that were sent on, and Requests
	// and Replies the datagrams.
	FromClient, FromBackend int64
	Requests, Replies       int64
}

func (c *UDPProxyConfig) validate() error {
	var errs []error
	if c.Pool == nil {
		errs = append(errs, errors.New("lb: UDPProxyConfig.Pool is nil, want a pool"))
	}
	for _, d := range []struct {
		name  string
		value int64
	}{
		{"IdleTimeout", int64(c.IdleTimeout)}, {"MaxSessions", int64(c.MaxSessions)},
		{"MaxSessionsPerClient", int64(c.MaxSessionsPerClient)}, {"ReplyRatio", int64(c.ReplyRatio)},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("lb: UDPProxyConfig.%s is negative (%d), want 0 or more", d.name, d.value))
		}
	}
	if c.Retries > maxRetries {
		errs = append(errs, fmt.Errorf("lb: UDPProxyConfig.Retries is %d, want %d at most", c.Retries, maxRetries))
	}
	return errors.Join(errs...)
}

// UDPProxy forwards datagrams to the backends of a [Pool], of whose URLs host and
// port matter only. Create it with [NewUDPProxy]. It is safe for concurrent use.
//
// The datagrams of one client address are a session, which keeps its backend, and
// a socket of its own to that. Replies come from the address that the client has
// sent to. A backend is chosen by any strategy; those that hash go by the client's
// IP address. Nothing is ever sent to an address but what a backend says to its
// session. A backend that refuses datagrams, as ICMP tells, counts as one that
// cannot be reached.
type UDPProxy struct {
	conf   UDPProxyConfig
	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	limit  clientLimit

	mu       sync.Mutex // guards the rest
	sockets  map[*udpSocket]struct{}
	sessions map[udpKey]*udpSession
	recent   list.List // of *udpSession, the most recently used first
	draining bool
	wg       sync.WaitGroup // the sessions
}

// NewUDPProxy returns a proxy. The error joins every mistake in conf.
func NewUDPProxy(conf UDPProxyConfig) (*UDPProxy, error) {
	if err := conf.validate(); err != nil {
		return nil, err
	}
	setDefault(&conf.IdleTimeout, time.Minute)
	setDefault(&conf.MaxSessions, 4096)
	switch {
	case conf.Retries == 0:
		conf.Retries = defaultRetries
	case conf.Retries < 0:
		conf.Retries = 0
	}
	if conf.Logger == nil {
		conf.Logger = slog.Default()
	}
	p := &UDPProxy{
		conf: conf, limit: clientLimit{most: conf.MaxSessionsPerClient},
		sockets: make(map[*udpSocket]struct{}), sessions: make(map[udpKey]*udpSession),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Serve receives datagrams from conn and forwards them until Close, or until
// Shutdown has drained the sessions, when it returns [http.ErrServerClosed], or
// until conn fails. It closes conn. It may be called for several.
func (p *UDPProxy) Serve(conn net.PacketConn) error {
	s := newUDPSocket(conn)
	defer conn.Close()
	p.mu.Lock()
	if p.draining {
		p.mu.Unlock()
		return http.ErrServerClosed
	}
	p.sockets[s] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.sockets, s)
	}()
	buf := make([]byte, maxDatagram)
	var pause time.Duration
	for {
		n, from, err := s.read(buf)
		if err == nil {
			pause = 0
			p.receive(s, from, buf[:n])
			continue
		}
		if p.ctx.Err() != nil {
			return http.ErrServerClosed
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("lb: receive: %w", err)
		}
		// A datagram that we have sent was refused, or memory lacks: no reason to end.
		if pause == 0 {
			p.conf.Logger.Warn("lb: cannot receive datagrams", "addr", conn.LocalAddr().String(), "err", err)
		}
		pause = min(max(2*pause, time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-p.ctx.Done():
		}
	}
}

// maxDatagram is longer than any.
const maxDatagram = 64 << 10

// receive takes a datagram from a client.
func (p *UDPProxy) receive(s *udpSocket, from udpPeer, data []byte) {
	if session := p.find(s, from); session != nil {
		session.forward(data)
	}
}

// find returns the session of a client, a new one if need be, or nil if it may
// have none.
func (p *UDPProxy) find(s *udpSocket, from udpPeer) *udpSession {
	key := udpKey{s, unmapped(from.addr), from.local}
	p.mu.Lock()
	defer p.mu.Unlock()
	if session := p.sessions[key]; session != nil {
		p.recent.MoveToFront(session.place)
		return session
	}
	if p.draining || len(p.sessions) >= p.conf.MaxSessions && !p.evict() {
		return nil
	}
	client := clientOf(key.client.Addr())
	if !p.limit.take(client) {
		return nil
	}
	session := newUDPSession(p, s, from, key)
	session.place = p.recent.PushFront(session)
	p.sessions[key] = session
	p.wg.Go(func() {
		defer p.limit.free(client)
		session.run()
	})
	return session
}

// evict makes room for one more session, and says whether it could. It needs p.mu.
func (p *UDPProxy) evict() bool {
	e := p.recent.Back()
	if e == nil {
		return false
	}
	oldest := e.Value.(*udpSession)
	if oldest.idle() < p.conf.IdleTimeout/10 {
		return false
	}
	p.forget(oldest)
	oldest.cut(errUDPEvicted)
	return true
}

var errUDPEvicted = errors.New("lb: made room for another session")

// forget needs p.mu.
func (p *UDPProxy) forget(s *udpSession) {
	if p.sessions[s.key] == s {
		delete(p.sessions, s.key)
		p.recent.Remove(s.place)
	}
}

// ended is called when a session has.
func (p *UDPProxy) ended(s *udpSession) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(s)
}

// Shutdown begins no new sessions and waits for the others to be idle, since that
// is the only end they have. If ctx ends first, it ends those that are left and
// returns the error of ctx.
func (p *UDPProxy) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	p.draining = true
	p.mu.Unlock()
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

// Close ends all sessions and closes the sockets. It is idempotent and returns when
// all have ended, so that OnDone must not call it.
func (p *UDPProxy) Close() error {
	p.mu.Lock()
	p.draining = true
	for _, s := range p.sessions {
		s.cut(http.ErrServerClosed)
	}
	// Only now, lest a backend that is being looked up seem to have failed.
	p.cancel()
	for s := range p.sockets {
		s.conn.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
	return nil
}
