package load

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller waits for sockets by epoll. It is not safe for concurrent use.
type poller struct {
	fd     int
	events [128]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("load: epoll_create1: %w", err)
	}
	return &poller{fd: fd}, nil
}

func (p *poller) close() { unix.Close(p.fd) }

// add has events of fd reported, with id in the place of the descriptor.
func (p *poller) add(fd, id int, events uint32) error {
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(id)}); err != nil {
		return fmt.Errorf("load: epoll_ctl: %w", err)
	}
	return nil
}

// wait returns the sockets that are ready, or none after d; a negative d is for
// ever. It calls epoll_pwait2, which takes nanoseconds where epoll_wait takes
// milliseconds, too coarse for a schedule. The runtime is not told: it would take
// the processor from this thread after 20 µs and wake others for it, which costs
// more than all the rest. So a thread that waits blocks one of GOMAXPROCS; a
// signal, such as the runtime's to stop it, ends the wait.
func (p *poller) wait(d time.Duration) ([]unix.EpollEvent, error) {
	var timeout *unix.Timespec
	if d >= 0 {
		ts := unix.NsecToTimespec(int64(d))
		timeout = &ts
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])),
			uintptr(len(p.events)), uintptr(unsafe.Pointer(timeout)), 0, 0)
		switch {
		case errno == 0:
			return p.events[:n], nil
		case errors.Is(errno, unix.EINTR) && d < 0:
			continue
		case errors.Is(errno, unix.EINTR):
			return nil, nil
		}
		return nil, fmt.Errorf("load: epoll_pwait2: %w", errno)
	}
}
