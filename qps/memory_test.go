//go:build !race

package qps

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// The race detector makes pools forget at random and keeps memory of its own,
// so these run without it: see test.sh.

func TestRecordersDoNotAllocate(t *testing.T) {
	var c Counter
	var r Recorder
	if n := testing.AllocsPerRun(1000, func() { c.Inc(); r.Record(time.Second) }); n > 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// TestMiddlewareAllocatesOnce: the writer, which no later request may have.
func TestMiddlewareAllocatesOnce(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("hello")) })
	plain := http.Handler(mux)
	measured := newMeter(t, Config{}).Middleware(mux)
	r := httptest.NewRequest("GET", "/", nil)
	w := new(nullWriter)
	cost := func(h http.Handler) float64 { return testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) }) }
	if more := cost(measured) - cost(plain); more > 1 {
		t.Errorf("%v allocations per request, want one", more)
	}
}

// TestHostileRequestsTakeNoMemory sends 10^6 requests, each with a path, a
// method, a host, a user agent and an address of its own.
func TestHostileRequestsTakeNoMemory(t *testing.T) {
	const requests, allowed = 1_000_000, 1 << 20
	m := newMeter(t, Config{TopK: 10, MaxRoutes: 16})
	h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		SetRoute(w, r.Host)
	}))
	var w nullWriter
	r := httptest.NewRequest("GET", "/", nil)
	before := int64(heap())
	for i := range requests {
		r.Method, r.Host, r.URL.Path, r.RemoteAddr = fmt.Sprintf("M%d", i), fmt.Sprintf("host%d", i), fmt.Sprintf("/%d", i), fmt.Sprintf("%d:80", i)
		r.Header.Set("User-Agent", r.Host)
		h.ServeHTTP(&w, r)
	}
	grown := int64(heap()) - before
	s := m.Snapshot()
	if len(s.Routes) != 17 || s.Overflow != requests-16 {
		t.Errorf("%d routes, %d requests over, want 17 and %d", len(s.Routes), s.Overflow, requests-16)
	}
	if grown > allowed {
		t.Errorf("the heap has grown by %d bytes, want %d at most", grown, allowed)
	}
	if s.Top.Paths.Total != requests || len(s.Top.Paths.Keys) != 10 {
		t.Errorf("%+v", s.Top.Paths)
	}
}
