package lb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// respondUpgrade forwards a 101 and then carries bytes in both directions until
// both have ended.
func (x *exchange) respondUpgrade(res *http.Response) {
	token := strings.Join(upgradeTokens(res.Header), ", ")
	if !containsFold(x.upgrade, token) {
		x.refuse(Failed, fmt.Errorf("switches to the protocol %q, want one of %q", token, x.upgrade))
		return
	}
	backend, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		x.refuse(Failed, errors.New("switches protocols on a connection that cannot"))
		return
	}
	if removeInvalid(res.Header) {
		x.refuse(Failed, errors.New("control characters in the head"))
		return
	}
	removeHopByHop(res.Header)
	x.pin(res.Header)
	if modify := x.proxy.conf.ModifyResponse; modify != nil {
		if err := modify(res); err != nil {
			x.refuse(Canceled, fmt.Errorf("ModifyResponse: %w", err))
			return
		}
	}
	conn, buffered, err := x.rc.Hijack()
	if err != nil {
		x.proxy.hijacker.Do(func() {
			x.proxy.conf.Logger.Warn("lb: connections cannot be upgraded", "writer", fmt.Sprintf("%T", x.w), "err", err)
		})
		x.refuse(Canceled, fmt.Errorf("hijack: %w", err))
		return
	}
	defer conn.Close()
	x.event.Status, x.event.Upgraded = http.StatusSwitchingProtocols, true

	h := x.w.Header()
	addResponseFields(h, res.Header)
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", token)
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	h.Write(&head)
	head.WriteString("\r\n")
	if _, err := conn.Write(head.Bytes()); err != nil {
		x.event.Err = x.writeFailed(err)
		return
	}
	// What the client sent in advance is in the server's buffer.
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	t := &tunnel{client: conn, backend: backend}
	t.fromClient = io.MultiReader(bytes.NewReader(early), conn)
	t.run(x.proxy.conf.UpgradeIdle, x.in.Context(), x.proxy.conf.Pool.ctx)
	x.event.RequestBytes, x.event.ResponseBytes = t.up.Load(), t.down.Load()
	x.settle(Succeeded, http.StatusSwitchingProtocols, nil)
}

// tunnel carries bytes between a client and a backend.
type tunnel struct {
	client     net.Conn
	fromClient io.Reader
	backend    io.ReadWriteCloser

	limit    time.Duration
	start    time.Time
	last     atomic.Int64 // when something was carried, in time since start
	up, down atomic.Int64

	mu   sync.Mutex // guards idle
	idle *time.Timer
}

// run returns when both directions have ended, when one has failed, when
// nothing was carried for the limit, or when a context has ended.
func (t *tunnel) run(limit time.Duration, contexts ...context.Context) {
	t.start, t.limit = time.Now(), limit
	for _, ctx := range contexts {
		defer context.AfterFunc(ctx, t.close)()
	}
	if limit > 0 {
		t.mu.Lock()
		t.idle = time.AfterFunc(limit, t.checkIdle)
		t.mu.Unlock()
		defer t.idle.Stop()
	}
	defer t.close()
	var wg sync.WaitGroup
	wg.Go(func() { t.carry(t.backend, t.fromClient, &t.up) })
	t.carry(t.client, t.backend, &t.down)
	wg.Wait()
}

// checkIdle runs once for each limit, not for each read: it looks how long ago
// the last one was.
func (t *tunnel) checkIdle() {
	idle := time.Since(t.start) - time.Duration(t.last.Load())
	if idle >= t.limit {
		t.close()
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle.Reset(t.limit - idle)
}

func (t *tunnel) close() {
	t.client.Close()
	t.backend.Close()
}

// carry copies until the end of src and then passes the end on, while the other
// direction goes on. A failure ends both.
func (t *tunnel) carry(dst io.Writer, src io.Reader, count *atomic.Int64) {
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			t.last.Store(int64(time.Since(t.start)))
			m, err := dst.Write(buf[:n])
			count.Add(int64(m))
			if err != nil {
				t.close()
				return
			}
		}
		if err == nil {
			continue
		}
		half, ok := dst.(interface{ CloseWrite() error })
		if err != io.EOF || !ok || half.CloseWrite() != nil {
			t.close()
		}
		return
	}
}
