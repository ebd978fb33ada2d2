package tlsx

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/palisade-go/palisade/internal/testcert"
)

// TestResumptionMatrix carries a ticket over each change that ends what it stood
// for: none is accepted, under TLS 1.2 and 1.3. Without a change it is, or the
// rest would show nothing.
func TestResumptionMatrix(t *testing.T) {
	ca, otherCA := testcert.NewCA(t), testcert.NewCA(t)
	both, err := NewRoots(ca.Cert, otherCA.Cert)
	if err != nil {
		t.Fatal(err)
	}
	alice := ca.Issue(testcert.Leaf{CommonName: "alice"})
	cert := static(ca.Issue(testcert.Leaf{Names: []string{"a.test", "b.test"}}))
	changes := []struct {
		name          string
		change        func(roots *swapRoots, deny *atomic.Bool)
		to            string // the name asked for the second time
		node          int    // and of whom
		in, mayResume bool   // whether alice gets in, and may do so with her ticket
	}{
		{"no change", func(*swapRoots, *atomic.Bool) {}, "a.test", 0, true, true},
		{"CA swap", func(r *swapRoots, _ *atomic.Bool) { r.Store(rootsOf(t, otherCA)) }, "a.test", 0, false, false},
		{"authoriser deny", func(_ *swapRoots, deny *atomic.Bool) { deny.Store(true) }, "a.test", 0, false, false},
		{"SNI swap", func(*swapRoots, *atomic.Bool) {}, "b.test", 0, true, false},
		{"node swap", func(*swapRoots, *atomic.Bool) {}, "a.test", 1, true, false},
		{"generation change", func(r *swapRoots, _ *atomic.Bool) { r.Store(both) }, "a.test", 0, true, false},
	}
	bothVersions(t, func(t *testing.T, version uint16) {
		for _, c := range changes {
			t.Run(c.name, func(t *testing.T) {
				var roots swapRoots
				var deny atomic.Bool
				roots.Store(rootsOf(t, ca))
				client := &ClientAuth{Mode: Required, Roots: &roots, Authorize: func(context.Context, *Identity) error {
					if deny.Load() {
						return errors.New("denied")
					}
					return nil
				}}
				conf := Config{Certs: []CertSource{cert}, Policies: []Policy{{Names: []string{"a.test"}, Client: client}, {Names: []string{"b.test"}, Client: client}}}
				nodes := []*Terminator{newTerminator(t, conf), newTerminator(t, conf)}
				sessions := new(oneSession)
				if r := shake(t, nodes[0].ServerConfig(), ticketClient(version, "a.test", &alice, sessions)); !r.ok() || sessions.last == nil {
					t.Fatalf("first visit: %v / %v", r.clientErr, r.serverErr)
				}
				c.change(&roots, &deny)
				r := shake(t, nodes[c.node].ServerConfig(), ticketClient(version, c.to, &alice, sessions))
				if accepted := r.ok() && r.client.DidResume; accepted != c.mayResume || r.ok() != c.in {
					t.Errorf("let in %v, want %v; ticket accepted %v, want %v: %v / %v", r.ok(), c.in, accepted, c.mayResume, r.clientErr, r.serverErr)
				}
			})
		}
	})
}
