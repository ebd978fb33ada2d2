package tlsx

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
	"github.com/palisade-go/palisade/internal/testcert"
)

// alertUnrecognizedName is the alert for a name that is not served.
const alertUnrecognizedName = tls.AlertError(112)

// result is how a handshake went, as each side sees it after one byte from the
// server: with TLS 1.3 the client hears of a refusal only then.
type result struct {
	client               tls.ConnectionState
	clientErr, serverErr error
}

func (r result) ok() bool { return r.clientErr == nil && r.serverErr == nil }

// shake connects a client to a server at 192.0.2.1:443 in memory.
func shake(t *testing.T, server, client *tls.Config) result {
	t.Helper()
	ln := memnet.Listen("192.0.2.1:443")
	defer ln.Close()
	raw, err := ln.DialContext(t.Context(), "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		conn := tls.Server(accepted, server)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("x"))
		}
		served <- err
	}()
	conn := tls.Client(raw, client)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	var r result
	if r.clientErr = conn.Handshake(); r.clientErr == nil {
		_, r.clientErr = io.ReadFull(conn, make([]byte, 1))
	}
	r.client = conn.ConnectionState()
	conn.Close()
	r.serverErr = <-served
	return r
}

func newTerminator(t *testing.T, c Config) *Terminator {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	term, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return term
}

// static serves one certificate for the names it covers.
func static(cert tls.Certificate) CertSource {
	return CertFunc(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName != "" && cert.Leaf.VerifyHostname(hello.ServerName) != nil {
			return nil, nil
		}
		return &cert, nil
	})
}

func rootsOf(t *testing.T, ca *testcert.CA) *Roots {
	t.Helper()
	roots, err := NewRoots(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

// swapRoots is a TrustSource whose set a test replaces.
type swapRoots struct{ atomic.Pointer[Roots] }

func (s *swapRoots) Roots() *Roots { return s.Load() }

// rejection is one call of OnReject.
type rejection struct {
	name   string
	remote net.Addr
	err    error
}

func collect(into chan<- rejection) func(string, net.Addr, error) {
	return func(name string, remote net.Addr, err error) { into <- rejection{name, remote, err} }
}

func wantAlert(t *testing.T, err error, want tls.AlertError) {
	t.Helper()
	// crypto/tls wraps the alert of the other side in a net.OpError.
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Err.Error() != want.Error() {
		t.Errorf("client got %v, want the alert %v", err, want)
	}
}
