package acme

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// withAuthority returns a Source whose first authority is a fake one, and its
// events.
func withAuthority(t *testing.T, c Config) (*Source, *fakeAuthority, <-chan Event) {
	t.Helper()
	events := make(chan Event, 1000)
	c.OnEvent = func(e Event) { events <- e }
	s := offline(t, c)
	return s, newFakeAuthority(t).become(s.authorities[0]), events
}

func wantEvent(t *testing.T, events <-chan Event, kind EventKind, name string) Event {
	t.Helper()
	synctest.Wait()
	select {
	case e := <-events:
		if e.Kind != kind || e.Name != name {
			t.Errorf("event %+v, want %v of %s", e, kind, name)
		}
		return e
	default:
		t.Errorf("no event, want %v of %s", kind, name)
		return Event{}
	}
}

// TestLifeOfACertificate orders one, renews it when that is due, and lets another
// process find it.
func TestLifeOfACertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemory()
		s, f, events := withAuthority(t, Config{Names: []string{"a.test"}, Storage: storage, Email: "Admin@A.test", Profile: "brief", Account: &ExternalAccount{KeyID: "kid-1", MACKey: "a2V5"}})
		obtain(t, s)
		first := s.Certificates()[0]
		if e := wantEvent(t, events, Obtained, "a.test"); !e.NotAfter.Equal(first.NotAfter) || e.Err != nil {
			t.Errorf("event %+v", e)
		}
		if o := f.orders[0]; o.Profile != "brief" || o.Replaces != "" || len(o.Identifiers) != 1 || o.Identifiers[0].Value != "a.test" {
			t.Errorf("ordered %+v", o)
		}
		account := f.accounts[0]
		if contact, _ := account["contact"].([]any); len(contact) != 1 || contact[0] != "mailto:admin@a.test" || account["termsOfServiceAgreed"] != true || account["externalAccountBinding"] == nil {
			t.Errorf("account %v", account)
		}
		registration, private := s.authorities[0].accountPlaces()
		places := placesOf(s.authorities[0], "a.test")
		want := []string{places.key, places.cert, places.meta, registration, private}
		slices.Sort(want)
		if got := storage.keys(""); !slices.Equal(got, want) {
			t.Errorf("the storage has %q, want %q", got, want)
		}
		stored, err := s.load(t.Context(), "a.test")
		if err != nil || stored.meta.CA != s.authorities[0].Directory || stored.meta.Account != authorityAt+"/account/1" || !stored.leaf().Equal(first) {
			t.Errorf("stored %+v, %v", stored, err)
		}
		if f.count("ari") == 0 {
			t.Error("the authority was not asked when to renew it")
		}
		at, _, _ := s.Renewal(first)
		if life := at.Sub(first.NotBefore); life < 55*day || life > 60*day {
			t.Errorf("renewed after %v", life)
		}
		time.Sleep(time.Until(at) - time.Second)
		if n := f.count("order"); n != 1 || len(events) != 0 {
			t.Errorf("%d orders before the renewal is due, %d events", n, len(events))
		}
		time.Sleep(time.Minute)
		second := s.Certificates()[0]
		if e := wantEvent(t, events, Renewed, "a.test"); !e.NotAfter.Equal(second.NotAfter) || second.Equal(first) {
			t.Errorf("event %+v, another certificate: %v", e, !second.Equal(first))
		}
		id, err := acme.ARIUniqueIdentifier(first)
		if err != nil || f.orders[1].Replaces != id || f.count("account") != 1 {
			t.Errorf("the renewal replaces %q, want %q, %v; %d accounts", f.orders[1].Replaces, id, err, f.count("account"))
		}
		if at, _, _ := s.Renewal(first); !at.IsZero() {
			t.Errorf("what is not served any more is renewed at %v", at)
		}
		if l, u := storage.count("Lock"), storage.count("Unlock"); l != u || storage.count("Lock issue_cert_a.test") != 2 || l != 3 {
			t.Errorf("%d locks, %d released", l, u)
		}
		other := offline(t, Config{Names: []string{"a.test"}, Storage: storage})
		obtain(t, other)
		if !other.Certificates()[0].Equal(second) {
			t.Error("another process has another certificate")
		}
	})
}

