package dbrouter

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// CookieName is the name of the cookie that [Router.Middleware] sets.
const CookieName = "dbrouter-session"

// Middleware gives each request the [Session] of its browser: the token comes
// and goes in a cookie, so that a user reads his own writes on whatever web
// server his next request lands, without session affinity. The servers' routers
// need the same Config.TokenKeys.
//
// The statements must be made with the context of the request. A write after the
// head of the response has been sent can not be told to the browser any more.
// Of two requests of one browser that write at the same time, the cookie of the
// later response stays.
//
// A request without the cookie, or with one that is not ours, may come from who
// has written before and keeps no cookies: its first read is as strict as
// [Global], at the price of one question to the primary, and the others see no
// less.
//
// The cookie is set only if the request has written, or to replace one that is
// not ours or did not know of all writes. It is not for scripts
// (HttpOnly), not for other sites (SameSite=Lax), and only for HTTPS if the
// request came by it.
func (r *Router) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx, s := r.NewSession(req.Context())
		out := &tokenWriter{ResponseWriter: w, s: s, secure: req.TLS != nil}
		if c, err := req.Cookie(CookieName); err == nil {
			out.renew = s.resume(c.Value) != nil
			_, sure := s.known()
			out.unsure = !sure
		} else {
			s.strict = true
		}
		_, _, out.before = s.read()
		inner := req.WithContext(ctx)
		next.ServeHTTP(out, inner)
		req.Pattern = inner.Pattern // for those who count requests by it
		out.head()
	})
}

// tokenWriter sets the cookie before the head of the response is sent.
type tokenWriter struct {
	http.ResponseWriter
	s      *Session
	before uint64 // changes of the session before the handler
	renew  bool
	unsure bool // it did not know of all writes
	secure bool
	sent   bool
}

func (w *tokenWriter) head() {
	if w.sent {
		return
	}
	w.sent = true
	_, _, changes := w.s.read()
	_, sure := w.s.known()
	if changes == w.before && !w.renew && (!w.unsure || !sure) {
		return
	}
	http.SetCookie(w.ResponseWriter, &http.Cookie{Name: CookieName, Value: w.s.Token(), Path: "/",
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: w.secure})
}

func (w *tokenWriter) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols { // not those before the final one
		w.head()
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *tokenWriter) Write(b []byte) (int, error) {
	w.head()
	return w.ResponseWriter.Write(b)
}

// ReadFrom keeps the way for files of the writer below.
func (w *tokenWriter) ReadFrom(src io.Reader) (int64, error) {
	w.head()
	return io.Copy(w.ResponseWriter, src)
}

// Flush sends what there is, if the writer below can.
func (w *tokenWriter) Flush() {
	w.head()
	_ = http.NewResponseController(w.ResponseWriter).Flush() // http.Flusher has no error
}

// Hijack hands over the connection, if the writer below can.
func (w *tokenWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Unwrap returns the writer below, for http.ResponseController.
func (w *tokenWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
