package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// tap forwards connections to an address and keeps every byte that passes.
type tap struct {
	to string
	ln net.Listener

	mu    sync.Mutex // guards flows and what is in them
	flows []*flow
}

// flow is one connection, there and back.
type flow struct{ there, back bytes.Buffer }

func newTap(t *testing.T, to string) *tap {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{to: to, ln: ln}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.forward(conn) })
		}
	})
	t.Cleanup(wg.Wait) // the processes on both ends are gone by then
	t.Cleanup(func() { ln.Close() })
	return p
}

func (p *tap) forward(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer server.Close()
	f := new(flow)
	p.mu.Lock()
	p.flows = append(p.flows, f)
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() {
		io.Copy(server, io.TeeReader(client, keeper{p, &f.there}))
		server.(*net.TCPConn).CloseWrite()
	})
	wg.Go(func() {
		io.Copy(client, io.TeeReader(server, keeper{p, &f.back}))
		client.(*net.TCPConn).CloseWrite()
	})
	wg.Wait()
}

// keeper writes to a buffer under the tap's lock.
type keeper struct {
	p   *tap
	buf *bytes.Buffer
}

func (k keeper) Write(b []byte) (int, error) {
	k.p.mu.Lock()
	defer k.p.mu.Unlock()
	return k.buf.Write(b)
}

// tlsRecords checks that a stream is TLS records (RFC 8446, section 5.1) from
// its first byte on, that all of them are encrypted after the hello and the
// change of cipher spec that is sent for the sake of old middleboxes, and returns
// how many bytes of application data it carries. The last record may be cut off.
func tlsRecords(stream []byte) (data int, err error) {
	const changeCipherSpec, handshake, applicationData = 20, 22, 23
	for n := 0; len(stream) >= 5; n++ {
		kind, size := stream[0], int(stream[3])<<8|int(stream[4])
		switch {
		case stream[1] != 3 || size == 0 || size > 1<<14+256:
			return 0, fmt.Errorf("record %d is not of TLS: % x", n, stream[:5])
		case n == 0 && kind != handshake:
			return 0, fmt.Errorf("the stream begins with a record of type %d", kind)
		case n > 0 && kind == handshake, n == 0 && kind == applicationData, kind != changeCipherSpec && kind != handshake && kind != applicationData:
			return 0, fmt.Errorf("record %d is of type %d, in the clear", n, kind)
		}
		if kind == applicationData {
			data += size
		}
		stream = stream[min(5+size, len(stream)):]
	}
	return data, nil
}

// TestNothingInTheClear listens between the balancer and the web servers: there
// are TLS 1.3 records only, and nothing of what clients send, get and are.
func TestNothingInTheClear(t *testing.T) {
	h := spreadOut(t)
	taps := []*tap{newTap(t, h.a.web1), newTap(t, h.a.web2)}
	a := h.a
	a.web1, a.web2 = taps[0].ln.Addr().String(), taps[1].ln.Addr().String()
	h.balancer = start(t, a.flags("-role", "balancer", "-state", h.state)...)
	c := h.balancer.client(h.balancer.demoCert())
	const secret = "what-nobody-else-may-read"
	post(t, c, h.a, secret)
	for range 40 {
		status, _, body := get(t, c, "https://"+h.a.https+"/api/notes")
		if status != http.StatusOK || !strings.Contains(body, secret) {
			t.Fatalf("status %d: %s", status, body)
		}
	}
	words := []string{secret, " HTTP/1.1\r\n", "HTTP/1.1 200", "/api/notes", "Client-Cert", "visitor", "X-Served-By", "threeserver.example", "application/json"}
	for i, p := range taps {
		p.mu.Lock()
		defer p.mu.Unlock()
		var there, back int
		for _, f := range p.flows {
			for what, stream := range map[*int][]byte{&there: f.there.Bytes(), &back: f.back.Bytes()} {
				n, err := tlsRecords(stream)
				if err != nil {
					t.Errorf("web%d: %v", i+1, err)
				}
				*what += n
				for _, w := range words {
					if bytes.Contains(bytes.ToLower(stream), []byte(strings.ToLower(w))) {
						t.Errorf("web%d: %q passed in the clear", i+1, w)
					}
				}
			}
		}
		if there < 1000 || back < 1000 {
			t.Errorf("web%d: %d and %d bytes of application data in %d connections", i+1, there, back, len(p.flows))
		}
	}
}

func TestTLSRecords(t *testing.T) {
	hello, ccs, data := "\x16\x03\x01\x00\x01x", "\x14\x03\x03\x00\x01\x01", "\x17\x03\x03\x00\x02ab"
	for stream, want := range map[string]int{"": 0, hello + ccs + data + data: 4, hello + data[:6]: 2, hello + data + data[:3]: 2} {
		if got, err := tlsRecords([]byte(stream)); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", stream, got, err, want)
		}
	}
	for _, stream := range []string{"GET / HTTP/1.1\r\n", data, hello + hello, hello + "POST / HTTP/1.1\r\n", "\x15\x03\x03\x00\x02\x01\x00", hello + "\x17\x03\x03\xff\xffx"} {
		if _, err := tlsRecords([]byte(stream)); err == nil {
			t.Errorf("%q passes as TLS", stream)
		}
	}
}
