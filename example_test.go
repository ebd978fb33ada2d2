package palisade_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"

	"golang.org/x/time/rate"

	"github.com/palisade-go/palisade/firewall"
	"github.com/palisade-go/palisade/lb"
	"github.com/palisade-go/palisade/qps"
)

// serve balances over backends, checks their health, limits each client and
// counts everything.
func serve(ln net.Listener, backends ...lb.BackendConfig) error {
	pool, err := lb.NewPool(lb.PoolConfig{Backends: backends, Health: &lb.HealthCheck{Path: "/healthz"}})
	if err != nil {
		return err
	}
	defer pool.Close()
	proxy, err := lb.NewProxy(lb.ProxyConfig{Pool: pool})
	if err != nil {
		return err
	}
	limit := firewall.Limit{ID: "per-client", Rate: rate.Limit(100), Burst: 200}
	fw, err := firewall.New(firewall.Config{Policy: firewall.Policy{Limits: []firewall.Limit{limit}, Default: firewall.Accept}})
	if err != nil {
		return err
	}
	meter, err := qps.New(qps.Config{Server: "edge"})
	if err != nil {
		return err
	}
	return http.Serve(fw.Listener(ln), meter.Middleware(fw.Handler(proxy)))
}

// The program of the README between two backends and a client.
func Example() {
	a := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "a") }))
	defer a.Close()
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "b") }))
	defer b.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan error)
	go func() { done <- serve(ln, lb.BackendConfig{URL: a.URL}, lb.BackendConfig{URL: b.URL}) }()

	var transport http.Transport
	client := http.Client{Transport: &transport}
	seen := make(map[string]bool)
	for range 10 {
		res, err := client.Get("http://" + ln.Addr().String())
		if err != nil {
			fmt.Println(err)
			break
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		seen[string(body)] = true
	}
	fmt.Println(seen)
	transport.CloseIdleConnections()
	ln.Close()
	<-done
	// Output: map[a:true b:true]
}
