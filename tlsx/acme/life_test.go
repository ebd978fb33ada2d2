package acme

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"github.com/palisade-go/palisade/tlsx"
)

// TestRevocation: the authority is told which certificate and why, also when it
// has no new one to give.
func TestRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemory()
		s, f, events := withAuthority(t, Config{Names: []string{"a.test"}, Storage: storage})
		told := make(chan tlsx.CertEvent, 100)
		s.Notify(func(e tlsx.CertEvent) { told <- e })
		obtain(t, s)
		wantEvent(t, events, Obtained, "a.test")
		first := s.Certificates()[0]
		if err := s.Revoke(t.Context(), "A.test.", Superseded); err != nil {
			t.Fatal(err)
		}
		second := s.Certificates()[0]
		if e := wantEvent(t, events, Renewed, "a.test"); !e.NotAfter.Equal(second.NotAfter) || second.Equal(first) {
			t.Errorf("event %+v, another certificate: %v", e, !second.Equal(first))
		}
		if e := wantEvent(t, events, Revoked, "a.test"); !e.NotAfter.Equal(first.NotAfter) {
			t.Errorf("event %+v", e)
		}
		revoked := f.revoked[0]
		if revoked["certificate"] != base64.RawURLEncoding.EncodeToString(first.Raw) || revoked["reason"] != float64(Superseded) {
			t.Errorf("revoked %v", revoked)
		}
		if h, err := s.load(t.Context(), "a.test"); err != nil || !h.leaf().Equal(second) {
			t.Errorf("the new one is not stored: %v", err)
		}
		f.set(func() {
			f.refuse = func(path string) *acme.Problem {
				if path == "order" {
					return &acme.Problem{Status: 500, Type: acme.ProblemTypeServerInternal}
				}
				return nil
			}
		})
		if err := s.Revoke(t.Context(), "a.test", KeyCompromise); err == nil || f.count("revoke") != 2 {
			t.Errorf("without a new one: %v, revoked %d", err, f.count("revoke"))
		}
		f.set(func() { f.refuse = nil })
		time.Sleep(time.Minute)
		kinds := make(map[EventKind]int)
		for e := range drained(events) {
			kinds[e.Kind]++
		}
		if third := s.Certificates()[0]; third.Equal(second) || kinds[Revoked] != 1 || kinds[Renewed] != 1 {
			t.Errorf("the revoked certificate is served on: %v; events %v", third.Equal(second), kinds)
		}
		f.set(func() {
			f.refuse = func(path string) *acme.Problem {
				if path == "revoke" {
					return &acme.Problem{Status: 403, Type: acme.ProblemTypeUnauthorized}
				}
				return nil
			}
		})
		if err := s.Revoke(t.Context(), "a.test", Unspecified); !refused(err) || !strings.Contains(err.Error(), s.authorities[0].Directory) {
			t.Errorf("an authority that does not revoke: %v", err)
		}
		wantEvent(t, events, Renewed, "a.test")
		if len(events) != 0 {
			t.Errorf("%d events more", len(events))
		}
		for _, want := range []tlsx.CertEventKind{tlsx.CertIssued, tlsx.CertRenewed, tlsx.CertRevoked} {
			if e := <-told; e.Kind != want || e.Name != "a.test" || e.NotAfter.IsZero() {
				t.Errorf("told %+v, want %v", e, want)
			}
		}
		if l, u := storage.count("Lock"), storage.count("Unlock"); l != u {
			t.Errorf("%d locks, %d released", l, u)
		}
		s.Close()
		if err := s.Revoke(t.Context(), "a.test", Unspecified); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// drained yields the events that are there.
func drained(events <-chan Event) func(func(Event) bool) {
	return func(yield func(Event) bool) {
		for len(events) > 0 && yield(<-events) {
		}
	}
}

