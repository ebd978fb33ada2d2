// Package load makes the load of the benchmarks, and has the backend that
// answers it. Its generators compare every body with what the backend sends.
package load

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Client says what is asked of whom.
type Client struct {
	Addr  string // IPv4 address and port
	Size  int    // of the body that is asked for
	Conns int    // how many connections are kept alive
}

// request is what all clients send; the fields are those of a common client.
func (c Client) request() []byte {
	return fmt.Appendf(nil, "GET /%d HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: palisade-bench/1\r\nAccept: */*\r\n\r\n", c.Size)
}

// Load is a generator that runs. It is safe for concurrent use.
type Load struct {
	ops  atomic.Uint64
	stop atomic.Bool
	turn *turn // nil: it runs until it is stopped
	all  sync.WaitGroup
	mu   sync.Mutex // guards err
	err  error
}

// Ops returns what has been done so far: responses, or bytes for a stream.
func (l *Load) Ops() uint64 { return l.ops.Load() }

// Stop ends the load and returns the first error of any connection: one error
// makes what was counted worthless.
func (l *Load) Stop() error {
	l.stop.Store(true)
	if l.turn != nil {
		l.turn.set(true)
	}
	l.all.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *Load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && l.err == nil {
		l.err = err
	}
}

// patience is how long a connection may do nothing.
const patience = 10 * time.Second

// Closed starts a load in which each connection sends a request as soon as it
// has the response to the one before. One thread serves them all.
func (c Client) Closed() *Load { return c.start(new(Load)) }

// InTurns is Closed for [Load.Turn]: the connections stay between turns.
func (c Client) InTurns() *Load { return c.start(&Load{turn: newTurn(1)}) }

func (c Client) start(l *Load) *Load {
	l.work(func() error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		w, err := c.connect()
		if err != nil {
			return err
		}
		defer w.close()
		for l.next() {
			if err := w.turn(l, c.Addr); err != nil {
				return err
			}
		}
		return nil
	})
	return l
}

// turn asks on all connections until the turn is over, and reads the responses to
// all that was asked.
func (w *wires) turn(l *Load, addr string) error {
	for i := range w.conns {
		if err := w.send(i); err != nil {
			return err
		}
	}
	last := time.Now()
	for waiting := len(w.conns); waiting > 0; {
		events, err := w.poller.wait(50 * time.Millisecond)
		if err != nil {
			return err
		}
		for _, e := range events {
			done, err := w.receive(int(e.Fd))
			if err != nil {
				return err
			}
			if !done {
				continue
			}
			l.ops.Add(1)
			if !l.goesOn() {
				waiting--
			} else if err := w.send(int(e.Fd)); err != nil {
				return err
			}
		}
		if len(events) > 0 {
			last = time.Now()
		} else if time.Since(last) > patience {
			return fmt.Errorf("load: %s: no response for %v", addr, patience)
		}
	}
	return nil
}

// wires are the connections of one thread.
type wires struct {
	poller  *poller
	conns   []wire
	request []byte
	buf     []byte
}

type wire struct {
	fd       int
	response response
}

func (c Client) connect() (*wires, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	w := &wires{poller: p, request: c.request(), buf: make([]byte, 256<<10)}
	want := Body(c.Size)
	for i := range c.Conns {
		fd, err := dial(c.Addr)
		if err != nil {
			w.close()
			return nil, err
		}
		w.conns = append(w.conns, wire{fd: fd, response: response{want: want}})
		if err := errors.Join(unix.SetNonblock(fd, true), p.add(fd, i, unix.EPOLLIN)); err != nil {
			w.close()
			return nil, err
		}
	}
	return w, nil
}

func (w *wires) close() {
	for _, c := range w.conns {
		unix.Close(c.fd)
	}
	w.poller.close()
}

func (w *wires) send(i int) error {
	n, err := unix.Write(w.conns[i].fd, w.request)
	if err != nil || n != len(w.request) {
		return fmt.Errorf("load: %d bytes of a request were sent: %w", n, err)
	}
	return nil
}

// receive reads what there is and says whether it completes a response.
func (w *wires) receive(i int) (done bool, err error) {
	c := &w.conns[i]
	for {
		n, err := unix.Read(c.fd, w.buf)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("load: read: %w", err)
		case n == 0:
			return false, errors.New("load: a connection was closed")
		}
		if done, err := c.response.feed(w.buf[:n]); done || err != nil || n < len(w.buf) {
			return done, err
		}
	}
}

// dial returns a blocking socket that is connected to an IPv4 address.
func dial(addr string) (int, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil || !to.Addr().Is4() {
		return 0, fmt.Errorf("load: the address is %q, want an IPv4 address and port", addr)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("load: socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}))
	if err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("load: connecting to %s: %w", addr, err)
	}
	return fd, nil
}

// ClosedTLS is Closed over TLS 1.3, a goroutine for each connection. It fails if
// the server chooses another cipher suite than AES-128-GCM, so that all are
// compared at the same work.
func (c Client) ClosedTLS(conf *tls.Config) *Load { return c.startTLS(new(Load), conf) }

// TLSInTurns is ClosedTLS for [Load.Turn]: the connections stay between turns.
func (c Client) TLSInTurns(conf *tls.Config) *Load {
	return c.startTLS(&Load{turn: newTurn(c.Conns)}, conf)
}

func (c Client) startTLS(l *Load, conf *tls.Config) *Load {
	for range c.Conns {
		l.work(func() error { return c.closedTLS(l, conf) })
	}
	return l
}

func (c Client) closedTLS(l *Load, conf *tls.Config) error {
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: conf}
	conn, err := dialer.Dial("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	if state.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		return fmt.Errorf("load: the server chose %s, want TLS_AES_128_GCM_SHA256", tls.CipherSuiteName(state.CipherSuite))
	}
	request, r := c.request(), response{want: Body(c.Size)}
	buf := make([]byte, 32<<10)
	for l.next() {
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write(request); err != nil {
			return fmt.Errorf("load: %w", err)
		}
		for done := false; !done; {
			n, err := conn.Read(buf)
			if err != nil {
				return fmt.Errorf("load: %w", err)
			}
			if done, err = r.feed(buf[:n]); err != nil {
				return err
			}
		}
		l.ops.Add(1)
	}
	return nil
}