// TestReplaces: an order says what it replaces only where the authority can know
// that, and not in each third attempt.
func TestReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, _ := withAuthority(t, Config{Names: []string{"a.test"}, Storage: newMemory()})
		k := s.names["a.test"]
		for i, c := range []struct {
			ca, account string
			failures    int
			want        bool
		}{
			{s.authorities[0].Directory, authorityAt + "/account/1", 0, true}, {"https://other.test", authorityAt + "/account/1", 0, false},
			{s.authorities[0].Directory, "https://other.test/1", 0, false}, {s.authorities[0].Directory, authorityAt + "/account/1", 1, true},
			{s.authorities[0].Directory, authorityAt + "/account/1", 2, false}, {s.authorities[0].Directory, authorityAt + "/account/1", 3, true}, {s.authorities[0].Directory, authorityAt + "/account/1", 5, false},
		} {
			h := heldFor(t, s, f.ca, "a.test", time.Now().Add(-time.Hour), time.Now().Add(time.Minute))
			h.meta.CA, h.meta.Account = c.ca, c.account
			h.renewal.Store(&renewal{})
			k.current.Store(h)
			s.conf.Storage.(*memory).values = map[string][]byte{}
			k.failures = c.failures
			if err := s.attempt(k); err != nil {
				t.Fatal(err)
			}
			if got := f.orders[i].Replaces != ""; got != c.want {
				t.Errorf("%+v: replaces %q", c, f.orders[i].Replaces)
			}
			if k.failures != 0 {
				t.Errorf("%d failures after a success", k.failures)
			}
		}
	})
}

// TestUnknownAccount has the authority forget the account while a Source is at
// work: it makes a new one, once.
func TestUnknownAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemory()
		s, f, _ := withAuthority(t, Config{Names: []string{"a.test"}, Storage: storage})
		obtain(t, s)
		synctest.Wait()
		times := 1
		f.set(func() {
			f.refuse = func(path string) *acme.Problem {
				if path != "order" || times == 0 {
					return nil
				}
				times--
				return &acme.Problem{Status: 400, Type: acme.ProblemTypeAccountDoesNotExist}
			}
		})
		if _, err := s.obtain(t.Context(), "a.test", nil); err != nil || f.count("account") != 2 {
			t.Errorf("%d accounts, %v", f.count("account"), err)
		}
		acct, err := s.authorities[0].loadAccount(t.Context())
		if err != nil || acct.Location != authorityAt+"/account/2" || s.authorities[0].account.Location != acct.Location {
			t.Errorf("account %q, %v", acct.Location, err)
		}
		if err := s.authorities[0].forget(t.Context(), acme.Account{Location: authorityAt + "/account/1"}); err != nil || s.authorities[0].account.Location == "" {
			t.Errorf("somebody else's new account was forgotten: %v", err)
		}
		times = 5 // which is no longer a matter of the account
		if _, err := s.obtain(t.Context(), "a.test", nil); err == nil || f.count("account") > 4 {
			t.Errorf("%d accounts, %v", f.count("account"), err)
		}
	})
}

// TestAccountIsMadeOnce by two processes at once, and left to others where the
// storage does not take it.
func TestAccountIsMadeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemory()
		storage.delay = time.Millisecond
		f := newFakeAuthority(t)
		results := make(chan error)
		sources := make([]*Source, 3)
		for i := range sources {
			sources[i] = offline(t, Config{Names: []string{"a.test"}, Storage: storage, Email: "a@a.test"})
			f.become(sources[i].authorities[0])
		}
		storage.reset(func(method, key string) error {
			if method == "Store" && strings.HasSuffix(key, ".json") {
				return errReadOnly
			}
			return nil
		})
		if _, err := sources[0].authorities[0].open(t.Context()); !errors.Is(err, errReadOnly) || sources[0].authorities[0].account.Location != "" {
			t.Errorf("an account that is not stored: %v", err)
		}
		if got := storage.keys(""); len(got) != 1 || !strings.HasSuffix(got[0], "/a.key") {
			t.Errorf("the storage has %q, want the key only", got)
		}
		storage.reset(nil)
		before := f.count("account")
		for _, s := range sources {
			go func() {
				_, err := s.authorities[0].open(t.Context())
				results <- err
			}()
		}
		for range sources {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if n := f.count("account") - before; n != 1 || storage.count("Unlock register_acme_account_a@a.test") != 3 {
			t.Errorf("%d accounts, %d locks released", n, storage.count("Unlock"))
		}
	})
}

// TestShares has the first authority not answer: the second has its share of the
// time, and so it is with a rehearsal before them.
func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, _ := withAuthority(t, Config{
			Names: []string{"a.test"}, Storage: newMemory(), Staging: &Authority{Directory: "https://127.0.0.1:3/dir"},
			Fallbacks: []Authority{{Directory: "https://127.0.0.1:2/dir", Profile: "other"}},
		})
		second, staging := newFakeAuthority(t).become(s.authorities[1]), newFakeAuthority(t).become(s.staging)
		f.set(func() { f.hang = true })
		staging.set(func() { staging.hang = true })
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
		defer cancel()
		h, err := s.obtain(ctx, "a.test", nil)
		if err != nil || h.from != s.authorities[1] || h.meta.CA != s.authorities[1].Directory || len(second.orders) != 1 || second.orders[0].Profile != "other" {
			t.Fatalf("%v, %d orders", err, len(second.orders))
		}
		if took := time.Since(start); took < 6*time.Minute || took > 6*time.Minute+10*time.Second { // the rest is for when to renew
			t.Errorf("took %v, want a third for each of two", took)
		}
		staging.set(func() {
			staging.hang = false
			staging.refuse = func(path string) *acme.Problem {
				if path == "order" {
					return &acme.Problem{Status: 403, Type: acme.ProblemTypeRejectedIdentifier}
				}
				return nil
			}
		})
		if _, err := s.obtain(t.Context(), "a.test", nil); err == nil || !strings.Contains(err.Error(), "staging") || !strings.Contains(err.Error(), s.staging.Directory) || len(second.orders) != 1 {
			t.Errorf("a name that staging refuses: %v, %d orders", err, len(second.orders))
		}
		if err := ctxEnded(s); err == nil || strings.Contains(err.Error(), s.authorities[1].Directory) {
			t.Errorf("the second authority was asked when the time was over: %v", err)
		}
	})
}

