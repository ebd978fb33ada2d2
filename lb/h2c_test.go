package lb

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestH2CBackend: requests, their trailers and checks go by HTTP/2 without TLS.
func TestH2CBackend(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s te=%s upgrade=%s %s", r.Proto, r.Host, r.Header.Get("Te"), r.Header.Get("Upgrade"), body)
		w.Header().Set("Grpc-Status", "0")
	}))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	defer srv.Close()
	addr := "h2c://" + srv.Listener.Addr().String()
	if s := checkedOnce(t, PoolConfig{Health: new(HealthCheck)}, addr); s.State != Healthy || s.URL != addr {
		t.Errorf("checked: %+v", s)
	}
	if s := checkedOnce(t, PoolConfig{Health: &HealthCheck{Probe: ProbeTCP}}, addr); s.State != Healthy {
		t.Errorf("checked by TCP: %+v", s)
	}
	r := newRig(t, PoolConfig{Backends: []BackendConfig{{ID: "h2c", URL: addr}}}, ProxyConfig{}, nil)
	client := dialRaw(t, r.addr)
	for _, c := range []struct{ request, want string }{
		{"POST / HTTP/1.1\nHost: h.test\nTE: trailers\nContent-Length: 4\n\nbody", "HTTP/2.0 h.test te=trailers upgrade= body"},
		{"GET / HTTP/1.1\nHost: h.test\nConnection: Upgrade\nUpgrade: websocket\n\n", "HTTP/2.0 h.test te= upgrade= "},
	} {
		client.send(c.request)
		res, body := client.response("POST")
		if res.StatusCode != 200 || body != c.want || res.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("status %d, %q, trailer %v, want %q", res.StatusCode, body, res.Trailer, c.want)
		}
	}
	p := poolOf(t, PoolConfig{Backends: []BackendConfig{{URL: addr}}}, 0)
	res, err := (&http.Client{Transport: p.RoundTripper()}).Get("http://h.test/")
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "HTTP/2.0 h.test te= upgrade= " {
		t.Errorf("the client got %q, %v", body, err)
	}
	res.Body.Close()
}
