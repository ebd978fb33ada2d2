package lb

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// counted is a backend that counts its requests and connections.
type counted struct {
	*httptest.Server
	requests, connections atomic.Int64
}

func newCounted(t *testing.T) *counted {
	c := new(counted)
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.requests.Add(1)
		io.Copy(w, r.Body)
	}))
	c.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			c.connections.Add(1)
		}
	}
	c.Start()
	t.Cleanup(c.Close)
	return c
}

// TestUpdatesUnderLoad changes the pool 1,000 times a second while requests go
// through a Proxy. None fails, not even those that cannot be sent again, and the
// backends that are not changed keep their connections, an upgraded one, and
// their counts.
func TestUpdatesUnderLoad(t *testing.T) {
	const clients, updates = 8, 2000
	backends := []*counted{newCounted(t), newCounted(t), newCounted(t), newCounted(t)}
	configs := make([]BackendConfig, len(backends))
	for i, b := range backends {
		configs[i] = BackendConfig{ID: string(rune('a' + i)), URL: b.URL}
	}
	socket := BackendConfig{ID: "socket", URL: "http://" + echoes(t), Priority: 1}
	r := newRig(t, PoolConfig{
		Strategy: LeastRequest{}, SlowStart: 100 * time.Millisecond, Outlier: new(OutlierDetection), Backends: []BackendConfig{socket},
	}, ProxyConfig{Retries: -1}, nil)
	upgraded := dialRaw(t, r.addr)
	upgraded.send(webSocket)
	if head := upgraded.head(); !strings.HasPrefix(head, "HTTP/1.1 101") {
		t.Fatal(head)
	}
	if err := r.pool.Upsert(configs...); err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	var sent atomic.Int64
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	for range clients {
		wg.Go(func() {
			client := &http.Client{Transport: transport}
			for !done.Load() {
				res, err := client.Post(r.server.URL, "text/plain", strings.NewReader("what comes back"))
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(body) != "what comes back" {
					t.Errorf("status %d, body %q, error %v", res.StatusCode, body, err)
					return
				}
				sent.Add(1)
			}
		})
	}
	began := time.Now()
	for i := range updates {
		time.Sleep(time.Until(began.Add(time.Duration(i) * time.Millisecond)))
		configs[2].Weight = 1 + i%3
		var err error
		switch i % 8 {
		case 0:
			err = r.pool.Remove("d")
		case 1, 5:
			err = r.pool.Upsert(configs[2], configs[3])
		case 2:
			err = r.pool.Drain("c")
		case 3:
			err = r.pool.Resume("c")
		case 4:
			err = r.pool.Set(append([]BackendConfig{socket}, configs[:3]...))
		default:
			err = r.pool.Set(append(configs[:4:4], socket))
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	took := time.Since(began)
	done.Store(true)
	wg.Wait()
	t.Logf("%d requests during %d updates in %v", sent.Load(), updates, took)
	// A client has all of a response a moment before its backend is let go.
	waitUntil(t, func() bool {
		return !slices.ContainsFunc(r.pool.Status(), func(s BackendStatus) bool { return s.InFlight != 0 && s.ID != "socket" })
	})
	for _, s := range r.pool.Status() {
		if s.Failures != 0 {
			t.Errorf("%+v at the end", s)
		}
		if s.ID != "a" && s.ID != "b" {
			continue
		}
		b := backends[s.ID[0]-'a']
		if n := b.requests.Load(); int64(s.Requests) != n || n == 0 {
			t.Errorf("%s counts %d requests and has had %d", s.ID, s.Requests, n)
		}
		// A few more than one for each client: a connection is idle again when its
		// upload has ended, too, which may be after the response.
		if n := b.connections.Load(); n > 4*clients {
			t.Errorf("%s, which never changed, got %d connections for %d clients", s.ID, n, clients)
		}
	}
	upgraded.send("still there")
	if got := make([]byte, len("hello still there")); readFull(upgraded.r, got) != "hello still there" {
		t.Errorf("over the upgraded connection came %q", got)
	}
}

func readFull(r io.Reader, buf []byte) string {
	n, _ := io.ReadFull(r, buf)
	return string(buf[:n])
}
