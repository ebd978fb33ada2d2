package lb

import (
	"container/list"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// udpKey is what makes a session.
type udpKey struct {
	socket *udpSocket
	client netip.AddrPort
	local  netip.Addr
}

// udpSession is what a client and a backend have to say to each other.
type udpSession struct {
	proxy  *UDPProxy
	socket *udpSocket
	peer   udpPeer
	key    udpKey
	place  *list.Element // guarded by the proxy's mutex
	start  time.Time
	last   atomic.Int64 // when something was carried, in time since start

	answered atomic.Bool // the backend has replied

	fromClient, fromBackend, requests, replies atomic.Int64

	mu      sync.Mutex // guards the rest
	backend net.Conn   // nil until there is one
	early   [][]byte   // what was sent before the first reply
	why     error      // nil until the session was cut
	refused error      // what the backend's kernel has said to a write
}

const (
	// earlyMax and earlyBytes bound what is kept to be sent to another backend.
	earlyMax   = 8
	earlyBytes = 16 << 10
)

func newUDPSession(p *UDPProxy, socket *udpSocket, peer udpPeer, key udpKey) *udpSession {
	return &udpSession{proxy: p, socket: socket, peer: peer, key: key, start: time.Now()}
}

func (s *udpSession) touch() { s.last.Store(int64(time.Since(s.start))) }

func (s *udpSession) idle() time.Duration { return time.Since(s.start) - time.Duration(s.last.Load()) }

// cut ends the session.
func (s *udpSession) cut(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == nil {
		s.why = why
	}
	if s.backend != nil {
		s.backend.Close()
	}
}

// forward sends a datagram to the backend, or keeps it until there is one.
func (s *udpSession) forward(data []byte) {
	s.touch()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.answered.Load() {
		s.keep(data)
	}
	if s.backend != nil {
		s.send(data)
	}
}

// keep needs s.mu.
func (s *udpSession) keep(data []byte) {
	n := len(data)
	for _, d := range s.early {
		n += len(d)
	}
	if len(s.early) < earlyMax && n <= earlyBytes {
		s.early = append(s.early, slices.Clone(data))
	}
}

// send needs s.mu.
func (s *udpSession) send(data []byte) {
	// Counted first: the answer may come before Write returns, and what a client
	// may get depends on it.
	s.requests.Add(1)
	s.fromClient.Add(int64(len(data)))
	_, err := s.backend.Write(data)
	if err != nil {
		s.requests.Add(-1)
		s.fromClient.Add(-int64(len(data)))
	}
	switch {
	case err == nil:
	case errors.Is(err, syscall.ECONNREFUSED):
		// The kernel says it once, and has said it here; the goroutine that reads has
		// to know.
		s.refused = err
		s.backend.SetReadDeadline(time.Now())
	}
}

// run returns when the session has ended.
func (s *udpSession) run() {
	e := UDPEvent{Client: unmapped(s.peer.addr), Local: s.socket.local(s.peer), Start: s.start}
	e.Err = s.serve(&e)
	s.proxy.ended(s)
	s.cut(http.ErrServerClosed)
	if s.proxy.conf.OnDone != nil {
		e.Duration = time.Since(s.start)
		e.FromClient, e.FromBackend = s.fromClient.Load(), s.fromBackend.Load()
		e.Requests, e.Replies = s.requests.Load(), s.replies.Load()
		s.proxy.conf.OnDone(e)
	}
}

// serve goes from backend to backend as long as they refuse.
func (s *udpSession) serve(e *UDPEvent) error {
	conf := &s.proxy.conf
	info := PickInfo{Key: e.Client.Addr().String()}
	var last error
	for {
		picked, err := conf.Pool.Pick(info)
		if err != nil {
			if last != nil {
				return last
			}
			return err
		}
		b := picked.Backend()
		e.Backend = b.ID()
		e.Attempts++
		start := time.Now()
		o := s.converse(b)
		o.Duration = time.Since(start)
		picked.Done(o)
		if o.Result != Unreachable {
			return o.Err
		}
		last = fmt.Errorf("lb: backend %s: %w", b.ID(), o.Err)
		if e.Attempts > conf.Retries {
			return last
		}
		info.Tried = append(info.Tried, b)
	}
}

// converse carries replies until the session is idle, or was cut, or the backend
// refuses.
func (s *udpSession) converse(b *Backend) Outcome {
	conn, err := s.proxy.conf.Pool.dial(s.proxy.ctx, "udp", dialAddr(b.url))
	if err != nil {
		if why := s.reason(); why != nil {
			return Outcome{Result: Canceled, Err: why}
		}
		return Outcome{Result: Unreachable, Err: err}
	}
	defer conn.Close()
	if !s.join(conn) {
		return Outcome{Result: Canceled, Err: s.reason()}
	}
	start, wait := time.Now(), time.Duration(0)
	buf := udpBuffers.Get().(*[maxDatagram]byte)
	defer udpBuffers.Put(buf)
	for {
		n, err := conn.Read(buf[:])
		if err == nil {
			if wait == 0 {
				wait = time.Since(start)
			}
			s.reply(buf[:n])
			continue
		}
		why, refused := s.reason(), s.refusal()
		switch {
		case why != nil:
			return Outcome{Result: Canceled, Err: why}
		case refused != nil:
			return Outcome{Result: Unreachable, Err: refused}
		case errors.Is(err, syscall.ECONNREFUSED):
			return Outcome{Result: Unreachable, Err: err}
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return Outcome{Result: Failed, Err: fmt.Errorf("lb: backend %s: %w", b.ID(), err)}
		}
		if left := s.proxy.conf.IdleTimeout - s.idle(); left > 0 {
			conn.SetReadDeadline(time.Now().Add(left))
			continue
		}
		if wait == 0 {
			// It may be a server that never answers, or one that is dead.
			return Outcome{Result: Canceled}
		}
		return Outcome{Result: Succeeded, Wait: wait}
	}
}

func (s *udpSession) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

func (s *udpSession) refusal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// join sends to a new backend what has come already. It says whether the session
// goes on.
func (s *udpSession) join(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why != nil {
		return false
	}
	s.backend, s.refused = conn, nil
	conn.SetReadDeadline(time.Now().Add(s.proxy.conf.IdleTimeout))
	for _, data := range s.early {
		s.send(data)
	}
	return true
}

// reply sends a datagram to the client.
func (s *udpSession) reply(data []byte) {
	s.touch()
	if !s.answered.Load() {
		s.mu.Lock()
		s.early = nil
		s.answered.Store(true)
		s.mu.Unlock()
	}
	n := int64(len(data))
	if ratio := int64(s.proxy.conf.ReplyRatio); ratio > 0 && s.fromBackend.Load()+n > ratio*s.fromClient.Load() {
		return
	}
	if s.socket.write(data, s.peer) == nil {
		s.replies.Add(1)
		s.fromBackend.Add(n)
	}
}

var udpBuffers = sync.Pool{New: func() any { return new([maxDatagram]byte) }}
