package firewall

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSlowClients attacks a plain http.Server, which has no timeout of its own,
// over loopback in three ways at once, with 2,000 connections each: heads that do
// not end, bodies that drip, and answers that nobody reads. Meanwhile an honest
// client gets every answer, and in the end the slow connections are gone.
func TestSlowClients(t *testing.T) {
	const each = 2000
	f := newFirewall(t, Config{
		HeaderTimeout: 3 * time.Second, StallTimeout: 2 * time.Second,
		Policy: Policy{Default: Accept},
	})
	page := bytes.Repeat([]byte("x"), 8<<20)
	server := httptest.NewUnstartedServer(f.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/upload":
			_, _ = io.Copy(io.Discard, r.Body)
		case "/page":
			_, _ = w.Write(page) // fails, which is the point
		}
	})))
	server.Listener = f.Listener(server.Listener)
	server.Config.ErrorLog = quiet()
	server.Start()
	defer server.Close()
	addr := server.Listener.Addr().String()

	var served, failed atomic.Int64
	stop := make(chan struct{})
	var honest, slow sync.WaitGroup
	honest.Go(func() {
		client := server.Client()
		client.Timeout = 20 * time.Second
		for {
			select {
			case <-stop:
				return
			default:
			}
			res, err := client.Get(server.URL + "/")
			if err != nil || res.StatusCode != 200 {
				failed.Add(1)
				t.Errorf("the honest client got %v", err)
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			served.Add(1)
		}
	})
	var open atomic.Int64
	for i := range 3 * each {
		slow.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			defer c.Close()
			open.Add(1)
			switch i % 3 {
			case 0:
				fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\nX-A: ")
			case 1:
				fmt.Fprint(c, "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx")
			case 2:
				fmt.Fprint(c, "GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
				<-stop // and reads nothing
				return
			}
			// Until the server gives up on it; what comes is of no interest.
			_, _ = io.Copy(io.Discard, c)
		})
	}
	deadline := time.Now().Add(2 * time.Minute)
	everything := netip.MustParsePrefix("0.0.0.0/0")
	for open.Load() < 3*each || len(f.conns.within(everything)) > 10 {
		if time.Now().After(deadline) || t.Failed() {
			t.Errorf("%d connections were made, %d are left", open.Load(), len(f.conns.within(everything)))
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	close(stop)
	honest.Wait()
	slow.Wait()
	if failed.Load() > 0 || served.Load() < 100 {
		t.Errorf("the honest client had %d answers and %d failures", served.Load(), failed.Load())
	}
	t.Logf("%d slow connections; the honest client had %d answers and no failure", open.Load(), served.Load())
}
