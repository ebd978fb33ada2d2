package tlsx

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
	"github.com/palisade-go/palisade/internal/testcert"
)

// helloConn cuts the client's first flight into records of at most record bytes,
// and everything into segments of at most segment bytes. Zero leaves as is.
type helloConn struct {
	net.Conn
	record, segment int
	started         bool
}

func (c *helloConn) Write(p []byte) (int, error) {
	out := p
	if !c.started && c.record > 0 {
		out = nil
		for rest := p; len(rest) >= 5; {
			size := int(binary.BigEndian.Uint16(rest[3:5]))
			body := rest[5 : 5+size]
			for len(body) > 0 {
				n := min(c.record, len(body))
				out = append(out, rest[0], rest[1], rest[2], byte(n>>8), byte(n))
				out, body = append(out, body[:n]...), body[n:]
			}
			rest = rest[5+size:]
		}
	}
	c.started = true
	for len(out) > 0 {
		n := len(out)
		if c.segment > 0 {
			n = min(c.segment, n)
		}
		if _, err := c.Conn.Write(out[:n]); err != nil {
			return 0, err
		}
		out = out[n:]
	}
	return len(p), nil
}

// TestClientHelloTorture has hellos arrive in pieces, with names in every
// spelling and of sizes up to the limit of 64 KiB: each is served under its own
// policy or under none.
func TestClientHelloTorture(t *testing.T) {
	ca := testcert.NewCA(t)
	alice := ca.Issue(testcert.Leaf{CommonName: "alice"})
	names := []string{"www.test", "*.wild.test", "exact.wild.test", "mutual.test"}
	policies := make([]Policy, len(names))
	protocols := []string{"none"}
	for i, name := range names {
		policies[i] = Policy{Names: []string{name}, ALPN: []string{name}}
		protocols = append(protocols, name)
	}
	policies[3].Client = &ClientAuth{Mode: Required, Roots: rootsOf(t, ca)}
	server := newTerminator(t, Config{Certs: []CertSource{static(ca.Issue(testcert.Leaf{Names: names}))}, Policies: policies}).ServerConfig()
	// Padding for the hello: protocols that nobody speaks.
	pad := func(bytes int) []string {
		var out []string
		for i := range bytes / 201 {
			out = append(out, fmt.Sprintf("%0200d", i))
		}
		return out
	}
	want := map[string]string{
		"www.test": "www.test", "WwW.tEsT": "www.test", "a.wild.test": "*.wild.test", "A.WILD.test": "*.wild.test", "Exact.wild.test": "exact.wild.test",
		"mutual.test": "mutual.test", "wild.test": "", "a.b.wild.test": "", "www.test.evil.test": "", "xwww.test": "", strings.Repeat("a.", 120) + "test": "",
	}
	sessions := tls.NewLRUClientSessionCache(64)
	for _, size := range []int{0, 4 << 10, 20 << 10, 60 << 10} {
		for _, cut := range []struct{ record, segment int }{{0, 0}, {0, 1}, {1, 0}, {1, 1}, {7, 3}, {100, 1000}} {
			if size > 4<<10 && cut.record == 1 {
				continue // tens of thousands of records, and no new case
			}
			for name, policy := range want {
				client := &tls.Config{
					ServerName: name, InsecureSkipVerify: true, NextProtos: append(pad(size), protocols...), ClientSessionCache: sessions,
					Certificates: []tls.Certificate{alice},
				}
				got, err := torture(t, server, client, cut.record, cut.segment)
				if got != policy || (err == nil) != (policy != "") {
					t.Errorf("%s, %d bytes more, records of %d, segments of %d: policy %q, %v, want %q", name, size, cut.record, cut.segment, got, err, policy)
				}
			}
		}
	}
	client := &tls.Config{ServerName: "www.test", InsecureSkipVerify: true, NextProtos: append(pad(64<<10), protocols...)}
	if got, err := torture(t, server, client, 0, 0); err == nil {
		t.Errorf("a hello of more than 64 KiB was served under %q", got)
	}
}

