package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"github.com/palisade-go/palisade/internal/pebbletest"
	"github.com/palisade-go/palisade/internal/testcert"
	"github.com/palisade-go/palisade/tlsx"
)

// offline returns a Source that is never started.
func offline(t *testing.T, c Config) *Source {
	t.Helper()
	c.Directory, c.Logger = "https://127.0.0.1:1/dir", slog.New(slog.DiscardHandler)
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// heldFor makes a certificate for a name that is valid within the times.
func heldFor(t *testing.T, s *Source, ca *testcert.CA, name string, notBefore, notAfter time.Time) *held {
	t.Helper()
	chain, key := testcert.EncodePEM(t, ca.Issue(testcert.Leaf{Names: []string{name}, NotBefore: notBefore, NotAfter: notAfter}))
	h, err := newHeld(name, s.authorities[0], chain, key, acme.Certificate{CA: s.conf.Directory})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func same(a, b *held) bool { return a.leaf().Equal(b.leaf()) }

// TestStoredIsNoReasonToWait has a certificate due whose copy in the storage, by
// the lot that it draws, is not: it is renewed, or the keeper would go in a
// circle.
func TestStoredIsNoReasonToWait(t *testing.T) {
	ca := testcert.NewCA(t)
	storage := &countingStorage{Storage: &certmagic.FileStorage{Path: t.TempDir()}}
	s := offline(t, Config{Names: []string{"a.test"}, Storage: storage})
	now := time.Now()
	h := heldFor(t, s, ca, "a.test", now.Add(-48*time.Minute), now.Add(52*time.Minute))
	if err := s.save(t.Context(), "a.test", h); err != nil {
		t.Fatal(err)
	}
	h.renewal.Store(&renewal{at: now, ask: now.Add(time.Hour)})
	k := s.names["a.test"]
	k.serve(h)
	for range 3 {
		for range 2 { // the second time it is too early for another attempt
			if wait := s.tend(k); wait <= 0 {
				t.Fatalf("waits %v", wait)
			}
		}
		k.retry = time.Time{}
	}
	if n := storage.locks.Load(); n != 3 || k.failures != 3 {
		t.Errorf("%d locks, %d failures", n, k.failures)
	}
	// Meanwhile somebody else has renewed it.
	if err := s.save(t.Context(), "a.test", heldFor(t, s, ca, "a.test", now.Add(-time.Minute), now.Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	k.retry = now.Add(time.Hour)
	if s.tend(k); k.failures != 0 || k.current.Load() == h {
		t.Error("did not see that the storage has a new one")
	}
}

type countingStorage struct {
	certmagic.Storage
	locks atomic.Int32
}

func (c *countingStorage) Lock(ctx context.Context, name string) error {
	if strings.HasPrefix(name, "issue_cert_") {
		c.locks.Add(1)
	}
	return c.Storage.Lock(ctx, name)
}

// TestExpiredIsNeverServed has a process find its certificate expired: another
// one has renewed it, or not.
func TestExpiredIsNeverServed(t *testing.T) {
	ca := testcert.NewCA(t)
	s := offline(t, Config{Names: []string{"a.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()}})
	now := time.Now()
	s.names["a.test"].serve(heldFor(t, s, ca, "a.test", now.Add(-2*time.Hour), now.Add(-time.Hour)))
	hello := &tls.ClientHelloInfo{ServerName: "a.test", Conn: nowhere{}}
	if cert, err := s.Certificate(hello); cert != nil || !errors.Is(err, ErrExpired) {
		t.Errorf("an expired certificate: %v, %v", cert != nil, err)
	}
	good := heldFor(t, s, ca, "a.test", now.Add(-time.Hour), now.Add(time.Hour))
	if err := s.save(t.Context(), "a.test", good); err != nil {
		t.Fatal(err)
	}
	if cert, err := s.Certificate(hello); cert != nil || !errors.Is(err, ErrExpired) {
		t.Errorf("the storage was read twice in a second: %v, %v", cert != nil, err)
	}
	s.names["a.test"].looked.Store(0)
	if cert, err := s.Certificate(hello); err != nil || cert == nil || !cert.Leaf.Equal(good.leaf()) {
		t.Errorf("the valid certificate in the storage: %v, %v", cert != nil, err)
	}
	s.names["a.test"].take(heldFor(t, s, ca, "a.test", now.Add(-2*time.Hour), now.Add(2*time.Hour)))
	if cert, _ := s.Certificate(hello); !cert.Leaf.Equal(good.leaf()) {
		t.Error("a certificate that was issued before took over")
	}
}

// failingStore refuses to store what is under some keys.
type failingStore struct {
	certmagic.Storage
	word atomic.Pointer[string]
}

func (f *failingStore) Store(ctx context.Context, key string, value []byte) error {
	if w := f.word.Load(); w != nil && strings.Contains(key, *w) {
		return errReadOnly
	}
	return f.Storage.Store(ctx, key, value)
}

// TestSaveIsAllOrNothing has the storage fail at each of the three values.
func TestSaveIsAllOrNothing(t *testing.T) {
	ca := testcert.NewCA(t)
	storage := &failingStore{Storage: &certmagic.FileStorage{Path: t.TempDir()}}
	s := offline(t, Config{Names: []string{"a.test"}, Storage: storage})
	now := time.Now()
	first := heldFor(t, s, ca, "a.test", now.Add(-time.Hour), now.Add(time.Hour))
	second := heldFor(t, s, ca, "a.test", now.Add(-time.Minute), now.Add(time.Hour))
	if _, err := s.load(t.Context(), "a.test"); err == nil {
		t.Error("loaded from an empty storage")
	}
	if err := s.save(t.Context(), "a.test", first); err != nil {
		t.Fatal(err)
	}
	for _, ext := range []string{".key", ".crt", ".json"} {
		storage.word.Store(&ext)
		if err := s.save(t.Context(), "a.test", second); !errors.Is(err, errReadOnly) {
			t.Errorf("%s: %v", ext, err)
		}
		if h, err := s.load(t.Context(), "a.test"); err != nil || !same(h, first) {
			t.Errorf("after a failure at %s: %v", ext, err)
		}
	}
	storage.word.Store(nil)
	if err := s.save(t.Context(), "a.test", second); err != nil {
		t.Fatal(err)
	}
	if h, err := s.load(t.Context(), "a.test"); err != nil || !same(h, second) || h.meta.CA != s.conf.Directory {
		t.Errorf("loaded %+v, %v", h, err)
	}
	// Another's key is damage.
	if err := storage.Storage.Store(t.Context(), placesOf(s.authorities[0], "a.test").key, first.key); err != nil {
		t.Fatal(err)
	}
	if _, err := s.load(t.Context(), "a.test"); !errors.Is(err, errDamaged) {
		t.Errorf("with another's key: %v", err)
	}
}

// TestNewestCounts is about a fallback authority's certificate beside an older
// one of the first.
func TestNewestCounts(t *testing.T) {
	ca := testcert.NewCA(t)
	s := offline(t, Config{
		Names: []string{"a.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()},
		Fallbacks: []Authority{{Directory: "https://127.0.0.1:2/dir"}},
	})
	now := time.Now()
	older := heldFor(t, s, ca, "a.test", now.Add(-2*time.Hour), now.Add(2*time.Hour))
	newer := heldFor(t, s, ca, "a.test", now.Add(-time.Hour), now.Add(time.Hour))
	newer.from = s.authorities[1]
	for _, h := range []*held{older, newer} {
		if err := s.save(t.Context(), "a.test", h); err != nil {
			t.Fatal(err)
		}
	}
	if h, err := s.load(t.Context(), "a.test"); err != nil || !same(h, newer) || h.from != s.authorities[1] {
		t.Errorf("loaded %+v, %v", h, err)
	}
}

// TestUnsavedIsServed has the storage refuse the certificate, and take it later.
func TestUnsavedIsServed(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{})
	storage := &failingStore{Storage: &certmagic.FileStorage{Path: t.TempDir()}}
	storage.word.Store(new("certificates/"))
	s, events := newSource(t, p, Config{Names: []string{"a.test"}, Storage: storage})
	serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
	obtain(t, s)
	if cert, err := s.Certificate(&tls.ClientHelloInfo{ServerName: "a.test", Conn: nowhere{}}); cert == nil || err != nil {
		t.Errorf("not served: %v", err)
	}
	storage.word.Store(nil)
	s.names["a.test"].wake()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if h, err := s.load(t.Context(), "a.test"); err == nil && same(h, s.names["a.test"].current.Load()) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("never stored")
		}
	}
	if len(events) != 1 {
		t.Errorf("%d events, want one", len(events))
	}
}

// TestStaging has the rehearsal fail, and then succeed.
func TestStaging(t *testing.T) {
	strict := pebbletest.Start(t, pebbletest.Config{Accounts: map[string]string{"kid-1": "a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5"}})
	p := pebbletest.Start(t, pebbletest.Config{HTTPPort: strict.HTTPPort, TLSPort: strict.TLSPort})
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	s, events := newSource(t, p, Config{Names: []string{"a.test"}, Storage: storage, Staging: &Authority{Directory: strict.Directory, RootCAs: strict.CA}})
	stop := serveUntil(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
	s.Start()
	if e := <-events; e.Kind != Failed || !strings.Contains(e.Err.Error(), "staging") {
		t.Fatalf("event %+v", e)
	}
	if users, err := storage.List(t.Context(), path.Join("acme", certmagic.StorageKeys.Safe(s.authorities[0].key)), true); err == nil {
		t.Errorf("the real authority was asked: %v", users)
	}
	s.Close()
	stop()
	// The same Pebble in earnest shows that a rehearsal that succeeds changes nothing.
	s, events = newSource(t, p, Config{Names: []string{"a.test"}, Storage: storage, Staging: &Authority{Directory: p.Directory, RootCAs: p.CA}})
	serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
	obtain(t, s)
	if e := <-events; e.Kind != Obtained || len(events) > 0 {
		t.Errorf("event %+v and %d more", e, len(events))
	}
}

// TestRevoke has a certificate replaced and revoked.
func TestRevoke(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{})
	s, events := newSource(t, p, Config{Names: []string{"a.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()}})
	serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
	obtain(t, s)
	old := s.Certificates()[0]
	if err := s.Revoke(t.Context(), "A.test.", KeyCompromise); err != nil {
		t.Fatal(err)
	}
	present := s.Certificates()[0]
	if present.Equal(old) || string(present.RawSubjectPublicKeyInfo) == string(old.RawSubjectPublicKeyInfo) {
		t.Error("no new certificate with a new key")
	}
	if !p.Revoked(t, old) || p.Revoked(t, present) {
		t.Errorf("revoked: the old one %v, the new one %v", p.Revoked(t, old), p.Revoked(t, present))
	}
	for _, want := range []EventKind{Obtained, Renewed, Revoked} {
		if e := <-events; e.Kind != want || e.Name != "a.test" {
			t.Errorf("event %+v, want %v", e, want)
		}
	}
	if err := s.Revoke(t.Context(), "b.test", Unspecified); err == nil {
		t.Error("revoked what was never there")
	}
	s.Close()
	if err := s.Revoke(t.Context(), "a.test", Unspecified); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestExpiring has an authority that is gone for good.
func TestExpiring(t *testing.T) {
	ca := testcert.NewCA(t)
	var seen []Event
	s := offline(t, Config{
		Names: []string{"a.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()},
		OnEvent: func(e Event) { seen = append(seen, e) },
	})
	var told []tlsx.CertEvent
	terminator(t, tlsx.Config{Certs: []tlsx.CertSource{s}, OnCert: func(e tlsx.CertEvent) { told = append(told, e) }})
	k := s.names["a.test"]
	now := time.Now()
	k.serve(heldFor(t, s, ca, "a.test", now.Add(-50*time.Minute), now.Add(10*time.Minute)))
	for range 2 {
		if wait := s.tend(k); wait <= 0 || wait > time.Minute {
			t.Errorf("waits %v with 10 minutes left", wait)
		}
		k.retry = time.Time{}
	}
	var kinds []EventKind
	for i, e := range seen {
		kinds = append(kinds, e.Kind)
		if e.Err == nil || !e.NotAfter.Equal(k.current.Load().leaf().NotAfter) {
			t.Errorf("event %+v", e)
		}
		if told[i].Name != "a.test" || told[i].Kind.String() != e.Kind.String() {
			t.Errorf("tlsx was told %+v of %+v", told[i], e)
		}
	}
	if len(kinds) != 3 || kinds[0] != Failed || kinds[1] != Expiring || kinds[2] != Failed {
		t.Errorf("events %v", kinds)
	}
}
