package dbrouter

import (
	"context"
	"database/sql/driver"
	"sync"
	"time"
)

const (
	// lagPatience is how long a look waits for a replica to catch up, if MaxLag
	// is not shorter than four times that.
	lagPatience = 50 * time.Millisecond
	// lagQuestion bounds the question to the primary, and that is all that a
	// primary in trouble can delay the look at a replica by.
	lagQuestion = 100 * time.Millisecond
	// maxSamples bounds the history; at MaxLag/historyGrain apart they reach back
	// for several times MaxLag.
	maxSamples   = 64
	historyGrain = 16
	// behindLooks is how often a replica that is behind is looked at in the time
	// of MaxLag.
	behindLooks = 8
)

// sample is a heartbeat of the primary: whoever has the position has all that
// the primary had acknowledged at the moment.
type sample struct {
	position
	at time.Time
}

// history has the latest heartbeats of the primary, by our own clock: with it
// a replica's position tells how old its data are, without a table that somebody
// has to write to, and whatever the replica itself thinks of its lag. It is safe
// for concurrent use.
type history struct {
	mu      sync.Mutex // guards what follows
	of      *node
	samples []sample // the oldest first
}

// add takes in a heartbeat. Those that are less than the grain apart are not
// worth keeping both.
func (h *history) add(of *node, s sample, grain time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of != of {
		h.of, h.samples = of, nil // another history, maybe
	}
	n := len(h.samples)
	switch {
	case n > 0 && !s.at.After(h.samples[n-1].at):
	case n > 0 && h.samples[n-1].position == s.position:
		h.samples[n-1].at = s.at
	case n > 1 && s.at.Sub(h.samples[n-2].at) < grain:
		h.samples[n-1] = s
	default:
		if n == maxSamples {
			h.samples = append(h.samples[:0], h.samples[1:]...)
		}
		h.samples = append(h.samples, s)
	}
}

// lag returns how old the data are of a replica that had the position at the
// moment: at the most if known, else at the least.
func (h *history) lag(have position, at time.Time) (lag time.Duration, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := len(h.samples) - 1; i >= 0; i-- {
		s := h.samples[i]
		lag = max(at.Sub(s.at), 0)
		if s.dialect == have.dialect && holds(have.dialect, have.text, s.text, true) {
			return lag, true
		}
	}
	return lag, false
}

// distance is how many transactions one position is behind another, as far as
// their numbers tell.
func distance(d dialect, have, want string) (n uint64) {
	wanted, err := parseMarks(d, nil, want)
	if err != nil {
		return 0
	}
	got, err := parseMarks(d, nil, have)
	if err != nil {
		return 0
	}
	for _, w := range wanted {
		from := uint64(0)
		for _, g := range got {
			if g.key == w.key {
				from = g.n
			}
		}
		if w.n > from {
			n += w.n - from
		}
	}
	return n
}

// patience is how long a look waits for a replica.
func (m *monitor) patience() time.Duration { return min(lagPatience, m.conf.MaxLag/4) }

// measure finds out how old the data of a replica are. It asks the primary for
// its position, and the replica to say when it has that: what has passed since is
// the age. A replica that takes longer is held against the history. If the
// primary cannot be asked, the replica's own account stands.
func (m *monitor) measure(ctx context.Context, n *node, conn driver.Conn, v *view) error {
	s := m.now.Load()
	if v.writable || !v.positions || s.primary == nil || s.primary == n || !s.proof || s.dialect != v.dialect {
		return nil
	}
	if v.statusKnown && !v.replicating {
		return nil
	}
	begun := time.Now()
	asking, cancel := context.WithTimeout(ctx, lagQuestion)
	want, err := m.position(asking, ctx.Done())
	cancel()
	if err != nil {
		return ctx.Err()
	}
	m.history.add(s.primary, sample{want, begun}, m.conf.MaxLag/historyGrain)
	if want.text == "" {
		v.lag, v.lagKnown = 0, true
		return nil
	}
	asked := time.Now()
	answer, err := askOne(ctx, conn, v.dialect.wait(want.text, m.patience()), 1)
	if serverError(err) != 0 {
		return nil // it cannot be asked
	}
	if err != nil {
		return err
	}
	if answer[0] == "0" {
		v.lag, v.lagKnown = time.Since(begun), true
		n.waits.learn(proof{want, asked})
		return nil
	}
	asked = time.Now()
	if answer, err = askOne(ctx, conn, v.dialect.applied(), 1); err != nil {
		return err
	}
	have, err := cleanPosition(answer[0])
	if err != nil {
		return err
	}
	own := v.lag
	var known bool
	v.lag, known = m.history.lag(position{v.dialect, have}, asked)
	if !known {
		v.lag = max(v.lag, own)
	}
	v.lagKnown, v.lagOpen = true, !known
	v.behind = distance(v.dialect, have, want.text)
	return nil
}
