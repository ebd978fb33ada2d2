package load

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"testing"
	"time"
)

// handshakeServer answers with a body over TLS.
func handshakeServer(t *testing.T, body string, change func(*tls.Config)) Handshakes {
	t.Helper()
	cert, roots := selfSigned(t)
	conf := &tls.Config{Certificates: []tls.Certificate{cert}}
	change(conf)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }),
		ErrorLog: log.New(io.Discard, "", 0),
	}
	go srv.Serve(tls.NewListener(ln, conf))
	t.Cleanup(func() { srv.Close() })
	return Handshakes{
		Addr: ln.Addr().String(), Config: &tls.Config{ServerName: "bench.example", RootCAs: roots},
		Curve: tls.X25519, Conns: 2, Body: []byte("hello"),
	}
}

// TestHandshakes makes full and resumed connections, in each key exchange.
func TestHandshakes(t *testing.T) {
	h := handshakeServer(t, "hello", func(*tls.Config) {})
	for _, curve := range []tls.CurveID{tls.X25519, tls.CurveP256, tls.X25519MLKEM768} {
		for _, resume := range []bool{false, true} {
			h.Curve, h.Resume = curve, resume
			if err := h.Try(); err != nil {
				t.Errorf("%v, resumed %v: %v", curve, resume, err)
			}
			l := h.InTurns()
			for l.Ops() < 4 && !t.Failed() {
				takeTurn(t, l)
			}
			if err := l.Stop(); err != nil {
				t.Errorf("%v, resumed %v: %v", curve, resume, err)
			}
		}
	}
}

// TestHandshakesRefused checks that a load fails for servers that would be
// compared at other work.
func TestHandshakesRefused(t *testing.T) {
	h := handshakeServer(t, "hello", func(c *tls.Config) { c.SessionTicketsDisabled = true })
	h.Resume = true
	if err := h.Try(); !errors.Is(err, ErrNotResumed) {
		t.Errorf("a server that does not resume: %v", err)
	}
	h = handshakeServer(t, "other", func(*tls.Config) {})
	if err := h.Try(); err == nil {
		t.Error("another body was taken")
	}
	h = handshakeServer(t, "hello", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP256} })
	if err := h.Try(); err == nil {
		t.Error("a server without the key exchange was taken")
	}
	for _, h.Resume = range []bool{false, true} {
		l := h.InTurns()
		if _, err := l.Turn(here{}, time.Millisecond); err == nil || l.Stop() == nil {
			t.Errorf("resumed %v: a load that failed has no error", h.Resume)
		}
	}
}
