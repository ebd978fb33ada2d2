package lb

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// program finds a program that a test needs.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	if os.Getenv("PALISADE_REQUIRE_ALL") == "1" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// startPeer runs a server until the end of the test, and waits until it accepts
// connections.
func startPeer(t *testing.T, addr string, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// What it starts in turn ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", cmd.Path, out.String())
		}
	})
	waitUntil(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func startHAProxy(t *testing.T, addr, sections string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	config := "global\n maxconn 100\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n" + sections
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	startPeer(t, addr, exec.Command(program(t, "haproxy"), "-db", "-f", path))
}

func writePEM(t *testing.T, name string, parts ...[]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, bytes.Join(parts, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHAProxySends: HAProxy in front of us, with each form of header that it has.
func TestHAProxySends(t *testing.T) {
	program(t, "haproxy")
	ca := testcert.NewCA(t)
	chain, key := testcert.EncodePEM(t, ca.Issue(testcert.Leaf{Names: []string{"a.example"}}))
	pem := writePEM(t, "server.pem", chain, key)
	roots := writePEM(t, "ca.pem", ca.PEM())
	for how, c := range map[string]struct {
		server string
		tls    bool
		check  func(h *ProxyHeader) bool
	}{
		"v1":                  {"send-proxy", false, func(h *ProxyHeader) bool { return h.Version == ProxyV1 }},
		"v2":                  {"send-proxy-v2", false, func(h *ProxyHeader) bool { return h.Version == ProxyV2 && h.TLS == nil }},
		"v2, checksum and ID": {"send-proxy-v2 proxy-v2-options crc32c,unique-id", false, func(h *ProxyHeader) bool { return strings.HasPrefix(string(h.UniqueID), "id-") }},
		"v2, TLS": {"send-proxy-v2-ssl-cn", true, func(h *ProxyHeader) bool {
			return h.TLS.Verified() && h.TLS.CertConn && h.TLS.CommonName == "alice" && h.TLS.Version == "TLSv1.3"
		}},
		"v2, all": {"send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c", true, func(h *ProxyHeader) bool {
			return h.TLS.Verified() && h.TLS.Cipher == "TLS_AES_128_GCM_SHA256" && h.TLS.KeyAlgorithm != "" && h.TLS.SignatureAlgorithm != "" && h.Authority == "a.example" && h.ALPN == "h2"
		}},
	} {
		t.Run(how, func(t *testing.T) {
			headers := make(chan *ProxyHeader, 100)
			l := proxyListen(t, listenTCP(t), ProxyProtocolConfig{Trusted: []netip.Prefix{loopback}, OnRefuse: func(_ net.Addr, err error) {
				// EOF is of checks that the other accepts connections, or the end of the test is.
				if !strings.Contains(err.Error(), "EOF") && !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
			}})
			ended := make(chan bool)
			go func() {
				defer close(ended)
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					headers <- ProxyHeaderOf(conn)
					go func() { io.Copy(conn, conn); conn.Close() }()
				}
			}()
			front := deadAddr(t)
			bind := "bind " + front
			if c.tls {
				bind += " ssl crt " + pem + " ca-file " + roots + " verify optional alpn h2 ciphersuites TLS_AES_128_GCM_SHA256"
			}
			startHAProxy(t, front, fmt.Sprintf("frontend f\n %s\n unique-id-format id-%%pid\n default_backend b\nbackend b\n server s %s %s\n", bind, l.Addr(), c.server))
			for len(headers) > 0 {
				<-headers
			}
			raw := dialTCP(t, front)
			var client io.ReadWriter = raw
			if c.tls {
				client = tls.Client(raw, &tls.Config{ServerName: "a.example", RootCAs: ca.Pool(), NextProtos: []string{"h2"}, Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{CommonName: "alice"})}})
			}
			if _, err := io.WriteString(client, "ping"); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(io.LimitReader(client, 4)); string(got) != "ping" {
				t.Fatalf("%q, %v", got, err)
			}
			// Others are of connections that came to see whether HAProxy is there.
			waitUntil(t, func() bool {
				h := <-headers
				if h.Source.String() != raw.LocalAddr().String() {
					return false
				}
				if h.Destination.String() != front || !c.check(h) {
					t.Errorf("%+v, %+v", h, h.TLS)
				}
				return true
			})
			l.Close()
			<-ended
		})
	}
}

