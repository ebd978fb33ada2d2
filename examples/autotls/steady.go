package main

import (
	"net/http"
	"time"
)

// steady gives each write of an answer the time of [stall], rather than all of
// them together: a long download may take its time, but whoever takes nothing any
// more does not keep the file open, neither with a connection nor with the streams
// of one.
func steady(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&steadyWriter{ResponseWriter: w, control: http.NewResponseController(w)}, r)
	})
}

// steadyWriter puts off the end of the time to write. It belongs to one handler,
// and is not safe for concurrent use.
type steadyWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	putOff  time.Time // when it was last
}

// Write implements io.Writer.
func (w *steadyWriter) Write(p []byte) (int, error) {
	if now := time.Now(); now.Sub(w.putOff) > time.Second {
		if err := w.control.SetWriteDeadline(now.Add(stall)); err != nil {
			return 0, err
		}
		w.putOff = now
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *steadyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
