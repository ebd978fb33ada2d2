package qps

import (
	"math/bits"
	"slices"
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

// bucketOf returns the bucket of a duration. A bucket holds the durations above
// its lower and up to and including its upper edge, as the le label of
// Prometheus does: that is why one is subtracted. Durations below 64 ns have a
// bucket each, those beyond clampNanos share the last.
func bucketOf(nanos uint64) int {
	if nanos > 0 {
		nanos--
	}
	nanos = min(nanos, clampNanos-1)
	if nanos < pageSize {
		return int(nanos)
	}
	shift := bits.Len64(nanos) - subBits - 1
	return shift<<subBits + int(nanos>>shift)
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

// page is the buckets of one octave.
type page [pageSize]atomic.Uint64

// recorder counts durations in log-linear buckets. Its pages are allocated when
// the first duration of their octave arrives; most routes touch a few.
type recorder struct {
	pages [pageCount]atomic.Pointer[page]
	sum   atomic.Uint64 // nanoseconds
}

func (r *recorder) record(nanos uint64) {
	r.bucket(bucketOf(nanos)).Add(1)
	r.sum.Add(nanos)
}

func (r *recorder) bucket(bucket int) *atomic.Uint64 {
	slot := &r.pages[bucket>>subBits]
	p := slot.Load()
	if p == nil {
		slot.CompareAndSwap(nil, new(page))
		p = slot.Load()
	}
	return &p[bucket&(pageSize-1)]
}

// gather adds recorders up. It reads their sums first: a duration recorded
// meanwhile may be counted before it is summed, never the other way round.
func gather(parts []*recorder) Histogram {
	var h Histogram
	for _, r := range parts {
		h.sum += r.sum.Load()
	}
	found := make([]bucketCount, 0, 4*pageSize)
	for i := range pageCount {
		if !slices.ContainsFunc(parts, func(r *recorder) bool { return r.pages[i].Load() != nil }) {
			continue // as are most, and clearing counts costs more than looking
		}
		var counts [pageSize]uint64
		for _, r := range parts {
			if p := r.pages[i].Load(); p != nil {
				for slot := range p {
					counts[slot] += p[slot].Load()
				}
			}
		}
		for slot, n := range counts {
			if n != 0 {
				found = append(found, bucketCount{index: i<<subBits + slot, count: n})
			}
		}
	}
	h.buckets = append(h.buckets, found...)
	return h
}
