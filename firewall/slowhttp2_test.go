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

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestSlowReadersOverHTTP2 attacks a server with answers that nobody reads, over
// HTTP/2, in the two ways that there are. A client that opens the flow control and
// leaves the bytes in its socket is reset by Listener. One that keeps the flow
// control shut holds its streams until http.Server.WriteTimeout, as the package
// comment says. In the end no handler is left, and an honest client got every
// answer meanwhile.
func TestSlowReadersOverHTTP2(t *testing.T) {
	for _, c := range []struct {
		name         string
		open         bool
		writeTimeout time.Duration
	}{{"full sockets", true, 0}, {"shut flow control", false, 2 * time.Second}} {
		t.Run(c.name, func(t *testing.T) { slowHTTP2(t, c.open, c.writeTimeout) })
	}
}

func slowHTTP2(t *testing.T, open bool, writeTimeout time.Duration) {
	const clients, streams = 100, 5
	f := newFirewall(t, Config{StallTimeout: time.Second, Policy: Policy{Default: Accept}})
	page := bytes.Repeat([]byte("x"), 8<<20)
	var serving, begun, ended atomic.Int64
	server := httptest.NewUnstartedServer(f.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/page" {
			return
		}
		serving.Add(1)
		begun.Add(1)
		defer serving.Add(-1)
		if _, err := w.Write(page); err != nil {
			ended.Add(1)
		}
	})))
	server.Listener = f.Listener(server.Listener)
	server.Config.ErrorLog = quiet()
	server.Config.WriteTimeout = writeTimeout
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()

	stop := make(chan struct{})
	var served atomic.Int64
	var all sync.WaitGroup
	all.Go(func() { honestHTTP2(t, server.URL, stop, &served) })
	for i := range clients {
		all.Go(func() {
			c, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if err := askPages(c, streams, open); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
			if !open { // read what comes, so that it is not the socket that is full
				all.Go(func() { _, _ = io.Copy(io.Discard, c) })
			}
			<-stop
		})
	}
	left := func() int { return len(f.conns.within(netip.MustParsePrefix("0.0.0.0/0"))) }
	deadline := time.Now().Add(2 * time.Minute)
	for begun.Load() < clients*streams || serving.Load() > 0 || open && left() > 10 {
		if time.Now().After(deadline) || t.Failed() {
			t.Errorf("%d answers were begun and %d are being given; %d connections are left", begun.Load(), serving.Load(), left())
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	close(stop)
	all.Wait()
	if ended.Load() != begun.Load() || served.Load() < 20 {
		t.Errorf("%d of %d answers ended with an error; the honest client had %d", ended.Load(), begun.Load(), served.Load())
	}
	t.Logf("%d answers that nobody read; the honest client had %d and no failure", begun.Load(), served.Load())
}

// honestHTTP2 asks, on one connection, for one answer after the other.
func honestHTTP2(t *testing.T, url string, stop <-chan struct{}, served *atomic.Int64) {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	for {
		select {
		case <-stop:
			return
		default:
		}
		res, err := client.Get(url + "/")
		if err != nil || res.StatusCode != http.StatusOK || res.ProtoMajor != 2 {
			t.Errorf("the honest client got %v, %v", res, err)
			return
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		served.Add(1)
	}
}

// askPages asks for a page on each of so many streams, and lets the server send all
// of them if open is set, or nothing.
func askPages(c net.Conn, streams int, open bool) error {
	const most = 1<<31 - 1
	out := http2.NewFramer(c, nil)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return err
	}
	window := http2.Setting{ID: http2.SettingInitialWindowSize}
	if open {
		window.Val = most
	}
	if err := out.WriteSettings(window); err != nil {
		return err
	}
	if open {
		if err := out.WriteWindowUpdate(0, most-1<<16); err != nil {
			return err
		}
	}
	for i := range streams {
		var head bytes.Buffer
		fields := hpack.NewEncoder(&head)
		for _, field := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "example.com"}, {":path", "/page"}, {"n", fmt.Sprint(i)}} {
			if err := fields.WriteField(hpack.HeaderField{Name: field[0], Value: field[1], Sensitive: true}); err != nil {
				return err
			}
		}
		if err := out.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
			return err
		}
	}
	return nil
}
