package tlsx

import (
	"crypto/tls"
	"testing"

	"github.com/palisade-go/palisade/internal/testcert"
)

// TestSessionKeepsItsName resumes for the name that a session began with, for
// another spelling, for another of the same policy, and for none.
func TestSessionKeepsItsName(t *testing.T) {
	ca := testcert.NewCA(t)
	alice := ca.Issue(testcert.Leaf{CommonName: "alice"})
	term := newTerminator(t, Config{
		Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"a.test", "b.test", "192.0.2.1"}}))},
		Policies: []Policy{{Client: &ClientAuth{Roots: rootsOf(t, ca)}}},
	})
	names := []string{"a.test", "b.test", ""}
	bothVersions(t, func(t *testing.T, version uint16) {
		for _, from := range names {
			for _, to := range append([]string{"A.test"}, names...) {
				sessions := new(oneSession)
				if r := shake(t, term.ServerConfig(), ticketClient(version, from, &alice, sessions)); !r.ok() || sessions.last == nil {
					t.Fatalf("first visit of %q: %v / %v", from, r.clientErr, r.serverErr)
				}
				same := from == to || from == "a.test" && to == "A.test"
				for visit := range 2 { // the second with what the first got
					r := shake(t, term.ServerConfig(), ticketClient(version, to, &alice, sessions))
					if want := visit == 1 || same || version == tls.VersionTLS13; !r.ok() || r.client.DidResume != want {
						t.Errorf("a session of %q for %q: resumed %v, want %v: %v / %v", from, to, r.client.DidResume, want, r.clientErr, r.serverErr)
					}
				}
			}
		}
	})
}
