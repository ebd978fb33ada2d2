//go:build unix

package lb

import (
	"io"
	"net"
	"os"
	"syscall"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// readiness reads from a connection of the kernel's, into a buffer that is taken
// only when there is something to read.
type readiness struct {
	raw    syscall.RawConn
	try    func(fd uintptr) bool // made once, so that a read allocates nothing
	reader *http1.Reader
	err    error
}

// newReadiness returns nil if the connection is none of the kernel's own.
func newReadiness(nc net.Conn) *readiness {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	raw, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	r := &readiness{raw: raw}
	r.try = r.receive
	return r
}

// receive says whether it is done.
func (r *readiness) receive(fd uintptr) bool {
	for {
		n, err := syscall.Read(int(fd), r.reader.Room())
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			r.reader.Release()
			return false
		case err != nil:
			r.err = os.NewSyscallError("read", err)
		case n == 0:
			r.err = io.EOF
		default:
			r.reader.Took(n)
		}
		return true
	}
}

// read waits for bytes and puts them into the reader, which is empty.
func (r *readiness) read(reader *http1.Reader) error {
	r.reader, r.err = reader, nil
	if err := r.raw.Read(r.try); err != nil {
		return err
	}
	return r.err
}
