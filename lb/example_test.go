package lb_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"

	"github.com/palisade-go/palisade/lb"
)

// web is a server that says its name.
func web(name string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s: %s", name, r.URL.Path)
	}))
}

func fetch(url string) string {
	res, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	body, _ := io.ReadAll(res.Body)
	return fmt.Sprint(res.StatusCode, " ", string(body))
}

func Example() {
	web1, web2 := web("web1"), web("web2")
	defer web1.Close()
	defer web2.Close()

	pool, err := lb.NewPool(lb.PoolConfig{
		Backends: []lb.BackendConfig{{ID: "web1", URL: web1.URL}, {ID: "web2", URL: web2.URL}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	proxy, err := lb.NewProxy(lb.ProxyConfig{Pool: pool})
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()

	for range 3 {
		fmt.Println(fetch(front.URL + "/hello"))
	}
	// Output:
	// 200 web1: /hello
	// 200 web2: /hello
	// 200 web1: /hello
}

// Hooks change what passes, and record it.
func ExampleProxy() {
	web1 := web("web1")
	defer web1.Close()
	pool, err := lb.NewPool(lb.PoolConfig{Backends: []lb.BackendConfig{{ID: "web1", URL: web1.URL}}})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	events := make(chan lb.Event, 1)
	proxy, err := lb.NewProxy(lb.ProxyConfig{
		Pool:           pool,
		Rewrite:        func(pr *httputil.ProxyRequest) { pr.Out.URL.Path = "/v2" + pr.In.URL.Path },
		ModifyResponse: func(res *http.Response) error { res.Header.Del("Server"); return nil },
		OnDone:         func(e lb.Event) { events <- e },
	})
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()

	fmt.Println(fetch(front.URL + "/notes"))
	e := <-events
	fmt.Println(e.Request.URL.Path, e.Status, "from", e.Backend, "in", e.Attempts, "attempt")
	// Output:
	// 200 web1: /v2/notes
	// /notes 200 from web1 in 1 attempt
}

// A backend that cannot be reached is passed over: the client does not notice.
func ExampleProxyConfig_retries() {
	web1, web2 := web("web1"), web("web2")
	defer web2.Close()
	web1.Close()
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends: []lb.BackendConfig{{ID: "web1", URL: web1.URL}, {ID: "web2", URL: web2.URL}},
		Strategy: lb.RoundRobin{},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	proxy, err := lb.NewProxy(lb.ProxyConfig{Pool: pool, OnDone: func(e lb.Event) {
		fmt.Println("attempts:", e.Attempts)
	}})
	if err != nil {
		log.Fatal(err)
	}
	w := httptest.NewRecorder()
	proxy.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(w.Code, w.Body)
	// Output:
	// attempts: 2
	// 200 web2: /
}

// An error handler writes the page; the error says which status is due.
func ExampleError() {
	pool, err := lb.NewPool(lb.PoolConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	proxy, err := lb.NewProxy(lb.ProxyConfig{Pool: pool, ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
		status := http.StatusBadGateway
		if e, ok := errors.AsType[*lb.Error](err); ok {
			status = e.Status
		}
		http.Error(w, "We are not at home.", status)
		fmt.Println("for the log:", err)
	}})
	if err != nil {
		log.Fatal(err)
	}
	w := httptest.NewRecorder()
	proxy.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Print(w.Code, " ", w.Body)
	// Output:
	// for the log: lb: 503: lb: no backend
	// 503 We are not at home.
}

// A server leaves the pool without losing a request: it is drained first.
func ExamplePool() {
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends:      []lb.BackendConfig{{ID: "web1", URL: "http://10.0.0.5:8080"}, {ID: "web2", URL: "http://10.0.0.6:8080", Weight: 2}},
		OnStateChange: func(c lb.StateChange) { fmt.Println(c.Backend, "is", c.To) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	if err := pool.Drain("web1"); err != nil {
		log.Fatal(err)
	}
	for _, s := range pool.Status() {
		fmt.Println(s.ID, s.State, s.InFlight)
	}
	if err := pool.Set([]lb.BackendConfig{{ID: "web2", URL: "http://10.0.0.6:8080"}}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(pool.Status()), "left")
	// Output:
	// web1 is draining
	// web1 draining 0
	// web2 healthy 0
	// 1 left
}

// Whoever sends something else than HTTP picks for himself.
func ExamplePool_Pick() {
	pool, err := lb.NewPool(lb.PoolConfig{Backends: []lb.BackendConfig{{ID: "web1", URL: "http://10.0.0.5:8080"}}})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	picked, err := pool.Pick(lb.PickInfo{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("to", picked.Backend().URL().Host, "with", picked.Backend().InFlight(), "in flight")
	picked.Done(lb.Outcome{Result: lb.Succeeded})
	fmt.Println(picked.Backend().InFlight())
	// Output:
	// to 10.0.0.5:8080 with 1 in flight
	// 0
}

func ExampleWeightedRoundRobin() {
	pool, err := lb.NewPool(lb.PoolConfig{
		Strategy: lb.WeightedRoundRobin{},
		Backends: []lb.BackendConfig{{ID: "a", URL: "http://a", Weight: 5}, {ID: "b", URL: "http://b"}, {ID: "c", URL: "http://c"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	for range 7 {
		picked, err := pool.Pick(lb.PickInfo{})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(picked.Backend(), " ")
		picked.Done(lb.Outcome{})
	}
	// Output: a a b a c a a
}

// first is a strategy of one's own: the first backend that is left, so that the
// others are spares.
type first []*lb.Backend

func (first) Build(backends []*lb.Backend) lb.Picker { return first(backends) }

func (f first) Pick(info lb.PickInfo) *lb.Backend {
	for _, b := range f {
		if !info.HasTried(b) {
			return b
		}
	}
	return nil
}

func ExampleStrategy() {
	pool, err := lb.NewPool(lb.PoolConfig{
		Strategy: first(nil),
		Backends: []lb.BackendConfig{{ID: "main", URL: "http://main"}, {ID: "spare", URL: "http://spare"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	picked, _ := pool.Pick(lb.PickInfo{})
	defer picked.Done(lb.Outcome{})
	again, _ := pool.Pick(lb.PickInfo{Tried: []*lb.Backend{picked.Backend()}})
	defer again.Done(lb.Outcome{})
	fmt.Println(picked.Backend(), again.Backend())
	// Output: main spare
}

func ExampleState() {
	text, err := json.Marshal(map[string]lb.State{"web1": lb.Draining})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
	// Output: {"web1":"draining"}
}

func ExampleHealthCheck() {
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer sick.Close()
	news := make(chan lb.StateChange, 1)
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends:      []lb.BackendConfig{{ID: "web1", URL: sick.URL}},
		Health:        &lb.HealthCheck{Path: "/healthz"},
		OnStateChange: func(c lb.StateChange) { news <- c },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	c := <-news
	fmt.Println(c.Backend, c.From, c.To, c.Err)
	// Output: web1 unknown unhealthy health check: status 500
}
