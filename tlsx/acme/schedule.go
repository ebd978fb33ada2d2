package acme

import (
	"crypto/x509"
	"time"
)

const (
	// briefLife is below which a certificate is renewed at half of its life, as
	// Let's Encrypt advises for its short-lived ones; others at two thirds.
	briefLife = 10 * 24 * time.Hour
	// refusedFirst and unreachedFirst are the first waits after a failure.
	// Authorities count refusals: Let's Encrypt lets an account fail to prove a
	// name five times in an hour.
	refusedFirst, refusedMost     = 2 * time.Minute, 6 * time.Hour
	unreachedFirst, unreachedMost = time.Second, 10 * time.Minute
)

// window is when the authority suggests to renew a certificate (RFC 9773).
type window struct{ start, end time.Time }

func lifeOf(c *x509.Certificate) time.Duration { return c.NotAfter.Sub(c.NotBefore) }

// part returns the moment after a part of a certificate's life.
func part(c *x509.Certificate, of float64) time.Time {
	return c.NotBefore.Add(time.Duration(float64(lifeOf(c)) * of))
}

// renewAt says when to renew a certificate. The lot, of [0, 1), spreads nodes
// and names. Within the authority's window any moment is as good as another
// (RFC 9773, section 4.2), but for two things: a window that is over means now,
// yet never within the first tenth or hour of a life, or an authority that is
// wrong would be asked in a circle; and a window that leaves too little time for
// things to go wrong is cut short.
func renewAt(c *x509.Certificate, w window, lot float64) time.Time {
	usual, latest := 2.0/3, 3.0/4
	if lifeOf(c) < briefLife {
		usual, latest = 0.5, 0.55
	}
	if w.end.IsZero() {
		return part(c, usual-lot/20)
	}
	if soon := c.NotBefore.Add(min(lifeOf(c)/10, time.Hour)); w.end.Before(part(c, 1.0/3)) {
		if w.end.After(soon) {
			return w.end
		}
		return soon
	}
	start, end := w.start, w.end
	if third := part(c, 1.0/3); start.Before(third) {
		start = third
	}
	if last := part(c, latest); end.After(last) {
		end = last
	}
	if !start.Before(end) {
		return part(c, usual-lot/20)
	}
	return start.Add(time.Duration(lot * float64(end.Sub(start))))
}

// backoff says how long to wait after so many failures in a row: twice as long
// each time, but a twentieth of what is left of the certificate at most, so that
// there are always some tries before it expires. Without a certificate life and
// left are zero.
func backoff(failures int, refused bool, life, left time.Duration, lot float64) time.Duration {
	wait, most := unreachedFirst, unreachedMost
	if refused {
		wait, most = refusedFirst, refusedMost
	}
	for range failures - 1 {
		if wait *= 2; wait >= most {
			break
		}
	}
	wait = min(wait, most)
	if left > 0 {
		least := time.Second
		if refused {
			least = min(time.Minute, life/20)
		}
		wait = min(wait, max(left/20, least))
	}
	return time.Duration(float64(wait) * (0.75 + lot/2))
}

// expiring says whether a certificate is in its last fifth, where one that is
// renewed as planned never gets.
func expiring(c *x509.Certificate, now time.Time) bool { return now.After(part(c, 0.8)) }
