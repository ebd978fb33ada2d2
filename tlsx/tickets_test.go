package tlsx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// oneSession offers the last session to whatever server comes next, as a client
// does that wants to carry a ticket from one policy to another.
type oneSession struct {
	mu   sync.Mutex
	last *tls.ClientSessionState
}

func (o *oneSession) Get(string) (*tls.ClientSessionState, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last, o.last != nil
}

func (o *oneSession) Put(_ string, s *tls.ClientSessionState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s != nil {
		o.last = s
	}
}

// ticketClient accepts any server: what is tested is what servers accept.
func ticketClient(version uint16, name string, cert *tls.Certificate, sessions tls.ClientSessionCache) *tls.Config {
	c := &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, ClientSessionCache: sessions}
	if cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c
}

func bothVersions(t *testing.T, f func(t *testing.T, version uint16)) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) { f(t, version) })
	}
}

// TestTicketsStayWithinAPolicy carries tickets from each of five policies to
// each: only the policy that issued one resumes it. Not even the ones that
// differ in nothing but the authorizer do (golang/go #77217).
func TestTicketsStayWithinAPolicy(t *testing.T) {
	ca, otherCA := testcert.NewCA(t), testcert.NewCA(t)
	alice := ca.Issue(testcert.Leaf{CommonName: "alice"})
	allow := func(context.Context, *Identity) error { return nil }
	deny := func(context.Context, *Identity) error { return errors.New("denied") }
	policies := []Policy{
		{Names: []string{"open.test"}},
		{Names: []string{"optional.test"}, Client: &ClientAuth{Roots: rootsOf(t, ca)}},
		{Names: []string{"allow.test"}, Client: &ClientAuth{Mode: Required, Roots: rootsOf(t, ca), Authorize: allow}},
		{Names: []string{"deny.test"}, Client: &ClientAuth{Mode: Required, Roots: rootsOf(t, ca), Authorize: deny}},
		{Names: []string{"other.test"}, Client: &ClientAuth{Mode: Required, Roots: rootsOf(t, otherCA)}},
	}
	cert := static(ca.Issue(testcert.Leaf{Names: []string{"open.test", "optional.test", "allow.test", "deny.test", "other.test"}}))
	term := newTerminator(t, Config{Certs: []CertSource{cert}, Policies: policies})
	twin := newTerminator(t, Config{Certs: []CertSource{cert}, Policies: policies})
	admits := map[string]bool{"open.test": true, "optional.test": true, "allow.test": true}
	bothVersions(t, func(t *testing.T, version uint16) {
		for from := range admits {
			for _, p := range policies {
				to, sessions := p.Names[0], new(oneSession)
				if r := shake(t, term.ServerConfig(), ticketClient(version, from, &alice, sessions)); !r.ok() || r.client.DidResume || sessions.last == nil {
					t.Fatalf("first visit of %s: %v / %v", from, r.clientErr, r.serverErr)
				}
				r := shake(t, term.ServerConfig(), ticketClient(version, to, &alice, sessions))
				if r.ok() != admits[to] {
					t.Errorf("ticket of %s at %s: %v / %v", from, to, r.clientErr, r.serverErr)
				}
				if r.client.DidResume != (from == to) {
					t.Errorf("ticket of %s at %s: resumed %v", from, to, r.client.DidResume)
				}
			}
			sessions := new(oneSession)
			shake(t, term.ServerConfig(), ticketClient(version, from, &alice, sessions))
			if r := shake(t, twin.ServerConfig(), ticketClient(version, from, &alice, sessions)); r.client.DidResume {
				t.Errorf("another Terminator resumed a ticket of %s", from)
			}
		}
	})
}

func TestAuthorizerIsAskedOnResumption(t *testing.T) {
	ca := testcert.NewCA(t)
	alice := ca.Issue(testcert.Leaf{CommonName: "alice"})
	var denied atomic.Bool
	var asked atomic.Int32
	term := newTerminator(t, Config{
		Certs: []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"a.test"}}))},
		Policies: []Policy{{Client: &ClientAuth{Mode: Required, Roots: rootsOf(t, ca), Authorize: func(_ context.Context, id *Identity) error {
			asked.Add(1)
			if denied.Load() || id.CommonName != "alice" {
				return fmt.Errorf("%s is denied", id.CommonName)
			}
			return nil
		}}}},
	})
	bothVersions(t, func(t *testing.T, version uint16) {
		denied.Store(false)
		asked.Store(0)
		client := ticketClient(version, "a.test", &alice, new(oneSession))
		for i := range 2 {
			if r := shake(t, term.ServerConfig(), client); !r.ok() || r.client.DidResume != (i == 1) {
				t.Fatalf("visit %d: resumed %v: %v / %v", i, r.client.DidResume, r.clientErr, r.serverErr)
			}
		}
		denied.Store(true)
		if r := shake(t, term.ServerConfig(), client); r.clientErr == nil || !errors.Is(r.serverErr, ErrUnauthorized) {
			t.Errorf("denied on resumption: %v / %v", r.clientErr, r.serverErr)
		}
		if n := asked.Load(); n != 3 {
			t.Errorf("asked %d times, want 3", n)
		}
	})
}

