package lb

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultHeaderTimeout  = 10 * time.Second
	defaultIdleTimeout    = 2 * time.Minute
	defaultMaxHeaderBytes = http.DefaultMaxHeaderBytes
	acceptPauseMax        = time.Second
)

// Server serves HTTP in front of any [http.Handler]. Its zero value works, as
// that of http.Server does; fields must not be changed once it serves. It is safe
// for concurrent use.
//
// HTTP/1.1 and HTTP/1.0 are its own: parsed strictly, one goroutine for each
// connection, whose buffers are given back while it idles. A handler sees what it
// would see under http.Server, and nothing that it may keep is used again: the
// request, its header and context, and the ResponseWriter are made anew for each
// request.
//
// What it does not speak is left to http.Servers inside, with the same Handler and
// the bytes that have come: HTTP/2, a CONNECT, which may become a tunnel, and a head
// beyond MaxHeaderBytes, to be refused. The last two end their connection. What
// handlers find under [http.ServerContextKey] is the one for HTTP/2.
type Server struct {
	// Handler answers the requests. Nil answers 404 to all. OPTIONS * is for it,
	// too.
	Handler http.Handler
	// ReadHeaderTimeout is how long a client may take to send a head once it has
	// begun, for the first one once it is connected, and for a TLS handshake. 0
	// means 10 s, a negative number without end.
	ReadHeaderTimeout time.Duration
	// ReadTimeout is how long a request may take to be received, its body
	// included. 0 means without end.
	ReadTimeout time.Duration
	// WriteTimeout is how long a response may take, from the end of the request's
	// head. 0 means without end.
	WriteTimeout time.Duration
	// IdleTimeout is how long a connection may idle between requests. 0 means 2
	// minutes, a negative number without end.
	IdleTimeout time.Duration
	// MinBodyRate is how many bytes of a request's body must come in a second, on
	// average over the time in which the handler waits for them, after a grace of
	// 5 s. A client that is slower gets no more than the error that its body could
	// not be read. 0 means none. It is applied neither to HTTP/2 nor to CONNECT.
	MinBodyRate int
	// MaxHeaderBytes bounds a head. 0 means 1 MiB.
	MaxHeaderBytes int
	// MaxConns bounds the connections: no more are accepted until one ends. 0
	// means that there is no bound.
	MaxConns int
	// MaxConnsPerClient bounds the connections of one client, which is an address
	// of IPv4 or a network of 64 bits of IPv6. Those beyond are closed. 0 means
	// that there is no bound.
	MaxConnsPerClient int
	// UnencryptedHTTP2 lets clients that know in advance speak HTTP/2 without TLS.
	UnencryptedHTTP2 bool
	// HTTP2 configures HTTP/2. Nil means net/http's defaults.
	HTTP2 *http.HTTP2Config
	// ErrorLog gets panics of handlers, failures to accept, and the first of some
	// mistakes of handlers. Nil means slog.Default().
	ErrorLog *slog.Logger
	// ConnState is told when a connection changes its state, as by http.Server.
	// Nil means that nobody is.
	ConnState func(net.Conn, http.ConnState)
	// OnRefused is told of each request that no handler has seen, as the server has
	// refused it: what is not HTTP (400), a head that does not come in time (408) or
	// is too large (431), an expectation (417), a transfer coding (501) or a version
	// (505) that is not known, and HTTP where TLS is spoken (400). The record has
	// what was understood of the request, and is for the same log as those of
	// ProxyConfig.OnDone. It is called once the answer has been sent, by the
	// connection's goroutine, and is the last of the connection. What net/http
	// refuses of HTTP/2 it is not told. Nil means that nobody is.
	OnRefused func(Event)
	// BaseContext returns the context that those of the requests to a listener
	// come from. Nil means context.Background().
	BaseContext func(net.Listener) context.Context
	// ConnContext changes the context of a connection's requests. Nil changes
	// nothing.
	ConnContext func(context.Context, net.Conn) context.Context

	once        sync.Once // makes what follows
	http1       *handover // for a CONNECT or a head that is too large
	http2       *handover
	done        chan struct{} // closed by Shutdown and Close
	slots       chan struct{} // one for each connection, nil if there is no bound
	ending      atomic.Bool
	clock       clock
	superfluous sync.Once // guards the one complaint about a second WriteHeader
	badLength   sync.Once // guards the one complaint about a bad Content-Length
	hijackedUse sync.Once // guards the one complaint about a hijacked connection

	mu         sync.Mutex // guards the rest
	listeners  map[net.Listener]struct{}
	conns      map[*serverConn]struct{}
	clients    map[clientKey]int
	onShutdown []func()
}

