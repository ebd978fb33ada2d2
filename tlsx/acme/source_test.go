package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/palisade-go/palisade/internal/pebbletest"
	"github.com/palisade-go/palisade/internal/testcert"
	"github.com/palisade-go/palisade/tlsx"
)

var _ tlsx.CertSource = (*Source)(nil)

// newSource returns a Source for a Pebble, and its events.
func newSource(t *testing.T, p *pebbletest.Server, c Config) (*Source, <-chan Event) {
	t.Helper()
	events := make(chan Event, 16)
	c.Directory, c.RootCAs, c.HTTPPort, c.TLSALPNPort = p.Directory, p.CA, p.HTTPPort, p.TLSPort
	c.OnEvent = func(e Event) { events <- e }
	c.Logger = slog.New(slog.DiscardHandler)
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, events
}

func obtain(t *testing.T, s *Source) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Obtain(ctx); err != nil {
		t.Fatal(err)
	}
}

func listen(t *testing.T, port int) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func serve(t *testing.T, ln net.Listener, h http.Handler) {
	t.Helper()
	serveUntil(t, ln, h)
}

// serveUntil is serve, for a test that needs the port for something else.
func serveUntil(t *testing.T, ln net.Listener, h http.Handler) (stop func()) {
	t.Helper()
	srv := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	go srv.Serve(ln)
	stop = func() { srv.Close() }
	t.Cleanup(stop)
	return stop
}

// dial makes a handshake at the port, and returns the certificate's names.
func dial(t *testing.T, port int, conf *tls.Config) ([]string, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), conf)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].DNSNames, nil
}

func terminator(t *testing.T, c tlsx.Config) *tlsx.Terminator {
	t.Helper()
	term, err := tlsx.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return term
}

// TestHTTP01 obtains two certificates through HTTPHandler and serves them, and
// shows that a second Source on the same storage needs no orders of its own.
func TestHTTP01(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{})
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	s, events := newSource(t, p, Config{Names: []string{"b.test", "A.test."}, Storage: storage, Email: "admin@a.test", DisableTLSALPNChallenge: true})
	serve(t, listen(t, p.HTTPPort), s.HTTPHandler(tlsx.RedirectHTTPS(0)))
	if cert, err := s.Certificate(&tls.ClientHelloInfo{ServerName: "a.test"}); cert != nil || err != nil {
		t.Errorf("before there is a certificate: %v, %v", cert, err)
	}
	obtain(t, s)
	seen := make(map[string]bool)
	for range 2 {
		e := <-events
		seen[e.Name] = e.Kind == Obtained && e.Err == nil
	}
	if !seen["a.test"] || !seen["b.test"] || len(s.Certificates()) != 2 {
		t.Errorf("events %v, %d certificates", seen, len(s.Certificates()))
	}

	term := terminator(t, tlsx.Config{Certs: []tlsx.CertSource{s}})
	serve(t, term.Listener(listen(t, p.TLSPort)), http.NotFoundHandler())
	for _, name := range []string{"a.test", "b.test"} {
		if names, err := dial(t, p.TLSPort, &tls.Config{ServerName: name, RootCAs: p.Roots(t)}); err != nil || names[0] != name {
			t.Errorf("%s: certificate for %v, %v", name, names, err)
		}
	}
	if names, err := dial(t, p.TLSPort, &tls.Config{ServerName: "c.test", InsecureSkipVerify: true}); err == nil {
		t.Errorf("a name that is not configured got the certificate for %v", names)
	}
	if infos := term.Certificates(); len(infos) != 2 || !strings.Contains(infos[0].Issuer, "Pebble") {
		t.Errorf("Certificates() = %+v", infos)
	}

	second, secondEvents := newSource(t, p, Config{Names: []string{"a.test"}, Storage: storage})
	obtain(t, second)
	select {
	case e := <-secondEvents:
		t.Errorf("the certificate in the storage was not used: %+v", e)
	default:
	}
	if second.Certificates()[0].SerialNumber.Cmp(s.Certificates()[0].SerialNumber) != 0 {
		t.Error("the second Source has another certificate")
	}
}

