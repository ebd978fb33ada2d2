package tlsx

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// startHAProxy runs HAProxy until the end of the test and returns its address. In
// its sections, "bind LISTENER" binds to that address.
func startHAProxy(t *testing.T, sections string) string {
	t.Helper()
	haproxy := program(t, "haproxy")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	config := "global\n maxconn 100\n ssl-default-bind-options no-sslv3\ndefaults\n timeout connect 10s\n timeout client 30s\n timeout server 30s\n" +
		strings.ReplaceAll(sections, "LISTENER", "fd@3")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	// It inherits the listener, so that who connects before it is ready waits.
	var out bytes.Buffer
	cmd := exec.Command(haproxy, "-db", "-f", path)
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{file}, &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("haproxy: %s", out.String())
		}
	})
	return ln.Addr().String()
}

// proxyField is a field of a PROXY header, version 2.
type proxyField struct {
	kind  byte
	value []byte
}

// proxyFields reads such fields; it is as simple as the specification.
func proxyFields(data []byte) (fields []proxyField, err error) {
	for len(data) > 0 {
		if len(data) < 3 || len(data)-3 < int(binary.BigEndian.Uint16(data[1:])) {
			return nil, fmt.Errorf("a field is cut off: %x", data)
		}
		end := 3 + int(binary.BigEndian.Uint16(data[1:]))
		fields, data = append(fields, proxyField{data[0], data[3:end]}), data[end:]
	}
	return fields, nil
}

// proxyHeaderConn is a connection that began with a PROXY header.
type proxyHeaderConn struct {
	net.Conn
	fields []proxyField
}

func (c *proxyHeaderConn) field(kind byte) []byte {
	for _, f := range c.fields {
		if f.kind == kind {
			return f.value
		}
	}
	return nil
}

// proxyHeaderListener reads the header of each connection.
type proxyHeaderListener struct{ net.Listener }

func (l proxyHeaderListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	head := make([]byte, 16)
	if _, err := io.ReadFull(conn, head); err != nil {
		return nil, err
	}
	rest := make([]byte, binary.BigEndian.Uint16(head[14:]))
	if _, err := io.ReadFull(conn, rest); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(head, []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11")) || len(rest) < 12 {
		return nil, fmt.Errorf("not version 2, PROXY, TCP over IPv4: %x", head)
	}
	fields, err := proxyFields(rest[12:])
	return &proxyHeaderConn{conn, fields}, err
}

// behindHAProxy is what the tests of this file have in common.
type behindHAProxy struct {
	ca           *testcert.CA
	alice        tls.Certificate
	dir          string
	caFile, both string // the authority; HAProxy's certificate and key
}

func newBehindHAProxy(t *testing.T) behindHAProxy {
	t.Helper()
	program(t, "haproxy")
	ca := testcert.NewCA(t)
	b := behindHAProxy{ca: ca, dir: t.TempDir(), alice: ca.Issue(testcert.Leaf{CommonName: "alice", URIs: []string{"spiffe://test/alice"}})}
	b.caFile, b.both = filepath.Join(b.dir, "ca.pem"), filepath.Join(b.dir, "both.pem")
	chain, key := testcert.EncodePEM(t, ca.Issue(testcert.Leaf{Names: []string{"www.test"}, URIs: []string{balancerURI}}))
	if err := errors.Join(os.WriteFile(b.caFile, ca.PEM(), 0o600), os.WriteFile(b.both, append(chain, key...), 0o600)); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b behindHAProxy) bind(options string) string {
	return fmt.Sprintf("bind LISTENER ssl crt %s ca-file %s verify optional ciphersuites TLS_AES_128_GCM_SHA256 %s", b.both, b.caFile, options)
}

// get sends a request that claims to be the victim's, as a client with those
// certificates, and returns the body.
func (b behindHAProxy) get(t *testing.T, addr string, sessions tls.ClientSessionCache, certs ...tls.Certificate) string {
	t.Helper()
	conf := &tls.Config{ServerName: "www.test", RootCAs: b.ca.Pool(), Certificates: certs, ClientSessionCache: sessions}
	tr := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
	client := &http.Client{Timeout: 30 * time.Second, Transport: tr}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+addr+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "www.test"
	req.Header.Set("Client-Cert", encodeCert(b.ca.Issue(testcert.Leaf{CommonName: "victim"}).Leaf.Raw))
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v: %s", res.StatusCode, err, body)
	}
	return string(body)
}

