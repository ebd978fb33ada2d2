//go:build unix

package http1

import (
	"io"
	"net"
	"os"
	"syscall"
)

// turnaround sends a head and waits for the answer without a read that finds
// nothing: the poller is told to look out before the head is written, and what
// comes before cannot be the answer.
type turnaround struct {
	raw    syscall.RawConn
	secure net.Conn              // TLS over raw, nil without
	step   func(fd uintptr) bool // made once, so that it allocates nothing
	reader *Reader
	head   []byte
	begun  bool // head has been written, as far as the kernel took it
	wrote  int
	err    error // of reading
}

// newTurnaround returns nil if the connection is none of the kernel's.
func newTurnaround(c net.Conn) *turnaround {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	t := &turnaround{raw: raw}
	t.step = t.take
	return t
}

// take says whether it is done.
func (t *turnaround) take(fd uintptr) bool {
	if t.secure != nil {
		return t.takeSecure()
	}
	for !t.begun {
		n, err := syscall.Write(int(fd), t.head)
		if err == syscall.EINTR {
			continue
		}
		t.begun, t.wrote = true, max(n, 0)
		return t.wrote < len(t.head) // then an ordinary write goes on, and finds the error
	}
	for {
		n, err := syscall.Read(int(fd), t.reader.Room())
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return false
		case err != nil:
			t.err = os.NewSyscallError("read", err)
		case n == 0:
			t.err = io.EOF
		default:
			t.reader.Took(n)
		}
		return true
	}
}

// takeSecure is take for TLS, which reads by itself once there is something.
func (t *turnaround) takeSecure() bool {
	if t.begun {
		return true
	}
	t.begun = true
	t.wrote, t.err = t.secure.Write(t.head)
	return t.err != nil
}

// run returns how much of the head was written. The error is one of waiting, or of
// reading, and there is none if something has been read, or if not all of the
// head was written.
func (t *turnaround) run(head []byte, reader *Reader) (wrote int, err error) {
	t.head, t.reader, t.begun, t.wrote, t.err = head, reader, false, 0, nil
	err = t.raw.Read(t.step)
	t.head = nil
	if err == nil {
		err = t.err
	}
	return t.wrote, err
}