// TestTLSALPN01 obtains a certificate through a Terminator whose policy
// requires client certificates, which the authority does not have.
func TestTLSALPN01(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{})
	s, events := newSource(t, p, Config{Names: []string{"a.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()}, DisableHTTPChallenge: true})
	clientCA := testcert.NewCA(t)
	roots, err := tlsx.NewRoots(clientCA.Cert)
	if err != nil {
		t.Fatal(err)
	}
	term := terminator(t, tlsx.Config{
		Certs:    []tlsx.CertSource{s},
		Policies: []tlsx.Policy{{Names: []string{"a.test"}, Client: &tlsx.ClientAuth{Mode: tlsx.Required, Roots: roots}}},
	})
	serve(t, term.Listener(listen(t, p.TLSPort)), http.NotFoundHandler())
	obtain(t, s)
	if e := <-events; e.Kind != Obtained || e.Name != "a.test" {
		t.Errorf("event %+v", e)
	}
	client := &tls.Config{ServerName: "a.test", RootCAs: p.Roots(t), Certificates: []tls.Certificate{clientCA.Issue(testcert.Leaf{})}}
	if names, err := dial(t, p.TLSPort, client); err != nil || names[0] != "a.test" {
		t.Errorf("certificate for %v, %v", names, err)
	}
	validator := &tls.Config{ServerName: "a.test", InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}}
	if names, err := dial(t, p.TLSPort, validator); err == nil {
		t.Errorf("acme-tls/1 without a challenge got the certificate for %v", names)
	}
}

// TestRenewal has a certificate that lives for 20 seconds renewed at half of
// that, and another node of the cluster take it over.
func TestRenewal(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{Validity: 20 * time.Second})
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	s, events := newSource(t, p, Config{Names: []string{"a.test"}, Storage: storage, Profile: "brief"})
	serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
	obtain(t, s)
	other, otherEvents := newSource(t, p, Config{Names: []string{"a.test"}, Storage: storage, Profile: "brief"})
	obtain(t, other)
	old := s.Certificates()[0]
	at, start, end := s.Renewal(old)
	if life := at.Sub(old.NotBefore); life < 6*time.Second || life > 11*time.Second {
		t.Errorf("renewed %v after it was issued, window %v to %v", life, start, end)
	}
	e, ok := <-events
	if !ok || e.Kind != Obtained || e.Name != "a.test" || !e.NotAfter.Equal(old.NotAfter) {
		t.Errorf("event %+v", e)
	}
	both := func() bool {
		return s.Certificates()[0].SerialNumber.Cmp(old.SerialNumber) != 0 && other.Certificates()[0].Equal(s.Certificates()[0])
	}
	for deadline := old.NotAfter; !both(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not renewed by both before it expired")
		}
	}
	if len(events)+len(otherEvents) != 1 {
		t.Errorf("%d and %d events, want one renewal", len(events), len(otherEvents))
	}
	select {
	case e = <-events:
	case e = <-otherEvents:
	}
	if e.Kind != Renewed || e.Name != "a.test" {
		t.Errorf("event %+v", e)
	}
}

// TestFailure leaves the challenge unanswered. The attempt goes on behind the
// caller, and ends with Close.
func TestFailure(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{})
	s, events := newSource(t, p, Config{
		Names: []string{"a.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()}, DisableTLSALPNChallenge: true,
	})
	serve(t, listen(t, p.HTTPPort), http.NotFoundHandler())
	impatient := errors.New("impatient")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Obtain(ctx) }()
	if e := <-events; e.Kind != Failed || e.Name != "a.test" || e.Err == nil {
		t.Errorf("event %+v", e)
	}
	cancel(impatient)
	if err := <-done; !errors.Is(err, impatient) || !strings.Contains(err.Error(), "a.test") || !strings.Contains(err.Error(), "unauthorized") {
		t.Errorf("Obtain: %v", err)
	}
	go func() { done <- s.Obtain(t.Context()) }()
	s.Close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("Obtain while closing: %v", err)
	}
	if err := s.Obtain(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Obtain after Close: %v", err)
	}
}

func TestHTTPHandlerPassesOn(t *testing.T) {
	s, err := New(Config{Names: []string{"a.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ln := listen(t, 0)
	serve(t, ln, s.HTTPHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })))
	for _, c := range []struct{ host, path string }{
		{"a.test", "/"}, {"a.test", "/.well-known/acme-challenge/unknown"},
		{"b.test", "/.well-known/acme-challenge/x"}, {"../../etc", "/.well-known/acme-challenge/x"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+ln.Addr().String()+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host, r.Close = c.host, true
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if c.host == "../../etc" && res.StatusCode == http.StatusBadRequest {
			continue // net/http refuses such a Host by itself
		}
		if res.StatusCode != http.StatusTeapot {
			t.Errorf("%s%s: %s", c.host, c.path, res.Status)
		}
	}
}

func TestClose(t *testing.T) {
	s, err := New(Config{Names: []string{"a.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	s.Start()
	if err := s.Obtain(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Obtain after Close: %v", err)
	}
}
