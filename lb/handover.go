package lb

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// handover carries connections from a [Server] to an http.Server inside, as that
// one's listener.
type handover struct {
	server *http.Server
	accept chan net.Conn
	done   chan struct{}
	begin  sync.Once
	end    sync.Once

	mu    sync.Mutex // guards conns
	conns map[net.Conn]*serverConn
}

func newHandover(server *http.Server) *handover {
	h := &handover{server: server, accept: make(chan net.Conn), done: make(chan struct{}), conns: make(map[net.Conn]*serverConn)}
	server.ConnContext = func(_ context.Context, nc net.Conn) context.Context {
		c := h.conn(nc)
		return context.WithValue(c.ctx, handedKey{}, c)
	}
	server.ConnState = h.connState
	return h
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
	from  *serverConn
}

// Write implements net.Conn. What net/http sends before the handler is called is a
// refusal.
func (c *handedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if h := c.from.handed; h != nil && !h.seen {
		h.seen = true
		c.from.refusedInside(p)
	}
	return n, err
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

// CloseWrite is for net/http, before it closes a connection of which something is
// unread.
func (c *handedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn returns the connection below.
func (c *handedConn) NetConn() net.Conn { return c.Conn }

// handedRequest is a request for the server inside.
type handedRequest struct {
	bytes []byte // as it came, and what came behind it
	req   *http.Request
	err   error // why it will be refused, if that is known
	start time.Time
	seen  bool // by the handler, or by OnRefused
}

// handOver leaves the connection to a server inside; early has been read of it.
// It says whether that took it.
func (c *serverConn) handOver(h *handover, early []byte) bool {
	nc := c.nc
	if _, ok := nc.(*tls.Conn); !ok || len(early) > 0 {
		nc = &handedConn{nc, early, c}
	}
	h.mu.Lock()
	h.conns[nc] = c
	h.mu.Unlock()
	c.nc.SetDeadline(time.Time{})
	h.begin.Do(func() { go h.server.Serve(h) })
	select {
	case h.accept <- nc:
		return true
	case <-h.done:
		h.forget(nc)
		return false
	}
}

type handedKey struct{}

// inner returns a server for what this one does not speak.
func (s *Server) inner(protocols *http.Protocols) *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(s.serveHandedOver), Protocols: protocols, HTTP2: s.HTTP2,
		ReadHeaderTimeout: s.headerTimeout(), ReadTimeout: s.ReadTimeout, WriteTimeout: s.WriteTimeout, IdleTimeout: s.idleTimeout(),
		MaxHeaderBytes: s.headBytes(), DisableGeneralOptionsHandler: true,
		// Strangers cause at will what net/http logs; panics are logged here.
		ErrorLog: slog.NewLogLogger(s.log().Handler(), slog.LevelDebug),
	}
}

// innerHTTP2 returns the server for HTTP/2.
func (s *Server) innerHTTP2() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return s.inner(protocols)
}

// innerHTTP1 returns the server for a CONNECT and for a head that is too large.
// It serves one request of a connection: net/http parses less strictly, which
// must not be had for all that follows by beginning with a CONNECT.
func (s *Server) innerHTTP1() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	inner := s.inner(protocols)
	inner.MaxHeaderBytes = max(s.headBytes()-netHTTPHeadSlack, 1)
	inner.SetKeepAlivesEnabled(false)
	return inner
}

// netHTTPHeadSlack is what net/http takes beyond MaxHeaderBytes.
const netHTTPHeadSlack = 4096

// connState is the hook of the server inside.
func (h *handover) connState(nc net.Conn, state http.ConnState) {
	c := h.conn(nc)
	if c == nil || state == http.StateNew || state == http.StateActive && c.toldActive {
		return // it has been already
	}
	if state == http.StateClosed || state == http.StateHijacked {
		h.forget(nc)
		c.server.removeConn(c)
	}
	if hook := c.server.ConnState; hook != nil {
		hook(c.nc, state)
	}
}

// serveHandedOver is the handler of the servers inside.
func (s *Server) serveHandedOver(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(handedKey{}).(*serverConn)
	if r.TLS == nil {
		r.TLS = c.tls
	}
	if c.handed != nil {
		c.handed.seen = true
	}
	defer func() {
		if v := recover(); v != nil {
			s.logPanic(c.remote, v)
			panic(http.ErrAbortHandler)
		}
	}()
	if r.ProtoMajor == 1 {
		w = handedReply{w.(netHTTPReply)}
	}
	s.handler().ServeHTTP(w, r)
}

// netHTTPReply is what net/http's ResponseWriters for HTTP/1 can do.
type netHTTPReply interface {
	http.ResponseWriter
	http.Flusher
	FlushError() error
	http.Hijacker
	io.ReaderFrom
	io.StringWriter
}

// handedReply gives whoever takes the connection the one that was accepted.
type handedReply struct{ netHTTPReply }

// Unwrap is for http.ResponseController.
func (w handedReply) Unwrap() http.ResponseWriter { return w.netHTTPReply }

// Hijack implements http.Hijacker.
func (w handedReply) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := w.netHTTPReply.Hijack()
	handed, ok := nc.(*handedConn)
	if err != nil || !ok {
		return nc, rw, err
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	early = append(bytes.Clone(early), handed.early...)
	return handed.Conn, takenOver(handed.Conn, early), nil
}

// takenOver are the buffers for whoever takes a connection of which early has been
// read already.
func takenOver(nc net.Conn, early []byte) *bufio.ReadWriter {
	r := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), nc), max(4096, len(early)))
	if len(early) > 0 {
		r.Peek(len(early)) // so that they are Buffered
	}
	return bufio.NewReadWriter(r, bufio.NewWriter(nc))
}
