package tlsx

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// secretOf is a secret that is not one of those derived.
func secretOf(n byte) [32]byte { return [32]byte{n, 31: n} }

func derived(from [32]byte, epoch int64) [32]byte {
	return deriveTicket(from, "palisade tlsx ticket epoch", uint64(epoch))
}

func TestTicketRing(t *testing.T) {
	a, b := secretOf(1), secretOf(2)
	ring := ticketRing{{5, a}, {7, b}}
	for epoch, want := range map[int64][32]byte{5: a, 6: derived(a, 6), 7: b, 8: derived(b, 8), 9: derived(b, 9)} {
		got, ok := ring.at(epoch)
		if !ok || got != want {
			t.Errorf("period %d: %x, %v, want %x", epoch, got, ok, want)
		}
		if _, ok := ring.exact(epoch); ok != (epoch == 5 || epoch == 7) {
			t.Errorf("period %d: in the ring %v", epoch, ok)
		}
	}
	if _, ok := ring.at(4); ok {
		t.Error("there is a secret for the period before the first")
	}
	if derived(a, 6) == a || derived(a, 6) == derived(a, 7) || derived(a, 6) == derived(b, 6) {
		t.Error("derived secrets are the same")
	}
	// Before the first there is no key either: two remain, the one of now first.
	if keys := (&ticketEpoch{5, ring}).keys("p", nil, ""); len(keys) != 2 {
		t.Errorf("%d keys in the first period, want those of now and next", len(keys))
	}
}

// TestTicketRingComplete is about whose secrets count when the storage lacks some.
func TestTicketRingComplete(t *testing.T) {
	a, b, c, mine := secretOf(1), secretOf(2), secretOf(3), secretOf(9)
	ours := ticketRing{{0, mine}}
	for _, test := range []struct {
		name string
		ring ticketRing
		want ticketRing // an empty secret stands for a new one
	}{
		{"nothing stored", nil, ticketRing{{9, derived(mine, 9)}, {10, derived(mine, 10)}, {11, [32]byte{}}}},
		{"the one before", ticketRing{{9, a}}, ticketRing{{9, a}, {10, derived(a, 10)}, {11, [32]byte{}}}},
		{"one of long ago", ticketRing{{3, a}}, ticketRing{{9, derived(a, 9)}, {10, derived(a, 10)}, {11, [32]byte{}}}},
		{"this one", ticketRing{{8, c}, {9, a}, {10, b}}, ticketRing{{9, a}, {10, b}, {11, [32]byte{}}}},
		{"the next alone", ticketRing{{11, c}}, ticketRing{{9, derived(mine, 9)}, {10, derived(mine, 10)}, {11, c}}},
		{"later ones", ticketRing{{10, a}, {12, b}, {14, c}}, ticketRing{{9, derived(mine, 9)}, {10, a}, {11, [32]byte{}}, {12, b}, {14, c}}},
	} {
		got, complete := test.ring.complete(10, ours)
		if complete || len(got) != len(test.want) {
			t.Errorf("%s: %d secrets, complete before %v, want %d and not", test.name, len(got), complete, len(test.want))
			continue
		}
		for i, want := range test.want {
			fresh := want.secret == [32]byte{}
			known := slices.Contains([][32]byte{a, b, c, mine, derived(mine, 11), derived(a, 11), derived(b, 11), {}}, got[i].secret)
			if got[i].epoch != want.epoch || !fresh && got[i].secret != want.secret || fresh && known {
				t.Errorf("%s: secret %d is {%d %.4x}, want {%d %.4x}", test.name, i, got[i].epoch, got[i].secret, want.epoch, want.secret)
			}
		}
		if again, complete := got.complete(10, nil); !complete || !slices.Equal(again, got) {
			t.Errorf("%s: not complete afterwards", test.name)
		}
		if parsed, err := parseTicketRing(got.encode()); err != nil || !slices.Equal(parsed, got) {
			t.Errorf("%s: stored it would be %v, %v", test.name, parsed, err)
		}
	}
	var ahead ticketRing
	for n := range int64(ticketRingMax) {
		ahead = append(ahead, ticketSecret{20 + n, a})
	}
	if got, _ := ahead.complete(10, ours); len(got) != ticketRingMax {
		t.Errorf("%d secrets beside %d that are ahead, want %d", len(got), len(ahead), ticketRingMax)
	}
}

