package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

func everybody(context.Context, string, net.Addr) error { return nil }

// present has another process of the cluster begin a challenge at an authority.
func present(t *testing.T, s *Source, a *authority, c acme.Challenge) {
	t.Helper()
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.conf.Storage.Store(t.Context(), tokenPlace(a, challengeName(c)), data); err != nil {
		t.Fatal(err)
	}
}

func challengeOf(kind, name string) acme.Challenge {
	return acme.Challenge{Type: kind, Token: "tok", KeyAuthorization: "tok.key", Identifier: acme.Identifier{Type: "dns", Value: name}}
}

// answersHTTP asks for a challenge as a validator does.
func answersHTTP(h http.Handler, host string) bool {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://"+host+"/.well-known/acme-challenge/tok", nil))
	return w.Code == http.StatusOK && w.Body.String() == "tok.key"
}

func validatorHello(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{ServerName: name, Conn: nowhere{}, SupportedProtos: []string{challengeALPN}}
}

// TestFloodOfChallenges has strangers ask for challenges of invented names, and a
// validator in the midst of them for those that another process has on: their
// storage is not read at the pace of the flood, and the validator is answered.
func TestFloodOfChallenges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemory()
		s := offline(t, Config{Storage: storage, OnDemand: &OnDemand{Decide: everybody}, Staging: &Authority{Directory: "https://127.0.0.1:2/dir"}})
		handler := s.HTTPHandler(http.NotFoundHandler())
		const seconds, clients = 10, 200
		end := time.Now().Add(seconds * time.Second)
		storage.delay = 5 * time.Millisecond
		for i := range clients {
			go func() {
				for n := 0; time.Now().Before(end); n++ {
					name := fmt.Sprintf("%d-%d.test", i, n)
					if cert, err := s.Certificate(validatorHello(name)); cert != nil || err != nil {
						t.Errorf("a stranger: %v, %v", cert != nil, err)
					}
					if answersHTTP(handler, name) {
						t.Error("a stranger was answered")
					}
				}
			}()
		}
		for i, a := range []*authority{s.authorities[0], s.staging} {
			time.Sleep(time.Second)
			name := fmt.Sprintf("customer%d.test", i)
			present(t, s, a, challengeOf(acme.ChallengeTypeHTTP01, name))
			start := time.Now()
			if !answersHTTP(handler, name) || time.Since(start) > time.Second {
				t.Errorf("no answer to HTTP-01 within %v", time.Since(start))
			}
			present(t, s, a, challengeOf(acme.ChallengeTypeTLSALPN01, name))
			start = time.Now()
			if cert, err := s.Certificate(validatorHello(name)); cert == nil || err != nil || time.Since(start) > time.Second {
				t.Errorf("no answer to TLS-ALPN-01 within %v: %v", time.Since(start), err)
			}
		}
		time.Sleep(time.Until(end) + 2*time.Second)
		loads, lists := storage.count("Load"), storage.count("List")
		if most := 2 * tokenReads * (seconds + 1); loads > most+8 || loads == 0 {
			t.Errorf("%d reads, want %d at most", loads, most)
		}
		if most := 2 * (seconds + 1) * int(time.Second/tokenRest); lists > most || lists < most/3 {
			t.Errorf("%d lists, want some %d", lists, most)
		}
		// Without a flood a challenge is not looked for in a list.
		storage.reset(nil)
		cert, err := s.Certificate(validatorHello("customer1.test"))
		if cert == nil || err != nil || storage.count("List") != 0 || storage.count("Load") != 2 {
			t.Errorf("%v, %v, %d reads, %d lists", cert != nil, err, storage.count("Load"), storage.count("List"))
		}
	})
}

// TestListedOnce has a list read each challenge once, for all who ask, and begun
// after each of them did.
func TestListedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemory()
		s := offline(t, Config{Names: []string{"a.test"}, Storage: storage})
		s.tokens.second, s.tokens.reads = time.Now(), tokenReads
		storage.list = 10 * time.Millisecond
		found := make(chan bool, 20)
		ask := func() {
			_, ok := s.challenge(t.Context(), acme.ChallengeTypeHTTP01, "a.test")
			found <- ok
		}
		gone, leave := context.WithCancel(t.Context())
		go func() { // makes the list, though nobody waits for its answer any more
			_, ok := s.challenge(gone, acme.ChallengeTypeHTTP01, "a.test")
			found <- ok
		}()
		synctest.Wait()
		leave()
		present(t, s, s.authorities[0], challengeOf(acme.ChallengeTypeHTTP01, "a.test")) // too late for that one
		for range 10 {
			go ask()
		}
		<-found
		for range 10 {
			if !<-found {
				t.Error("a challenge that was there before was not found")
			}
		}
		if loads, lists := storage.count("Load"), storage.count("List"); loads != 1 || lists != 2 {
			t.Errorf("%d reads, %d lists, want 1 and 2", loads, lists)
		}
		// Whoever waits for a list goes when the client or the Source does.
		storage.reset(nil)
		go ask()
		synctest.Wait()
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		start := time.Now()
		if _, ok := s.challenge(impatient, acme.ChallengeTypeHTTP01, "a.test"); ok || time.Since(start) > time.Millisecond {
			t.Errorf("waited %v for a client that has gone", time.Since(start))
		}
		s.Close()
		if start = time.Now(); <-found || time.Since(start) > 0 || storage.count("List") != 0 {
			t.Errorf("after Close: waited %v, %d lists", time.Since(start), storage.count("List"))
		}
	})
}

