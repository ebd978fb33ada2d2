package lb

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
	"github.com/palisade-go/palisade/internal/testcert"
)

// TestRouteTable against a plain reading of the rules.
func TestRouteTable(t *testing.T) {
	pools := make(map[string]*Pool)
	route := func(id string, names, protocols []string) TCPRoute {
		pools[id] = new(Pool)
		return TCPRoute{ServerNames: names, ALPN: protocols, Pool: pools[id]}
	}
	table, err := newRouteTable([]TCPRoute{
		route("any name", []string{"*"}, nil),
		route("wildcard", []string{"*.Example.com"}, nil),
		route("acme", []string{"www.example.com"}, []string{"acme-tls/1"}),
		route("www", []string{"WWW.example.com", "example.com"}, nil),
		route("api h2", []string{"api.example.com"}, []string{"h2"}),
		route("mqtt", nil, []string{"mqtt"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	narrow, err := newRouteTable([]TCPRoute{route("only", []string{"a.example"}, nil), route("only h2", []string{"*.b.example"}, []string{"h2"})})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		table     routeTable
		name      string
		protocols []string
		want      string // empty: none
	}{
		{table, "www.example.com", nil, "www"},
		{table, "www.example.com", []string{"acme-tls/1"}, "acme"},
		{table, "www.example.com", []string{"h2", "acme-tls/1"}, "acme"},
		{table, "example.com", []string{"h2"}, "www"},
		{table, "api.example.com", []string{"http/1.1", "h2"}, "api h2"},
		{table, "api.example.com", []string{"http/1.1"}, "wildcard"},
		{table, "x.example.com", nil, "wildcard"},
		{table, "x.y.example.com", nil, "any name"},
		{table, ".example.com", nil, "any name"},
		{table, "other.example", []string{"mqtt"}, "any name"},
		{table, "", []string{"mqtt"}, "mqtt"},
		{table, "", nil, ""},
		{narrow, "a.example", nil, "only"},
		{narrow, "b.example", []string{"h2"}, ""},
		{narrow, "x.b.example", []string{"h2"}, "only h2"},
		{narrow, "x.b.example", []string{"h3"}, ""},
		{narrow, "xa.example", nil, ""},
		{narrow, "a.example.com", nil, ""},
		{narrow, "example", nil, ""},
		{narrow, "*.b.example", nil, ""},
		{narrow, "", nil, ""},
	} {
		if got := c.table.find(c.name, c.protocols); got != pools[c.want] {
			t.Errorf("%q, %q: not %q", c.name, c.protocols, c.want)
		}
	}
}

// namedTLS answers with its name, and the server name that it was asked for.
func namedTLS(t *testing.T, ca *testcert.CA, name string) string {
	cert := ca.Issue(testcert.Leaf{Names: []string{"a.example", "b.example", "x.wild.example", "other.example"}})
	return tcpBackend(t, func(c *net.TCPConn) {
		server := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "acme-tls/1"}})
		if server.Handshake() == nil {
			io.WriteString(server, name+" "+server.ConnectionState().ServerName)
			server.CloseWrite()
			io.Copy(io.Discard, server)
		}
	})
}

