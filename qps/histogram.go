package qps

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// subBits is the resolution: an octave has 1<<subBits buckets of equal
	// width, so a bucket's middle is at most 1/128 = 0.78 % away from any
	// duration in it.
	subBits    = 6
	pageSize   = 1 << subBits
	clampBits  = 44 // 2^44 ns is 4 h 53 min
	clampNanos = 1 << clampBits
	pageCount  = clampBits - subBits + 1
	buckets    = pageCount * pageSize
)

// locate returns the bucket of a duration, and the edge below it. A bucket holds
// the durations above its lower and up to and including its upper edge, as the le
// label of Prometheus does: that is why one is subtracted. Durations below 64 ns
// have a bucket each, those beyond clampNanos share the last.
func locate(nanos uint64) (bucket int, lower uint64) {
	n := nanos
	if n > 0 {
		n--
	}
	n = min(n, clampNanos-1)
	shift := bits.Len64(n|pageSize) - subBits - 1
	return shift<<subBits + int(n>>shift), n >> shift << shift
}

func bucketOf(nanos uint64) int {
	bucket, _ := locate(nanos)
	return bucket
}

// lowerEdge is the longest duration that is too short for the bucket.
func lowerEdge(bucket int) uint64 {
	if bucket == 0 {
		return 0
	}
	return upperEdge(bucket - 1)
}

// upperEdge is the longest duration that the bucket holds.
func upperEdge(bucket int) uint64 {
	page, slot := bucket>>subBits, uint64(bucket&(pageSize-1))
	if page == 0 {
		return slot + 1
	}
	return (pageSize + slot + 1) << (page - 1)
}

// middle is the duration that stands for a bucket.
func middle(bucket int) time.Duration {
	upper := upperEdge(bucket)
	if page := bucket >> subBits; page > 1 {
		upper -= (uint64(1)<<(page-1) - 1) / 2
	}
	return time.Duration(upper)
}

// page is the buckets of one octave. A cell counts in its low bits, and above
// them adds up how far the durations are above the bucket's lower edge, so that
// one atomic write does for both the count and the sum.
type page struct {
	cells [pageSize]atomic.Uint64
	found tally // by the last scrape, whose mutex guards it
}

const (
	cellCountBits = 20
	cellCount     = 1<<cellCountBits - 1
	// cellFull are the bits of which one is set in a cell that is half full. Such
	// a cell is emptied before anything is added.
	cellFull = 1<<63 | 1<<(cellCountBits-1)
	// longBucket is the first whose durations, 137 s and more, are added up apart:
	// they may be so far above the edge that a few would fill a cell.
	longBucket = 32 << subBits
)

// recorder counts durations in log-linear buckets. Its pages are allocated when
// the first duration of their octave arrives; most routes touch a few.
type recorder struct {
	pages   [pageCount]atomic.Pointer[page]
	rest    atomic.Uint64 // of the sum: nanoseconds above the lower edges that are in no page
	mu      sync.Mutex    // guards spilled, and that cells are emptied into it
	spilled *spill        // nil: none was full yet
}

// spill is what has been in cells.
type spill [pageCount]*spilledPage

type spilledPage struct {
	counts [pageSize]uint64
	nanos  uint64 // above the lower edges, together
}

// record returns the octave in which it has counted a duration.
func (r *recorder) record(nanos uint64) (octave int) {
	bucket, lower := locate(nanos)
	octave = bucket >> subBits
	if p := r.pages[octave].Load(); p != nil && bucket < longBucket {
		cell := &p.cells[bucket&(pageSize-1)]
		old := cell.Load()
		if old&cellFull == 0 && cell.CompareAndSwap(old, old+(nanos-lower)<<cellCountBits+1) {
			return octave
		}
	}
	r.insist(bucket, nanos-lower)
	return octave
}

// insist records what record could not: because something is in its way, or
// because it is so long.
func (r *recorder) insist(bucket int, above uint64) {
	cell := r.cell(bucket)
	more := above<<cellCountBits + 1
	if bucket >= longBucket {
		more = 1
	}
	for {
		old := cell.Load()
		if old&cellFull != 0 {
			r.mu.Lock()
			n := cell.Swap(0)
			r.spill(bucket, n&cellCount, n>>cellCountBits)
			r.mu.Unlock()
		} else if cell.CompareAndSwap(old, old+more) {
			break
		}
	}
	if bucket >= longBucket {
		r.rest.Add(above)
	}
}

func (r *recorder) cell(bucket int) *atomic.Uint64 {
	slot := &r.pages[bucket>>subBits]
	p := slot.Load()
	if p == nil {
		slot.CompareAndSwap(nil, new(page))
		p = slot.Load()
	}
	return &p.cells[bucket&(pageSize-1)]
}

// spill counts n durations apart from the cells, under the mutex.
func (r *recorder) spill(bucket int, n, nanos uint64) {
	if r.spilled == nil {
		r.spilled = new(spill)
	}
	p := &r.spilled[bucket>>subBits]
	if *p == nil {
		*p = new(spilledPage)
	}
	(*p).counts[bucket&(pageSize-1)] += n
	(*p).nanos += nanos
}

// add records the durations of a histogram.
func (r *recorder) add(h Histogram) {
	r.mu.Lock()
	defer r.mu.Unlock()
	above := h.sum
	for _, b := range h.buckets {
		r.cell(b.index) // whose page says that there is something
		r.spill(b.index, b.count, 0)
		above -= b.count * lowerEdge(b.index)
	}
	r.rest.Add(above)
}

// gather adds recorders up, and says how many durations the first ones have that
// the caller wants to know of. Count and sum are of the same durations, but for
// long ones: what was added up apart is read first, so that they may be counted
// before they are in the sum, never the other way round.
func gather(parts []*recorder, first int) (h Histogram, ofFirst uint64) {
	for _, r := range parts {
		r.mu.Lock()
		defer r.mu.Unlock()
		h.sum += r.rest.Load()
	}
	found := make([]bucketCount, 0, 4*pageSize)
	pages := make([]part, 0, 8)
	for i := range pageCount {
		pages = pages[:0]
		for j, r := range parts {
			if p := r.pages[i].Load(); p != nil {
				var s *spilledPage
				if r.spilled != nil {
					s = r.spilled[i]
				}
				if s != nil {
					h.sum += s.nanos
				}
				pages = append(pages, part{cells: &p.cells, spilled: s, first: j < first})
			}
		}
		for slot := 0; slot < pageSize && len(pages) > 0; slot++ {
			var count uint64
			for _, p := range pages {
				v := p.cells[slot].Load()
				n := v & cellCount
				if p.spilled != nil {
					n += p.spilled.counts[slot]
				}
				if p.first {
					ofFirst += n
				}
				count += n
				h.sum += v >> cellCountBits
			}
			if count != 0 {
				bucket := i<<subBits + slot
				found = append(found, bucketCount{index: bucket, count: count})
				h.sum += count * lowerEdge(bucket)
			}
		}
	}
	h.buckets = append(h.buckets, found...)
	return h, ofFirst
}

// part is one page of a recorder that is being read.
type part struct {
	cells   *[pageSize]atomic.Uint64
	spilled *spilledPage // nil: nothing
	first   bool
}
