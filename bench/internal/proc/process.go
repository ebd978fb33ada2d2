package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startTimeout = 15 * time.Second
	stopTimeout  = 5 * time.Second
)

// Process is a program that listens at an address. It is safe for concurrent
// use.
type Process struct {
	Addr string // host and port
	cmd  *exec.Cmd
	out  *tail
	done chan struct{} // closed when it has ended
	err  error         // of Wait; read after done
}

// Start runs a program on the processors of set and waits until it accepts
// connections at addr. Whoever starts it must Stop it.
func Start(ctx context.Context, set unix.CPUSet, addr string, env []string, name string, args ...string) (*Process, error) {
	p := &Process{Addr: addr, cmd: exec.Command(name, args...), out: new(tail), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = time.Second // for children that keep the output open
	if err := onCores(set, p.cmd.Start); err != nil {
		return nil, fmt.Errorf("proc: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := p.waitReady(ctx); err != nil {
		p.Stop()
		return nil, fmt.Errorf("proc: %s: %w; it said: %s", name, err, p.out)
	}
	return p, nil
}

func (p *Process) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		var d net.Dialer
		if conn, err := d.DialContext(ctx, "tcp", p.Addr); err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it does not listen at %s: %w", p.Addr, context.Cause(ctx))
		case <-p.done:
			return fmt.Errorf("it ended: %w", errors.Join(p.err, errors.New("before it listened")))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Tree returns the processes of the program. It fails if it has ended.
func (p *Process) Tree() ([]int, error) {
	select {
	case <-p.done:
		return nil, fmt.Errorf("proc: %s ended: %v; it said: %s", p.cmd.Path, p.err, p.out)
	default:
		return Tree(p.cmd.Process.Pid)
	}
}

// Stop ends the program and its children. It may be called again.
func (p *Process) Stop() {
	group := -p.cmd.Process.Pid
	select {
	case <-p.done:
	default:
		syscall.Kill(group, syscall.SIGTERM)
	}
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
	}
	syscall.Kill(group, syscall.SIGKILL) // those who did not listen, and children that are left
	<-p.done
}

// FreeAddr returns an address of the loopback interface where nobody listens.
// Its port is below those that the kernel gives to outgoing connections, so that
// none of these takes it before the program does that it is for.
func FreeAddr() (string, error) {
	var last error
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(18000))
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, ln.Close()
		}
		last = err
	}
	return "", fmt.Errorf("proc: no free port: %w", last)
}

// tail keeps the end of what a program prints.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if len(t.text) > tailBytes {
		t.text = append(t.text[:0], t.text[len(t.text)-tailBytes:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}
