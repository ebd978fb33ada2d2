package lb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

const (
	// replyBuffer is how much of a body of unknown length is kept back, as
	// net/http does: one that ends before gets a Content-Length.
	replyBuffer = 2 << 10
	// replyRoom is for a head and what goes out with it.
	replyRoom = 4 << 10
	// replyJoin is up to how much is copied so that it goes out in one piece.
	replyJoin = 16 << 10
)

var (
	replyBuffers = sync.Pool{New: func() any { return new([replyBuffer]byte) }}
	replyRooms   = sync.Pool{New: func() any { return new([replyRoom]byte) }}

	errCanceled    = context.Canceled
	errHandlerOver = errors.New("lb: write after the handler has returned")
)

// reply is the ResponseWriter of a [Server]. As ever, it is the handler's
// goroutine's.
type reply struct {
	conn *serverConn
	req  *http.Request
	ctx  requestContext
	body serverBody

	header  http.Header        // nil until somebody asks for it
	fields  []http1.Field      // of a response that is not in header, unless somebody asks for it
	out     []byte             // to be sent: in outRoom, or larger
	outRoom *[replyRoom]byte   // of the pool
	held    []byte             // of the body, not yet in out
	heldIn  *[replyBuffer]byte // of the pool
	trailer []string           // the names that the head has announced

	status      int // 0 until WriteHeader
	length      int64
	written     int64
	headDone    bool // the head's end is in out, or has been sent
	chunked     bool
	keepAlive10 bool // the client speaks HTTP/1.0 and asks for it
	close       bool // no other request after this one
	done        bool // the handler has returned
	fullDuplex  bool
	hasBody     bool // of the request
	expects     bool // the client waits for a 100
	hijacked    bool
	head        headNotes
	err         error // of sending

	continueMu sync.Mutex // is held while a 100 is sent
	mayGoOn    atomic.Bool
}

// headNotes are what the fields of a response say that matters to its framing.
type headNotes struct {
	hasType, hasEncoding, hasDate bool
	hasTrailers                   bool
	noLength                      bool   // none is to be found out
	coding                        string // the Transfer-Encoding
	connection                    []string
}

// Header implements http.ResponseWriter.
func (w *reply) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	if fields := w.fields; fields != nil {
		w.fields = nil
		setFields(w.header, fields)
	}
	return w.header
}

func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// WriteHeader implements http.ResponseWriter.
func (w *reply) WriteHeader(status int) {
	switch s := w.conn.server; {
	case w.hijacked:
		s.hijackedUse.Do(func() { s.log().Warn("lb: WriteHeader on a hijacked connection", "caller", caller()) })
		return
	case w.status != 0:
		s.superfluous.Do(func() { s.log().Warn("lb: superfluous WriteHeader", "caller", caller()) })
		return
	case status < 100 || status > 999:
		panic(fmt.Sprintf("lb: WriteHeader(%d), want a status of three digits", status))
	}
	if status < 101 || status > 199 {
		w.stopContinue()
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		w.writeInterim(status)
		return
	}
	if fields := w.fields; fields != nil {
		w.fields = nil
		w.writeFields(status, fields)
		return
	}
	w.status = status
	w.beginHead()
}

// caller is the function that called the method which the program has called.
func caller() string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		frame, more := frames.Next()
		ours := strings.Contains(frame.Function, "/lb.(*reply)") || strings.HasPrefix(frame.Function, "sync.")
		if !ours || !more {
			return fmt.Sprintf("%s (%s:%d)", frame.Function, frame.File, frame.Line)
		}
	}
}