func TestNewAuthoritiesEndOldTickets(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		oldCA, newCA := testcert.NewCA(t), testcert.NewCA(t)
		alice, newAlice := oldCA.Issue(testcert.Leaf{CommonName: "alice"}), newCA.Issue(testcert.Leaf{CommonName: "alice"})
		var roots swapRoots
		roots.Store(rootsOf(t, oldCA))
		term := newTerminator(t, Config{
			Certs:    []CertSource{static(oldCA.Issue(testcert.Leaf{Names: []string{"a.test"}}))},
			Policies: []Policy{{Client: &ClientAuth{Mode: Required, Roots: &roots}}},
		})
		sessions := new(oneSession)
		if r := shake(t, term.ServerConfig(), ticketClient(version, "a.test", &alice, sessions)); !r.ok() {
			t.Fatal(r.clientErr, r.serverErr)
		}
		roots.Store(rootsOf(t, newCA))
		if r := shake(t, term.ServerConfig(), ticketClient(version, "a.test", &alice, sessions)); r.ok() || r.client.DidResume {
			t.Errorf("a client of the old authority got in, resumed %v", r.client.DidResume)
		}
		if r := shake(t, term.ServerConfig(), ticketClient(version, "a.test", &newAlice, sessions)); !r.ok() || r.client.DidResume {
			t.Errorf("a client of the new authority: resumed %v, %v / %v", r.client.DidResume, r.clientErr, r.serverErr)
		}
		// Both at once, as in a rotation: the old ticket was of another set.
		both, err := NewRoots(oldCA.Cert, newCA.Cert)
		if err != nil {
			t.Fatal(err)
		}
		roots.Store(both)
		for i := range 2 {
			if r := shake(t, term.ServerConfig(), ticketClient(version, "a.test", &alice, sessions)); !r.ok() || r.client.DidResume != (i == 1) {
				t.Errorf("both authorities, visit %d: resumed %v, %v / %v", i, r.client.DidResume, r.clientErr, r.serverErr)
			}
		}
	})
}

// TestTicketsAge checks, on a fake clock, how long a ticket is good for: at
// least one period of its key and less than two, and never beyond the
// certificate that it stands for.
func TestTicketsAge(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		synctest.Test(t, func(t *testing.T) {
			ca := testcert.NewCA(t)
			term := newTerminator(t, Config{
				Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"a.test"}, NotAfter: time.Now().AddDate(1, 0, 0)}))},
				Policies: []Policy{{Client: &ClientAuth{Roots: rootsOf(t, ca)}}},
			})
			visit := func(after time.Duration, cert *tls.Certificate, resumed, ok bool) {
				t.Helper()
				sessions := new(oneSession)
				if r := shake(t, term.ServerConfig(), ticketClient(version, "a.test", cert, sessions)); !r.ok() {
					t.Fatal(r.clientErr, r.serverErr)
				}
				time.Sleep(after)
				if r := shake(t, term.ServerConfig(), ticketClient(version, "a.test", cert, sessions)); r.client.DidResume != resumed || r.ok() != ok {
					t.Errorf("after %v: resumed %v, want %v: %v / %v", after, r.client.DidResume, resumed, r.clientErr, r.serverErr)
				}
			}
			visit(ticketRotation-time.Second, nil, true, true)
			visit(2*ticketRotation, nil, false, true)
			brief := ca.Issue(testcert.Leaf{NotAfter: time.Now().Add(time.Hour)})
			visit(30*time.Minute, &brief, true, true)
			visit(30*time.Minute+time.Second, &brief, false, false)
		})
	})
}