// TestTCPRoutes: clients of crypto/tls find their server, end to end, and those who
// ask for nobody are told so.
func TestTCPRoutes(t *testing.T) {
	ca := testcert.NewCA(t)
	pool := func(name string) *Pool { return tcpPool(t, PoolConfig{}, namedTLS(t, ca, name)) }
	routes := []TCPRoute{
		{ServerNames: []string{"a.example"}, Pool: pool("A")},
		{ServerNames: []string{"*.wild.example"}, Pool: pool("W")},
		{ServerNames: []string{"b.example"}, ALPN: []string{"acme-tls/1"}, Pool: pool("acme")},
		{ServerNames: []string{"b.example"}, ALPN: []string{"h2"}, Pool: pool("B")},
	}
	closed := startTCP(t, nil, TCPProxyConfig{Routes: routes})
	open := startTCP(t, nil, TCPProxyConfig{Routes: routes, Default: pool("default"), Plain: tcpPool(t, PoolConfig{}, tcpBackend(t, says("plain ")))})
	for _, c := range []struct {
		name, alpn           string
		fromClosed, fromOpen string // empty: refused
	}{
		{"a.example", "", "A a.example", "A a.example"},
		{"A.EXAMPLE", "", "A A.EXAMPLE", "A A.EXAMPLE"},
		{"x.wild.example", "", "W x.wild.example", "W x.wild.example"},
		{"b.example", "h2", "B b.example", "B b.example"},
		{"b.example", "acme-tls/1", "acme b.example", "acme b.example"},
		{"b.example", "", "", "default b.example"},
		{"other.example", "", "", "default other.example"},
		{"", "", "", "default "},
	} {
		for _, r := range []struct {
			rig  *tcpRig
			want string
		}{{closed, c.fromClosed}, {open, c.fromOpen}} {
			conf := &tls.Config{ServerName: c.name, RootCAs: ca.Pool(), InsecureSkipVerify: c.name == "" || c.name == "A.EXAMPLE"}
			if c.alpn != "" {
				conf.NextProtos = []string{c.alpn}
			}
			conn := tls.Client(dialTCP(t, r.rig.addr), conf)
			got, err := io.ReadAll(conn)
			if string(got) != r.want {
				t.Errorf("%q, %q: %q, %v, want %q", c.name, c.alpn, got, err, r.want)
			}
			if r.want == "" && !strings.Contains(fmt.Sprint(err), "remote error: tls: unrecognized name") {
				t.Errorf("%q, %q: %v", c.name, c.alpn, err)
			}
			conn.Close()
			e := r.rig.event(t)
			if e.ServerName != strings.ToLower(c.name) || (r.want == "") != errors.Is(e.Err, ErrNoRoute) || r.want == "" && e.Backend != "" {
				t.Errorf("%q, %q: %+v", c.name, c.alpn, e)
			}
		}
	}
	// What is not TLS.
	for _, hello := range []string{"GET / HTTP/1.0\r\n\r\n", "\x16\x02\x00"} {
		client := dialTCP(t, closed.addr)
		io.WriteString(client, hello)
		if got, _ := io.ReadAll(client); len(got) > 0 {
			t.Errorf("%q gets %q", hello, got)
		}
		if e := closed.event(t); !errors.Is(e.Err, ErrNotTLS) {
			t.Errorf("%q: %+v", hello, e)
		}
		client = dialTCP(t, open.addr)
		io.WriteString(client, hello)
		client.CloseWrite()
		if got, _ := io.ReadAll(client); string(got) != "plain "+hello {
			t.Errorf("%q gets %q", hello, got)
		}
		if e := open.event(t); e.Err != nil || e.FromClient != int64(len(hello)) {
			t.Errorf("%q: %+v", hello, e)
		}
	}
	// What looks like TLS and is not, goes nowhere, whatever is configured.
	for _, hello := range []string{"\x16\x03\x01\x00\x00", "\x16\x03\x01\x00\x04\x02\x00\x00\x00"} {
		client := dialTCP(t, open.addr)
		io.WriteString(client, hello)
		if got, err := io.ReadAll(client); string(got) != "\x15\x03\x03\x00\x02\x02\x32" {
			t.Errorf("%q gets %q, %v", hello, got, err)
		}
		if e := open.event(t); !errors.Is(e.Err, ErrClientHello) || e.Backend != "" {
			t.Errorf("%q: %+v", hello, e)
		}
	}
}