// start makes what a Server needs. It does not start anything yet.
func (s *Server) start() {
	s.once.Do(func() {
		s.done = make(chan struct{})
		if s.MaxConns > 0 {
			s.slots = make(chan struct{}, s.MaxConns)
		}
		s.listeners = make(map[net.Listener]struct{})
		s.conns = make(map[*serverConn]struct{})
		s.clients = make(map[clientKey]int)
		s.http1, s.http2 = newHandover(s.innerHTTP1()), newHandover(s.innerHTTP2())
	})
}

func (s *Server) log() *slog.Logger {
	if s.ErrorLog != nil {
		return s.ErrorLog
	}
	return slog.Default()
}

func (s *Server) handler() http.Handler {
	if s.Handler != nil {
		return s.Handler
	}
	return http.NotFoundHandler()
}

func (s *Server) headerTimeout() time.Duration {
	if s.ReadHeaderTimeout == 0 {
		return defaultHeaderTimeout
	}
	return max(s.ReadHeaderTimeout, 0)
}

func (s *Server) idleTimeout() time.Duration {
	if s.IdleTimeout == 0 {
		return defaultIdleTimeout
	}
	return max(s.IdleTimeout, 0)
}

func (s *Server) headBytes() int {
	if s.MaxHeaderBytes <= 0 {
		return defaultMaxHeaderBytes
	}
	return s.MaxHeaderBytes
}

// Serve accepts connections from l and serves them until l fails, which is the
// error then, or until Shutdown or Close, when it is [http.ErrServerClosed]. It
// closes l. Connections that have the methods HandshakeContext and
// ConnectionState of tls.Conn are served as TLS, with HTTP/2 if that has been
// negotiated.
func (s *Server) Serve(l net.Listener) error {
	s.start()
	l = &onceListener{Listener: l}
	defer l.Close()
	if !s.addListener(l) {
		return http.ErrServerClosed
	}
	defer s.removeListener(l)
	base := context.Background()
	if s.BaseContext != nil {
		if base = s.BaseContext(l.(*onceListener).Listener); base == nil {
			panic("lb: Server.BaseContext returned nil")
		}
	}
	base = context.WithValue(base, http.ServerContextKey, s.http2.server)
	var pause time.Duration
	for {
		if !s.takeSlot() {
			return http.ErrServerClosed
		}
		nc, err := l.Accept()
		if err != nil {
			s.giveSlot()
			if s.ending.Load() {
				return http.ErrServerClosed
			}
			if !isTemporary(err) {
				return err
			}
			pause = min(max(2*pause, 5*time.Millisecond), acceptPauseMax)
			s.log().Warn("lb: accept failed", "err", err, "pause", pause)
			if !s.sleep(pause) {
				return http.ErrServerClosed
			}
			continue
		}
		pause = 0
		ctx := base
		if s.ConnContext != nil {
			if ctx = s.ConnContext(ctx, nc); ctx == nil {
				panic("lb: Server.ConnContext returned nil")
			}
		}
		c := newServerConn(s, nc, ctx)
		if !s.addConn(c) {
			nc.Close()
			s.giveSlot()
			return http.ErrServerClosed
		}
		go c.serve()
	}
}

// isTemporary is for the errors of accept that pass, such as too many open
// files.
func isTemporary(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && e.Temporary() || isLocal(err)
}

// sleep says whether d has passed before the server's end.
func (s *Server) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.done:
		return false
	}
}

// ServeTLS is [Server.Serve] over TLS with a copy of conf, which must have a
// certificate or a way to one. If it names no protocols, HTTP/2 and HTTP/1.1 are
// offered.
func (s *Server) ServeTLS(l net.Listener, conf *tls.Config) error {
	if conf == nil || len(conf.Certificates) == 0 && conf.GetCertificate == nil && conf.GetConfigForClient == nil {
		l.Close()
		return errors.New("lb: Server.ServeTLS has no certificate, want one in the configuration")
	}
	conf = conf.Clone()
	if len(conf.NextProtos) == 0 {
		conf.NextProtos = []string{"h2", "http/1.1"}
	}
	return s.Serve(tls.NewListener(l, conf))
}

// onceListener is closed once, whoever does.
type onceListener struct {
	net.Listener
	once sync.Once
	err  error
}

func (l *onceListener) Close() error {
	l.once.Do(func() { l.err = l.Listener.Close() })
	return l.err
}

func (s *Server) takeSlot() bool {
	if s.slots == nil {
		return !s.ending.Load()
	}
	select {
	case s.slots <- struct{}{}:
		return true
	case <-s.done:
		return false
	}
}

func (s *Server) giveSlot() {
	if s.slots != nil {
		<-s.slots
	}
}
