package main

import (
	"net/http"
	"strconv"
	"sync/atomic"
)

// The three middlewares do what common ones do at the least: they read fields of
// the request, set a field of the response, and wrap the ResponseWriter.

// requestID gives each request a number and tells the client.
func requestID(next http.Handler) http.Handler {
	var last atomic.Uint64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if id == "" {
			id = strconv.FormatUint(last.Add(1), 16)
		}
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(w, r)
	})
}

// accessCheck refuses who says that they must not come in.
func accessCheck(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Blocked") != "" || r.UserAgent() == "" {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// statusCount counts the responses by class.
func statusCount(next http.Handler) http.Handler {
	var classes [6]atomic.Uint64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(s, r)
		classes[min(s.status/100, 5)].Add(1)
	})
}

// statusWriter notes the status, and keeps what the writer below can do through
// Unwrap.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status < 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status < 200 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
