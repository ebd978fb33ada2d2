package qps

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"
)

// tolerance is the relative error that the documentation promises.
const tolerance = 0.0079

func TestBucketsTileTheRange(t *testing.T) {
	lower := uint64(0)
	for b := range buckets {
		upper := upperEdge(b)
		if upper <= lower && b > 0 {
			t.Fatalf("bucket %d ends at %d, before its beginning %d", b, upper, lower)
		}
		if got := bucketOf(upper); got != b {
			t.Fatalf("bucketOf(%d) = %d, want %d, whose upper edge it is", upper, got, b)
		}
		if got := bucketOf(lower + 1); got != b {
			t.Fatalf("bucketOf(%d) = %d, want %d, whose first it is", lower+1, got, b)
		}
		if mid := uint64(middle(b)); mid <= lower || mid > upper {
			t.Fatalf("the middle of bucket %d, %d, is not within (%d, %d]", b, mid, lower, upper)
		}
		lower = upper
	}
	if lower != clampNanos {
		t.Errorf("the last bucket ends at %d, want %d", lower, clampNanos)
	}
	for _, d := range []uint64{clampNanos, clampNanos + 1, math.MaxInt64, math.MaxUint64} {
		if got := bucketOf(d); got != buckets-1 {
			t.Errorf("bucketOf(%d) = %d, want the last, %d", d, got, buckets-1)
		}
	}
	if bucketOf(0) != 0 {
		t.Errorf("bucketOf(0) = %d", bucketOf(0))
	}
}

func TestBoundsAreEdges(t *testing.T) {
	nominal := []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	if len(nominal) != len(bounds) {
		t.Fatalf("%d bounds, want %d", len(bounds), len(nominal))
	}
	for i, b := range bounds {
		if upperEdge(bucketOf(b)) != b {
			t.Errorf("bound %d ns is not the edge of a bucket", b)
		}
		if off := math.Abs(float64(b)/1e9-nominal[i]) / nominal[i]; off > tolerance {
			t.Errorf("bound %d ns is %.2f %% off %v s", b, 100*off, nominal[i])
		}
	}
}

func FuzzBucketError(f *testing.F) {
	for _, n := range []uint64{0, 1, 63, 64, 65, 1000, 1 << 20, 60e9, clampNanos} {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, n uint64) {
		n %= clampNanos + 1
		got := middle(bucketOf(n))
		if off := math.Abs(float64(got) - float64(n)); off > tolerance*float64(n) && off > 1 {
			t.Errorf("%d ns is kept as %d, %.3f %% off", n, got, 100*off/float64(n))
		}
	})
}

func TestQuantilesAgainstSortedSample(t *testing.T) {
	const n = 20_000
	rng := rand.New(rand.NewPCG(3, 4))
	for name, draw := range map[string]func() float64{
		"uniform":   func() float64 { return 1e3 + rng.Float64()*60e9 },
		"lognormal": func() float64 { return math.Exp(math.Log(8.6e5) + rng.NormFloat64()) },
		"bimodal": func() float64 {
			if rng.IntN(100) == 0 {
				return 2e7 + rng.Float64()*1.8e8
			}
			return 8e5 + rng.Float64()*1e5
		},
		"constant": func() float64 { return 123_456_789 },
	} {
		t.Run(name, func(t *testing.T) {
			var r recorder
			sample := make([]uint64, n)
			var sum uint64
			for i := range sample {
				sample[i] = uint64(draw())
				sum += sample[i]
				r.record(sample[i])
			}
			slices.Sort(sample)
			h := r.histogram()
			if h.Count() != n || uint64(h.Sum()) != sum {
				t.Errorf("count %d, sum %d; want %d, %d", h.Count(), h.Sum(), n, sum)
			}
			for _, q := range []float64{0, 1e-9, 0.01, 0.5, 0.9, 0.99, 0.999, 0.9999, 1} {
				rank := max(int(math.Ceil(q*n)), 1)
				want := float64(sample[rank-1])
				if got := float64(h.Quantile(q)); math.Abs(got-want) > tolerance*want {
					t.Errorf("p%v = %v, want %v", 100*q, time.Duration(got), time.Duration(want))
				}
			}
			counts := h.upTo(nil, bounds[:])
			for i, b := range bounds {
				want, _ := slices.BinarySearch(sample, b+1)
				if counts[i] != uint64(want) {
					t.Errorf("%d durations up to %d ns, want %d", counts[i], b, want)
				}
			}
		})
	}
}

func TestQuantileLimits(t *testing.T) {
	var r recorder
	if got := r.histogram().Quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
	r.record(10)
	r.record(50)
	h := r.histogram()
	for q, want := range map[float64]time.Duration{math.Inf(-1): 10, -1: 10, 0.5: 10, 0.51: 50, 1: 50, 7: 50, math.Inf(1): 50} {
		if got := h.Quantile(q); got != want {
			t.Errorf("Quantile(%v) = %v, want %v", q, got, want)
		}
	}
	if got := h.Quantile(math.NaN()); got != 10 {
		t.Errorf("Quantile(NaN) = %v, want 10", got)
	}
	// A count beyond the precision of a float must not lead past the end.
	huge := Histogram{buckets: []bucketCount{{3, math.MaxUint64 - 1}, {9, 1}}}
	for _, q := range []float64{0.5, 1 - 1e-16, 1} {
		if got := huge.Quantile(q); got != middle(3) && got != middle(9) {
			t.Errorf("Quantile(%v) = %v", q, got)
		}
	}
}

