//go:build unix

package lb

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// readiness reads from a connection of the kernel's, into a buffer that is taken
// only when there is something to read.
type readiness struct {
	raw    syscall.RawConn
	over   net.Conn              // what is over the kernel's connection, such as TLS; nil if nothing
	try    func(fd uintptr) bool // made once, so that a read allocates nothing
	reader *http1.Reader
	err    error
	atOnce bool // the bytes were there already

	turn  func(fd uintptr) bool // likewise
	out   []byte
	wrote int
	begun bool // as much of out has been written as the kernel took
	// There is something to read from over.
	waited bool
	sent   func() bool // is told when all of it has been, and says whether to go on
}

// newReadiness returns nil if there is no connection of the kernel's, or none below
// that shows itself. NetConn of others is not asked: who calls it may be taken for
// the one who takes the connection over.
func newReadiness(nc net.Conn, sent func() bool) *readiness {
	below := nc
	if secure, ok := nc.(*tls.Conn); ok {
		below = secure.NetConn()
	}
	if proxied, ok := below.(*proxyConn); ok {
		below = proxied.Conn
	}
	kernel, ok := below.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := kernel.SyscallConn()
	if err != nil {
		return nil
	}
	r := &readiness{raw: raw, sent: sent}
	r.try, r.turn = r.receive, r.sendFirst
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		r.over, r.turn = nc, r.sendOver
	}
	return r
}

// reads says whether it can read by itself. What is over the connection may have
// something that the kernel has not any more.
func (r *readiness) reads() bool { return r != nil && r.over == nil }

// receive says whether it is done.
func (r *readiness) receive(fd uintptr) bool {
	for {
		n, err := syscall.Read(int(fd), r.reader.Room())
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			r.reader.Release()
			r.atOnce = false
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
	r.reader, r.err, r.atOnce = reader, nil, true
	if err := r.raw.Read(r.try); err != nil {
		return err
	}
	return r.err
}

// sendFirst says whether it is done. It does not read before the poller says that
// there is something.
func (r *readiness) sendFirst(fd uintptr) bool {
	if r.begun {
		return r.receive(fd)
	}
	for !r.begun {
		n, err := syscall.Write(int(fd), r.out)
		if err != syscall.EINTR {
			r.begun, r.wrote = true, max(n, 0)
		}
	}
	return r.wrote < len(r.out) || !r.sent()
}

// sendOver is sendFirst through what is over the connection, which is read from
// afterwards.
func (r *readiness) sendOver(uintptr) bool {
	if r.waited = r.begun; r.waited {
		return true
	}
	r.begun = true
	r.wrote, r.err = r.over.Write(r.out)
	return r.err != nil || r.wrote < len(r.out) || !r.sent()
}

// foundAtOnce says whether a read that began then has found bytes that were there
// already.
func (r *readiness) foundAtOnce(began time.Time) bool {
	if r.over != nil {
		return time.Since(began) < atOnce
	}
	return r.atOnce
}

// sendAndRead writes out, and waits then for what has not come before, as if there
// could be nothing yet; unless it reads, only until there is something. It says how much it has written; if that is not all, it has
// not waited, and an ordinary write must go on, and will find the error.
func (r *readiness) sendAndRead(out []byte, reader *http1.Reader) (wrote int, err error) {
	reader.Release()
	r.reader, r.err, r.out, r.wrote, r.begun, r.waited = reader, nil, out, 0, false, false
	err = r.raw.Read(r.turn)
	r.out = nil
	if err == nil {
		err = r.err
	}
	return r.wrote, err
}
