package acme

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// TestOneDecisionWhileWaiting has a name come again and again while there is no
// turn to order it: Decide lets it in once a minute, and the storage is looked at
// once a second, where another process may have put its certificate.
func TestOneDecisionWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemory()
		decided := make(map[string]int)
		s := offline(t, Config{Storage: storage, OnDemand: &OnDemand{PerMinute: 3, Decide: func(_ context.Context, name string, _ net.Addr) error {
			decided[name]++
			if name == "stranger.test" {
				return errors.New("no customer")
			}
			return nil
		}}})
		newFakeAuthority(t).become(s.authorities[0])
		full := func() { s.demand.window, s.demand.ordered = time.Now(), 3 }
		visit := func(name string, want error) {
			t.Helper()
			hello := validatorHello(name)
			hello.SupportedProtos = nil
			if cert, err := s.Certificate(hello); !errors.Is(err, want) || (cert != nil) != (want == nil) {
				t.Errorf("%s: %v, %v, want %v", name, cert != nil, err, want)
			}
		}
		check := func(name string, decisions, looks int) {
			t.Helper()
			if n := storage.count("Load " + placesOf(s.authorities[0], name).key); decided[name] != decisions || n != looks {
				t.Errorf("%s: decided %d times and looked for %d times, want %d and %d", name, decided[name], n, decisions, looks)
			}
		}
		full()
		for range 10 {
			visit("a.test", ErrLimit)
		}
		check("a.test", 1, 1)
		for range 3 {
			time.Sleep(lookLeast)
			visit("a.test", ErrLimit)
			visit("a.test", ErrLimit)
		}
		check("a.test", 1, 4)
		visit("stranger.test", ErrDenied)
		visit("stranger.test", ErrDenied)
		check("stranger.test", 2, 0) // which tlsx remembers
		time.Sleep(admission - 3*lookLeast)
		full()
		visit("a.test", ErrLimit)
		check("a.test", 2, 5)
		// Another process has its turn.
		time.Sleep(lookLeast)
		now := time.Now()
		if err := s.save(t.Context(), "a.test", heldFor(t, s, testcert.NewCA(t), "a.test", now.Add(-time.Hour), now.Add(day))); err != nil {
			t.Fatal(err)
		}
		visit("a.test", nil)
		if decided["a.test"] != 2 || s.demand.ordered != 3 || len(s.demand.letIn) != 0 {
			t.Errorf("decided %d times, %d orders, %d wait", decided["a.test"], s.demand.ordered, len(s.demand.letIn))
		}
		// With the next minute comes a turn, without another decision.
		full()
		time.Sleep(30 * time.Second)
		visit("b.test", ErrLimit)
		time.Sleep(30*time.Second - time.Nanosecond)
		visit("b.test", ErrLimit)
		time.Sleep(time.Nanosecond)
		visit("b.test", nil)
		if decided["b.test"] != 1 || s.demand.ordered != 1 {
			t.Errorf("decided %d times, %d orders", decided["b.test"], s.demand.ordered)
		}
		// A storage that fails is no reason to decide again.
		away := errors.New("away")
		storage.reset(func(string, string) error { return away })
		for range 3 {
			visit("c.test", away)
		}
		check("c.test", 1, 3)
	})
}

// TestNoDecisionWithoutRoom: with as many names as there may be, nobody is asked
// about another.
func TestNoDecisionWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var decided int
		storage := newMemory()
		s := offline(t, Config{Storage: storage, OnDemand: &OnDemand{Max: 2, Decide: func(context.Context, string, net.Addr) error {
			decided++
			return nil
		}}})
		now := time.Now()
		failed := &demand{kept: newKept("a.test"), done: make(chan struct{}), err: errors.New("failed"), until: now.Add(demandRetry)}
		close(failed.done)
		s.demand.names = map[string]*demand{"a.test": failed, "b.test": {kept: newKept("b.test"), done: make(chan struct{})}}
		hello := validatorHello("c.test")
		hello.SupportedProtos = nil
		for range 5 {
			if _, err := s.Certificate(hello); !errors.Is(err, ErrLimit) {
				t.Errorf("beyond the limit: %v", err)
			}
		}
		if decided != 0 || storage.count("Load") != 0 {
			t.Errorf("decided %d times, %d reads", decided, storage.count("Load"))
		}
		time.Sleep(demandRetry) // then the failure gives its place up
		newFakeAuthority(t).become(s.authorities[0])
		if cert, err := s.Certificate(hello); err != nil || cert == nil || decided != 1 {
			t.Errorf("with room: %v, %v, decided %d times", cert != nil, err, decided)
		}
	})
}

// TestLetInIsBounded has more names wait than there may be.
func TestLetInIsBounded(t *testing.T) {
	var d demanded
	limits := &OnDemand{Max: 3}
	now := time.Now()
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		d.remember(name, limits, now)
		if decided, err := d.wait(name, limits, now); !decided || err != nil {
			t.Errorf("%s: %v, %v", name, decided, err)
		}
	}
	if len(d.letIn) != 3 {
		t.Errorf("%d are remembered, want 3", len(d.letIn))
	}
	d.names = map[string]*demand{"x": {done: make(chan struct{})}}
	if err := d.room(1, now); !errors.Is(err, ErrLimit) || !d.swept.Equal(now) {
		t.Errorf("%v, swept at %v: each that asks looks through all names", err, d.swept)
	}
	if decided, _ := d.wait("e", limits, now.Add(admission-1)); !decided {
		t.Error("forgotten early")
	}
	if decided, _ := d.wait("e", limits, now.Add(admission)); decided {
		t.Error("remembered for too long")
	}
}

// TestDamagedOnDemand: what cannot be used counts like nothing.
func TestDamagedOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := offline(t, Config{Storage: newMemory(), OnDemand: &OnDemand{Decide: everybody}})
		f := newFakeAuthority(t).become(s.authorities[0])
		places := placesOf(s.authorities[0], "a.test")
		for _, place := range []string{places.key, places.cert, places.meta} {
			if err := s.conf.Storage.Store(t.Context(), place, []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
		hello := validatorHello("a.test")
		hello.SupportedProtos = nil
		if cert, err := s.Certificate(hello); err != nil || cert == nil || f.count("order") != 1 {
			t.Errorf("%v, %v, %d orders", cert != nil, err, f.count("order"))
		}
	})
}
