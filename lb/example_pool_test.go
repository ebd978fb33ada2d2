package lb_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/palisade-go/palisade/lb"
)

// A pool that changes while it works.
func ExamplePool_Upsert() {
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends:  []lb.BackendConfig{{ID: "a", URL: "http://10.0.0.5:8080"}, {ID: "b", URL: "http://10.0.0.6:8080"}},
		SlowStart: 30 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	pool.Upsert(lb.BackendConfig{ID: "a", URL: "http://10.0.0.5:8080", Weight: 3}, lb.BackendConfig{ID: "c", URL: "http://10.0.0.7:8080"})
	pool.Remove("b")
	for _, s := range pool.Status() {
		fmt.Println(s.ID, s.Weight)
	}
	// Output:
	// a 3
	// c 1
}

// A circuit that opens, half-opens when its time is over, and closes with the
// first success.
func ExampleCircuit() {
	halfOpen := make(chan lb.Circuit)
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends: []lb.BackendConfig{{ID: "a", URL: "http://10.0.0.5:8080"}, {ID: "b", URL: "http://10.0.0.6:8080"}},
		Strategy: lb.First{},
		Outlier:  &lb.OutlierDetection{Consecutive: 1, EjectionTime: 10 * time.Millisecond},
		OnStateChange: func(c lb.StateChange) {
			if c.To == lb.Healthy {
				halfOpen <- c.Circuit
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	ask := func(status int) {
		picked, err := pool.Pick(lb.PickInfo{})
		if err != nil {
			log.Fatal(err)
		}
		picked.Done(lb.Outcome{Status: status, Duration: time.Millisecond})
	}
	ask(503)
	fmt.Println(<-halfOpen)
	ask(200)
	fmt.Println(pool.Status()[0].Circuit)
	// Output:
	// half-open
	// closed
}

// A server of gRPC that is asked for one of its services.
func ExampleHealthCheck_gRPC() {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.URL.Path)
		w.Header().Set("Grpc-Status", "12") // unimplemented
	}))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	defer srv.Close()
	news := make(chan lb.StateChange, 1)
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends:      []lb.BackendConfig{{ID: "a", URL: "h2c://" + srv.Listener.Addr().String()}},
		Health:        &lb.HealthCheck{Probe: lb.ProbeGRPC, Service: "shop.v1.Cart"},
		OnStateChange: func(c lb.StateChange) { news <- c },
		Logger:        slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	fmt.Println((<-news).To)
	// Output:
	// POST /grpc.health.v1.Health/Check
	// unhealthy
}

// A limit for each backend that finds itself. What is too much for all is refused
// by Pick, and waits in Acquire.
func ExampleAdaptiveLimit() {
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends:      []lb.BackendConfig{{ID: "a", URL: "http://10.0.0.5:8080"}},
		AdaptiveLimit: &lb.AdaptiveLimit{Start: 2, Min: 1},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	for range 3 {
		_, err := pool.Pick(lb.PickInfo{})
		fmt.Println(err)
	}
	s := pool.Status()[0]
	fmt.Println(s.InFlight, "of", s.Limit)
	// Output:
	// <nil>
	// <nil>
	// lb: all backends are busy
	// 2 of 2
}