// TestChallengesOfNobody: what cannot be on is not looked for.
func TestChallengesOfNobody(t *testing.T) {
	for what, c := range map[string]Config{
		"another name": {Names: []string{"a.test"}},
		"DNS":          {Names: []string{"x.test"}, DNS: &DNS{Provider: pebbleDNS{}}},
		"DNS, demand":  {PersistentDNS: &PersistentDNS{}, OnDemand: &OnDemand{Decide: everybody}},
	} {
		storage := newMemory()
		c.Storage = storage
		s := offline(t, c)
		for _, kind := range []string{acme.ChallengeTypeHTTP01, acme.ChallengeTypeTLSALPN01} {
			present(t, s, s.authorities[0], challengeOf(kind, "x.test"))
			if cert, err := s.Certificate(validatorHello("x.test")); cert != nil || err != nil {
				t.Errorf("%s: %v, %v", what, cert != nil, err)
			}
			if cert, err := s.challengeCertificate(t.Context(), "x.test"); cert != nil || err != nil {
				t.Errorf("%s, at the door: %v, %v", what, cert != nil, err)
			}
			if answersHTTP(s.HTTPHandler(http.NotFoundHandler()), "x.test") {
				t.Errorf("%s: HTTP-01 answered", what)
			}
		}
		if n := storage.count("Load"); n != 0 {
			t.Errorf("%s: %d reads", what, n)
		}
	}
}

// TestChallengesAreForTheirName: what the storage has is used for the kind, the
// name and the token that it is about.
func TestChallengesAreForTheirName(t *testing.T) {
	storage := newMemory()
	s := offline(t, Config{Names: []string{"a.test", "b.test", "192.0.2.1"}, Storage: storage})
	handler := s.HTTPHandler(http.NotFoundHandler())
	for _, listed := range []bool{false, true} {
		ask := func(kind, name string) bool {
			s.tokens.second, s.tokens.reads = time.Now().Add(time.Hour), 0
			if listed {
				s.tokens.reads = tokenReads
				s.tokens.begun = time.Time{}
			}
			if kind == acme.ChallengeTypeHTTP01 {
				return answersHTTP(handler, name)
			}
			cert, err := s.Certificate(validatorHello(name))
			return cert != nil && err == nil
		}
		const web, alpn = acme.ChallengeTypeHTTP01, acme.ChallengeTypeTLSALPN01
		present(t, s, s.authorities[0], challengeOf(web, "a.test"))
		address := acme.Challenge{Type: alpn, KeyAuthorization: "k", Identifier: acme.Identifier{Type: "ip", Value: "192.0.2.1"}}
		present(t, s, s.authorities[0], address)
		address.Type, address.Token, address.KeyAuthorization = web, "tok", "tok.key"
		present(t, s, s.authorities[0], address)
		storage.Store(t.Context(), tokenPlace(s.authorities[0], "b.test"), storage.values[tokenPlace(s.authorities[0], "a.test")])
		for _, c := range []struct {
			kind, name string
			want       bool
		}{
			{web, "a.test", true}, {web, "A.test.:80", true}, {alpn, "a.test", false}, {web, "b.test", false},
			{alpn, "1.2.0.192.in-addr.arpa", true}, {alpn, "192.0.2.1", false}, {web, "192.0.2.1", true}, {web, "1.2.0.192.in-addr.arpa", false}, {alpn, "2.2.0.192.in-addr.arpa", false},
		} {
			if got := ask(c.kind, c.name); got != c.want {
				t.Errorf("%s for %s, listed %v: %v, want %v", c.kind, c.name, listed, got, c.want)
			}
		}
		storage.Store(t.Context(), tokenPlace(s.authorities[0], "a.test"), []byte("{"))
		if ask(web, "a.test") {
			t.Error("half a challenge was answered")
		}
	}
	present(t, s, s.authorities[0], challengeOf(acme.ChallengeTypeHTTP01, "a.test"))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "http://a.test/.well-known/acme-challenge/other", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("another token: %d", w.Code)
	}
}

// TestStorageOfChallengesFails: it is logged when the storage begins to fail and
// when it is back, whatever is asked meanwhile.
func TestStorageOfChallengesFails(t *testing.T) {
	storage := newMemory()
	s := offline(t, Config{Names: []string{"a.test"}, Storage: storage})
	var out bytes.Buffer
	s.conf.Logger = slog.New(slog.NewTextHandler(&out, nil))
	ask := func(ctx context.Context) {
		for range 3 {
			if _, ok := s.challenge(ctx, acme.ChallengeTypeHTTP01, "a.test"); ok {
				t.Error("found what is not there")
			}
		}
		s.tokens.begun = time.Time{}
		if _, ok := s.listed(ctx, acme.ChallengeTypeHTTP01, "a.test"); ok {
			t.Error("found what is not listed")
		}
	}
	lines := func(want int, word string) {
		t.Helper()
		if n := strings.Count(out.String(), "\n"); n != want || !strings.Contains(out.String(), word) {
			t.Errorf("%d lines, want %d:\n%s", n, want, &out)
		}
		out.Reset()
	}
	ask(t.Context())
	lines(0, "")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	storage.reset(func(string, string) error { return context.Canceled })
	s.challenge(gone, acme.ChallengeTypeHTTP01, "a.test")
	lines(0, "")
	storage.reset(func(string, string) error { return errors.New("away") })
	ask(t.Context())
	lines(1, "away")
	storage.reset(nil)
	ask(t.Context())
	lines(1, "again")
}
