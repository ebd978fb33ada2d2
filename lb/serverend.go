package lb

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"
)

const (
	// newConnPatience is how long Shutdown waits for the first request on a
	// connection, which may be on its way.
	newConnPatience = 5 * time.Second

	// headPatience is how long Shutdown waits for the rest of a head, which comes
	// right behind its beginning unless somebody wants to hold the server up. It is
	// no request before that.
	headPatience = time.Second

	shutdownPollMax = 500 * time.Millisecond
)

// RegisterOnShutdown adds a function that Shutdown calls, in a goroutine of its
// own: to end what Shutdown does not wait for, such as hijacked connections.
func (s *Server) RegisterOnShutdown(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onShutdown = append(s.onShutdown, f)
}

// Shutdown ends the server gently: it closes the listeners and the idle
// connections, and waits for the others to fall idle, whose responses tell their
// clients. Of a head that has begun it waits for the rest for a second; a connection
// that has sent nothing yet is closed once it is 5 s old. It does not wait for
// connections that were hijacked. If ctx ends before, the error is its, and what is
// left goes on: Close ends it.
func (s *Server) Shutdown(ctx context.Context) error {
	s.start()
	began := time.Now()
	err := s.end()
	s.mu.Lock()
	for _, f := range s.onShutdown {
		go f()
	}
	s.mu.Unlock()
	innerErr := make(chan error, 1)
	go func() { innerErr <- s.http2.server.Shutdown(ctx) }()
	pause := time.Millisecond
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for !s.closeIdle(began) {
		select {
		case <-ctx.Done():
			<-innerErr
			return ctx.Err()
		case <-timer.C:
			pause = min(2*pause, shutdownPollMax)
			timer.Reset(pause)
		}
	}
	// Until now a request may have been handed over.
	return errors.Join(err, <-innerErr, s.http1.server.Shutdown(ctx))
}

// Close ends the server at once, with all connections but those that were
// hijacked. It returns the first error of closing a listener. It is idempotent.
func (s *Server) Close() error {
	s.start()
	err := s.end()
	s.mu.Lock()
	for c := range s.conns {
		c.kill()
	}
	s.mu.Unlock()
	return errors.Join(err, s.http1.server.Close(), s.http2.server.Close())
}

// end closes the listeners.
func (s *Server) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending.Swap(true) {
		close(s.done)
	}
	var errs []error
	for l := range s.listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// closeIdle says whether there is no connection any more, for a Shutdown that began
// then.
func (s *Server) closeIdle(began time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for c := range s.conns {
		ended := c.state.CompareAndSwap(int32(http.StateIdle), int32(http.StateClosed)) ||
			now.Sub(c.accepted) > newConnPatience && c.state.CompareAndSwap(int32(http.StateNew), int32(http.StateClosed)) ||
			now.Sub(began) > headPatience && c.state.CompareAndSwap(stateHead, int32(http.StateClosed))
		if ended {
			c.nc.Close()
		}
	}
	return len(s.conns) == 0
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending.Load() {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) removeListener(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) addConn(c *serverConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending.Load() {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

// removeConn forgets a connection that has ended or is somebody else's now.
func (s *Server) removeConn(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[c]; !ok {
		return
	}
	delete(s.conns, c)
	if c.counted {
		if s.clients[c.client]--; s.clients[c.client] == 0 {
			delete(s.clients, c.client)
		}
	}
	s.giveSlot()
}

// clientKey is what connections are counted by: an address, or a network of 64
// bits of IPv6, which is what one subscriber has.
type clientKey netip.Prefix

// admit says whether the client may have another connection.
func (s *Server) admit(c *serverConn) bool {
	if s.MaxConnsPerClient <= 0 {
		return true
	}
	ap, err := netip.ParseAddrPort(c.remote)
	if err != nil {
		return true // as over a Unix socket
	}
	addr := ap.Addr().Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[c]; !ok {
		return false
	}
	c.client = clientKey(prefix)
	if s.clients[c.client] >= s.MaxConnsPerClient {
		return false
	}
	s.clients[c.client]++
	c.counted = true
	return true
}
