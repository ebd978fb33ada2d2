package lb_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/palisade-go/palisade/lb"
)

// A backend can write the request's id and trace into its own log, and the
// proxy's log has the same.
func ExampleTrace() {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("the backend sees", r.Header.Get("Traceparent"))
	}))
	defer app.Close()
	pool, err := lb.NewPool(lb.PoolConfig{Backends: []lb.BackendConfig{{ID: "app", URL: app.URL}}})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	proxy, err := lb.NewProxy(lb.ProxyConfig{
		Pool:      pool,
		RequestID: "X-Request-Id",
		Trace:     &lb.Trace{Sample: 0.01},
		OnDone: func(e lb.Event) {
			fmt.Println("the proxy logs", e.Traceparent)
			fmt.Println("and an id of", len(e.RequestID), "digits")
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	proxy.ServeHTTP(httptest.NewRecorder(), r)
	// Output:
	// the backend sees 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
	// the proxy logs 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
	// and an id of 32 digits
}