// TestHAProxySendsTLS has HAProxy tell of TLS and the client's certificate in each
// way that it can. A version that does not send the certificate itself but its
// common name, as up to 2.6, tells nobody's identity by it; with the certificate
// among the same fields the identity is alice's.
func TestHAProxySendsTLS(t *testing.T) {
	const typeTLS, typeName, typeUniqueID, typeAuthority = 0x20, 0x22, 0x05, 0x02
	b := newBehindHAProxy(t)
	for _, how := range []string{
		"send-proxy-v2-ssl", "send-proxy-v2-ssl-cn",
		"send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,crc32c,unique-id,authority",
	} {
		t.Run(how, func(t *testing.T) {
			type connKey struct{}
			type visit struct {
				conn     *proxyHeaderConn
				identity *Identity
			}
			visits := make(chan visit, 1)
			var withCert atomic.Bool // add what the sender may lack
			receiver := Receiver{ProxyTLS: func(ctx context.Context) ([]byte, bool) {
				value := ctx.Value(connKey{}).(*proxyHeaderConn).field(typeTLS)
				if withCert.Load() {
					value = append(bytes.Clone(value), subfield(proxyTypeClientCert, b.alice.Leaf.Raw)...)
				}
				return value, value != nil
			}}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{
				ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
				Handler: receiver.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if hasIdentityField(r.Header) {
						t.Errorf("a forged field came through: %v", r.Header)
					}
					identity, _ := IdentityFrom(r.Context())
					visits <- visit{r.Context().Value(connKey{}).(*proxyHeaderConn), identity}
				})),
			}
			served := make(chan error, 1)
			go func() { served <- srv.Serve(proxyHeaderListener{ln}) }()
			defer func() {
				srv.Close()
				if err := <-served; !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
			}()
			addr := startHAProxy(t, fmt.Sprintf("frontend f\n mode tcp\n %s\n unique-id-format id-%%pid\n default_backend b\nbackend b\n mode tcp\n server s %s %s\n", b.bind(""), ln.Addr(), how))
			sessions := tls.NewLRUClientSessionCache(1)
			for _, c := range []struct {
				name  string
				cert  bool
				add   bool // the certificate among the fields
				flags byte // with TLS's own
			}{
				{"without a certificate", false, false, 0},
				{"with a certificate", true, false, proxyClientCertConn | proxyClientCertSess},
				{"in a session that is resumed", true, false, proxyClientCertSess},
				{"and sent on", true, true, proxyClientCertSess},
			} {
				withCert.Store(c.add)
				if c.cert {
					b.get(t, addr, sessions, b.alice)
				} else {
					b.get(t, addr, nil)
				}
				seen := <-visits
				conn, value := seen.conn, seen.conn.field(typeTLS)
				if len(value) < 5 || value[0] != proxyClientTLS|c.flags || c.cert && binary.BigEndian.Uint32(value[1:]) != 0 {
					t.Fatalf("%s: the field for TLS is %x", c.name, value)
				}
				sub, err := proxyFields(value[5:])
				if err != nil {
					t.Fatal(err)
				}
				inner := &proxyHeaderConn{fields: sub}
				if name := string(inner.field(typeName)); c.cert && !strings.HasSuffix(how, "v2-ssl") && name != "alice" {
					t.Errorf("%s: the common name is %q", c.name, name)
				}
				if strings.Contains(how, "authority") && (string(conn.field(typeAuthority)) != "www.test" || !strings.HasPrefix(string(conn.field(typeUniqueID)), "id-")) {
					t.Errorf("%s: the fields are %v", c.name, conn.fields)
				}
				var want *Identity
				if c.add || c.cert && inner.field(proxyTypeClientCert) != nil {
					want = newIdentity(chainOf(b.alice.Leaf))
				}
				if !reflect.DeepEqual(seen.identity, want) {
					t.Errorf("%s: identity %+v, want %+v", c.name, seen.identity, want)
				}
			}
		})
	}
}

// TestHAProxySetsClientCert has HAProxy set the field of RFC 9440, over mutual TLS
// with its own identity: the client's is the same as without it. From a proxy with
// another identity the field counts for nothing.
func TestHAProxySetsClientCert(t *testing.T) {
	b := newBehindHAProxy(t)
	for _, trusted := range []bool{true, false} {
		peer := PeerMatcher{URIs: []string{balancerURI}}
		if !trusted {
			peer.URIs[0] += "/other"
		}
		term := newTerminator(t, Config{
			Certs:    []CertSource{static(b.ca.Issue(testcert.Leaf{Names: []string{"web.test"}}))},
			Policies: []Policy{{Client: &ClientAuth{Mode: Required, Roots: rootsOf(t, b.ca)}}},
		})
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		identities := make(chan *Identity, 1)
		serve(t, term.Listener(ln), Receive(peer, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			id, _ := IdentityFrom(r.Context())
			identities <- id
		})))
		addr := startHAProxy(t, fmt.Sprintf("frontend f\n mode http\n %s\n http-request del-header Client-Cert\n"+
			" http-request set-header Client-Cert :%%[ssl_c_der,base64]: if { ssl_c_used }\n default_backend b\n"+
			"backend b\n mode http\n server s %s ssl crt %s ca-file %s verify required verifyhost web.test sni str(web.test)\n",
			b.bind(""), ln.Addr(), b.both, b.caFile))
		for _, certs := range [][]tls.Certificate{{b.alice}, nil} {
			b.get(t, addr, nil, certs...)
			identity := <-identities
			var want *Identity
			if certs != nil {
				want = newIdentity(chainOf(b.alice.Leaf))
			}
			switch {
			case trusted && !reflect.DeepEqual(identity, want):
				t.Errorf("identity %+v, want %+v", identity, want)
			case !trusted && (identity == nil || identity.CommonName == "alice"):
				t.Errorf("behind a stranger: identity %+v, want the stranger's own", identity)
			}
		}
	}
}