// TestVerifyOnResumption is about the check that is ours, without the one in
// crypto/tls before it.
func TestVerifyOnResumption(t *testing.T) {
	ca, otherCA := testcert.NewCA(t), testcert.NewCA(t)
	alice := ca.Issue(testcert.Leaf{})
	cs := tls.ConnectionState{DidResume: true, PeerCertificates: chainOf(alice.Leaf), VerifiedChains: [][]*certificate{chainOf(alice.Leaf, ca.Cert)}}
	p := &servedPolicy{Policy: Policy{Client: &ClientAuth{}}}
	if err := authorize(t.Context(), p, rootsOf(t, ca), cs); err != nil {
		t.Error(err)
	}
	if err := authorize(t.Context(), p, rootsOf(t, otherCA), cs); err == nil {
		t.Error("a resumed client of another authority was let in")
	}
	expired := ca.Issue(testcert.Leaf{NotAfter: time.Now().Add(-time.Second)}).Leaf
	early := ca.Issue(testcert.Leaf{NotBefore: time.Now().Add(time.Minute)}).Leaf
	good := cs.VerifiedChains[0]
	for what, chain := range map[string][]*certificate{
		"expired": chainOf(expired, ca.Cert), "early": chainOf(early, ca.Cert), "below an expired one": chainOf(alice.Leaf, expired, ca.Cert), "of another authority": chainOf(alice.Leaf, otherCA.Cert),
	} {
		cs.VerifiedChains = [][]*certificate{chain}
		if err := authorize(t.Context(), p, rootsOf(t, ca), cs); err == nil {
			t.Errorf("a resumed client was let in with a chain that is %s", what)
		}
		cs.VerifiedChains = [][]*certificate{chain, good}
		if err := authorize(t.Context(), p, rootsOf(t, ca), cs); err != nil {
			t.Errorf("a good chain beside one that is %s: %v", what, err)
		}
	}
	cs.VerifiedChains = nil
	if err := authorize(t.Context(), p, rootsOf(t, ca), cs); err == nil {
		t.Error("a client without a verified chain was let in")
	}
	p.Client.Mode = Required
	if err := authorize(t.Context(), p, rootsOf(t, ca), tls.ConnectionState{}); err == nil {
		t.Error("a client without a certificate was let in")
	}
}

func TestTicketKeysDiffer(t *testing.T) {
	ca := testcert.NewCA(t)
	roots := rootsOf(t, ca)
	ring := newTicketRing([32]byte{1})
	seen := make(map[[32]byte]string)
	for _, e := range []*ticketEpoch{{5, ring}, {5, newTicketRing([32]byte{2})}} {
		for _, policy := range []string{"", "a", "b", "ab", "a\x00\x00\x00\x00\x00\x00\x00\x01b"} { // the last reads like "a" under the version "b"
			for _, r := range []*Roots{nil, roots} {
				for _, version := range []string{"", "1", "b"} {
					for i, key := range e.keys(policy, r, version) {
						what := fmt.Sprintf("secret %d, policy %q, roots %v, version %q, key %d", e.ring[0].secret[0], policy, r != nil, version, i)
						if other, ok := seen[key]; ok {
							t.Errorf("same key: %s and %s", other, what)
						}
						seen[key] = what
					}
				}
			}
		}
	}
	now, next := (&ticketEpoch{5, ring}).keys("a", roots, ""), (&ticketEpoch{6, ring}).keys("a", roots, "")
	if next[1] != now[0] || now[2] != next[0] {
		t.Error("neighbouring periods do not accept each other's key")
	}
}

// TestManyAtOnce changes the authorities under handshakes that run at the same
// time: for the race detector, and no handshake fails that should not.
func TestManyAtOnce(t *testing.T) {
	ca, otherCA := testcert.NewCA(t), testcert.NewCA(t)
	alice := ca.Issue(testcert.Leaf{})
	both, err := NewRoots(ca.Cert, otherCA.Cert)
	if err != nil {
		t.Fatal(err)
	}
	var roots swapRoots
	roots.Store(both)
	term := newTerminator(t, Config{
		Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"a.test"}}))},
		Policies: []Policy{{Client: &ClientAuth{Mode: Required, Roots: &roots}}},
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			client := ticketClient(tls.VersionTLS13, "a.test", &alice, new(oneSession))
			for range 10 {
				if r := shake(t, term.ServerConfig(), client); !r.ok() {
					t.Errorf("%v / %v", r.clientErr, r.serverErr)
				}
			}
		})
	}
	for i := range 20 {
		roots.Store([]*Roots{rootsOf(t, ca), both}[i%2])
		time.Sleep(time.Millisecond)
	}
	wg.Wait()
}