// TestTCPHelloPieces: the hello comes byte by byte, and the backend gets what the
// client has sent, to the byte.
func TestTCPHelloPieces(t *testing.T) {
	recorder, other := memnet.Pipe()
	go tls.Client(recorder, &tls.Config{ServerName: "a.example"}).Handshake()
	hello := make([]byte, 4096)
	n, err := other.Read(hello)
	if err != nil {
		t.Fatal(err)
	}
	hello = hello[:n]
	recorder.Close()
	synctest.Test(t, func(t *testing.T) {
		backends := memnet.Listen("10.0.0.1:1")
		defer backends.Close()
		pool := tcpPool(t, PoolConfig{Dial: backends.DialContext}, "10.0.0.1:1")
		ln := memnet.Listen("203.0.113.1:80")
		rig := startTCP(t, ln, TCPProxyConfig{Routes: []TCPRoute{{ServerNames: []string{"a.example"}, Pool: pool}}, HelloTimeout: time.Minute})
		client := dialMem(t, ln)
		for i := range hello {
			client.Write(hello[i : i+1])
			synctest.Wait()
		}
		io.WriteString(client, "and more")
		backend := acceptMem(t, backends)
		got := make([]byte, len(hello)+8)
		if _, err := io.ReadFull(backend, got); err != nil || !bytes.Equal(got, append(bytes.Clone(hello), "and more"...)) {
			t.Errorf("%q, %v", got, err)
		}
		time.Sleep(10 * time.Minute) // HelloTimeout is over
		io.WriteString(client, "x")
		if _, err := io.ReadFull(backend, got[:1]); err != nil {
			t.Error(err)
		}
		// A client that sends one byte a second has a minute all the same.
		slow := dialMem(t, ln)
		start := time.Now()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			for i := range hello {
				if _, err := slow.Write(hello[i : i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		if got, _ := io.ReadAll(slow); len(got) > 0 || time.Since(start) != time.Minute {
			t.Errorf("%q after %v", got, time.Since(start))
		}
		if e := rig.event(t); !errors.Is(e.Err, ErrClientHello) {
			t.Errorf("%+v", e)
		}
	})
}

// TestTCPNoBackend: a TLS client is told if there is no backend.
func TestTCPNoBackend(t *testing.T) {
	rig := startTCP(t, nil, TCPProxyConfig{Routes: []TCPRoute{{ServerNames: []string{"*"}, Pool: tcpPool(t, PoolConfig{})}}})
	err := tls.Client(dialTCP(t, rig.addr), &tls.Config{ServerName: "a.example"}).Handshake()
	if !strings.Contains(fmt.Sprint(err), "remote error: tls: internal error") {
		t.Error(err)
	}
	if e := rig.event(t); !errors.Is(e.Err, ErrNoBackend) {
		t.Errorf("%+v", e)
	}
}

// TestTCPProxyHeaders: what comes in goes out, with what is known more.
func TestTCPProxyHeaders(t *testing.T) {
	ca := testcert.NewCA(t)
	headers := make(chan *ProxyHeader, 10)
	receive := proxyListen(t, listenTCP(t), ProxyProtocolConfig{Trusted: []netip.Prefix{loopback}})
	go func() {
		for {
			conn, err := receive.Accept()
			if err != nil {
				return
			}
			headers <- ProxyHeaderOf(conn)
			go func() { io.Copy(conn, conn); conn.Close() }()
		}
	}()
	pool := tcpPool(t, PoolConfig{}, receive.Addr().String())
	in := &ProxyHeader{Version: ProxyV2, Source: addrPort("203.0.113.7:1234"), Destination: addrPort("203.0.113.9:443"), ALPN: "h2", Authority: "a.example", UniqueID: []byte("id-1"),
		TLS: &ProxyTLS{Active: true, CertConn: true, CertSession: true, Version: "TLSv1.3", CommonName: "alice", Cipher: "TLS_AES_128_GCM_SHA256"}, Extra: []ProxyTLV{{0xe0, []byte("x")}}}
	behind := func(ln net.Listener) net.Listener {
		return proxyListen(t, ln, ProxyProtocolConfig{Trusted: []netip.Prefix{loopback}})
	}
	ask := func(name string, conn io.ReadWriter) *ProxyHeader {
		t.Helper()
		io.WriteString(conn, "ping")
		if got, err := io.ReadAll(io.LimitReader(conn, 4)); string(got) != "ping" {
			t.Fatalf("%s: %q, %v", name, got, err)
		}
		return <-headers
	}
	for _, version := range []ProxyVersion{ProxyV1, ProxyV2} {
		plain := startTCP(t, nil, TCPProxyConfig{Pool: pool, ProxyOut: version})
		client := dialTCP(t, plain.addr)
		if h := ask("plain", client); h.Version != version || h.Source.String() != client.LocalAddr().String() || h.Destination.String() != plain.addr {
			t.Errorf("plain: %+v", h)
		}
		chained := startTCP(t, behind(listenTCP(t)), TCPProxyConfig{Pool: pool, ProxyOut: version})
		client = dialTCP(t, chained.addr)
		data, _ := in.Append(nil)
		client.Write(data)
		h := ask("chained", client)
		if h.Version != version || h.Source != in.Source || h.Destination != in.Destination || version == ProxyV2 && normal(*h) != normal(*in) {
			t.Errorf("chained: %+v, %+v", h, h.TLS)
		}
		client = dialTCP(t, chained.addr)
		io.WriteString(client, v2(0x20, 0))
		if h := ask("local", client); h.Local || h.Source.String() != client.LocalAddr().String() {
			t.Errorf("local: %+v", h)
		}
	}
	// TLS ends here.
	conf := &tls.Config{Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{Names: []string{"a.example"}})}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: ca.Pool(), NextProtos: []string{"h2"}}
	ended := startTCP(t, tls.NewListener(behind(listenTCP(t)), conf), TCPProxyConfig{
		Routes: []TCPRoute{{ServerNames: []string{"a.example"}, Pool: pool}}, ProxyOut: ProxyV2,
		ModifyHeader: func(client net.Conn, h *ProxyHeader) { h.UniqueID = []byte("mine") },
	})
	for name, certs := range map[string][]tls.Certificate{"nobody": nil, "alice": {ca.Issue(testcert.Leaf{CommonName: "alice"})}} {
		raw := dialTCP(t, ended.addr)
		io.WriteString(raw, headerOfV1)
		h := ask(name, tls.Client(raw, &tls.Config{ServerName: "a.example", RootCAs: ca.Pool(), Certificates: certs, NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}))
		known := certs != nil
		if h.Source.String() != "203.0.113.7:1234" || h.Authority != "a.example" || h.ALPN != "h2" || string(h.UniqueID) != "mine" ||
			h.TLS == nil || h.TLS.Version != "TLSv1.2" || !strings.HasPrefix(h.TLS.Cipher, "ECDHE-") || !strings.HasSuffix(h.TLS.Cipher, "-AES128-GCM-SHA256") ||
			h.TLS.Verified() != known || (h.TLS.CommonName == "alice") != known {
			t.Errorf("%s: %+v, %+v", name, h, h.TLS)
		}
		raw.Close()
	}
	unknown := tls.Client(dialTCP(t, ended.addr), &tls.Config{ServerName: "b.example", InsecureSkipVerify: true})
	io.WriteString(unknown.NetConn(), headerOfV1)
	unknown.HandshakeContext(context.Background())
	if n, err := unknown.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("a name without a route: %d, %v", n, err)
	}
}

func TestOpenSSLCipher(t *testing.T) {
	for suite, want := range map[uint16]string{
		tls.TLS_AES_128_GCM_SHA256:                        "TLS_AES_128_GCM_SHA256",
		tls.TLS_CHACHA20_POLY1305_SHA256:                  "TLS_CHACHA20_POLY1305_SHA256",
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         "ECDHE-RSA-AES256-GCM-SHA384",
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: "ECDHE-ECDSA-CHACHA20-POLY1305",
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256:       "ECDHE-ECDSA-AES128-SHA256",
		tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA:            "ECDHE-RSA-AES128-SHA",
		tls.TLS_RSA_WITH_AES_256_GCM_SHA384:               "AES256-GCM-SHA384",
		tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA:                 "DES-CBC3-SHA",
	} {
		if got := opensslCipher(tls.CipherSuiteName(suite)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
