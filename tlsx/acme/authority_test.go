package acme

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"github.com/palisade-go/palisade/internal/pebbletest"
)

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace{every: time.Second}
		start := time.Now()
		for range orderBurst {
			if err := p.wait(t.Context()); err != nil || time.Since(start) > 0 {
				t.Fatalf("one of the first waited %v, %v", time.Since(start), err)
			}
		}
		for i := range 3 {
			if err := p.wait(t.Context()); err != nil || time.Since(start) != time.Duration(i+1)*time.Second {
				t.Errorf("one more after %v, %v", time.Since(start), err)
			}
		}
		brief, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		for range 100 { // which take no places
			if err := p.wait(brief); err == nil {
				t.Error("did not say that the turn comes too late")
			}
		}
		start = time.Now()
		if err := p.wait(t.Context()); err != nil || time.Since(start) != time.Second {
			t.Errorf("the next one after %v, %v", time.Since(start), err)
		}
		p.hold = time.Now().Add(time.Hour)
		start = time.Now()
		if err := p.wait(t.Context()); err != nil || time.Since(start) != time.Hour {
			t.Errorf("while held: after %v, %v", time.Since(start), err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	header, status := "", 0
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", header)
		w.WriteHeader(status)
	}))
	defer ts.Close()
	for _, c := range []struct {
		status int
		header string
		want   time.Duration
	}{
		{200, "60", 0}, {429, "60", time.Minute}, {503, "60", time.Minute}, {429, "", 0}, {429, "-5", 0},
		{429, time.Now().Add(2 * time.Minute).UTC().Format(http.TimeFormat), 2 * time.Minute},
		{429, "99999999", holdMost},
	} {
		header, status = c.header, c.status
		var p pace
		client := &http.Client{Transport: heedful{http.DefaultTransport, &p}}
		res, err := client.Get(ts.URL)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		got := time.Until(p.hold)
		if c.want == 0 && !p.hold.IsZero() || c.want > 0 && (got-c.want).Abs() > 3*time.Second {
			t.Errorf("%d %q: held for %v, want %v", c.status, c.header, got, c.want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestForgottenAccount has an account in the storage that the authority does not
// know, as after it has lost its data.
func TestForgottenAccount(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{})
	s, _ := newSource(t, p, Config{Names: []string{"a.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()}})
	serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
	a := s.authorities[0]
	acct, err := a.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	acct.Location += "-unknown"
	data, err := json.Marshal(acct)
	if err != nil {
		t.Fatal(err)
	}
	registration, _ := a.accountPlaces()
	if err := s.conf.Storage.Store(t.Context(), registration, data); err != nil {
		t.Fatal(err)
	}
	a.account = acme.Account{}
	obtain(t, s)
	if again, err := a.loadAccount(t.Context()); err != nil || again.Location == acct.Location {
		t.Errorf("account %q, %v", again.Location, err)
	}
}
