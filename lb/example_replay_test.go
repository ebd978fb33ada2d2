package lb_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/palisade-go/palisade/lb"
)

// A backend that is overloaded says so, and another takes the request, with its
// body.
func ExampleProxyConfig_retryStatus() {
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer busy.Close()
	idle := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "stored %q", body)
	}))
	defer idle.Close()
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends: []lb.BackendConfig{{ID: "busy", URL: busy.URL}, {ID: "idle", URL: idle.URL}},
		Strategy: lb.First{},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	proxy, err := lb.NewProxy(lb.ProxyConfig{
		Pool:           pool,
		RetryStatus:    []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout},
		RetryBody:      64 << 10,
		MaxRequestBody: 10 << 20,
		OnDone:         func(e lb.Event) { fmt.Println(e.Backend, "after", e.Attempts, "attempts") },
	})
	if err != nil {
		log.Fatal(err)
	}
	w := httptest.NewRecorder()
	proxy.ServeHTTP(w, httptest.NewRequest("PUT", "/notes/1", strings.NewReader("buy milk")))
	fmt.Println(w.Code, w.Body)
	// Output:
	// idle after 2 attempts
	// 200 stored "buy milk"
}