// TestDemandEnds: a name on demand that could not be renewed is forgotten when its
// certificate has expired, and decided about again; one that can be is renewed.
func TestDemandEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		decided := 0
		s, f, _ := withAuthority(t, Config{Storage: newMemory(), OnDemand: &OnDemand{Decide: func(context.Context, string, net.Addr) error {
			decided++
			return nil
		}}})
		f.life = time.Hour
		hello := &tls.ClientHelloInfo{ServerName: "a.test", Conn: nowhere{}}
		first, err := s.Certificate(hello)
		if err != nil || first == nil || decided != 1 {
			t.Fatalf("%v, decided %d times", err, decided)
		}
		time.Sleep(50 * time.Minute)
		second, err := s.Certificate(hello)
		if err != nil || second.Leaf.Equal(first.Leaf) || decided != 1 {
			t.Errorf("not renewed: %v, decided %d times", err, decided)
		}
		f.set(func() {
			f.refuse = func(string) *acme.Problem { return &acme.Problem{Status: 503} }
		})
		time.Sleep(time.Until(second.Leaf.NotAfter) - time.Second)
		if cert, err := s.Certificate(hello); err != nil || !cert.Leaf.Equal(second.Leaf) {
			t.Errorf("before it expires: %v", err)
		}
		time.Sleep(time.Minute)
		if n := len(s.demand.all()); n != 0 {
			t.Errorf("%d names are kept", n)
		}
		if _, err := s.Certificate(hello); err == nil || decided != 2 {
			t.Errorf("%v, decided %d times, want again", err, decided)
		}
		f.set(func() { f.refuse = nil })
		time.Sleep(demandRetry + time.Second)
		if cert, err := s.Certificate(hello); err != nil || cert == nil || decided != 3 {
			t.Errorf("when the authority is back: %v, decided %d times", err, decided)
		}
	})
}

// TestStoredLate has the storage refuse a new certificate for a while: it is served,
// stored later, and given up for a newer one of another process.
func TestStoredLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemory()
		s, f, events := withAuthority(t, Config{Names: []string{"a.test"}, Storage: storage})
		refuse := func(method, key string) error {
			if method == "Store" && strings.Contains(key, "certificates/") {
				return errReadOnly
			}
			return nil
		}
		storage.reset(refuse)
		obtain(t, s)
		wantEvent(t, events, Obtained, "a.test")
		cert := s.Certificates()[0]
		time.Sleep(2 * time.Hour) // until the storage is looked at
		if n := storage.count("Store " + placesOf(s.authorities[0], "a.test").key); n < 10 || f.count("order") != 1 {
			t.Errorf("tried to store it %d times, %d orders", n, f.count("order"))
		}
		storage.reset(nil)
		time.Sleep(15 * time.Second)
		if h, err := s.load(t.Context(), "a.test"); err != nil || !h.leaf().Equal(cert) {
			t.Errorf("not stored: %v", err)
		}
		stores := storage.count("Store")
		time.Sleep(time.Hour)
		if n := storage.count("Store"); n != stores {
			t.Errorf("stored %d values more", n-stores)
		}
		k := s.names["a.test"]
		s.Close() // the rest is without the keeper
		newer := heldFor(t, s, f.ca, "a.test", time.Now(), time.Now().Add(day))
		if err := s.save(t.Context(), "a.test", newer); err != nil {
			t.Fatal(err)
		}
		s.ctx = t.Context()
		k.unsaved.Store(k.current.Load())
		s.saveLate(k, k.current.Load())
		if h, err := s.load(t.Context(), "a.test"); err != nil || !same(h, newer) || k.unsaved.Load() != nil || !same(k.current.Load(), newer) {
			t.Errorf("a newer certificate was replaced: %v", err)
		}
	})
}

// leased is a storage whose locks have leases.
type leased struct {
	*memory
	lease time.Duration
	err   error
}

func (l *leased) RenewLockLease(_ context.Context, _ string, d time.Duration) error {
	l.lease = d
	return l.err
}

// TestLeases: a lock that would be lost during an attempt is asked to last, and
// given back in any case.
func TestLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := &leased{memory: newMemory()}
		s, _, _ := withAuthority(t, Config{Names: []string{"a.test"}, Storage: storage})
		ctx, cancel := context.WithCancel(t.Context())
		if err := s.withLock(ctx, "a.test", func() error { cancel(); return errReadOnly }); !errors.Is(err, errReadOnly) || storage.lease != attemptMost {
			t.Errorf("%v, a lease of %v", err, storage.lease)
		}
		storage.err = errors.New("no lease")
		if err := s.withLock(t.Context(), "a.test", func() error { t.Error("without a lease"); return nil }); !errors.Is(err, storage.err) || !strings.Contains(err.Error(), "a.test") {
			t.Errorf("without a lease: %v", err)
		}
		if n := storage.count("Unlock issue_cert_a.test"); n != 2 {
			t.Errorf("%d locks released, want 2", n)
		}
		storage.reset(func(method, _ string) error {
			if method == "Lock" {
				return errReadOnly
			}
			return nil
		})
		if err := s.withLock(t.Context(), "a.test", func() error { t.Error("without a lock"); return nil }); !errors.Is(err, errReadOnly) || storage.count("Unlock") != 0 {
			t.Errorf("without a lock: %v, %d released", err, storage.count("Unlock"))
		}
	})
}

