package lb_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"

	"github.com/palisade-go/palisade/lb"
)

// echo is a backend that sends back what it gets.
func echo() net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(conn, conn)
				conn.Close()
			}()
		}
	}()
	return ln
}

// Connections of any protocol, balanced.
func ExampleTCPProxy() {
	backend := echo()
	defer backend.Close()
	pool, err := lb.NewPool(lb.PoolConfig{Backends: []lb.BackendConfig{{ID: "db1", URL: "tcp://" + backend.Addr().String()}}})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	events := make(chan lb.TCPEvent, 1)
	proxy, err := lb.NewTCPProxy(lb.TCPProxyConfig{Pool: pool, OnDone: func(e lb.TCPEvent) { events <- e }})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- proxy.Serve(ln) }()

	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	io.WriteString(client, "hello")
	client.(*net.TCPConn).CloseWrite()
	answer, _ := io.ReadAll(client)
	client.Close()
	fmt.Println(string(answer))

	if err := proxy.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(errors.Is(<-served, http.ErrServerClosed))
	e := <-events
	fmt.Println(e.Backend, e.FromClient, e.FromBackend, e.Err)
	// Output:
	// hello
	// true
	// db1 5 5 <nil>
}

// TLS goes to the backends unopened. A client that asks for a name which is
// nobody's is told so.
func ExampleTCPRoute() {
	shop, err := lb.NewPool(lb.PoolConfig{Backends: []lb.BackendConfig{{URL: "tcp://10.0.0.5:443"}, {URL: "tcp://10.0.0.6:443"}}})
	if err != nil {
		log.Fatal(err)
	}
	defer shop.Close()
	proxy, err := lb.NewTCPProxy(lb.TCPProxyConfig{
		Routes:   []lb.TCPRoute{{ServerNames: []string{"shop.example", "*.shop.example"}, Pool: shop}},
		ProxyOut: lb.ProxyV2, // the backends see the clients' addresses
	})
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go proxy.Serve(ln)
	_, err = tls.Dial("tcp", ln.Addr().String(), &tls.Config{ServerName: "other.example"})
	fmt.Println(err)
	// Output:
	// remote error: tls: unrecognized name
}

// An HTTP server behind HAProxy, or behind a TCPProxy with ProxyOut.
func ExampleProxyProtocolListener() {
	within, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ln, err := lb.ProxyProtocolListener(within, lb.ProxyProtocolConfig{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	if err != nil {
		log.Fatal(err)
	}
	type headerKey struct{}
	server := &http.Server{
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, headerKey{}, lb.ProxyHeaderOf(c))
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := r.Context().Value(headerKey{}).(*lb.ProxyHeader)
			fmt.Fprintf(w, "%s asks for %s, TLS: %v", r.RemoteAddr, h.Authority, h.TLS.Verified())
		}),
	}
	go server.Serve(ln)
	defer server.Close()

	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	header, err := (&lb.ProxyHeader{
		Source: netip.MustParseAddrPort("192.0.2.1:1234"), Destination: netip.MustParseAddrPort("203.0.113.9:443"),
		Authority: "shop.example", TLS: &lb.ProxyTLS{Active: true, CertConn: true},
	}).Append(nil)
	if err != nil {
		log.Fatal(err)
	}
	conn.Write(header)
	io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
	answer, _ := io.ReadAll(conn)
	fmt.Println(string(answer[len(answer)-len("192.0.2.1:1234 asks for shop.example, TLS: true"):]))
	// Output:
	// 192.0.2.1:1234 asks for shop.example, TLS: true
}

func ExampleParseProxyHeader() {
	h, n, err := lb.ParseProxyHeader([]byte("PROXY TCP4 192.0.2.1 203.0.113.9 1234 443\r\nGET / HTTP/1.1\r\n"))
	fmt.Println(h.Source, h.Destination, n, err)
	_, _, err = lb.ParseProxyHeader([]byte("PROXY TCP4 192.0."))
	fmt.Println(err)
	_, _, err = lb.ParseProxyHeader([]byte("GET / HTTP/1.1\r\n"))
	fmt.Println(errors.Is(err, lb.ErrProxyHeader))
	// Output:
	// 192.0.2.1:1234 203.0.113.9:443 43 <nil>
	// unexpected EOF
	// true
}

// Datagrams, such as of DNS, with a backend for each client.
func ExampleUDPProxy() {
	backend, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Close()
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := backend.ReadFrom(buf)
			if err != nil {
				return
			}
			backend.WriteTo(append([]byte("you say "), buf[:n]...), from)
		}
	}()
	pool, err := lb.NewPool(lb.PoolConfig{Strategy: lb.Maglev{}, Backends: []lb.BackendConfig{{URL: "udp://" + backend.LocalAddr().String()}}})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	proxy, err := lb.NewUDPProxy(lb.UDPProxyConfig{Pool: pool})
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go proxy.Serve(conn)

	client, err := net.Dial("udp", conn.LocalAddr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	io.WriteString(client, "hello")
	io.CopyN(os.Stdout, client, int64(len("you say hello")))
	// Output:
	// you say hello
}
