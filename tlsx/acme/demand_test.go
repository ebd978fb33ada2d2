package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"github.com/palisade-go/palisade/internal/testcert"
)

// TestAdmit holds names that come by handshakes to their limits, those of the
// configuration and those that it has without.
func TestAdmit(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	failed := func(d *demand, until time.Time) {
		d.err, d.until = errors.New("failed"), until
		close(d.done)
	}
	for _, c := range []struct {
		limits          OnDemand
		most, perMinute int
	}{{OnDemand{}, 1000, 10}, {OnDemand{Max: 7, PerMinute: 3}, 7, 3}, {OnDemand{Max: 2, PerMinute: 5}, 2, 5}} {
		var d demanded
		now, names := start, 0
		admit := func(stored bool) error {
			names++
			state, fresh, err := d.admit(fmt.Sprintf("%d.test", names), stored, &c.limits, now)
			if (err == nil) != fresh || fresh && (!state.demanded || state.name != fmt.Sprintf("%d.test", names)) || err != nil && !errors.Is(err, ErrLimit) {
				t.Errorf("%+v: state %+v, %v, %v", c.limits, state, fresh, err)
			}
			return err
		}
		for i := range c.perMinute {
			if err := admit(false); (err == nil) != (i < c.most) {
				t.Errorf("%+v: order %d: %v", c.limits, i+1, err)
			}
		}
		if admit(false) == nil {
			t.Errorf("%+v: an order more than %d in a minute", c.limits, c.perMinute)
		}
		if err := admit(true); (err == nil) != (c.perMinute < c.most) {
			t.Errorf("%+v: one that is stored: %v", c.limits, err)
		}
		now = start.Add(time.Minute - 1)
		if admit(false) == nil {
			t.Errorf("%+v: an order more just before the minute is over", c.limits)
		}
		now = start.Add(time.Minute)
		if err := admit(false); (err == nil) != (c.perMinute+1 < c.most) {
			t.Errorf("%+v: in the next minute: %v", c.limits, err)
		}
		for len(d.names) < c.most {
			if err := admit(true); err != nil {
				t.Fatalf("%+v: %d names: %v", c.limits, len(d.names), err)
			}
		}
		if admit(true) == nil {
			t.Errorf("%+v: a name more than %d", c.limits, c.most)
		}
		// One that is there takes no place, and one whose failure is over gives its own up.
		one := d.names["1.test"]
		if state, fresh, err := d.admit("1.test", false, &c.limits, now); state != one || fresh || err != nil {
			t.Errorf("%+v: the same name again: %v, %v", c.limits, fresh, err)
		}
		failed(one, now.Add(demandRetry))
		if state, fresh, err := d.admit("1.test", true, &c.limits, now); state != one || fresh || err != nil || d.find("1.test", now) != one {
			t.Errorf("%+v: one that failed just now: %v, %v", c.limits, fresh, err)
		}
		if admit(true) == nil {
			t.Errorf("%+v: a place was given up too early", c.limits)
		}
		now = now.Add(demandRetry)
		if d.find("1.test", now) != nil {
			t.Errorf("%+v: a failure that is over still counts", c.limits)
		}
		if err := admit(true); err != nil || d.names["1.test"] != nil {
			t.Errorf("%+v: the place of a failure that is over is not free: %v", c.limits, err)
		}
	}
}

// TestExpiredOnDemand has an expired certificate in the storage: that there is one
// is no reason not to order, and the handshake hears what became of that.
func TestExpiredOnDemand(t *testing.T) {
	ca := testcert.NewCA(t)
	s := offline(t, Config{Storage: &certmagic.FileStorage{Path: t.TempDir()}, OnDemand: &OnDemand{Decide: func(context.Context, string, net.Addr) error { return nil }}})
	now := time.Now()
	if err := s.save(t.Context(), "a.test", heldFor(t, s, ca, "a.test", now.Add(-2*time.Hour), now.Add(-time.Hour))); err != nil {
		t.Fatal(err)
	}
	hello := &tls.ClientHelloInfo{ServerName: "a.test", Conn: nowhere{}}
	for range 2 {
		if cert, err := s.Certificate(hello); cert != nil || err == nil || errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), s.conf.Directory) {
			t.Errorf("%v, %v, want why there is no new one", cert != nil, err)
		}
	}
	if state := s.demand.find("a.test", now.Add(demandRetry/2)); state == nil || s.demand.find("a.test", now.Add(demandRetry+time.Minute)) != nil {
		t.Error("a failure is not remembered, or for too long")
	}
	if len(s.Certificates()) != 0 {
		t.Error("an expired certificate is listed as served")
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{acme.Problem{Status: 403, Type: acme.ProblemTypeUnauthorized}, true},
		{acme.Problem{Status: 403, Type: acme.ProblemTypeCAA}, true},
		{fmt.Errorf("order: %w", acme.Problem{Status: 400, Type: acme.ProblemTypeRejectedIdentifier}), true},
		{errors.Join(errors.New("timeout"), acme.Problem{Status: 400, Type: acme.ProblemTypeMalformed}), true},
		{acme.Problem{Status: 400, Type: acme.ProblemTypeBadNonce}, false},
		{acme.Problem{Status: 429, Type: acme.ProblemTypeRateLimited}, false},
		{acme.Problem{Status: 403, Type: acme.ProblemTypeServerInternal}, false},
		{acme.Problem{Status: 500, Type: acme.ProblemTypeUnauthorized}, false},
		{acme.Problem{Status: 503}, false},
		{errors.New("connection refused"), false},
		{context.DeadlineExceeded, false},
		{nil, false},
	} {
		if got := refused(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

// TestRehearsals: staging is asked for what is new and not for renewals, and one
// that is out of order keeps nobody from an order in earnest.
func TestRehearsals(t *testing.T) {
	ca := testcert.NewCA(t)
	var staging, earnest atomic.Int32
	count := func(n *atomic.Int32) (*httptest.Server, Authority) {
		ts := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			n.Add(1)
			http.Error(w, "out of order", http.StatusNotFound)
		}))
		t.Cleanup(ts.Close)
		pool := x509.NewCertPool()
		pool.AddCert(ts.Certificate())
		return ts, Authority{Directory: ts.URL, RootCAs: pool}
	}
	_, rehearsal := count(&staging)
	_, first := count(&earnest)
	s := offline(t, Config{Names: []string{"a.test"}, Storage: &certmagic.FileStorage{Path: t.TempDir()}, Staging: &rehearsal, Fallbacks: []Authority{first}})
	if _, err := s.obtain(t.Context(), "a.test", nil); err == nil || strings.Contains(err.Error(), "staging") || staging.Load() == 0 || earnest.Load() == 0 {
		t.Errorf("staging was asked %d times, the authority %d: %v", staging.Load(), earnest.Load(), err)
	} else if !strings.Contains(err.Error(), s.conf.Directory) || !strings.Contains(err.Error(), first.Directory) {
		t.Errorf("the error does not say of both authorities why: %v", err)
	}
	staging.Store(0)
	earnest.Store(0)
	now := time.Now()
	if _, err := s.obtain(t.Context(), "a.test", heldFor(t, s, ca, "a.test", now.Add(-time.Hour), now.Add(time.Hour))); err == nil || staging.Load() != 0 || earnest.Load() == 0 {
		t.Errorf("a renewal: staging was asked %d times, the authority %d: %v", staging.Load(), earnest.Load(), err)
	}
}
