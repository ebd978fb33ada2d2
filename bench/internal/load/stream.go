package load

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Stream receives on conns connections what [ServeStream] sends; Ops counts
// bytes. Each connection compares the beginning, two periods long, and has the
// kernel drop the rest, which costs much less than to copy it.
func Stream(addr string, conns int) *Load {
	l := new(Load)
	for range conns {
		l.all.Go(func() { l.fail(stream(addr, l)) })
	}
	return l
}

func stream(addr string, l *Load) error {
	fd, err := dial(addr)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return fmt.Errorf("load: SO_RCVTIMEO: %w", err)
	}
	want := bytes.Repeat(Body(StreamPeriod), 2)
	buf := make([]byte, 1<<20)
	for !l.stop.Load() {
		into, flags := buf, unix.MSG_TRUNC
		if len(want) > 0 {
			into, flags = buf[:min(len(buf), len(want))], 0
		}
		n, _, err := unix.Recvfrom(fd, into, flags)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("load: recv: %w", err)
		case n == 0:
			return errors.New("load: a stream was closed")
		}
		if len(want) > 0 {
			if !bytes.Equal(into[:n], want[:n]) {
				return errors.New("load: a stream is not the backend's")
			}
			want = want[n:]
		}
		l.ops.Add(uint64(n))
	}
	return nil
}

// Idle opens n connections, asks once on each and leaves them open. Each is
// idle, kept alive by the server, when Idle returns.
func (c Client) Idle(n int) (conns []net.Conn, err error) {
	defer func() {
		if err != nil {
			for _, conn := range conns {
				conn.Close()
			}
			conns = nil
		}
	}()
	request, r := c.request(), response{want: Body(c.Size)}
	buf := make([]byte, 32<<10)
	for range n {
		conn, err := net.DialTimeout("tcp", c.Addr, patience)
		if err != nil {
			return conns, fmt.Errorf("load: %w", err)
		}
		conns = append(conns, conn)
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write(request); err != nil {
			return conns, fmt.Errorf("load: %w", err)
		}
		for done := false; !done; {
			n, err := conn.Read(buf)
			if err != nil {
				return conns, fmt.Errorf("load: connection %d: %w", len(conns), err)
			}
			if done, err = r.feed(buf[:n]); err != nil {
				return conns, err
			}
		}
	}
	return conns, nil
}

// StillOpen returns an error if the server has closed one of the connections or
// sent something. It asks the kernel once for each and does not wait: a read
// with a deadline that has passed would not look at the connection at all.
func StillOpen(conns []net.Conn) error {
	for i, conn := range conns {
		raw, err := conn.(syscall.Conn).SyscallConn()
		if err != nil {
			return fmt.Errorf("load: idle connection %d: %w", i, err)
		}
		var one [1]byte
		n, peek := 0, error(nil)
		err = raw.Control(func(fd uintptr) {
			n, _, peek = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		})
		switch {
		case err != nil:
			return fmt.Errorf("load: idle connection %d: %w", i, err)
		case peek == nil && n == 0:
			return fmt.Errorf("load: idle connection %d was closed by the server", i)
		case peek == nil:
			return fmt.Errorf("load: idle connection %d has bytes nobody asked for", i)
		case !errors.Is(peek, unix.EAGAIN):
			return fmt.Errorf("load: idle connection %d: %w", i, peek)
		}
	}
	return nil
}
