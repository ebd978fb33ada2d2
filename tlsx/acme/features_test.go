package acme

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/libdns/libdns"
	"github.com/miekg/dns"

	"github.com/palisade-go/palisade/internal/pebbletest"
	"github.com/palisade-go/palisade/tlsx"
)

// pebbleDNS is a DNS provider that sets records in Pebble's DNS server.
type pebbleDNS struct{ server *pebbletest.Server }

func fqdn(name, zone string) string {
	return strings.TrimSuffix(libdns.AbsoluteName(name, zone), ".") + "."
}

func (p pebbleDNS) AppendRecords(_ context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	for _, r := range records {
		rr := r.RR()
		if err := p.server.SetTXT(fqdn(rr.Name, zone), rr.Data); err != nil {
			return nil, err
		}
	}
	return records, nil
}

func (p pebbleDNS) DeleteRecords(_ context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	for _, r := range records {
		if err := p.server.ClearTXT(fqdn(r.RR().Name, zone)); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// startOfAuthority answers that every name below test. is in that zone, which
// Pebble's own DNS server cannot.
func startOfAuthority(t *testing.T) (addr string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Name == "test." && q.Question[0].Qtype == dns.TypeSOA {
			m.Answer = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "test.", Rrtype: dns.TypeSOA, Class: dns.ClassINET}, Ns: "ns.test.", Mbox: "a.test."}}
		}
		w.WriteMsg(m)
	})}
	go srv.ActivateAndServe()
	t.Cleanup(func() { srv.Shutdown() })
	return conn.LocalAddr().String()
}

// TestDNS01 gets a certificate for a wildcard, without any listener.
func TestDNS01(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{})
	s, _ := newSource(t, p, Config{
		Names: []string{"*.a.test", "b.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()},
		DNS: &DNS{Provider: pebbleDNS{p}, Resolvers: []string{startOfAuthority(t)}, Propagation: -1},
	})
	obtain(t, s)
	for name, want := range map[string]bool{"b.test": true, "x.a.test": true, "x.y.a.test": false, "a.test": false} {
		if cert, err := s.Certificate(&tls.ClientHelloInfo{ServerName: name, Conn: nowhere{}}); err != nil || (cert != nil) != want {
			t.Errorf("%s: %v, %v, want one: %v", name, cert != nil, err, want)
		}
	}
}

// nowhere is the connection of a hello that a test makes up.
type nowhere struct{ net.Conn }

func (nowhere) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }
func (nowhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// TestExternalAccountAndProfile is about an authority that wants both.
func TestExternalAccountAndProfile(t *testing.T) {
	key := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	p := pebbletest.Start(t, pebbletest.Config{Accounts: map[string]string{"kid-1": key}, Validity: time.Hour})
	s, _ := newSource(t, p, Config{
		Names: []string{"a.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()},
		Account: &ExternalAccount{KeyID: "kid-1", MACKey: key}, Profile: "brief",
	})
	serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
	obtain(t, s)
	if c := s.Certificates()[0]; c.NotAfter.Sub(c.NotBefore) > 61*time.Minute {
		t.Errorf("valid for %v, want the profile's hour", c.NotAfter.Sub(c.NotBefore))
	}
}

// TestFallback has the first authority refuse for want of an account.
func TestFallback(t *testing.T) {
	strict := pebbletest.Start(t, pebbletest.Config{Accounts: map[string]string{"kid-1": "a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5"}})
	p := pebbletest.Start(t, pebbletest.Config{HTTPPort: strict.HTTPPort, TLSPort: strict.TLSPort})
	s, _ := newSource(t, strict, Config{
		Names: []string{"a.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()},
		Fallbacks: []Authority{{Directory: p.Directory, RootCAs: p.CA}},
	})
	serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
	obtain(t, s)
	term := terminator(t, tlsx.Config{Certs: []tlsx.CertSource{s}})
	ln := listen(t, 0)
	serve(t, term.Listener(ln), http.NotFoundHandler())
	if _, err := dial(t, ln.Addr().(*net.TCPAddr).Port, &tls.Config{ServerName: "a.test", RootCAs: p.Roots(t)}); err != nil {
		t.Errorf("not a certificate of the second authority: %v", err)
	}
}

// TestOnDemand has many clients ask for a new name at once, and for others that
// they may not have.
func TestOnDemand(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{})
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	var decided atomic.Int32
	ours := func(_ context.Context, name string, remote net.Addr) error {
		decided.Add(1)
		if remote == nil || !strings.HasSuffix(name, ".customers.test") {
			return errors.New("not a customer")
		}
		return nil
	}
	s, events := newSource(t, p, Config{Storage: storage, OnDemand: &OnDemand{Decide: ours, PerMinute: 1}})
	serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
	term := terminator(t, tlsx.Config{Certs: []tlsx.CertSource{s}})
	serve(t, term.Listener(listen(t, p.TLSPort)), http.NotFoundHandler())
	client := func(name string) *tls.Config { return &tls.Config{ServerName: name, RootCAs: p.Roots(t)} }
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if names, err := dial(t, p.TLSPort, client("one.customers.test")); err != nil || names[0] != "one.customers.test" {
				t.Errorf("certificate for %v, %v", names, err)
			}
		})
	}
	wg.Wait()
	if e := <-events; e.Kind != Obtained || e.Name != "one.customers.test" || len(events) > 0 {
		t.Errorf("event %+v, and %d more", e, len(events))
	}
	before := decided.Load()
	if _, err := dial(t, p.TLSPort, client("one.customers.test")); err != nil || decided.Load() != before {
		t.Errorf("again: %v, decided %d times more", err, decided.Load()-before)
	}
	hello := func(name string) *tls.ClientHelloInfo { return &tls.ClientHelloInfo{ServerName: name, Conn: nowhere{}} }
	if _, err := s.Certificate(hello("x.strangers.test")); !errors.Is(err, ErrDenied) {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := s.Certificate(hello("two.customers.test")); !errors.Is(err, ErrLimit) {
		t.Errorf("a second order in a minute: %v", err)
	}
	if certs := s.Certificates(); len(certs) != 1 || certs[0].DNSNames[0] != "one.customers.test" {
		t.Errorf("%d certificates", len(certs))
	}
	// Another server finds it in the storage, which takes no order.
	second, secondEvents := newSource(t, p, Config{Storage: storage, OnDemand: &OnDemand{Decide: ours, PerMinute: 1, Max: 1}})
	if cert, err := second.Certificate(hello("one.customers.test")); err != nil || cert == nil {
		t.Errorf("from the storage: %v", err)
	}
	if second.demand.ordered != 0 || len(secondEvents) != 0 {
		t.Errorf("%d orders, %d events", second.demand.ordered, len(secondEvents))
	}
	if _, err := second.Certificate(hello("two.customers.test")); !errors.Is(err, ErrLimit) {
		t.Errorf("a second name where there may be one: %v", err)
	}
	second.Close()
	if _, err := second.Certificate(hello("three.customers.test")); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestOnDemandFailure tries a name again only when some time has passed.
func TestOnDemandFailure(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{})
	s, events := newSource(t, p, Config{
		Storage:  &certmagic.FileStorage{Path: t.TempDir()},
		OnDemand: &OnDemand{Decide: func(context.Context, string, net.Addr) error { return nil }}, DisableTLSALPNChallenge: true,
	})
	serve(t, listen(t, p.HTTPPort), http.NotFoundHandler()) // no answer to challenges
	hello := &tls.ClientHelloInfo{ServerName: "a.test", Conn: nowhere{}}
	for range 2 {
		if cert, err := s.Certificate(hello); err == nil || cert != nil {
			t.Errorf("a certificate without proof: %v, %v", cert, err)
		}
	}
	if e := <-events; e.Kind != Failed || len(events) > 0 || s.demand.ordered != 1 {
		t.Errorf("event %+v and %d more, %d orders", e, len(events), s.demand.ordered)
	}
	if s.demand.find("a.test", time.Now().Add(demandRetry)) != nil {
		t.Error("it would never be tried again")
	}
}

