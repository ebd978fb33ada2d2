package lb

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
	"github.com/palisade-go/palisade/lb/internal/http1"
)

// tlsBackend speaks HTTP/2 and HTTP/1.1 and demands a certificate.
func tlsBackend(t *testing.T, ca *testcert.CA, h http.Handler, names ...string) *httptest.Server {
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{Names: names})}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool()}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

func TestTLSBackends(t *testing.T) {
	ca := testcert.NewCA(t)
	shown := ca.Issue(testcert.Leaf{CommonName: "balancer"})
	backend := tlsBackend(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %s %s %s", r.Proto, r.TLS.PeerCertificates[0].Subject.CommonName, r.Header.Get("Te"), body)
		w.Header().Set("X-Sum", "1")
	}), "127.0.0.1", "web.test")
	for _, c := range []struct {
		name string
		conf *tls.Config
		want string
	}{
		{"HTTP/1.1 by default", &tls.Config{}, "HTTP/1.1 balancer trailers body"},
		{"HTTP/2 if offered", &tls.Config{NextProtos: []string{"h2", "http/1.1"}, ServerName: "web.test"}, "HTTP/2.0 balancer trailers body"},
	} {
		c.conf.RootCAs, c.conf.Certificates = ca.Pool(), []tls.Certificate{shown}
		r := newRig(t, PoolConfig{
			Backends: []BackendConfig{{ID: "tls", URL: backend.URL}, {ID: "spare", URL: backend.URL}},
			TLS:      c.conf, Health: &HealthCheck{Path: "/healthz", Interval: time.Hour},
		}, ProxyConfig{}, nil)
		r.waitFor("healthy healthy")
		client := dialRaw(t, r.addr)
		client.send("POST / HTTP/1.1\nHost: h\nTE: trailers\nExpect: 100-continue\nContent-Length: 4\n\n")
		if got, want := client.head(), "HTTP/1.1 100 Continue\n"; got != want {
			t.Errorf("%s: %q, want %q", c.name, got, want)
		}
		client.send("body")
		res, body := client.response("POST")
		if res.StatusCode != 200 || body != c.want || res.Trailer.Get("X-Sum") != "1" {
			t.Errorf("%s: %d %q, trailer %v, want %q", c.name, res.StatusCode, body, res.Trailer, c.want)
		}
	}
}

// A backend that does not prove who it is gets nothing.
func TestTLSBackendThatFailsToVerify(t *testing.T) {
	ca := testcert.NewCA(t)
	backend := tlsBackend(t, ca, new(seen), "other.test")
	r := newRig(t, PoolConfig{
		Backends: []BackendConfig{{ID: "a", URL: backend.URL}, {ID: "b", URL: backend.URL}},
		TLS:      &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{})}},
		Health:   &HealthCheck{Interval: time.Hour},
	}, ProxyConfig{}, nil)
	r.waitFor("unhealthy unhealthy")
	client := dialRaw(t, r.addr)
	client.send("POST / HTTP/1.1\nHost: h\nContent-Length: 4\n\nbody")
	if res, _ := client.response("POST"); res.StatusCode != 502 {
		t.Errorf("status %d", res.StatusCode)
	}
	if e := r.event(); e.Attempts != 2 || e.RequestBytes != 0 {
		t.Errorf("event %+v, want both tried and nothing of the body sent", e)
	}
}

// TestConnectionsAreKept: a backend that stays through Set keeps its connection,
// one that goes has it closed.
func TestConnectionsAreKept(t *testing.T) {
	var opened, closed [2]atomic.Int64
	var addrs [2]string
	for i := range 2 {
		srv := httptest.NewUnstartedServer(new(seen))
		srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				opened[i].Add(1)
			case http.StateClosed:
				closed[i].Add(1)
			}
		}
		srv.Start()
		t.Cleanup(srv.Close)
		addrs[i] = srv.Listener.Addr().String()
	}
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, addrs[0], addrs[1])
	client := dialRaw(t, r.addr)
	ask := func() {
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		if res, _ := client.response("GET"); res.StatusCode != 200 {
			t.Fatalf("status %d", res.StatusCode)
		}
		r.event()
	}
	for range 10 {
		ask()
	}
	if err := r.pool.Set([]BackendConfig{{ID: "b0", URL: "http://" + addrs[0], Weight: 3}}); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		ask()
	}
	for range 1000 {
		if closed[1].Load() == 1 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if opened[0].Load() != 1 || opened[1].Load() != 1 || closed[0].Load() != 0 || closed[1].Load() != 1 {
		t.Errorf("connections opened %d and %d, closed %d and %d; want one each, and only the removed one's closed",
			opened[0].Load(), opened[1].Load(), closed[0].Load(), closed[1].Load())
	}
}

