package acme

import (
	"net/http"
	"path"
	"slices"
	"testing"

	"github.com/caddyserver/certmagic"

	"github.com/palisade-go/palisade/internal/pebbletest"
)

// TestNoEmailIsNone has a Source without an address register after another one
// of the process that has one, and where a registration without was begun.
func TestNoEmailIsNone(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{})
	for _, c := range []struct{ name, email, begun, want string }{
		{"with.test", "admin@with.test", "", "admin@with.test"},
		{"without.test", "", "", "default"},
		{"begun.test", "", "default", "default"},
	} {
		t.Run(c.name, func(t *testing.T) {
			storage := &certmagic.FileStorage{Path: t.TempDir()}
			s, _ := newSource(t, p, Config{Names: []string{c.name}, Storage: storage, Email: c.email, DisableTLSALPNChallenge: true})
			users := path.Join("acme", certmagic.StorageKeys.Safe(s.authorities[0].key), "users")
			if c.begun != "" {
				if err := storage.Store(t.Context(), path.Join(users, c.begun, "begun"), nil); err != nil {
					t.Fatal(err)
				}
			}
			serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
			obtain(t, s)
			accounts, err := storage.List(t.Context(), users, false)
			if err != nil {
				t.Fatal(err)
			}
			if want := []string{path.Join(users, c.want)}; !slices.Equal(accounts, want) {
				t.Errorf("accounts %q, want %q", accounts, want)
			}
		})
	}
}
