package lb

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// activity counts what passes through a connection in the kernel. The zero value
// counts nothing.
type activity struct{ raw syscall.RawConn }

func activityOf(conn net.Conn) activity {
	if tcp := unwrap[*net.TCPConn](conn); tcp != nil {
		if raw, err := tcp.SyscallConn(); err == nil {
			return activity{raw}
		}
	}
	return activity{}
}

// bytes counts those that came, and those whose arrival the peer has confirmed.
func (a activity) bytes() uint64 {
	info := a.info()
	return info.Bytes_received + info.Bytes_acked
}

// info is empty if there is none.
func (a activity) info() unix.TCPInfo {
	if a.raw == nil {
		return unix.TCPInfo{}
	}
	var info *unix.TCPInfo
	var err error
	if controlErr := a.raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); controlErr != nil || err != nil {
		return unix.TCPInfo{}
	}
	return *info
}

// tcpClosed is the state of a socket that was reset.
const tcpClosed = 7

// canSplice says whether bytes can go from src to dst within the kernel.
func canSplice(dst, src net.Conn) bool {
	return unwrap[*net.TCPConn](dst) != nil && unwrap[*net.TCPConn](src) != nil
}

// sourceFailed says whether it is src that has broken off, which the error of
// moving does not tell.
func (s *splicer) sourceFailed() bool { return activityOf(s.src).info().State == tcpClosed }

// newChunkReader returns a reader that keeps no memory while it waits, if src is a
// connection of the kernel.
func newChunkReader(src net.Conn) chunkReader {
	if tcp := plainTCP(src); tcp != nil {
		if raw, err := tcp.SyscallConn(); err == nil {
			r := &kernelReader{raw: raw}
			r.try = r.read
			return r
		}
	}
	return &bufferedReader{src: src}
}

// kernelReader takes a buffer when there is something to read.
type kernelReader struct {
	raw syscall.RawConn
	try func(fd uintptr) bool // made once, so that a read allocates nothing
	buf *[chunkBytes]byte     // nil after release
	n   int
	err error
}

func (r *kernelReader) next() ([]byte, error) {
	r.n, r.err = 0, nil
	if err := r.raw.Read(r.try); err != nil {
		return nil, err
	}
	if r.err != nil {
		return nil, r.err
	}
	if r.n == 0 {
		return nil, io.EOF
	}
	return r.buf[:r.n], nil
}

// read says whether there is no need to wait.
func (r *kernelReader) read(fd uintptr) bool {
	if r.buf == nil {
		r.buf = copyBuffers.Get().(*[chunkBytes]byte)
	}
	for {
		n, err := syscall.Read(int(fd), r.buf[:])
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			r.release()
			return false
		case nil:
			r.n = n
		default:
			r.err = err
		}
		return true
	}
}

func (r *kernelReader) release() {
	if r.buf != nil {
		copyBuffers.Put(r.buf)
		r.buf = nil
	}
}
