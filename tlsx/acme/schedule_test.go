package acme

import (
	"crypto/x509"
	"math/rand/v2"
	"testing"
	"time"
)

const day = 24 * time.Hour

func certOf(start time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{NotBefore: start, NotAfter: start.Add(life)}
}

func TestRenewAt(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	after := func(d time.Duration) time.Time { return start.Add(d) }
	for _, c := range []struct {
		what      string
		life      time.Duration
		window    window
		from, end time.Duration // of the renewal, for the lots 0 and 1
	}{
		{"90 days", 90 * day, window{}, 60 * day, 60*day - 90*day/20},
		{"6 days", 6 * day, window{}, 3 * day, 3*day - 6*day/20},
		{"a minute", time.Minute, window{}, 30 * time.Second, 27 * time.Second},
		{"a window", 90 * day, window{after(59 * day), after(61 * day)}, 59 * day, 61 * day},
		{"a window that ends late", 90 * day, window{after(60 * day), after(89 * day)}, 60 * day, 90 * day * 3 / 4},
		{"a window beyond all safety", 90 * day, window{after(80 * day), after(89 * day)}, 60 * day, 60*day - 90*day/20},
		{"revoked on day 20", 90 * day, window{after(20*day - time.Hour), after(20 * day)}, 20 * day, 20 * day},
		{"revoked at once", 90 * day, window{after(-2 * time.Hour), after(-time.Hour)}, time.Hour, time.Hour},
		{"a window of days for a minute", time.Minute, window{after(-day), after(day)}, 20 * time.Second, 33 * time.Second},
	} {
		cert := certOf(start, c.life)
		for lot, want := range map[float64]time.Duration{0: c.from, 1: c.end} {
			if got := renewAt(cert, c.window, lot).Sub(start); (got - want).Abs() > time.Second {
				t.Errorf("%s: renewed after %v for lot %v, want %v", c.what, got, lot, want)
			}
		}
	}
}

// TestRenewAtLeavesTime draws windows that make no sense: whatever the authority
// says, there is a quarter of the life left, and not every order brings another.
func TestRenewAtLeavesTime(t *testing.T) {
	lot := rand.New(rand.NewPCG(1, 2))
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for range 10_000 {
		life := time.Minute + time.Duration(lot.Int64N(int64(400*day)))
		cert := certOf(start, life)
		var w window
		if lot.IntN(4) > 0 {
			w.start = start.Add(time.Duration(lot.Int64N(int64(4*life))) - 2*life)
			w.end = start.Add(time.Duration(lot.Int64N(int64(4*life))) - 2*life)
		}
		at := renewAt(cert, w, lot.Float64()).Sub(start)
		if least := min(life/10, time.Hour); at < least || at > life*3/4 {
			t.Fatalf("life %v, window %v to %v: renewed after %v", life, w.start.Sub(start), w.end.Sub(start), at)
		}
	}
}

func TestBackoff(t *testing.T) {
	const mid = 0.5 // no jitter
	for _, c := range []struct {
		failures   int
		refused    bool
		life, left time.Duration
		want       time.Duration
	}{
		{1, false, 0, 0, time.Second},
		{4, false, 0, 0, 8 * time.Second},
		{60, false, 0, 0, 10 * time.Minute},
		{1, true, 0, 0, 2 * time.Minute},
		{3, true, 0, 0, 8 * time.Minute},
		{60, true, 0, 0, 6 * time.Hour},
		{60, true, 90 * day, 30 * day, 6 * time.Hour},
		{60, true, 90 * day, day, day / 20},
		{60, true, 90 * day, time.Minute, time.Minute},
		{5, false, time.Minute, 30 * time.Second, 1500 * time.Millisecond},
		{5, true, time.Minute, 30 * time.Second, 3 * time.Second},
		{5, true, time.Minute, -time.Second, 32 * time.Minute},
	} {
		if got := backoff(c.failures, c.refused, c.life, c.left, mid); got != c.want {
			t.Errorf("%+v: wait %v", c, got)
		}
	}
	if low, high := backoff(1, false, 0, 0, 0), backoff(1, false, 0, 0, 1); low != 750*time.Millisecond || high != 1250*time.Millisecond {
		t.Errorf("with jitter %v to %v", low, high)
	}
	// Let's Encrypt: five failures to prove a name in an hour.
	var sum time.Duration
	tries := 0
	for ; sum < time.Hour; tries++ {
		sum += backoff(tries+1, true, 0, 0, 0)
	}
	if tries > 6 {
		t.Errorf("%d tries in the first hour", tries)
	}
}