// TestStorageIsAskedFirst: without the storage there are no orders, and what is
// damaged there counts like nothing.
func TestStorageIsAskedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemory()
		s, f, events := withAuthority(t, Config{Names: []string{"a.test"}, Storage: storage})
		storage.reset(func(method, _ string) error {
			if method == "Load" {
				return errReadOnly
			}
			return nil
		})
		s.Start()
		time.Sleep(time.Hour)
		if n := f.count("order"); n != 0 {
			t.Errorf("%d orders without the storage", n)
		}
		failures := 0
		for e := range drained(events) {
			if e.Kind != Failed || !errors.Is(e.Err, errReadOnly) {
				t.Errorf("event %+v", e)
			}
			failures++
		}
		if failures < 8 || failures > 20 {
			t.Errorf("%d failures in an hour", failures)
		}
		places := placesOf(s.authorities[0], "a.test")
		other := heldFor(t, s, f.ca, "b.test", time.Now().Add(-time.Hour), time.Now().Add(day))
		if _, err := newHeld("a.test", s.authorities[0], other.chain, other.key, other.meta); err == nil {
			t.Error("a certificate for another name was taken")
		}
		storage.reset(nil)
		for _, meta := range []string{`{"sans":["a.test"],"issuer_data":{}}`, `{`, `{"issuer_data":3}`} {
			for place, value := range map[string][]byte{places.key: other.key, places.cert: other.chain, places.meta: []byte(meta)} {
				if err := storage.Store(t.Context(), place, value); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.load(t.Context(), "a.test"); !errors.Is(err, errDamaged) {
				t.Errorf("%s: %v", meta, err)
			}
		}
		time.Sleep(15 * time.Minute)
		if len(s.Certificates()) != 1 || f.count("order") != 1 {
			t.Errorf("%d certificates, %d orders", len(s.Certificates()), f.count("order"))
		}
		wantEvent(t, events, Obtained, "a.test")
	})
}

// TestRevokedIsReplacedInTheStorage has the storage not take what replaces a
// revoked certificate, at first.
func TestRevokedIsReplacedInTheStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemory()
		s, _, _ := withAuthority(t, Config{Names: []string{"a.test"}, Storage: storage})
		obtain(t, s)
		synctest.Wait()
		storage.reset(func(method, key string) error {
			if method == "Store" && strings.Contains(key, "certificates/") {
				return errReadOnly
			}
			return nil
		})
		if err := s.Revoke(t.Context(), "a.test", KeyCompromise); !errors.Is(err, errReadOnly) {
			t.Errorf("the storage took it: %v", err)
		}
		served := s.Certificates()[0]
		if h, err := s.load(t.Context(), "a.test"); err != nil || h.leaf().Equal(served) {
			t.Errorf("in the storage: %v", err)
		}
		storage.reset(nil)
		time.Sleep(time.Minute)
		if h, err := s.load(t.Context(), "a.test"); err != nil || !h.leaf().Equal(served) {
			t.Errorf("the revoked certificate is still in the storage: %v", err)
		}
	})
}

// stuck is a storage that does not give locks back until the caller has enough.
type stuck struct{ *memory }

func (s stuck) Unlock(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestLocksThatStay: a storage that does not answer holds up nobody for good.
func TestLocksThatStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := stuck{newMemory()}
		s, _, _ := withAuthority(t, Config{Names: []string{"a.test"}, Storage: storage})
		start := time.Now()
		if _, err := s.authorities[0].open(t.Context()); err != nil || time.Since(start) != storageTimeout {
			t.Errorf("an account after %v, %v", time.Since(start), err)
		}
		start = time.Now()
		if err := s.withLock(t.Context(), "a.test", func() error { return nil }); err != nil || time.Since(start) != storageTimeout {
			t.Errorf("a name after %v, %v", time.Since(start), err)
		}
		start = time.Now()
		if err := (SharedStorage{storage}).Swap(t.Context(), "n", nil, []byte("x")); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != storageTimeout {
			t.Errorf("a value after %v, %v", time.Since(start), err)
		}
	})
}

// TestSwapOfOneWhoLeaves gives the lock back all the same.
func TestSwapOfOneWhoLeaves(t *testing.T) {
	storage := newMemory()
	ctx, leave := context.WithCancel(t.Context())
	storage.fail = func(method, _ string) error {
		if method == "Store" {
			leave()
			return ctx.Err()
		}
		return nil
	}
	if err := (SharedStorage{storage}).Swap(ctx, "n", nil, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("stored for somebody who has left: %v", err)
	}
	storage.reset(nil)
	if err := (SharedStorage{storage}).Swap(t.Context(), "n", nil, []byte("x")); err != nil {
		t.Errorf("the next one: %v", err)
	}
}