// A spare server gets requests only as far as the others fail.
func ExampleBackendConfig_priority() {
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends: []lb.BackendConfig{{ID: "main", URL: "http://10.0.0.5:8080"}, {ID: "spare", URL: "http://10.1.0.5:8080", Priority: 1}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	ask := func() {
		picked, err := pool.Pick(lb.PickInfo{})
		if err != nil {
			log.Fatal(err)
		}
		defer picked.Done(lb.Outcome{})
		fmt.Println(picked.Backend())
	}
	ask()
	pool.Drain("main")
	ask()
	// Output:
	// main
	// spare
}

func ExampleOutlierDetection() {
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends:      []lb.BackendConfig{{ID: "a", URL: "http://10.0.0.5:8080"}, {ID: "b", URL: "http://10.0.0.6:8080"}},
		Strategy:      lb.First{},
		Outlier:       &lb.OutlierDetection{Consecutive: 3},
		OnStateChange: func(c lb.StateChange) { fmt.Printf("%s is %v: %v\n", c.Backend, c.To, c.Err) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	for range 3 {
		picked, err := pool.Pick(lb.PickInfo{})
		if err != nil {
			log.Fatal(err)
		}
		picked.Done(lb.Outcome{Result: lb.Succeeded, Status: 503})
	}
	picked, _ := pool.Pick(lb.PickInfo{})
	fmt.Println("then comes", picked.Backend())
	picked.Done(lb.Outcome{Result: lb.Succeeded, Status: 200})
	// Output:
	// a is ejected: 3 failures in a row, the last: status 503
	// then comes b
}

func ExamplePool_Acquire() {
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends:    []lb.BackendConfig{{ID: "a", URL: "http://10.0.0.5:8080"}},
		MaxInFlight: 1, MaxQueue: 10, QueueTimeout: time.Millisecond,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	first, err := pool.Acquire(context.Background(), lb.PickInfo{})
	if err != nil {
		log.Fatal(err)
	}
	_, err = pool.Acquire(context.Background(), lb.PickInfo{})
	fmt.Println(errors.Is(err, lb.ErrBusy))
	first.Done(lb.Outcome{})
	second, err := pool.Acquire(context.Background(), lb.PickInfo{})
	fmt.Println(second.Backend(), err)
	second.Done(lb.Outcome{})
	// Output:
	// true
	// a <nil>
}

func ExampleFile() {
	dir, err := os.MkdirTemp("", "lb")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "backends.json")
	if err := os.WriteFile(path, []byte(`[{"url": "http://10.0.0.5:8080", "weight": 2}]`), 0o600); err != nil {
		log.Fatal(err)
	}
	// As PoolConfig.Resolver it is asked by the pool.
	answer, err := lb.File{Path: path}.Resolve(context.Background())
	fmt.Println(answer.Backends[0].URL, answer.Backends[0].Weight, err)
	// Output:
	// http://10.0.0.5:8080 2 <nil>
}

func ExampleResolverFunc() {
	changed := make(chan bool, 1)
	find := func(ctx context.Context) (lb.Resolution, error) {
		defer func() { changed <- true }()
		return lb.Resolution{Backends: []lb.BackendConfig{{ID: "found", URL: "http://10.0.0.5:8080"}}, TTL: time.Minute}, nil
	}
	pool, err := lb.NewPool(lb.PoolConfig{Resolver: lb.ResolverFunc(find)})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	<-changed
	for len(pool.Status()) == 0 {
		time.Sleep(time.Millisecond)
	}
	fmt.Println(pool.Status()[0].ID)
	// Output:
	// found
}

// A client in this program is balanced as a proxy's clients are.
func ExamplePool_RoundTripper() {
	web1 := web("web1")
	defer web1.Close()
	pool, err := lb.NewPool(lb.PoolConfig{Backends: []lb.BackendConfig{{URL: web1.URL}}})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	client := http.Client{Transport: pool.RoundTripper()}
	res, err := client.Get("http://orders/v1/42")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	fmt.Println(string(body), err)
	// Output:
	// web1: /v1/42 <nil>
}

// The cookie of the first response brings the client back to its server.
func ExampleAffinity() {
	web1, web2 := web("web1"), web("web2")
	defer web1.Close()
	defer web2.Close()
	pool, err := lb.NewPool(lb.PoolConfig{
		Backends: []lb.BackendConfig{{URL: web1.URL}, {URL: web2.URL}}, Strategy: lb.RoundRobin{},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	secret := []byte("32 random bytes from a safe place") // the same on all balancers
	proxy, err := lb.NewProxy(lb.ProxyConfig{Pool: pool, Affinity: &lb.Affinity{Keys: [][]byte{secret}}})
	if err != nil {
		log.Fatal(err)
	}
	var cookies []*http.Cookie
	for range 3 {
		r, w := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
		for _, c := range cookies {
			r.AddCookie(c)
		}
		proxy.ServeHTTP(w, r)
		cookies = append(cookies, w.Result().Cookies()...)
		fmt.Println(w.Body.String(), len(cookies))
	}
	// Output:
	// web1: / 1
	// web1: / 1
	// web1: / 1
}

func ExampleEvent_AppendCombined() {
	e := lb.Event{
		Request: httptest.NewRequest("GET", "/a?b=c", nil), Status: 200, ResponseBytes: 42,
		Start: time.Date(2026, 11, 25, 7, 8, 9, 0, time.UTC),
	}
	fmt.Print(string(e.AppendCombined(nil)))
	// Output:
	// 192.0.2.1 - - [25/Nov/2026:07:08:09 +0000] "GET /a?b=c HTTP/1.1" 200 42 "-" "-"
}