// TestHAProxyReceives: HAProxy behind us believes what we say.
func TestHAProxyReceives(t *testing.T) {
	program(t, "haproxy")
	ca := testcert.NewCA(t)
	for _, version := range []ProxyVersion{ProxyV1, ProxyV2} {
		back := deadAddr(t)
		startHAProxy(t, back, fmt.Sprintf("frontend f\n bind %s accept-proxy\n mode http\n http-request return status 200 content-type text/plain lf-string \"%%ci:%%cp to %%fi:%%fp %%[fc_pp_authority] %%[fc_pp_unique_id]\"\n", back))
		conf := TCPProxyConfig{Pool: tcpPool(t, PoolConfig{}, back), ProxyOut: version, ModifyHeader: func(_ net.Conn, h *ProxyHeader) { h.UniqueID = []byte("id-7") }}
		tlsConf := &tls.Config{Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{Names: []string{"a.example"}})}}
		rig := startTCP(t, tls.NewListener(proxyListen(t, listenTCP(t), ProxyProtocolConfig{Trusted: []netip.Prefix{loopback}}), tlsConf), conf)
		for line, want := range map[string]string{
			headerOfV1: "203.0.113.7:1234 to 203.0.113.9:443",
			"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n": "2001:db8::1:1 to 2001:db8::2:2",
		} {
			raw := dialTCP(t, rig.addr)
			io.WriteString(raw, line)
			client := tls.Client(raw, &tls.Config{ServerName: "a.example", RootCAs: ca.Pool()})
			body := getHTTP(t, client)
			if version == ProxyV2 {
				want += " a.example id-7"
			}
			if strings.TrimSpace(body) != want {
				t.Errorf("version %d: %q, want %q", version, body, want)
			}
		}
	}
}

func getHTTP(t *testing.T, conn net.Conn) string {
	t.Helper()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestNginxReceives: nginx behind us believes what we say.
func TestNginxReceives(t *testing.T) {
	nginx := program(t, "nginx")
	for _, version := range []ProxyVersion{ProxyV1, ProxyV2} {
		dir, back := t.TempDir(), deadAddr(t)
		path := filepath.Join(dir, "nginx.conf")
		config := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events { worker_connections 64; }
http {
	access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	set_real_ip_from 127.0.0.0/8; real_ip_header proxy_protocol;
	server { listen %[2]s proxy_protocol; location / { return 200 "$remote_addr:$proxy_protocol_port to $proxy_protocol_server_addr:$proxy_protocol_server_port"; } }
}
`, dir, back)
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		startPeer(t, back, exec.Command(nginx, "-p", dir, "-c", path))
		rig := startTCP(t, nil, TCPProxyConfig{Pool: tcpPool(t, PoolConfig{}, back), ProxyOut: version})
		client := dialTCP(t, rig.addr)
		if body, want := getHTTP(t, client), fmt.Sprintf("%v to %s", client.LocalAddr(), rig.addr); body != want {
			t.Errorf("version %d: %q, want %q", version, body, want)
		}
	}
}

// TestTCPSplice runs itself under strace and looks at how bulk data has moved: in
// the kernel, below a PROXY protocol header on either side and behind a
// ClientHello, too.
func TestTCPSplice(t *testing.T) {
	const size = 64 << 20
	if os.Getenv("LB_TEST_SPLICE") == "" {
		strace := program(t, "strace")
		trace := filepath.Join(t.TempDir(), "trace")
		cmd := exec.Command(strace, "-f", "-e", "trace=splice,read,write,sendto,recvfrom", "-e", "signal=none", "-s", "0", "-o", trace, os.Args[0], "-test.run=^TestTCPSplice$", "-test.count=1")
		cmd.Env = append(os.Environ(), "LB_TEST_SPLICE=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		data, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		spliced := int64(0)
		for line := range strings.Lines(string(data)) {
			// Out of the pipe, not into it, so that nothing counts twice. A call that
			// was interrupted by another thread's has its result in a line of its own.
			if call, result, ok := strings.Cut(line, " = "); ok && strings.Contains(call, "splice") {
				var n int64
				fmt.Sscan(result, &n)
				spliced += max(0, n)
			}
		}
		// Each byte is counted as it goes in and as it comes out.
		if share := float64(spliced) / (2 * 2 * size); share < 0.9 || share > 1.01 {
			t.Errorf("%.3f of the bytes were spliced, want 0.9 or more", share)
		}
		return
	}
	received := make(chan error, 1)
	receive := proxyListen(t, listenTCP(t), ProxyProtocolConfig{Trusted: []netip.Prefix{loopback}})
	hello := testcertHello(t)
	go func() {
		for {
			conn, err := receive.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.CopyN(io.Discard, conn, int64(len(hello)))
				io.CopyN(conn, &pattern{}, size/2)
				received <- checkPattern(conn, size/2)
			}()
		}
	}()
	pool := tcpPool(t, PoolConfig{}, receive.Addr().String())
	for range 2 {
		rig := startTCP(t, proxyListen(t, listenTCP(t), ProxyProtocolConfig{Trusted: []netip.Prefix{loopback}}), TCPProxyConfig{
			Routes: []TCPRoute{{ServerNames: []string{"a.example"}, Pool: pool}}, ProxyOut: ProxyV2,
		})
		client := dialTCP(t, rig.addr)
		io.WriteString(client, headerOfV1+hello)
		if _, err := io.CopyN(io.Discard, client, size/2); err != nil {
			t.Fatal(err)
		}
		io.CopyN(client, &pattern{}, size/2)
		client.CloseWrite()
		if err := <-received; err != nil {
			t.Error(err)
		}
		client.Close()
		time.Sleep(time.Millisecond)
	}
}

// testcertHello is what a TLS client sends first.
func testcertHello(t *testing.T) string {
	ln := listenTCP(t)
	go func() {
		if conn, err := net.Dial("tcp", ln.Addr().String()); err == nil {
			tls.Client(conn, &tls.Config{ServerName: "a.example"}).Handshake()
			conn.Close()
		}
	}()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}
