package tlsx

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

var sealKey = bytes.Repeat([]byte{7}, 32)

// cluster are three Terminators over one storage, in a bubble.
type cluster struct {
	nodes  []*Terminator
	store  *memStorage
	log    *bytes.Buffer
	config Config
}

const clusterRotation = time.Minute

func newCluster(t *testing.T, store *memStorage) *cluster {
	t.Helper()
	ca := testcert.NewCA(t)
	far := time.Now().AddDate(1, 0, 0)
	c := &cluster{store: store, log: new(bytes.Buffer)}
	allow := func(context.Context, *Identity) error { return nil }
	c.config = Config{
		Certs: []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"a.test", "b.test"}, NotAfter: far}))},
		Policies: []Policy{
			{Names: []string{"a.test"}, Client: &ClientAuth{Roots: rootsOf(t, ca), Authorize: allow}},
			{Names: []string{"b.test"}, Client: &ClientAuth{Roots: rootsOf(t, ca), Authorize: allow}},
		},
		Tickets: &SharedTickets{Storage: store, Key: sealKey, Rotation: clusterRotation},
		Logger:  slog.New(slog.NewTextHandler(c.log, nil)),
	}
	for range 3 {
		c.nodes = append(c.nodes, newTerminator(t, c.config))
	}
	return c
}

// crossings visits each node and goes on to each other, and returns how many of
// the second visits were resumed.
func (c *cluster) crossings(t *testing.T, version uint16) (resumed, of int) {
	t.Helper()
	for i, from := range c.nodes {
		for j, to := range c.nodes {
			if i == j {
				continue
			}
			sessions := new(oneSession)
			for k, node := range []*Terminator{from, to} {
				start := time.Now()
				r := shake(t, node.ServerConfig(), ticketClient(version, "a.test", nil, sessions))
				if !r.ok() {
					t.Fatalf("%v / %v", r.clientErr, r.serverErr)
				}
				if waited := time.Since(start); waited != 0 {
					t.Errorf("a handshake took %v", waited)
				}
				if k == 1 {
					of++
					if r.client.DidResume {
						resumed++
					}
				}
			}
		}
	}
	synctest.Wait() // for what looks at the storage
	return resumed, of
}

func TestTicketsCrossNodes(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, newMemStorage())
			var secrets [][32]byte
			for range 10 {
				if resumed, of := c.crossings(t, version); resumed != of {
					t.Errorf("%d of %d resumed", resumed, of)
				}
				e := c.nodes[0].tickets.now()
				secret, ok := e.ring.exact(e.number)
				if !ok || slices.Contains(secrets, secret) {
					t.Error("the secret of this period is not from the storage, or not new")
				}
				secrets = append(secrets, secret)
				if _, ok := e.ring.exact(e.number + 1); !ok {
					t.Error("the next secret is not there ahead of its time")
				}
				if len(e.ring) > 3 {
					t.Errorf("%d secrets are kept", len(e.ring))
				}
				time.Sleep(clusterRotation)
			}
			// Another policy on another node opens nothing.
			sessions := new(oneSession)
			shake(t, c.nodes[0].ServerConfig(), ticketClient(version, "a.test", nil, sessions))
			if r := shake(t, c.nodes[1].ServerConfig(), ticketClient(version, "b.test", nil, sessions)); !r.ok() || r.client.DidResume {
				t.Errorf("another policy: resumed %v, %v", r.client.DidResume, r.clientErr)
			}
			if c.log.Len() > 0 {
				t.Errorf("logged:\n%s", c.log)
			}
			synctest.Wait()
			for _, secret := range secrets {
				for _, stored := range c.store.values {
					if bytes.Contains(stored, secret[:]) {
						t.Error("a secret is stored in the clear")
					}
				}
			}
		})
	})
}

// TestTicketsOfAnotherVersion has nodes whose decisions about clients are of
// different versions: a ticket of one is none for the other.
func TestTicketsOfAnotherVersion(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		synctest.Test(t, func(t *testing.T) {
			ca := testcert.NewCA(t)
			alice := ca.Issue(testcert.Leaf{CommonName: "alice"})
			store := newMemStorage()
			node := func(policy string) *Terminator {
				return newTerminator(t, Config{
					Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"a.test"}}))},
					Policies: []Policy{{Client: &ClientAuth{Roots: rootsOf(t, ca), Version: policy}}},
					Tickets:  &SharedTickets{Storage: store, Key: sealKey},
				})
			}
			for _, c := range []struct {
				from, to string
				resumes  bool
			}{{"1", "1", true}, {"", "", true}, {"1", "2", false}, {"", "1", false}, {"1", "", false}} {
				sessions := new(oneSession)
				for i, n := range []*Terminator{node(c.from), node(c.to)} {
					if r := shake(t, n.ServerConfig(), ticketClient(version, "a.test", &alice, sessions)); !r.ok() || r.client.DidResume != (i == 1 && c.resumes) {
						t.Errorf("version %q to %q, visit %d: resumed %v: %v / %v", c.from, c.to, i, r.client.DidResume, r.clientErr, r.serverErr)
					}
				}
			}
			synctest.Wait()
		})
	})
}

// TestTicketsWhileStorageFails has a third of all calls fail.
func TestTicketsWhileStorageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStorage()
		c := newCluster(t, store)
		store.set(1.0/3, false)
		resumed, of := 0, 0
		for range 20 {
			r, n := c.crossings(t, tls.VersionTLS13)
			resumed, of = resumed+r, of+n
			for range 10 { // other handshakes, during which it is looked
				time.Sleep(clusterRotation / 10)
				for _, node := range c.nodes {
					node.tickets.now()
				}
				synctest.Wait()
			}
		}
		if float64(resumed) < 0.99*float64(of) {
			t.Errorf("%d of %d resumed, want 99%%", resumed, of)
		}
	})
}

