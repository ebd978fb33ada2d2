package lb

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// discard is a client that looks at the status and the length of the body.
type discard struct {
	header http.Header
	status int
	bytes  int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(status int)      { d.status = status }
func (d *discard) Write(p []byte) (int, error) { d.bytes += len(p); return len(p), nil }

// TestKeepAliveRace: backends close a tenth of their connections at a random
// moment after an answer, which is often the moment of the next request. None of
// 100,000 requests fails.
func TestKeepAliveRace(t *testing.T) {
	const requests, workers = 100_000, 8
	var closed atomic.Int64
	var pc PoolConfig
	for i := range 4 {
		addr := rawBackend(t, func(c *conn) {
			for {
				if _, ok := c.reqHead(); !ok {
					return
				}
				if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
					return
				}
				c.SetDeadline(time.Now().Add(20 * time.Second))
				if rand.N(10) == 0 {
					if pause := rand.N(300); pause > 100 {
						time.Sleep(time.Duration(pause) * time.Microsecond)
					}
					closed.Add(1)
					return
				}
			}
		})
		pc.Backends = append(pc.Backends, BackendConfig{ID: fmt.Sprint("b", i), URL: "http://" + addr})
	}
	pool := poolOf(t, pc, 0)
	proxy, err := NewProxy(ProxyConfig{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	var failed atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			r := httptest.NewRequest("GET", "/", nil)
			for range requests / workers {
				w := &discard{header: make(http.Header)}
				proxy.ServeHTTP(w, r)
				if w.status != 200 || w.bytes != 2 {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	failures := uint64(0)
	for _, s := range pool.Status() {
		failures += s.Failures
	}
	t.Logf("%d connections were closed, %d attempts failed", closed.Load(), failures)
	if failed.Load() > 0 || closed.Load() < requests/100 {
		t.Errorf("%d of %d requests failed; %d connections were closed", failed.Load(), requests, closed.Load())
	}
}

// TestWebSocketThroughUpdates: a connection that was upgraded lives through 1,000
// changes of the pool in a second, as long as its backend stays.
func TestWebSocketThroughUpdates(t *testing.T) {
	r := newRig(t, PoolConfig{Strategy: First{}}, ProxyConfig{}, nil, echoes(t))
	client := dialRaw(t, r.addr)
	client.send(webSocket)
	client.head()
	read := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(client.r, got); err != nil || string(got) != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	read("hello ")
	first := BackendConfig{ID: "b0", URL: r.pool.Status()[0].URL}
	other := BackendConfig{ID: "other", URL: "http://" + deadAddr(t)}
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for i := range 1000 {
		<-ticker.C
		var err error
		switch i % 5 {
		case 0:
			err = r.pool.Upsert(other)
		case 1:
			first.Weight = 1 + i%7
			err = r.pool.Set([]BackendConfig{other, first})
		case 2:
			err = r.pool.Drain("b0")
		case 3:
			err = r.pool.Resume("b0")
		case 4:
			err = r.pool.Remove("other")
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			client.send(fmt.Sprint("ping ", i))
			read(fmt.Sprint("ping ", i))
		}
	}
	status := r.pool.Status()
	if i := slices.IndexFunc(status, func(s BackendStatus) bool { return s.ID == "b0" }); i < 0 || status[i].InFlight != 1 || status[i].Requests != 1 {
		t.Errorf("status %+v", status)
	}
	// Even the end of its backend is not the end of it.
	if err := r.pool.Remove("b0"); err != nil {
		t.Fatal(err)
	}
	client.send("still here")
	read("still here")
	client.Conn.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(client.r); err != nil || string(rest) != " goodbye" {
		t.Errorf("at the end: %q, %v", rest, err)
	}
	r.event()
}
