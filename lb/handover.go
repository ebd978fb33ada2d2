package lb

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// handover carries connections from a [Server] to the http.Server inside, as
// that one's listener.
type handover struct {
	accept chan net.Conn
	done   chan struct{}
	begin  sync.Once
	end    sync.Once

	mu    sync.Mutex // guards conns
	conns map[net.Conn]*serverConn
}

func newHandover() *handover {
	return &handover{accept: make(chan net.Conn), done: make(chan struct{}), conns: make(map[net.Conn]*serverConn)}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.accept:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error {
	h.end.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener. Requests have the address of their connection.
func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }

// conn is the connection behind one that was handed over.
func (h *handover) conn(nc net.Conn) *serverConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conns[nc]
}

func (h *handover) forget(nc net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, nc)
}

// handedConn is a connection of which something has been read, or that is TLS
// but not crypto/tls's, which net/http would not know. It hides that it is TLS,
// so that HTTP/2 begins at once; the requests get it back.
type handedConn struct {
	net.Conn
	early []byte
}

// Read implements net.Conn.
func (c *handedConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// NetConn returns the connection below.
func (c *handedConn) NetConn() net.Conn { return c.Conn }

// handOver leaves the connection to the server inside; early has been read of it.
// It says whether that took it.
func (c *serverConn) handOver(early []byte) bool {
	s, nc := c.server, c.nc
	if _, ok := nc.(*tls.Conn); !ok || len(early) > 0 {
		nc = &handedConn{nc, early}
	}
	h := s.handedOver
	h.mu.Lock()
	h.conns[nc] = c
	h.mu.Unlock()
	c.nc.SetDeadline(time.Time{})
	h.begin.Do(func() { go s.http.Serve(h) })
	select {
	case h.accept <- nc:
		return true
	case <-h.done:
		h.forget(nc)
		return false
	}
}

type handedKey struct{}

// inner returns the server for HTTP/2.
func (s *Server) inner() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: http.HandlerFunc(s.serveHandedOver), Protocols: protocols, HTTP2: s.HTTP2,
		ReadHeaderTimeout: s.headerTimeout(), ReadTimeout: s.ReadTimeout, WriteTimeout: s.WriteTimeout, IdleTimeout: s.idleTimeout(),
		MaxHeaderBytes: s.headBytes(), DisableGeneralOptionsHandler: true,
		// Strangers cause at will what net/http logs; panics are logged here.
		ErrorLog: slog.NewLogLogger(s.log().Handler(), slog.LevelDebug),
		ConnContext: func(_ context.Context, nc net.Conn) context.Context {
			c := s.handedOver.conn(nc)
			return context.WithValue(c.ctx, handedKey{}, c)
		},
		ConnState: func(nc net.Conn, state http.ConnState) {
			if c := s.handedOver.conn(nc); c != nil {
				c.stateOfHandedOver(nc, state)
			}
		},
	}
}

func (c *serverConn) stateOfHandedOver(nc net.Conn, state http.ConnState) {
	if state == http.StateNew {
		return // it has been already
	}
	if state == http.StateClosed {
		c.server.handedOver.forget(nc)
		c.server.removeConn(c)
	}
	if hook := c.server.ConnState; hook != nil {
		hook(c.nc, state)
	}
}

// serveHandedOver is the handler of the server inside.
func (s *Server) serveHandedOver(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(handedKey{}).(*serverConn)
	if r.TLS == nil {
		r.TLS = c.tls
	}
	defer func() {
		if v := recover(); v != nil {
			s.logPanic(c.remote, v)
			panic(http.ErrAbortHandler)
		}
	}()
	s.handler().ServeHTTP(w, r)
}