// TestDecisionsAreRemembered has a Terminator bound what it costs that strangers
// ask again and again: one decision for a name, unless the handshake ended before
// there was one.
func TestDecisionsAreRemembered(t *testing.T) {
	var decided atomic.Int32
	var leave atomic.Pointer[context.CancelFunc]
	s := offline(t, Config{Storage: &certmagic.FileStorage{Path: t.TempDir()}, OnDemand: &OnDemand{Decide: func(ctx context.Context, _ string, _ net.Addr) error {
		decided.Add(1)
		if cancel := leave.Load(); cancel != nil {
			(*cancel)()
			<-ctx.Done()
			return ctx.Err()
		}
		return errors.New("not a customer")
	}}})
	var rejected []error
	conf := terminator(t, tlsx.Config{Certs: []tlsx.CertSource{s}, Unknown: &tlsx.UnknownNames{TTL: time.Hour}, OnReject: func(_ string, _ net.Addr, err error) {
		rejected = append(rejected, err)
	}}).ServerConfig()
	handshake := func(ctx context.Context, name string) {
		client, server := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			tls.Client(client, &tls.Config{ServerName: name}).HandshakeContext(t.Context())
			client.Close()
		})
		tls.Server(server, conf).HandshakeContext(ctx)
		server.Close()
		wg.Wait()
	}
	for range 3 {
		handshake(t.Context(), "stranger.test")
	}
	if n := decided.Load(); n != 1 || len(rejected) != 3 || !errors.Is(rejected[0], ErrDenied) {
		t.Errorf("decided %d times about a stranger, want once: %v", n, rejected)
	}
	ctx, cancel := context.WithCancel(t.Context())
	leave.Store(&cancel)
	decided.Store(0)
	handshake(ctx, "customer.test")
	leave.Store(nil)
	handshake(t.Context(), "customer.test")
	if n := decided.Load(); n != 2 {
		t.Errorf("decided %d times, want again after a client that went away", n)
	}
}

func TestNewChecksFeatures(t *testing.T) {
	_, err := New(Config{
		Storage: &certmagic.FileStorage{}, Account: &ExternalAccount{KeyID: "x"}, Fallbacks: []Authority{{Directory: "http://a.test"}, {}},
		DNS: &DNS{}, OnDemand: &OnDemand{Max: -1},
	})
	if err == nil {
		t.Fatal("no error")
	}
	if _, err := New(Config{Names: []string{"192.0.2.1"}, DNS: &DNS{Provider: pebbleDNS{}}, PersistentDNS: &PersistentDNS{Resolver: "x"}, Staging: &Authority{}, OrdersPerMinute: -1}); err == nil {
		t.Error("no error")
	} else {
		for _, want := range []string{`"192.0.2.1"`, "both DNS and PersistentDNS", `Resolver is "x"`, `is ""`, "OrdersPerMinute is -1"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error does not mention %q:\n%v", want, err)
			}
		}
	}
	for _, want := range []string{"MACKey", `"http://a.test"`, `is ""`, "DNS.Provider", "OnDemand.Decide", "-1 and 0"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not mention %q:\n%v", want, err)
		}
	}
}
