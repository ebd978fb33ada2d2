package qps

import (
	"math/bits"
	"sync/atomic"
)

// tally is how many durations of a page do not exceed the bound that lies in it,
// or of a page without one the next bound, how many do, and the sum of all.
type tally struct{ within, beyond, nanos uint64 }

// octaveBounds tells for each octave which bound is the first that is not below
// it, and how many of its buckets are up to that bound. No octave has two bounds.
var octaveBounds = func() (all [pageCount]struct{ bound, buckets int }) {
	next := 0
	for i := range all {
		for next < len(bounds) && bucketOf(bounds[next])>>subBits < i {
			next++
		}
		all[i].bound, all[i].buckets = next, pageSize
		if next < len(bounds) && bucketOf(bounds[next])>>subBits == i {
			all[i].buckets = bucketOf(bounds[next])&(pageSize-1) + 1
		}
	}
	return all
}()

// tally adds up what a page has, under the mutex.
func (r *recorder) tally(octave int, p *page) tally {
	up := octaveBounds[octave].buckets
	var t tally
	t.within, t.nanos = addUp(octave, p.cells[:up], 0)
	beyond, nanos := addUp(octave, p.cells[up:], up)
	t.beyond, t.nanos = beyond, t.nanos+nanos
	if r.spilled == nil || r.spilled[octave] == nil {
		return t
	}
	s := r.spilled[octave]
	t.nanos += s.nanos
	for slot, n := range s.counts {
		t.nanos += n * lowerEdge(octave<<subBits+slot)
		if slot < up {
			t.within += n
		} else {
			t.beyond += n
		}
	}
	return t
}

// addUp adds up cells of an octave, of which the first is that of a slot: how many
// durations there are, and their sum.
func addUp(octave int, cells []atomic.Uint64, slot int) (count, nanos uint64) {
	var slots uint64 // of all durations
	for i := range cells {
		v := cells[i].Load()
		n := v & cellCount
		count += n
		slots += n * uint64(slot+i)
		nanos += v >> cellCountBits
	}
	// The sum of the lower edges.
	if octave > 0 {
		slots = (count<<subBits + slots) << (octave - 1)
	}
	return count, nanos + slots
}

// changes are the octaves in which a recorder has counted since the last scrape, a
// bit of each. The zero value works.
type changes struct{ octaves atomic.Uint64 }

// note comes after all else that is counted of an event. It seldom writes.
func (c *changes) note(octave int) {
	if bit := uint64(1) << octave; c.octaves.Load()&bit == 0 {
		c.octaves.Or(bit)
	}
}

func (c *changes) any() bool { return c.octaves.Load() != 0 }

// take comes before what has changed is read.
func (c *changes) take() uint64 {
	if !c.any() {
		return 0
	}
	return c.octaves.Swap(0)
}

// update brings figures up to date with what has been recorded since they were.
// The sum never lacks what is counted, but for long durations.
func (f *figures) update(s *series) {
	var rest uint64
	for sh := range s.shards.all() {
		rest += sh.rest.Load()
		if r := sh.others.Load(); r != nil {
			rest += r.rest.Load()
		}
	}
	// A long duration is in the rest before its octave has been noted.
	var always uint64
	if rest != f.rest {
		always = 1<<pageCount - 1
	}
	f.sum, f.rest = f.sum-f.rest+rest, rest
	f.in, f.counts = 0, [classCount]uint64{}
	var more [len(bounds) + 1]uint64
	for sh := range s.shards.all() {
		f.ok += f.add(&more, &sh.recorder, sh.changed.take()|always)
		octaves := sh.othersChanged.take() | always
		if r := sh.others.Load(); r != nil {
			f.add(&more, r, octaves)
		}
		for c := range f.counts {
			f.counts[c] += sh.classes[c].Load()
		}
		f.in += sh.bytesIn.Load()
	}
	f.counts[class2xx] += f.ok
	var n uint64
	for i := range f.upTo {
		n += more[i]
		f.upTo[i] += n
	}
}

// add looks at octaves of a recorder again. It adds what is new to the sum and, by
// the bounds, to more, and returns how many durations are new.
func (f *figures) add(more *[len(bounds) + 1]uint64, r *recorder, octaves uint64) (n uint64) {
	if octaves == 0 {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for ; octaves != 0; octaves &= octaves - 1 {
		octave := bits.TrailingZeros64(octaves)
		p := r.pages[octave].Load()
		if p == nil {
			continue
		}
		now, old := r.tally(octave, p), p.found
		p.found = now
		within, beyond := now.within-old.within, now.beyond-old.beyond
		bound := octaveBounds[octave].bound
		more[bound] += within
		if beyond != 0 {
			more[bound+1] += beyond
		}
		f.sum += now.nanos - old.nanos
		n += within + beyond
	}
	return n
}
