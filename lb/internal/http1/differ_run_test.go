package http1

import (
	"maps"
	"net/http"
	"slices"
	"testing"
)

// compareRequest makes a request and compares how both read it.
func (g *generator) compareRequest(d *differ) ([]byte, error) {
	m := g.request()
	return m, d.request(m, g.step())
}

func (g *generator) compareResponse(d *differ) ([]byte, error) {
	m, method := g.response(), http.MethodGet
	if g.one(6) {
		method = http.MethodHead
	}
	return m, d.response(m, method, g.step())
}

// TestAgainstNetHTTP compares some messages at each run of the tests; the soak
// compares as many as one likes. Each part of what the generator is for must
// have had its turn.
func TestAgainstNetHTTP(t *testing.T) {
	const messages = 30_000
	g := newGenerator(1)
	for _, c := range []struct {
		name    string
		compare func(*differ) ([]byte, error)
		reasons int // that are common enough
	}{{"requests", g.compareRequest, 12}, {"responses", g.compareResponse, 14}} {
		d := newDiffer()
		for i := range messages {
			if m, err := c.compare(d); err != nil {
				t.Fatalf("%s: message %d: %q: %v", c.name, i, m, err)
			}
		}
		if d.accepted < messages/5 || d.refused < messages/5 || len(d.reasons) < c.reasons {
			t.Errorf("%s: both accept %d, both refuse %d, and only net/http accepts for the reasons %q; want more", c.name, d.accepted, d.refused, slices.Sorted(maps.Keys(d.reasons)))
		}
	}
}
