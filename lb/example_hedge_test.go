package lb_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/palisade-go/palisade/lb"
)

// A backend that stalls does not hold the client up.
func ExampleHedge() {
	stalls := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer stalls.Close()
	web2 := web("web2")
	defer web2.Close()
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends: []lb.BackendConfig{{ID: "web1", URL: stalls.URL}, {ID: "web2", URL: web2.URL}},
		Strategy: lb.First{},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	proxy, err := lb.NewProxy(lb.ProxyConfig{
		Pool:   pool,
		Hedge:  &lb.Hedge{Delay: 20 * time.Millisecond},
		OnDone: func(e lb.Event) { fmt.Println("hedged:", e.Hedged, "attempts:", e.Attempts) },
	})
	if err != nil {
		log.Fatal(err)
	}
	w := httptest.NewRecorder()
	proxy.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(w.Code, w.Body)
	// Output:
	// hedged: true attempts: 2
	// 200 web2: /
}

// A new release gets copies of real requests, and nobody sees what it answers.
func ExampleMirror() {
	stable := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "stored %q", body)
	}))
	defer stable.Close()
	next := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		http.Error(w, fmt.Sprintf("cannot store %q", body), http.StatusInternalServerError)
	}))
	defer next.Close()
	pool, err := lb.NewPool(lb.PoolConfig{Backends: []lb.BackendConfig{{ID: "stable", URL: stable.URL}}})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	shadow, err := lb.NewPool(lb.PoolConfig{Backends: []lb.BackendConfig{{ID: "next", URL: next.URL}}})
	if err != nil {
		log.Fatal(err)
	}
	defer shadow.Close()
	copies := make(chan lb.Event, 1)
	proxy, err := lb.NewProxy(lb.ProxyConfig{
		Pool:   pool,
		Mirror: &lb.Mirror{Pool: shadow, OnDone: func(e lb.Event) { copies <- e }},
	})
	if err != nil {
		log.Fatal(err)
	}
	w := httptest.NewRecorder()
	proxy.ServeHTTP(w, httptest.NewRequest("POST", "/notes", strings.NewReader("milk")))
	fmt.Println("the client sees", w.Code, w.Body)
	e := <-copies
	fmt.Println(e.Backend, "answered", e.Status, "to", e.Request.Method, e.Request.URL.Path)
	// Output:
	// the client sees 200 stored "milk"
	// next answered 500 to POST /notes
}