// The environment must not lead requests astray. net/http reads it once for a
// process, so that a test cannot set it.
func TestProxyFromTheEnvironmentIsIgnored(t *testing.T) {
	p := poolOf(t, PoolConfig{
		Backends: []BackendConfig{{URL: "https://h2.test"}, {ID: "plain", URL: "http://h1.test"}},
		TLS:      &tls.Config{NextProtos: []string{"h2"}}, Health: &HealthCheck{Interval: time.Hour},
	}, 0)
	if p.backends[0].transport.(*h2Client).transport.Proxy != nil || p.checks.Proxy != nil {
		t.Error("a transport asks for a proxy")
	}
	// This one knows of no proxies.
	if _, ok := p.backends[1].transport.(*http1.Client); !ok {
		t.Errorf("the transport of an http backend is a %T", p.backends[1].transport)
	}
}

// TestSmugglingBackend: a response whose end is not certain is refused, and
// nothing that follows it on its connection answers the next request.
func TestSmugglingBackend(t *testing.T) {
	const hidden = "HTTP/1.1 200 OK\nContent-Length: 4\n\nevil"
	for _, answer := range []string{
		"HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked\n\n0\n\n",
		"HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding : chunked\n\nok",
		"HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 2\n\nok",
		"HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3\n\nok",
		"HTTP/1.1 200 OK\nContent-Length: +2\n\nok",
		"HTTP/1.1 200 OK\nTransfer-Encoding: chunked, identity\n\n0\n\n",
		"HTTP/1.1 200 OK\nX: a\n Content-Length: 2\n\n",
		"HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n0\n\n",
	} {
		r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, rawBackend(t, func(c *conn) {
			for {
				if _, ok := c.reqHead(); !ok {
					return
				}
				c.send(answer + hidden)
			}
		}))
		for range 2 {
			client := dialRaw(t, r.addr)
			client.send("GET / HTTP/1.1\nHost: h\n\n")
			if res, body := client.response("GET"); res.StatusCode != 502 || strings.Contains(body, "evil") {
				t.Errorf("%q: %d %q, want 502", answer, res.StatusCode, body)
			}
			if e := r.event(); e.Attempts != 1 {
				t.Errorf("%q: %d attempts after a part of a response", answer, e.Attempts)
			}
		}
		if s := r.pool.Status()[0]; s.Failures != 2 || s.InFlight != 0 {
			t.Errorf("%q: status %+v", answer, s)
		}
	}
	// What comes after a whole response is nobody's.
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, rawBackend(t, func(c *conn) {
		if _, ok := c.reqHead(); ok {
			c.send("HTTP/1.1 200 OK\nContent-Length: 2\n\nok" + hidden)
			c.reqHead()
		}
	}))
	for range 3 {
		client := dialRaw(t, r.addr)
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		if res, body := client.response("GET"); res.StatusCode != 200 || body != "ok" {
			t.Errorf("%d %q", res.StatusCode, body)
		}
	}
}

// A request that the transport refuses as such is no backend's fault.
func TestImpossibleRequest(t *testing.T) {
	r := newRig(t, PoolConfig{Health: &HealthCheck{Interval: time.Hour}}, ProxyConfig{Rewrite: func(pr *httputil.ProxyRequest) {
		pr.Out.Header["Bad Name"] = []string{"x"}
	}}, nil, new(seen), new(seen))
	r.waitFor("healthy healthy")
	client := dialRaw(t, r.addr)
	client.send("GET / HTTP/1.1\nHost: h\n\n")
	if res, _ := client.response("GET"); res.StatusCode != 502 {
		t.Errorf("status %d", res.StatusCode)
	}
	if e := r.event(); e.Attempts != 1 || states(r.pool) != "healthy healthy" || r.pool.Status()[0].Failures != 0 {
		t.Errorf("event %+v, status %+v", e, r.pool.Status())
	}
}
