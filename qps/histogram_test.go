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
			h := gather([]*recorder{&r})
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
	if got := gather([]*recorder{&r}).Quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
	r.record(10)
	r.record(50)
	h := gather([]*recorder{&r})
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
		h := gather([]*recorder{&r})
		if counts := h.upTo(nil, []uint64{clampNanos}); counts[0] != h.Count() {
			t.Fatalf("the sum of the buckets is %d, the count %d", counts[0], h.Count())
		}
	}
	wg.Wait()
	if got := gather([]*recorder{&r}).Count(); got != workers*each {
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