func ctxEnded(s *Source) error {
	s.staging = nil
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.obtain(ctx, "a.test", nil)
	return err
}

// TestCAARefusal says which record to set.
func TestCAARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, _ := withAuthority(t, Config{Names: []string{"a.test"}, Storage: newMemory(), DisableHTTPChallenge: true})
		f.refuse = func(path string) *acme.Problem {
			if path == "order" {
				return &acme.Problem{Status: 403, Type: acme.ProblemTypeCAA, Detail: "forbidden"}
			}
			return nil
		}
		_, err := s.obtain(t.Context(), "a.test", nil)
		want := `a.test. IN CAA 0 issue "authority.test; accounturi=https://authority.test/account/1; validationmethods=tls-alpn-01"`
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "forbidden") || !refused(err) {
			t.Errorf("%v, want %s", err, want)
		}
	})
}

// TestRenewalInfo follows what the authority suggests, and asks no more often than
// is sensible.
func TestRenewalInfo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, _ := withAuthority(t, Config{Names: []string{"a.test"}, Storage: newMemory()})
		var out bytes.Buffer
		s.conf.Logger = slog.New(slog.NewTextHandler(&out, nil))
		now := time.Now()
		h := heldFor(t, s, f.ca, "a.test", now.Add(-time.Hour), now.Add(90*day))
		usual := h.renewal.Load().at
		start, end := now.Add(50*day).UTC(), now.Add(52*day).UTC()
		for _, c := range []struct {
			retry, next time.Duration
			window      bool
			lines       int
		}{
			{0, ariUsual, false, 0}, {2 * time.Hour, 2 * time.Hour, true, 1}, {time.Second, ariLeast, true, 0}, {100 * day, 4 * ariUsual, true, 0},
			{0, ariUsual, true, 0}, {0, ariUsual, false, 0},
		} {
			out.Reset()
			f.retry, f.explain, f.window = c.retry, "https://authority.test/why", nil
			if c.window {
				f.window = func() (time.Time, time.Time) { return start, end }
			}
			s.ask(h)
			r := h.renewal.Load()
			if got := time.Until(r.ask); got > c.next || got < c.next-30*time.Second {
				t.Errorf("%+v: asked again in %v", c, got)
			}
			if n := strings.Count(out.String(), "explains"); n != c.lines {
				t.Errorf("%+v: %d lines about why", c, n)
			}
			if wantWindow := c.window || c.lines == 0 && r.at != usual; wantWindow && (!r.window.start.Equal(start) || !r.window.end.Equal(end) || r.at.Before(start) || r.at.After(end)) {
				t.Errorf("%+v: renewed at %v, window %+v", c, r.at, r.window)
			}
		}
		if h.renewal.Load().window.start.IsZero() {
			t.Error("an answer without a window took the one before away")
		}
		if f.count("ari") < 6 {
			t.Errorf("asked %d times", f.count("ari"))
		}
	})
}

// TestRefusalsAreRepeatedSlowly, unlike attempts that reach nobody.
func TestRefusalsAreRepeatedSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, events := withAuthority(t, Config{Names: []string{"a.test"}, Storage: newMemory()})
		status := 403
		f.refuse = func(path string) *acme.Problem {
			if path == "order" {
				return &acme.Problem{Status: status, Type: acme.ProblemTypeRejectedIdentifier}
			}
			return nil
		}
		s.tend(s.names["a.test"])
		if e := wantEvent(t, events, Failed, "a.test"); !refused(e.Err) || !e.NotAfter.IsZero() {
			t.Errorf("event %+v", e)
		}
		if wait := time.Until(s.names["a.test"].retry); wait < refusedFirst*3/4 || wait > refusedFirst*5/4 {
			t.Errorf("refused: tried again in %v", wait)
		}
		s.names["a.test"].failures, s.names["a.test"].retry = 0, time.Time{}
		status = 503
		s.tend(s.names["a.test"])
		if wait := time.Until(s.names["a.test"].retry); wait < unreachedFirst*3/4 || wait > unreachedFirst*5/4 {
			t.Errorf("overloaded: tried again in %v", wait)
		}
	})
}
