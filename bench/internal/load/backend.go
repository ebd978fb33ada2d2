package load

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Body returns the body of size bytes that [ServeHTTP] gives and the
// generators expect. No two parts of it are alike for long, so that bytes that
// are lost, doubled or out of order are noticed.
func Body(size int) []byte {
	b := make([]byte, size)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

// maxHead bounds the head of a request and of a response.
const maxHead = 16 << 10

// ServeHTTP is a backend that costs next to nothing: one thread, one read and
// one write for each request. The path /N is answered with Body(N), any other
// with 404. It reads no bodies, so that it only suits GET. It returns when the
// listener breaks.
func ServeHTTP(ln *net.TCPListener) error {
	p, err := newPoller()
	if err != nil {
		return err
	}
	defer p.close()
	fd, err := dup(ln)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := p.add(fd, fd, unix.EPOLLIN); err != nil {
		return err
	}
	b := backend{poller: p, listener: fd, answers: make(map[string][]byte)}
	for {
		events, err := p.wait(-1)
		if err != nil {
			return err
		}
		for _, e := range events {
			if int(e.Fd) == fd {
				if err := b.accept(); err != nil {
					return err
				}
				continue
			}
			b.serve(int(e.Fd), e.Events&unix.EPOLLRDHUP != 0)
		}
	}
}

// backend is what one thread serves.
type backend struct {
	poller   *poller
	listener int
	conns    []*backendConn    // by descriptor; nil: none
	answers  map[string][]byte // by path
	buf      [maxHead]byte
}

// backendConn is a connection: what has come of a request and what is to be
// written yet.
type backendConn struct {
	in, out []byte
	close   bool // after out
}

func (b *backend) accept() error {
	for {
		fd, _, err := unix.Accept4(b.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("load: accept: %w", err)
		}
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if err := b.poller.add(fd, fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET); err != nil {
			return err
		}
		if fd >= len(b.conns) {
			b.conns = append(b.conns, make([]*backendConn, fd-len(b.conns)+1)...)
		}
		b.conns[fd] = new(backendConn)
	}
}

// serve answers all that has come. The poller is edge-triggered: what is not
// finished here is when the socket gets room or bytes. With ended, the peer has
// sent all it will, so that the end must be read too.
func (b *backend) serve(fd int, ended bool) {
	c := b.conns[fd]
	if c == nil {
		return
	}
	for b.flush(fd, c) && !c.close {
		n, err := unix.Read(fd, b.buf[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case n <= 0 || err != nil || len(c.in)+n > maxHead:
			b.drop(fd)
			return
		}
		whole := n < len(b.buf) && !ended
		c.in = append(c.in, b.buf[:n]...)
		for {
			end := bytes.Index(c.in, []byte("\r\n\r\n"))
			if end < 0 {
				break
			}
			b.answer(c, c.in[:end+2])
			c.in = c.in[:copy(c.in, c.in[end+4:])]
		}
		if whole && !c.close {
			b.flush(fd, c)
			return // there was no more to read
		}
	}
}

// flush writes what is to be written; false means that it could not yet, or
// that the connection is gone.
func (b *backend) flush(fd int, c *backendConn) bool {
	for len(c.out) > 0 {
		n, err := unix.Write(fd, c.out)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil:
			b.drop(fd)
			return false
		}
		c.out = c.out[n:]
	}
	if c.close {
		b.drop(fd)
		return false
	}
	return true
}

func (b *backend) drop(fd int) {
	b.conns[fd] = nil
	unix.Close(fd)
}

// answer appends the response to a request of which head is the request line
// and the fields.
func (b *backend) answer(c *backendConn, head []byte) {
	line, fields, _ := bytes.Cut(head, []byte("\r\n"))
	c.close = bytes.HasSuffix(line, []byte("HTTP/1.0")) ||
		bytes.Contains(fields, []byte("lose\r")) && bytes.Contains(bytes.ToLower(fields), []byte("connection: close\r"))
	_, path, _ := bytes.Cut(line, []byte(" "))
	path, _, _ = bytes.Cut(path, []byte(" "))
	answer, ok := b.answers[string(path)]
	if !ok {
		answer = newAnswer(string(path))
		if len(b.answers) < 64 {
			b.answers[string(path)] = answer
		}
	}
	if len(c.out) == 0 {
		c.out = answer // is only read
		return
	}
	c.out = append(bytes.Clone(c.out), answer...)
}

func newAnswer(path string) []byte {
	status, body := "404 Not Found", []byte("not found\n")
	if n, err := strconv.Atoi(path[min(1, len(path)):]); err == nil && n >= 0 && n <= 1<<24 {
		status, body = "200 OK", Body(n)
	}
	return append(fmt.Appendf(nil, "HTTP/1.1 %s\r\nServer: backend\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"+
		"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", status, len(body)), body...)
}

// StreamPeriod is after how many bytes the stream of [ServeStream] repeats.
const StreamPeriod = 1 << 18

// ServeStream writes Body(StreamPeriod) over and over to everyone who connects,
// until they close. It returns when the listener breaks.
func ServeStream(ln net.Listener) error {
	body := Body(StreamPeriod)
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		all.Go(func() {
			defer conn.Close()
			for err == nil {
				_, err = conn.Write(body)
			}
		})
	}
}

// dup returns a non-blocking copy of a listener's descriptor.
func dup(ln *net.TCPListener) (int, error) {
	f, err := ln.File()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("load: dup: %w", err)
	}
	return fd, unix.SetNonblock(fd, true)
}
