package acme

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"github.com/palisade-go/palisade/internal/testcert"
)

// TestConfigIsCopied: what the caller does with a Config after New changes nothing.
func TestConfigIsCopied(t *testing.T) {
	account := func() *ExternalAccount { return &ExternalAccount{KeyID: "k", MACKey: "bQ"} }
	c := Config{
		Names: []string{"a.test"}, Storage: newMemory(), Account: account(), Email: "first@a.test", Profile: "first", OrdersPerMinute: 6,
		Fallbacks: []Authority{{Directory: "https://second.test", Account: account(), Email: "second@a.test"}},
		Staging:   &Authority{Directory: "https://staging.test", Account: account()}, OnDemand: &OnDemand{Decide: everybody, Max: 5},
		DNS: &DNS{Provider: pebbleDNS{}, Resolvers: []string{"192.0.2.1:53"}},
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c.Account.KeyID, c.Fallbacks[0].Account.KeyID, c.Staging.Account.KeyID = "x", "x", "x"
	c.Fallbacks[0].Directory, c.Staging.Directory, c.OnDemand.Max, c.DNS.Resolvers[0], c.DNS.Propagation = "x", "x", 6, "x", 1
	for i, want := range []Authority{{Directory: s.conf.Directory, Email: "first@a.test", Profile: "first"}, {Directory: "https://second.test", Email: "second@a.test"}, {Directory: "https://staging.test"}} {
		a := s.everyone()[i]
		if a.Directory != want.Directory || a.Email != want.Email || a.Profile != want.Profile || a.Account.KeyID != "k" || a.client.Directory != want.Directory {
			t.Errorf("authority %d: %+v", i, a.Authority)
		}
		if a.pace.every != 10*time.Second {
			t.Errorf("authority %d: an order every %v", i, a.pace.every)
		}
	}
	if s.conf.OnDemand.Max != 5 || s.conf.DNS.Resolvers[0] != "192.0.2.1:53" || s.conf.DNS.Propagation != 0 {
		t.Errorf("%+v, %+v", s.conf.OnDemand, s.conf.DNS)
	}
	d, err := New(Config{OnDemand: &OnDemand{Decide: everybody}, Storage: newMemory()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.httpDoor.port != 80 || d.tlsDoor.port != 443 || d.authorities[0].pace.every != time.Second || d.conf.Logger != slog.Default() || len(d.everyone()) != 1 {
		t.Errorf("defaults: %d, %d, %v", d.httpDoor.port, d.tlsDoor.port, d.authorities[0].pace.every)
	}
}

func TestAccountPlaces(t *testing.T) {
	for email, want := range map[string]string{"": "default/default", "Admin@A.test": "admin@a.test/admin", "@a.test": "@a.test/a.test", "nobody": "nobody/nobody"} {
		s := offline(t, Config{Names: []string{"a.test"}, Storage: newMemory(), Email: email})
		registration, private := s.authorities[0].accountPlaces()
		if want := "acme/127.0.0.1-1-dir/users/" + want; registration != want+".json" || private != want+".key" {
			t.Errorf("%q: %s and %s, want %s", email, registration, private, want)
		}
	}
}

func TestMethods(t *testing.T) {
	for want, c := range map[string]Config{
		"dns-01": {DNS: &DNS{Provider: pebbleDNS{}}}, "dns-persist-01": {PersistentDNS: &PersistentDNS{}},
		"http-01": {DisableTLSALPNChallenge: true}, "tls-alpn-01": {DisableHTTPChallenge: true}, "http-01,tls-alpn-01": {},
	} {
		c.Names, c.Storage = []string{"a.test"}, newMemory()
		s := offline(t, c)
		methods := s.methods()
		if got := strings.Join(methods, ","); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		solvers := s.solvers(s.authorities[0])
		for _, m := range methods {
			if solvers[m] == nil || len(solvers) != len(methods) {
				t.Errorf("%s: solvers %v", want, solvers)
			}
		}
	}
}

// TestHoldIsNotShortened by an answer that asks for less.
func TestHoldIsNotShortened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, _ := withAuthority(t, Config{Names: []string{"a.test"}, Storage: newMemory()})
		wait := "600"
		f.answer = func(_ string, h http.Header) int {
			h.Set("Retry-After", wait)
			return http.StatusServiceUnavailable
		}
		start := time.Now()
		for _, wait = range []string{"600", "5"} {
			if _, err := s.authorities[0].open(t.Context()); err == nil {
				t.Error("an account of nobody")
			}
		}
		if got := s.authorities[0].pace.hold.Sub(start); got < 10*time.Minute || got > 11*time.Minute {
			t.Errorf("held for %v", got)
		}
		f.answer = nil
		soon, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := s.obtain(soon, "a.test", nil); err == nil || f.count("order") != 0 {
			t.Errorf("while held: %v, %d orders", err, f.count("order"))
		}
		if _, err := s.obtain(t.Context(), "a.test", nil); err != nil || time.Since(start) < 10*time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

// TestChallengeComesAndGoes: a proof is where others of the cluster find it, for as
// long as it takes.
func TestChallengeComesAndGoes(t *testing.T) {
	storage := newMemory()
	s := offline(t, Config{Names: []string{"a.test"}, Storage: storage})
	other := offline(t, Config{Names: []string{"a.test"}, Storage: storage})
	for kind, d := range map[string]*door{acme.ChallengeTypeHTTP01: &s.httpDoor, acme.ChallengeTypeTLSALPN01: &s.tlsDoor} {
		d.port = -1 // nothing can listen there
		v := s.solvers(s.authorities[0])[kind].(*solver)
		if v.door != d {
			t.Errorf("%s has another's door", kind)
		}
		c := challengeOf(kind, "a.test")
		if err := v.Present(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		storage.reset(nil)
		if got, ok := s.challenge(t.Context(), kind, "a.test"); !ok || got.KeyAuthorization != c.KeyAuthorization || storage.count("Load") != 0 {
			t.Errorf("%s here: %v, %d reads", kind, ok, storage.count("Load"))
		}
		if got, ok := other.challenge(t.Context(), kind, "a.test"); !ok || got.KeyAuthorization != c.KeyAuthorization {
			t.Errorf("%s elsewhere: %v", kind, ok)
		}
		for range 2 {
			if err := v.CleanUp(t.Context(), c); err != nil {
				t.Error(err)
			}
		}
		if _, ok := s.challenge(t.Context(), kind, "a.test"); ok || len(storage.keys("")) != 0 || d.users != 0 {
			t.Errorf("%s: still on %v, storage %q, %d users of the door", kind, ok, storage.keys(""), d.users)
		}
		storage.reset(func(string, string) error { return errReadOnly })
		if err := v.Present(t.Context(), c); !errors.Is(err, errReadOnly) {
			t.Errorf("%s, not stored: %v", kind, err)
		}
		if _, ok := s.challenges.Load(challengeKey{kind, "a.test"}); ok || d.users != 0 {
			t.Errorf("%s is on, though it is not stored", kind)
		}
		storage.reset(nil)
	}
}

// TestPersistentRecord looks for the record before the authority is told.
func TestPersistentRecord(t *testing.T) {
	server := zone(t,
		`_validation-persist.a.test. 60 IN TXT "other.test; accounturi=https://authority.test/account/1"`,
		`_validation-persist.a.test. 60 IN TXT "second.test; accounturi=https://authority.test/account/1"`,
		`_validation-persist.w.test. 60 IN TXT "first.test; accounturi=https://authority.test/account/1"`,
	)
	s := offline(t, Config{Names: []string{"a.test", "*.w.test"}, Storage: newMemory(), PersistentDNS: &PersistentDNS{Resolver: server}})
	newFakeAuthority(t).become(s.authorities[0])
	p := &persistSolver{s, s.authorities[0]}
	present := func(name string, issuers ...string) error {
		c := challengeOf(acme.ChallengeTypeDNSPersist01, name)
		c.IssuerDomainNames = issuers
		return p.Present(t.Context(), c)
	}
	if err := present("a.test", "first.test", "second.test"); err != nil {
		t.Errorf("a record that permits: %v", err)
	}
	if err := present("a.test", "first.test"); !errors.Is(err, ErrNoRecord) || !strings.Contains(err.Error(), "first.test") {
		t.Errorf("a record for another authority: %v", err)
	}
	if err := present("w.test", "first.test"); !errors.Is(err, ErrNoRecord) || !strings.Contains(err.Error(), "policy=wildcard") {
		t.Errorf("a record without wildcards: %v", err)
	}
	if err := present("none.test", "first.test"); !errors.Is(err, ErrNoRecord) || strings.Contains(err.Error(), "lookup failed") {
		t.Errorf("no record: %v", err)
	}
	if err := present("a.test"); err == nil || errors.Is(err, ErrNoRecord) {
		t.Errorf("an authority without a name: %v", err)
	}
}

// TestParseCAARefuses answers that are none to the question.
func TestParseCAARefuses(t *testing.T) {
	query := dnsQuery(0x1234, "a.test")
	question := query[12 : len(query)-11]
	record := append([]byte{0xc0, 12, 1, 1, 0, 1, 0, 0, 0, 1, 0, 8, 128, 5}, "Issue;"...)
	answer := func(change func(m []byte) []byte) []byte {
		m := append([]byte{0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}, question...)
		return change(append(m, record...))
	}
	same := func(m []byte) []byte { return m }
	set := func(i int, b byte) func([]byte) []byte {
		return func(m []byte) []byte { m[i] = b; return m }
	}
	records, truncated, err := parseCAA(answer(same), query)
	if err != nil || truncated || len(records) != 1 || records[0] != (caaRR{128, "issue", ";"}) {
		t.Fatalf("%+v, %v, %v", records, truncated, err)
	}
	for what, change := range map[string]func([]byte) []byte{
		"another id": set(1, 0x35), "another id, first byte": set(0, 0x13), "no response": set(2, 0x01), "server failure": set(3, 0x82), "refused": set(3, 0x85),
		"two questions": set(5, 2), "another question": set(13, 'b'), "half of it": func(m []byte) []byte { return m[:len(m)-1] },
		"a header only": func(m []byte) []byte { return m[:12] }, "nothing": func([]byte) []byte { return nil },
		"no tag": set(12+len(question)+13, 0), "a tag beyond the end": set(12+len(question)+13, 7), "more records than there are": set(7, 2),
	} {
		if records, _, err := parseCAA(answer(change), query); err == nil {
			t.Errorf("%s: %+v", what, records)
		}
	}
	if records, _, err := parseCAA(answer(set(3, 0x83)), query); err != nil || records != nil {
		t.Errorf("no such name: %+v, %v", records, err)
	}
	if _, truncated, err := parseCAA(answer(set(2, 0x83)), query); err != nil || !truncated {
		t.Errorf("truncated: %v, %v", truncated, err)
	}
	if records, _, err := parseCAA(answer(set(12+len(question)+3, 2)), query); err != nil || records != nil {
		t.Errorf("another type: %+v, %v", records, err)
	}
	many := answer(func(m []byte) []byte {
		binary.BigEndian.PutUint16(m[6:], dnsAnswers+1)
		for range dnsAnswers {
			m = append(m, record...)
		}
		return m
	})
	if records, _, err := parseCAA(many, query); err != nil || len(records) != dnsAnswers {
		t.Errorf("%d records, %v, want %d", len(records), err, dnsAnswers)
	}
}

// TestWildcards are for the names directly below them.
func TestWildcards(t *testing.T) {
	s := offline(t, Config{Names: []string{"*.a.test", "own.a.test"}, Storage: newMemory(), PersistentDNS: &PersistentDNS{}})
	ca, now := testcert.NewCA(t), time.Now()
	for name, k := range s.names {
		k.serve(heldFor(t, s, ca, name, now.Add(-time.Hour), now.Add(time.Hour)))
	}
	for name, want := range map[string]string{"x.a.test": "*.a.test", "X.A.test.": "*.a.test", "own.a.test": "own.a.test", "x.own.a.test": "", "a.test": "", "x.y.a.test": "", "test": ""} {
		cert, err := s.Certificate(&tls.ClientHelloInfo{ServerName: name, Conn: nowhere{}})
		if err != nil || (cert != nil) != (want != "") || cert != nil && cert.Leaf.DNSNames[0] != want {
			t.Errorf("%s: %v, %v, want that of %q", name, cert != nil, err, want)
		}
	}
}