func TestTicketRingsAreRefused(t *testing.T) {
	a, b := secretOf(1), secretOf(2)
	good := ticketRing{{1, a}, {2, b}}
	if ring, err := parseTicketRing(good.encode()); err != nil || !slices.Equal(ring, good) {
		t.Errorf("%v, %v", ring, err)
	}
	var many ticketRing
	for n := range int64(ticketRingMax + 1) {
		many = append(many, ticketSecret{n, a})
	}
	other := good.encode()
	other[0] = 2
	for name, data := range map[string][]byte{
		"of another version": other, "too many": many.encode(), "out of order": ticketRing{{2, a}, {1, b}}.encode(), "twice the same": ticketRing{{1, a}, {1, b}}.encode(),
		"none": {1}, "empty": nil, "cut off": good.encode()[:60], "longer": append(good.encode(), 0),
	} {
		if ring, err := parseTicketRing(data); err == nil {
			t.Errorf("%s: %v", name, ring)
		}
	}
	s, moved, foreign := newTicketStore(SharedTickets{Name: "a", Key: sealKey}), newTicketStore(SharedTickets{Name: "b", Key: sealKey}), newTicketStore(SharedTickets{Name: "a", Key: bytes.Repeat([]byte{8}, 32)})
	if ring, err := s.open(s.seal(good)); err != nil || !slices.Equal(ring, good) {
		t.Errorf("%v, %v", ring, err)
	}
	for name, sealed := range map[string][]byte{
		"in the clear": good.encode(), "under another name": moved.seal(good), "under another key": foreign.seal(good), "under no name": s.aead.Seal(nil, nil, good.encode(), nil), "empty": nil,
	} {
		if ring, err := s.open(sealed); err == nil {
			t.Errorf("sealed %s: %v", name, ring)
		}
	}
}

// raceStorage lets others be first a few times.
type raceStorage struct {
	*memStorage
	others [][]byte // what they store, one for each Swap of ours
	err    error    // of Swap, once there are no others
	swaps  int
}

func (r *raceStorage) Swap(ctx context.Context, name string, old, value []byte) error {
	r.swaps++
	if len(r.others) > 0 {
		r.values[name], r.others = r.others[0], r.others[1:]
	} else if r.err != nil {
		return r.err
	}
	return r.memStorage.Swap(ctx, name, old, value)
}

// TestAgree has others be first, and storages that fail in each call.
func TestAgree(t *testing.T) {
	a, theirs := secretOf(1), ticketRing{{10, secretOf(5)}, {11, secretOf(6)}}
	storage := &raceStorage{memStorage: newMemStorage()}
	s := newTicketStore(SharedTickets{Storage: storage, Key: sealKey})
	storage.others = [][]byte{s.seal(ticketRing{{9, a}}), s.seal(theirs)}
	if ring, err := s.agree(t.Context(), 10, ticketRing{{0, a}}); err != nil || !slices.Equal(ring, theirs) || storage.swaps != 2 {
		t.Errorf("%v, %v after %d swaps, want what others stored after 2", ring, err, storage.swaps)
	}
	storage.swaps = 0
	if _, err := s.agree(t.Context(), 10, nil); err != nil || storage.swaps != 0 {
		t.Errorf("%d swaps of what is complete, %v", storage.swaps, err)
	}
	for range swapTries + 1 {
		storage.others = append(storage.others, s.seal(ticketRing{{9, a}}))
	}
	storage.values = make(map[string][]byte)
	if _, err := s.agree(t.Context(), 10, ticketRing{{0, a}}); !errors.Is(err, ErrConflict) || storage.swaps != swapTries {
		t.Errorf("%v after %d swaps, want ErrConflict after %d", err, storage.swaps, swapTries)
	}
	storage.others, storage.err, storage.swaps = nil, errStorage, 0
	if _, err := s.agree(t.Context(), 10, ticketRing{{0, a}}); !errors.Is(err, errStorage) || storage.swaps != 1 {
		t.Errorf("%v after %d swaps, want the storage's error after one", err, storage.swaps)
	}
	storage.set(1, false)
	storage.swaps = 0
	if _, err := s.agree(t.Context(), 10, ticketRing{{0, a}}); !errors.Is(err, errStorage) || storage.swaps != 0 {
		t.Errorf("%v after %d swaps of what could not be loaded", err, storage.swaps)
	}
}

