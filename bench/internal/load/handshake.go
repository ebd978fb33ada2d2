package load

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Handshakes says how connections are made, each of which asks for one thing and
// is closed.
type Handshakes struct {
	Addr string
	// Config is the client's. It must pin what is negotiated, so that all are
	// compared at the same work.
	Config *tls.Config
	// Curve is the key exchange that the server must choose.
	Curve tls.CurveID
	// Resume has each connection after the first of a client resume its session;
	// otherwise none may.
	Resume bool
	// Conns is how many clients there are at once.
	Conns int
	// Body is what the server must answer.
	Body []byte
}

// ErrNotResumed is wrapped by the error of a load whose server does not resume
// sessions.
var ErrNotResumed = errors.New("load: the session was not resumed")

// Try makes the connections of one client, without and with a session, and
// returns what is wrong with them.
func (h Handshakes) Try() error {
	c := h.client()
	err := c.visit(false)
	if err == nil && h.Resume {
		err = c.visit(true)
	}
	return err
}

// InTurns is a load for [Load.Turn], in which each client makes a connection as
// soon as it has the response of the one before. A client that resumes has a
// session before this returns, and keeps one from turn to turn.
func (h Handshakes) InTurns() *Load {
	l := new(Load)
	clients := make([]*handshaker, h.Conns)
	for i := range clients {
		clients[i] = h.client()
		if h.Resume {
			l.fail(clients[i].visit(false))
		}
	}
	if l.err != nil {
		clients = nil
	}
	l.turn = newTurn(len(clients))
	for _, c := range clients {
		l.work(func() error {
			for l.next() {
				if err := c.visit(h.Resume); err != nil {
					return err
				}
				l.ops.Add(1)
			}
			return nil
		})
	}
	return l
}

// handshaker is one client. It must not be used at once by several.
type handshaker struct {
	Handshakes
	request []byte
	buf     []byte
}

func (h Handshakes) client() *handshaker {
	h.Config = h.Config.Clone()
	h.Config.CurvePreferences = []tls.CurveID{h.Curve}
	if h.Resume {
		h.Config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	request := fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", h.Config.ServerName)
	return &handshaker{Handshakes: h, request: request, buf: make([]byte, 16<<10)}
}

// visit makes a connection, checks what was negotiated, and reads until the
// server has closed.
func (c *handshaker) visit(resumed bool) error {
	raw, err := net.DialTimeout("tcp", c.Addr, patience)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(patience))
	conn := tls.Client(raw, c.Config)
	if _, err := conn.Write(c.request); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	r := response{want: c.Body}
	for done := false; ; {
		n, err := conn.Read(c.buf)
		if n > 0 {
			var feedErr error
			if done, feedErr = r.feed(c.buf[:n]); feedErr != nil {
				return feedErr
			}
		}
		switch {
		case err == io.EOF && done:
			return c.check(conn.ConnectionState(), resumed)
		case err != nil:
			return fmt.Errorf("load: %w", err)
		}
	}
}

func (c *handshaker) check(state tls.ConnectionState, resumed bool) error {
	switch {
	case state.CipherSuite != tls.TLS_AES_128_GCM_SHA256:
		return fmt.Errorf("load: the server chose %s, want TLS_AES_128_GCM_SHA256", tls.CipherSuiteName(state.CipherSuite))
	case state.CurveID != c.Curve:
		return fmt.Errorf("load: the server chose %v, want %v", state.CurveID, c.Curve)
	case resumed && !state.DidResume:
		return ErrNotResumed
	case !resumed && state.DidResume:
		return errors.New("load: the session was resumed, want a full handshake")
	}
	return nil
}