func TestNegativeAndLongDurations(t *testing.T) {
	m := newMeter(t, Config{})
	u := m.Upstream("db")
	u.Observe(-time.Hour, false)
	u.Observe(100*time.Hour, false)
	h := m.Snapshot().Upstreams[0].Duration
	if h.Count() != 2 || h.Sum() != 100*time.Hour {
		t.Errorf("count %d, sum %v; want 2 and the exact 100h", h.Count(), h.Sum())
	}
	if lo, hi := h.Quantile(0), h.Quantile(1); lo > 1 || hi < 4*time.Hour || hi > 5*time.Hour {
		t.Errorf("quantiles %v and %v, want 0 and the clamp", lo, hi)
	}
}

func TestRecorderLosesNothing(t *testing.T) {
	const workers, each = 8, 20_000
	var r recorder
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				r.record(uint64(i) << (w * 3))
			}
		})
	}
	for range 50 {
		h := r.histogram()
		if counts := h.upTo(nil, []uint64{clampNanos}); counts[0] != h.Count() {
			t.Fatalf("the sum of the buckets is %d, the count %d", counts[0], h.Count())
		}
	}
	wg.Wait()
	if got := r.histogram().Count(); got != workers*each {
		t.Errorf("%d durations, want %d", got, workers*each)
	}
}

func TestPagesAreLazy(t *testing.T) {
	var r recorder
	for range 1000 {
		r.record(uint64(time.Millisecond))
	}
	pages := 0
	for i := range r.pages {
		if r.pages[i].Load() != nil {
			pages++
		}
	}
	if pages != 1 {
		t.Errorf("%d pages for one duration", pages)
	}
}

func FuzzHistogramJSON(f *testing.F) {
	f.Add([]byte(`{"sum_ns":5,"buckets":[[1,2],[7,1]]}`))
	f.Add([]byte(`{"sum_ns":18446744073709551615}`))
	f.Add([]byte(`{"buckets":[[2,1],[1,1]]}`))
	f.Add([]byte(`{"buckets":[[0,18446744073709551615],[1,1]]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var h Histogram
		if json.Unmarshal(data, &h) != nil {
			if !reflect.DeepEqual(h, Histogram{}) {
				t.Fatal("a refused histogram left something behind")
			}
			return
		}
		h.Quantile(0.99)
		again := roundTrip(t, h)
		if !reflect.DeepEqual(h, again) {
			t.Errorf("%+v became %+v", h, again)
		}
	})
}

// TestFullCells records so often, and so far above the lower edges, that cells
// are emptied while others record in them and somebody reads. Nothing is lost, and
// no reader sees less than one before, or a sum that its counts cannot have.
func TestFullCells(t *testing.T) {
	const workers, each = 2, 300_000
	durations := []uint64{0, 1, 64, 1_000_003, 130_999_999_999, 136 << 30, clampNanos, clampNanos + 5}
	var r recorder
	var work sync.WaitGroup
	for range workers {
		work.Go(func() {
			for i := range each {
				r.record(1_000_000)
				r.record(durations[i%len(durations)])
			}
		})
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	var before Histogram
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		h := r.histogram()
		least := uint64(0)
		for _, b := range h.buckets {
			least += b.count * lowerEdge(b.index)
		}
		if h.Count() < before.Count() || h.sum < before.sum || h.sum < least {
			t.Fatalf("%d durations of %d ns, at least %d, after %d of %d", h.Count(), h.sum, least, before.Count(), before.sum)
		}
		before = h
	}
	want := uint64(1_000_000 * workers * each)
	counts := map[int]uint64{bucketOf(1_000_000): workers * each}
	for _, d := range durations {
		want += d * (workers * each / uint64(len(durations)))
		counts[bucketOf(d)] += workers * each / uint64(len(durations))
	}
	if before.sum != want || before.Count() != 2*workers*each || len(before.buckets) != len(counts) {
		t.Errorf("%d durations of %d ns in %d buckets, want %d of %d in %d",
			before.Count(), before.sum, len(before.buckets), 2*workers*each, want, len(counts))
	}
	for _, b := range before.buckets {
		if b.count != counts[b.index] {
			t.Errorf("bucket %d has %d durations, want %d", b.index, b.count, counts[b.index])
		}
	}
	if r.spilled == nil {
		t.Error("no cell was ever full")
	}
}

// FuzzRecorder records durations, some by way of a histogram as a state file does,
// and wants their exact sum.
func FuzzRecorder(f *testing.F) {
	f.Add(uint64(0), uint64(1), uint64(1<<44), uint8(3))
	f.Add(uint64(137<<30), uint64(65), uint64(2_100_000_000), uint8(200))
	f.Fuzz(func(t *testing.T, a, b, c uint64, times uint8) {
		var r, again recorder
		var sum, n uint64
		for range times {
			for _, d := range []uint64{a >> 4, b >> 4, c >> 4} {
				r.record(d)
				sum += d
				n++
			}
		}
		h := r.histogram()
		again.add(h)
		again.record(7)
		both, ofFirst := gather([]*recorder{&r, &again}, 1)
		if h.sum != sum || h.Count() != n || both.sum != 2*sum+7 || both.Count() != 2*n+1 || ofFirst != n {
			t.Errorf("%d durations of %d ns, twice %d of %d; want %d of %d", h.Count(), h.sum, both.Count(), both.sum, n, sum)
		}
	})
}
