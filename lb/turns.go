package lb

import (
	"sync"
	"sync/atomic"
	"time"
)

// turns gives out the numbers from 0, each once, and in order. Only where a
// processor takes more than a million a second, for a while, it takes a lot of
// whole rounds at once and gives out that, as a number that processors pass to
// each other costs more than all else about a pick. Then each keeps the order,
// and the shares are equal but for the round that each one is in. It is safe for
// concurrent use.
type turns struct {
	round  uint64 // how many turns there are until the first one comes again
	takers sync.Pool
	_      [64]byte // nobody who reads the above waits for those who write next
	next   atomic.Uint64
}

// taker is what a processor, more or less, knows of its turns.
type taker struct {
	lot   uint64 // the next turn of its lot
	left  uint64 // of its lot
	until uint64 // how many turns there are until it looks at the time
	count uint64 // of those at first
	began time.Duration
}

const (
	// hurry is the time for a turn below which a processor takes lots, and
	// hurryAfter how many turns it must have taken so.
	hurry      = time.Microsecond
	hurryAfter = 4096
	// lotLeast is how many turns a lot has at least. After each lot the time is
	// looked at again.
	lotLeast = 512
)

// take returns the next turn.
func (t *turns) take() uint64 {
	p, ok := t.takers.Get().(*taker)
	if !ok {
		p = newTaker()
	}
	n := t.takeFor(p)
	t.takers.Put(p)
	return n
}

func newTaker() *taker {
	return &taker{until: hurryAfter, count: hurryAfter, began: time.Since(epoch)}
}

func (t *turns) takeFor(p *taker) uint64 {
	n := p.lot
	if p.left > 0 {
		p.lot++
		p.left--
	} else {
		n = t.next.Add(1) - 1
	}
	if p.until--; p.until == 0 {
		t.look(p)
	}
	return n
}

// look finds out whether a processor is in a hurry.
func (t *turns) look(p *taker) {
	now := time.Since(epoch)
	if now-p.began < time.Duration(p.count)*hurry {
		p.left = (lotLeast + t.round - 1) / t.round * t.round
		p.lot = t.next.Add(p.left) - p.left
		p.count = p.left
	} else {
		p.count = hurryAfter
	}
	p.until, p.began = p.count, now
}
