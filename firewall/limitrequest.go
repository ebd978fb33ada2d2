package firewall

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// limit applies the limits to a request that the rules accepted. With take
// false it only looks.
func (p *program) limit(f *facts, o *outcome, now int64, take bool) {
	if take && p.requestLimits > 1 {
		// Look at all before taking from any, so that a client that one limit
		// refuses keeps its tokens in the others.
		if p.limitHere(f, o, now, limitPass{skipShared: p.sharesLimits}); o.verdict != Accept {
			return
		}
	}
	pass := limitPass{take: take}
	if p.sharesLimits {
		if pass.stored = p.limitShared(f, o, now, take); o.verdict != Accept {
			return
		}
	}
	if p.limitHere(f, o, now, pass); o.verdict != Accept && take {
		p.giveBack(f, pass.stored)
	}
}

// limitPass is one look at all limits.
type limitPass struct {
	take       bool
	skipShared bool
	stored     map[int]Quota // what the store said about the limits with these indexes
}

// limitHere applies the limits that are kept in this process, and notes what the
// store said about the others.
func (p *program) limitHere(f *facts, o *outcome, now int64, pass limitPass) {
	o.monitoredLimits, o.announced = nil, nil
	for i := range p.limits {
		l := &p.limits[i]
		if l.Unit != Requests || pass.skipShared && l.Shared || l.match != nil && l.match.eval(f) == no {
			continue
		}
		key := l.keyOf(f)
		wait := l.limiter.ask(key, now, pass.take)
		q, stored := pass.stored[i]
		if stored {
			// The part of this process was only kept up to date, for when the
			// store fails.
			wait = q.Wait
		}
		if o.explain {
			o.explainLimit(l, wait > 0, wait)
		}
		if l.Announce && l.Mode == Enforce {
			if !stored {
				q = l.limiter.peek(key, now)
			}
			o.announced = append(o.announced, announcement{i, q})
		}
		switch {
		case wait == 0:
		case l.Mode == Monitor:
			o.monitoredLimits = append(o.monitoredLimits, i)
		default:
			o.verdict, o.reason, o.limit, o.wait = Reject, ByLimit, i, wait
			return
		}
	}
}

// limitShared asks the store about the limits that are shared. Those on which it
// does not answer are not in the result, and so are limited here.
func (p *program) limitShared(f *facts, o *outcome, now int64, take bool) map[int]Quota {
	n := 0
	if take {
		n = 1
	}
	stored := make(map[int]Quota)
	for i := range p.limits {
		l := &p.limits[i]
		if !l.Shared || l.match != nil && l.match.eval(f) == no {
			continue
		}
		q, ok := f.known.shared.take(f.request.Context(), l.sharedBucket(f), n, now)
		if !ok {
			continue
		}
		if q.Wait > 0 && l.Mode == Enforce {
			if o.explain {
				o.explainLimit(l, true, q.Wait)
			}
			if l.Announce {
				o.announced = append(o.announced, announcement{i, q})
			}
			o.verdict, o.reason, o.limit, o.wait = Reject, ByLimit, i, q.Wait
			p.giveBack(f, stored)
			return nil
		}
		stored[i] = q
	}
	return stored
}

// giveBack returns what was taken from the store for a request that another limit
// refuses.
func (p *program) giveBack(f *facts, stored map[int]Quota) {
	for i, q := range stored {
		if q.Wait == 0 {
			f.known.shared.giveBack(f.request.Context(), p.limits[i].sharedBucket(f))
		}
	}
}

// announcement is what a client is told about one of its limits.
type announcement struct {
	limit int
	Quota
}

// announce sets the fields of draft-ietf-httpapi-ratelimit-headers-10: what the
// limits are, and what is left of them.
func (p *program) announce(h http.Header, all []announcement) {
	for _, a := range all {
		l := &p.limits[a.limit]
		id := strconv.Quote(l.ID) // as RFC 9651 has it, for what it may consist of
		window := l.Window
		if window == 0 {
			window = time.Duration(float64(l.Burst) / float64(l.Rate) * float64(time.Second))
		}
		h.Add("RateLimit-Policy", fmt.Sprintf("%s;q=%d;w=%d", id, l.Burst, wholeSeconds(window)))
		h.Add("RateLimit", fmt.Sprintf("%s;r=%d;t=%d", id, a.Remaining, wholeSeconds(a.Reset)))
	}
}

// wholeSeconds rounds up.
func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
