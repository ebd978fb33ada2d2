package lb

import (
	"bytes"
	"errors"
	"net/http"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// serveRequest reads a request and answers it. It says whether there may be
// another one on the connection.
func (c *serverConn) serveRequest() (again bool) {
	s, now := c.server, time.Now()
	c.due = after(now, s.headerTimeout())
	if d := s.ReadTimeout; d > 0 && (c.due.IsZero() || now.Add(d).Before(c.due)) {
		c.due = now.Add(d)
	}
	w := &reply{conn: c}
	w.ctx.Context, w.ctx.conn, w.ctx.began = c.ctx, c, now
	w.req = new(http.Request).WithContext(&w.ctx)
	err := c.reader.ReadRequest(w.req, &w.body.src, s.headBytes())
	if !c.endHead() {
		return false
	}
	if errors.Is(err, http1.ErrTooLarge) || err == nil && w.req.Method == http.MethodConnect {
		c.handed = &handedRequest{bytes: bytes.Clone(c.reader.Replay()), req: w.req, err: err, start: now}
		return false
	}
	if err != nil {
		c.refuse(err, w.req, now)
		return false
	}
	c.due = after(now, s.ReadTimeout)
	if s.WriteTimeout > 0 {
		c.nc.SetWriteDeadline(now.Add(s.WriteTimeout))
	}
	if !w.prepare() {
		c.refuseStatus(http.StatusExpectationFailed, errExpectation, w.req, now)
		return false
	}
	if !w.run() {
		return false
	}
	again = w.finish()
	if s.WriteTimeout > 0 || c.writeDeadline {
		c.writeDeadline = false
		c.nc.SetWriteDeadline(time.Time{})
	}
	if c.own.Swap(false) {
		c.lost = true
	}
	return again
}

// prepare makes the request what the handler gets. It says whether the server can
// do what the client expects.
func (w *reply) prepare() bool {
	c, req := w.conn, w.req
	req.RemoteAddr, req.TLS = c.remote, c.tls
	w.close = req.Close
	if req.ProtoMinor == 0 && httpguts.HeaderValuesContainsToken(req.Header["Connection"], "keep-alive") {
		w.keepAlive10 = !httpguts.HeaderValuesContainsToken(req.Header["Connection"], "close")
		w.close, req.Close = !w.keepAlive10, !w.keepAlive10
	}
	w.hasBody = req.Body != http.NoBody
	if expect, ok := req.Header["Expect"]; ok && expect[0] != "" {
		if !httpguts.HeaderValuesContainsToken(expect, "100-continue") {
			return false
		}
		w.expects = w.hasBody && req.ProtoMinor > 0
		w.mayGoOn.Store(w.expects)
	}
	if w.hasBody {
		w.body.conn, w.body.w = c, w
		req.Body = &w.body
	}
	c.beginWatch(&w.ctx, !w.hasBody)
	return true
}

// run calls the handler. It says whether the response can be finished.
func (w *reply) run() (ok bool) {
	defer func() {
		w.ctx.cancel(errCanceled)
		if ok {
			return
		}
		if v := recover(); v != nil {
			w.conn.server.logPanic(w.conn.remote, v)
		}
		if !w.hijacked {
			w.conn.endWatch()
			w.body.abandon()
		}
		w.giveBack()
	}()
	w.conn.server.handler().ServeHTTP(w, w.req)
	return !w.hijacked
}

// finish sends what is left of the response. It says whether there may be
// another request.
func (w *reply) finish() (again bool) {
	c := w.conn
	c.endWatch()
	defer w.giveBack()
	w.done = true
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.release(nil)
	if w.chunked {
		w.out = http1.AppendSafeEnd(w.out, w.finalTrailer())
	}
	if w.req.MultipartForm != nil {
		w.req.MultipartForm.RemoveAll()
	}
	short := w.length >= 0 && w.written != w.length && w.req.Method != http.MethodHead && bodyAllowed(w.status)
	if !w.hasBody && w.err == nil && !w.close && !short && len(w.out) > 0 && c.turns() {
		c.out, c.outRoom, w.out, w.outRoom = w.out, w.outRoom, nil, nil
		return true
	}
	w.push()
	again = w.err == nil && !w.close && !short
	if w.hasBody {
		read := again && w.body.drain()
		w.body.abandon()
		if !read {
			again = false
			if w.err == nil {
				c.linger()
			}
		}
	}
	return again
}

// finalTrailer are the trailer fields that the head has announced, and those
// with http.TrailerPrefix.
func (w *reply) finalTrailer() http.Header {
	var t http.Header
	add := func(name string, values []string) {
		if t == nil {
			t = make(http.Header)
		}
		t[name] = append(t[name], values...)
	}
	for name, values := range w.header {
		if plain, ok := cutTrailerPrefix(name); ok {
			add(plain, values)
		}
	}
	for _, name := range w.trailer {
		if values := w.header[name]; len(values) > 0 {
			add(name, values)
		}
	}
	return t
}

func cutTrailerPrefix(name string) (string, bool) {
	const prefix = http.TrailerPrefix
	if len(name) > len(prefix) && name[:len(prefix)] == prefix {
		return name[len(prefix):], true
	}
	return "", false
}

// giveBack returns the buffers to their pools.
func (w *reply) giveBack() {
	w.err = errHandlerOver
	if w.outRoom != nil {
		replyRooms.Put(w.outRoom)
		w.outRoom, w.out = nil, nil
	}
	if w.heldIn != nil {
		replyBuffers.Put(w.heldIn)
		w.heldIn, w.held = nil, nil
	}
}