// Write implements http.ResponseWriter.
func (w *reply) Write(p []byte) (int, error) {
	if err := w.beforeBody(len(p)); err != nil || len(p) == 0 {
		return 0, err
	}
	if w.req.Method == http.MethodHead {
		if !w.headDone && !w.hold(p) { // as much as it takes to know the head
			w.release(p)
		}
		return len(p), nil
	}
	w.emit(p)
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// WriteString implements io.StringWriter.
func (w *reply) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// beforeBody is for n bytes of the body that come now.
func (w *reply) beforeBody(n int) error {
	if w.hijacked {
		return http.ErrHijacked
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if n == 0 {
		return nil
	}
	if !bodyAllowed(w.status) {
		return http.ErrBodyNotAllowed
	}
	if w.written += int64(n); w.length >= 0 && w.written > w.length {
		return http.ErrContentLength
	}
	return w.err
}

// hold keeps back a part of the body, and says whether there was room.
func (w *reply) hold(p []byte) bool {
	if len(w.held)+len(p) > replyBuffer {
		return false
	}
	if w.heldIn == nil {
		w.heldIn = replyBuffers.Get().(*[replyBuffer]byte)
		w.held = w.heldIn[:0]
	}
	w.held = append(w.held, p...)
	return true
}

// emit adds to the body.
func (w *reply) emit(p []byte) {
	if !w.headDone && w.length >= 0 {
		w.endHead(p)
	}
	if w.headDone && !w.chunked {
		w.send(p)
		return
	}
	if w.hold(p) {
		return
	}
	w.release(p)
}

// release sends what is held back, and p, as one chunk.
func (w *reply) release(p []byte) {
	if !w.headDone {
		first := w.held
		if len(first) == 0 {
			first = p
		}
		w.endHead(first)
	}
	n := len(w.held) + len(p)
	switch {
	case n == 0 || w.req.Method == http.MethodHead:
	case w.chunked:
		w.out = fmt.Appendf(w.out, "%x\r\n", n)
		w.send(w.held)
		w.send(p)
		w.out = append(w.out, "\r\n"...)
	default:
		w.send(w.held)
		w.send(p)
	}
	w.held = w.held[:0]
}

// send sends p after what is in out, now or later.
func (w *reply) send(p []byte) {
	if len(w.out)+len(p) <= replyRoom {
		w.out = append(w.out, p...)
		return
	}
	if w.err != nil {
		return
	}
	var err error
	if tcp, ok := w.conn.nc.(*net.TCPConn); ok && len(p) > replyBuffer {
		parts := net.Buffers{w.out, p}
		_, err = parts.WriteTo(tcp)
		p = nil
	} else if len(w.out)+len(p) <= replyJoin {
		w.out = append(w.out, p...)
		_, err = w.conn.nc.Write(w.out)
		p = nil
	} else if _, err = w.conn.nc.Write(w.out); err == nil {
		if len(p) > replyBuffer {
			_, err = w.conn.nc.Write(p)
			p = nil
		}
	}
	w.out = append(w.out[:0], p...)
	w.fail(err)
}

// push sends what is in out.
func (w *reply) push() {
	if w.err != nil || len(w.out) == 0 {
		return
	}
	_, err := w.conn.nc.Write(w.out)
	w.out = w.out[:0]
	w.fail(err)
}

func (w *reply) fail(err error) {
	if err != nil && w.err == nil {
		w.err = err
		w.out = w.out[:0]
		w.close = true
		w.ctx.cancel(errCanceled)
	}
}

// Flush implements http.Flusher.
func (w *reply) Flush() { w.FlushError() }

// FlushError is for http.ResponseController.
func (w *reply) FlushError() error {
	if w.hijacked {
		return http.ErrHijacked
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.release(nil)
	w.push()
	return w.err
}

// ReadFrom implements io.ReaderFrom. What has a known length and is not small
// goes from file or connection to connection, if the kernel can.
func (w *reply) ReadFrom(src io.Reader) (n int64, err error) {
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	tcp, ok := w.conn.nc.(*net.TCPConn)
	if !ok || w.isSmall() || w.req.Method == http.MethodHead {
		return io.CopyBuffer(writerOnly{w}, src, buf[:])
	}
	if !w.headDone {
		// The first bytes say what the type is, and that there are any at all.
		n, err = io.CopyBuffer(writerOnly{w}, io.LimitReader(src, 512), buf[:])
		if err != nil || n < 512 {
			return n, err
		}
	}
	if w.isSmall() || w.length < 0 && !w.headDone { // as the fields have shown
		m, err := io.CopyBuffer(writerOnly{w}, src, buf[:])
		return n + m, err
	}
	if err := w.FlushError(); err != nil {
		return n, err
	}
	if w.chunked || !bodyAllowed(w.status) {
		m, err := io.CopyBuffer(writerOnly{w}, src, buf[:])
		return n + m, err
	}
	if rest := w.length - w.written; w.length >= 0 {
		// Of a limit within a limit the net package knows nothing, and copies.
		if l, ok := src.(*io.LimitedReader); !ok || l.N > rest {
			src = io.LimitReader(src, rest)
		}
	}
	m, err := tcp.ReadFrom(src)
	w.written += m
	if err != nil {
		w.close = true
	}
	return n + m, err
}

// isSmall says whether the body is known to go out with its head.
func (w *reply) isSmall() bool { return w.status != 0 && w.length >= 0 && w.length <= replyRoom }

// writerOnly hides ReadFrom.
type writerOnly struct{ io.Writer }

// SetReadDeadline is for http.ResponseController.
func (w *reply) SetReadDeadline(t time.Time) error {
	w.conn.own.Store(true)
	return w.conn.nc.SetReadDeadline(t)
}

// SetWriteDeadline is for http.ResponseController.
func (w *reply) SetWriteDeadline(t time.Time) error {
	w.conn.writeDeadline = true
	return w.conn.nc.SetWriteDeadline(t)
}

// EnableFullDuplex is for http.ResponseController.
func (w *reply) EnableFullDuplex() error {
	w.fullDuplex = true
	return nil
}

// Hijack implements http.Hijacker.
func (w *reply) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.hijacked {
		return nil, nil, http.ErrHijacked
	}
	if w.done {
		return nil, nil, errors.New("lb: Hijack after the handler has returned")
	}
	c := w.conn
	w.stopContinue()
	if w.status != 0 {
		w.release(nil)
		w.push()
	}
	c.endWatch()
	if !c.setState(http.StateActive, http.StateHijacked) {
		return nil, nil, net.ErrClosed
	}
	w.hijacked, c.hijacked = true, true
	c.server.removeConn(c)
	c.nc.SetDeadline(time.Time{})
	var early []byte
	if c.watch.ahead {
		early = append(early, c.watch.first[0])
	}
	early = append(early, c.reader.Next()...)
	return c.nc, takenOver(c.nc, early), nil
}

// sayContinue tells a client that waits for it to send its body (RFC 9110,
// section 10.1.1).
func (w *reply) sayContinue() {
	if !w.mayGoOn.Load() {
		return
	}
	w.continueMu.Lock()
	defer w.continueMu.Unlock()
	if w.mayGoOn.Swap(false) {
		io.WriteString(w.conn.nc, "HTTP/1.1 100 Continue\r\n\r\n")
	}
}

// stopContinue waits for a 100 that is being sent; then there will be none.
func (w *reply) stopContinue() {
	if w.mayGoOn.Load() {
		w.continueMu.Lock()
		w.mayGoOn.Store(false)
		w.continueMu.Unlock()
	}
}
