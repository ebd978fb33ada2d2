package measure

import (
	"math/bits"
	"time"
)

// subBits is how many bits of a value are kept: a bucket is at most 1/128 of its
// values wide, so that its middle is off by 0.4 % at most.
const subBits = 7

// Histogram counts durations in logarithmic buckets, each octave cut into 128
// equal parts, as HdrHistogram does. The zero value is empty and ready to use.
// It is not safe for concurrent use.
type Histogram struct {
	counts [(64 - subBits) << subBits]uint64
	n      uint64
	max    time.Duration
}

// bucketOf returns the bucket of v. Values below 256 have one each.
func bucketOf(v uint64) int {
	shift := max(0, bits.Len64(v)-subBits-1)
	return shift<<subBits + int(v>>shift)
}

// bounds returns the smallest value of a bucket and how many it has.
func bounds(bucket int) (first, width uint64) {
	shift := max(0, bucket>>subBits-1)
	return uint64(bucket-shift<<subBits) << shift, 1 << shift
}

// Record counts d once; what is negative counts as 0.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(uint64(d))]++
	h.n++
	h.max = max(h.max, d)
}

// Count returns how many durations there are.
func (h *Histogram) Count() uint64 { return h.n }

// Max returns the longest duration, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile returns the duration that the share q of all does not exceed, the
// nearest-rank quantile, as the middle of its bucket; 0 if there is none.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := min(max(uint64(q*float64(h.n)+0.999999), 1), h.n)
	var seen uint64
	for i, c := range h.counts {
		if seen += c; seen >= rank {
			first, width := bounds(i)
			return min(time.Duration(first+(width-1)/2), h.max)
		}
	}
	return h.max
}

// Merge adds what other has counted.
func (h *Histogram) Merge(other *Histogram) {
	for i, c := range other.counts {
		h.counts[i] += c
	}
	h.n += other.n
	h.max = max(h.max, other.max)
}
