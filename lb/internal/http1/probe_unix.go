//go:build unix

package http1

import (
	"net"
	"syscall"
)

// probe looks at an idle connection without waiting.
type probe struct {
	raw   syscall.RawConn
	look  func(fd uintptr) // made once, so that a look allocates nothing
	quiet bool
}

// newProbe returns nil if the connection is none of the kernel's.
func newProbe(c net.Conn) *probe {
	for {
		if sc, ok := c.(syscall.Conn); ok {
			raw, err := sc.SyscallConn()
			if err != nil {
				return nil
			}
			p := &probe{raw: raw}
			p.look = p.peek
			return p
		}
		wrapped, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = wrapped.NetConn()
	}
}

func (p *probe) peek(fd uintptr) {
	var b [1]byte
	for {
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if err != syscall.EINTR {
			// An end, an error and bytes that nobody asked for are all reasons not
			// to use the connection.
			p.quiet = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
			return
		}
	}
}

// alive says whether the peer has neither closed the connection nor sent
// anything. A connection that cannot be looked at counts as alive.
func (p *probe) alive() bool {
	if p == nil {
		return true
	}
	p.quiet = false
	// Control, not Read: a deadline of the last exchange may have passed.
	return p.raw.Control(p.look) == nil && p.quiet
}
