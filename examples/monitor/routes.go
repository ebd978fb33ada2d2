package main

import (
	"bytes"
	"fmt"
	"net/http"
	"time"
)

// routes is the demo: something fast, slow, failing, streaming, and a file.
func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /fast", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "fast") })
	mux.HandleFunc("GET /slow", slow)
	mux.HandleFunc("GET /fail", fail)
	mux.HandleFunc("GET /stream", stream)
	mux.HandleFunc("GET /file", file(time.Now()))
	return mux
}

// slow takes 100 ms.
func slow(w http.ResponseWriter, r *http.Request) {
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-r.Context().Done():
	case <-timer.C:
		fmt.Fprintln(w, "slow")
	}
}

// fail answers 500, or panics if it is asked to with ?panic=1.
func fail(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("panic") != "" {
		panic("as asked for")
	}
	http.Error(w, "failed", http.StatusInternalServerError)
}

// stream sends an event every 100 ms until the client leaves.
func stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for n := 1; ; n++ {
		fmt.Fprintf(w, "data: %d\n\n", n)
		if flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}

// file serves a file of 256 KiB, with ranges and conditions.
func file(changed time.Time) http.HandlerFunc {
	content := bytes.Repeat([]byte("Palisade\n"), 256<<10/9)
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "file.txt", changed, bytes.NewReader(content))
	}
}
