package lb

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/palisade-go/palisade/internal/memnet"
)

// direct is a proxy in a synctest bubble, called without a server, before
// backends b0, b1 and so on of the in-memory network.
type direct struct {
	network
	pool  *Pool
	proxy *Proxy
	last  Event
}

// newDirect must be called in the bubble. A backend is an http.Handler, a
// func(net.Conn) that gets each connection with a request's head read, or nil,
// which refuses connections.
func newDirect(t *testing.T, pc PoolConfig, conf ProxyConfig, backends ...any) *direct {
	t.Helper()
	d := &direct{network: make(network)}
	for i, b := range backends {
		addr := "192.0.2." + strconv.Itoa(i+1) + ":80"
		pc.Backends = append(pc.Backends, BackendConfig{ID: "b" + strconv.Itoa(i), URL: "http://" + addr})
		switch b := b.(type) {
		case http.Handler:
			d.serve(t, addr, b)
		case func(net.Conn):
			d.serveRaw(t, addr, b)
		}
	}
	pc.Dial = d.dial
	if pc.Strategy == nil {
		pc.Strategy = First{}
	}
	d.pool = poolOf(t, pc, 0)
	conf.Pool, conf.OnDone, conf.Logger = d.pool, func(e Event) { d.last = e }, slog.New(slog.DiscardHandler)
	proxy, err := NewProxy(conf)
	if err != nil {
		t.Fatal(err)
	}
	d.proxy = proxy
	return d
}

func (n network) serveRaw(t *testing.T, addr string, f func(net.Conn)) {
	ln := memnet.Listen(addr)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					f(c)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	n[addr] = ln
}

// ask serves a request without a body and returns the response.
func (d *direct) ask(method, target string) *httptest.ResponseRecorder {
	return d.do(httptest.NewRequest(method, target, nil))
}

// do serves a request. A response that was aborted is as far as it came.
func (d *direct) do(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			panic(v)
		}
	}()
	d.proxy.ServeHTTP(w, r)
	return w
}

// stubTransport is a backend whose transport is a function, which may disregard
// the context, as none should.
type stubTransport func(*http.Request) (*http.Response, error)

func (f stubTransport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
func (f stubTransport) CloseIdleConnections()                             {}

// closedBody is a body that knows whether it was closed.
type closedBody struct {
	io.Reader
	closed bool
}

func (b *closedBody) Close() error { b.closed = true; return nil }

// stubResponse is a response 200 with such a body.
func stubResponse(text string) (*http.Response, *closedBody) {
	body := &closedBody{Reader: strings.NewReader(text)}
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header), Body: body, ContentLength: int64(len(text)),
	}, body
}