// torture returns the protocol of the connection, which names the policy.
func torture(t *testing.T, server, client *tls.Config, record, segment int) (string, error) {
	t.Helper()
	clientEnd, serverEnd := memnet.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn := tls.Server(serverEnd, server)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if conn.Handshake() == nil {
			conn.Write([]byte("x"))
		}
	}()
	conn := tls.Client(&helloConn{Conn: clientEnd, record: record, segment: segment}, client)
	defer func() {
		conn.Close()
		<-done
	}()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err := conn.Handshake(); err != nil {
		return "", err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return conn.ConnectionState().NegotiatedProtocol, err
}

// FuzzServerName has a client ask for any name, in pieces of any size: it is
// served under the policy that the table has for it, or not at all.
func FuzzServerName(f *testing.F) {
	ca := testcert.NewCA(f)
	names := []string{"www.test", "*.wild.test", "exact.wild.test"}
	policies := make([]Policy, len(names))
	for i, name := range names {
		policies[i] = Policy{ID: name, Names: []string{name}, ALPN: []string{name}}
	}
	cert := ca.Issue(testcert.Leaf{Names: names})
	term, err := New(Config{Certs: []CertSource{static(cert)}, Policies: policies, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"www.test", "WWW.test.", "a.wild.test", "exact.wild.test", "a.b.wild.test", "", "192.0.2.1", "*.wild.test", "www.test\x00.evil", "www..test"} {
		f.Add(name, uint8(0), uint8(0))
		f.Add(name, uint8(3), uint8(1))
	}
	f.Fuzz(func(t *testing.T, name string, record, segment uint8) {
		want := ""
		if normal, err := normalName(strings.TrimRight(name, ".")); err == nil { // as crypto/tls sends it
			if i := term.table.find(normal); i >= 0 && cert.Leaf.VerifyHostname(normal) == nil {
				want = names[i]
			}
		}
		client := &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: append([]string{"none"}, names...)}
		// crypto/tls leaves out what is no name, and the server goes by its address.
		if got, _ := torture(t, term.ServerConfig(), client, int(record), int(segment)); got != "" && got != want {
			t.Errorf("%q: policy %q, want %q", name, got, want)
		} else if sane := name != "" && net.ParseIP(name) == nil && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") == ""; sane && got != want {
			t.Errorf("%q: refused, want policy %q", name, want)
		}
	})
}

// FuzzHello has a client send any bytes: no handshake comes of them, and nothing
// panics or waits.
func FuzzHello(f *testing.F) {
	ca := testcert.NewCA(f)
	roots, err := NewRoots(ca.Cert)
	if err != nil {
		f.Fatal(err)
	}
	term, err := New(Config{
		Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"www.test", "mutual.test"}}))},
		Policies: []Policy{{Names: []string{"www.test"}}, {Names: []string{"mutual.test"}, Client: &ClientAuth{Roots: roots}}},
		Unknown:  &UnknownNames{},
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	for _, conf := range []*tls.Config{
		{ServerName: "www.test", InsecureSkipVerify: true}, {ServerName: "mutual.test", InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12},
		{ServerName: "www.test", InsecureSkipVerify: true, NextProtos: []string{acmeALPN}}, {InsecureSkipVerify: true},
	} {
		clientEnd, serverEnd := memnet.Pipe()
		go func() {
			tls.Client(clientEnd, conf).Handshake()
			clientEnd.Close()
		}()
		head := make([]byte, 5)
		if _, err := io.ReadFull(serverEnd, head); err != nil {
			f.Fatal(err)
		}
		hello := append(head, make([]byte, binary.BigEndian.Uint16(head[3:]))...)
		if _, err := io.ReadFull(serverEnd, hello[5:]); err != nil {
			f.Fatal(err)
		}
		serverEnd.Close()
		f.Add(hello)
		f.Add(hello[:len(hello)/2])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		clientEnd, serverEnd := memnet.Pipe()
		go func() {
			clientEnd.Write(data)
			clientEnd.Close()
		}()
		defer serverEnd.Close()
		if err := tls.Server(serverEnd, term.ServerConfig()).HandshakeContext(t.Context()); err == nil {
			t.Errorf("%x completes a handshake", data)
		}
	})
}
