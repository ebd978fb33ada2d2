package qps

import (
	"slices"
	"sync"
	"time"
)

// maxEvents is how many events a Meter remembers.
const maxEvents = 256

// Event is something that happened once and explains the numbers around it: an
// ejection, a failover, a ban, the renewal of a certificate.
type Event struct {
	At time.Time `json:"at"`
	// Server is that of the Meter.
	Server string `json:"server,omitempty"`
	// Kind is a word such as "failover", Text a line for people. Both are cut to
	// 256 bytes of UTF-8.
	Kind string `json:"kind"`
	Text string `json:"text,omitempty"`
}

// timeline is the newest events in a ring.
type timeline struct {
	mu     sync.Mutex // guards all
	events [maxEvents]Event
	next   uint64 // events so far
}

// Event puts something that has just happened on the timeline, which holds the
// last 256. Events are for changes of state, not for requests: they take a lock.
func (m *Meter) Event(kind, text string) {
	t := &m.timeline
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events[t.next%maxEvents] = Event{At: m.time(), Server: m.server, Kind: label(kind), Text: label(text)}
	t.next++
}

// snapshot returns the events, the oldest first, and how many there have been.
func (t *timeline) snapshot() ([]Event, uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next == 0 {
		return nil, 0
	}
	at := t.next % maxEvents
	all := slices.Concat(t.events[at:], t.events[:at])
	// Places that were never used are at the beginning.
	return slices.DeleteFunc(all, func(e Event) bool { return e.At.IsZero() }), t.next
}