// TestRotationNeverStalls takes the storage away for many periods: keys go on
// changing, nodes go on agreeing, handshakes wait for nothing, and sharing comes
// back with the storage.
func TestRotationNeverStalls(t *testing.T) {
	for _, hang := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store := newMemStorage()
			c := newCluster(t, store)
			c.crossings(t, tls.VersionTLS13)
			store.set(1, hang)
			var keys [][32]byte
			for range 5 {
				time.Sleep(clusterRotation)
				if resumed, of := c.crossings(t, tls.VersionTLS13); resumed != of {
					t.Errorf("hanging %v: %d of %d resumed", hang, resumed, of)
				}
				key := c.nodes[0].tickets.now().keys("p", nil, "")[0]
				if slices.Contains(keys, key) {
					t.Error("the key has not changed")
				}
				keys = append(keys, key)
				time.Sleep(ticketStoreTimeout)
			}
			if n := lines(c.log); n != 3 {
				t.Errorf("logged %d lines, want one of each node:\n%s", n, c.log)
			}
			// One that starts now knows nobody's secrets, and serves all the same.
			late := newTerminator(t, c.config)
			if r := shake(t, late.ServerConfig(), ticketClient(tls.VersionTLS13, "a.test", nil, new(oneSession))); !r.ok() {
				t.Errorf("started without storage: %v", r.clientErr)
			}
			store.set(0, false)
			time.Sleep(clusterRotation)
			c.nodes = append(c.nodes, late)
			c.crossings(t, tls.VersionTLS13)
			if resumed, of := c.crossings(t, tls.VersionTLS13); resumed != of {
				t.Errorf("after the storage came back %d of %d resumed", resumed, of)
			}
			e := late.tickets.now()
			if _, ok := e.ring.exact(e.number + 1); !ok {
				t.Error("secrets are not published again")
			}
		})
	}
}

// TestForeignTicketsAreNotReplaced stores what cannot be opened.
func TestForeignTicketsAreNotReplaced(t *testing.T) {
	store := newMemStorage()
	c := newCluster(t, store)
	var stored []byte
	for _, v := range store.values {
		stored = v
	}
	other := c.config
	for name, shared := range map[string]SharedTickets{
		"another key":  {Storage: store, Key: bytes.Repeat([]byte{8}, 32), Rotation: clusterRotation},
		"another name": {Storage: store, Key: sealKey, Rotation: clusterRotation, Name: "moved"},
	} {
		store.values["moved"] = stored
		other.Tickets = &shared
		term := newTerminator(t, other)
		sessions := new(oneSession)
		shake(t, c.nodes[0].ServerConfig(), ticketClient(tls.VersionTLS13, "a.test", nil, sessions))
		if r := shake(t, term.ServerConfig(), ticketClient(tls.VersionTLS13, "a.test", nil, sessions)); !r.ok() || r.client.DidResume {
			t.Errorf("%s: resumed %v, %v", name, r.client.DidResume, r.clientErr)
		}
		for _, now := range store.values {
			if !bytes.Equal(now, stored) {
				t.Errorf("%s: what others stored was replaced", name)
			}
		}
	}
}

func TestSharedTicketsAreChecked(t *testing.T) {
	ca := testcert.NewCA(t)
	for _, shared := range []SharedTickets{{Key: sealKey}, {Storage: newMemStorage(), Key: sealKey[1:]}, {Storage: newMemStorage(), Key: sealKey, Rotation: time.Millisecond}, {Storage: newMemStorage(), Key: sealKey, Rotation: -1}} {
		if _, err := New(Config{Certs: []CertSource{static(ca.Issue(testcert.Leaf{}))}, Tickets: &shared}); err == nil {
			t.Errorf("%+v was accepted", shared)
		}
	}
}

// TestClockAhead has a node whose clock is three periods ahead publish first.
func TestClockAhead(t *testing.T) {
	s := newTicketStore(SharedTickets{Storage: newMemStorage(), Key: sealKey})
	ahead, err := s.agree(t.Context(), 8, newTicketRing([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	right, err := s.agree(t.Context(), 5, newTicketRing([32]byte{2}))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{4, 5, 6, 7, 8, 9} {
		want, known := ahead.exact(n)
		got, ok := right.exact(n)
		if !ok || known && got != want {
			t.Errorf("period %d: stored %v, as before %v", n, ok, got == want)
		}
	}
	if again, err := s.agree(t.Context(), 8, newTicketRing([32]byte{3})); err != nil || fmt.Sprint(again) != fmt.Sprint(right) {
		t.Errorf("the one ahead lost its secrets: %v", err)
	}
}

// FuzzParseTicketRing checks that what is accepted encodes to what was read.
func FuzzParseTicketRing(f *testing.F) {
	f.Add(ticketRing{{1, [32]byte{1}}, {2, [32]byte{2}}}.encode())
	f.Add(ticketRing{{2, [32]byte{1}}, {1, [32]byte{2}}}.encode())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, data []byte) {
		ring, err := parseTicketRing(data)
		if err != nil {
			return
		}
		if !bytes.Equal(ring.encode(), data) || len(ring) > ticketRingMax {
			t.Errorf("%x was accepted, but encodes to %x", data, ring.encode())
		}
		if again, complete := ring.complete(ring[0].epoch, ring); complete != (len(ring) > 1 && ring[1].epoch == ring[0].epoch+1) || len(again) == 0 {
			t.Errorf("complete: %v", complete)
		}
	})
}