// TestTicketsNeverGoBack has a look at the storage end when its period is over.
func TestTicketsNeverGoBack(t *testing.T) {
	k := newTicketKeys(nil, slog.New(slog.DiscardHandler))
	start := k.current.Load().number
	k.advance(start+2, nil)
	ring := ticketRing{{start, secretOf(1)}}
	if e := k.advance(start, ring); e.number != start+2 || !slices.Equal(e.ring, ring) || k.current.Load() != e {
		t.Errorf("period %d, want %d, with the new secrets", e.number-start, 2)
	}
	if e := k.advance(start+1, nil); e != k.current.Load() || e.number != start+2 {
		t.Error("an earlier period took over")
	}
}

// TestStorageIsAskedWhenDue counts what a Terminator asks of the storage: at the
// start, when a period begins, and after a failure not at every handshake.
func TestStorageIsAskedWhenDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStorage()
		var log bytes.Buffer
		conf := Config{
			Certs:   []CertSource{static(testcert.NewCA(t).Issue(testcert.Leaf{Names: []string{"a.test"}}))},
			Tickets: &SharedTickets{Storage: store, Key: sealKey},
			Logger:  slog.New(slog.NewTextHandler(&log, nil)),
		}
		first := newTerminator(t, conf)
		if _, ok := store.values["ticket-keys"]; !ok || first.tickets.rotation != 12*time.Hour {
			t.Errorf("stored %d values, rotation %v, want ticket-keys and 12h", len(store.values), first.tickets.rotation)
		}
		conf.Tickets.Rotation = 10 * time.Second
		conf.Tickets.Name = "mine"
		time.Sleep(10*time.Second - time.Duration(time.Now().UnixNano()%int64(10*time.Second))) // to the start of a period
		newTerminator(t, conf)
		store.calls = 0
		term := newTerminator(t, conf)
		if e := term.tickets.current.Load(); store.calls != 1 || len(e.ring) < 2 || !slices.ContainsFunc(e.ring, func(s ticketSecret) bool { return s.epoch == e.number+1 }) {
			t.Errorf("New made %d calls and has %d secrets, want the cluster's by one call", store.calls, len(e.ring))
		}
		handshakes := func(of time.Duration) int {
			store.mu.Lock()
			store.calls = 0
			store.mu.Unlock()
			for range 100 {
				time.Sleep(of / 100)
				term.tickets.now()
			}
			synctest.Wait()
			store.mu.Lock()
			defer store.mu.Unlock()
			return store.calls
		}
		if n := handshakes(9 * time.Second); n != 0 {
			t.Errorf("%d calls within a period, want none", n)
		}
		if n := handshakes(30 * time.Second); n != 3*2 {
			t.Errorf("%d calls in three periods, want a Load and a Swap in each", n)
		}
		store.set(1, false)
		if n := handshakes(10 * time.Second); n < 8 || n > 11 {
			t.Errorf("%d calls while the storage fails, want one in a second", n)
		}
		store.set(1, true)
		if n := handshakes(10 * time.Second); n < 1 || n > 3 {
			t.Errorf("%d calls while the storage hangs for %v at a time, want one at a time", n, ticketStoreTimeout)
		}
		time.Sleep(ticketStoreTimeout)
		if n := lines(&log); n != 1 {
			t.Errorf("logged, want one line about sharing that ended:\n%s", &log)
		}
		store.set(0, false)
		handshakes(50 * time.Second)
		if n := lines(&log); n != 2 {
			t.Errorf("logged, want one more line about sharing that goes on:\n%s", &log)
		}
		store.set(1, false)
		handshakes(20 * time.Second)
		if n := lines(&log); n != 3 {
			t.Errorf("logged, want a third line about sharing that ended again:\n%s", &log)
		}
		if r := shake(t, term.ServerConfig(), ticketClient(tls.VersionTLS13, "a.test", nil, new(oneSession))); !r.ok() {
			t.Errorf("%v / %v", r.clientErr, r.serverErr)
		}
		synctest.Wait()
	})
}
