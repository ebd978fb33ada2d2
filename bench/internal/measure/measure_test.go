package measure

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestSample(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Sample
		text   string
	}{
		{nil, Sample{}, "–"},
		{[]float64{4}, Sample{4, 4, 4, 1}, "4.00"},
		{[]float64{30, 10, 20}, Sample{20, 10, 30, 3}, "20.0 (10.0–30.0)"},
		{[]float64{1, 100, 3, 2}, Sample{2.5, 1, 100, 4}, "2.50 (1.00–100)"},
	} {
		if got := SampleOf(c.values); got != c.want || got.String() != c.text {
			t.Errorf("SampleOf(%v) = %+v, %q, want %+v, %q", c.values, got, got, c.want, c.text)
		}
	}
}

func TestDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 0.5: "0.50", 9.994: "9.99", 54.32: "54.3", 123.4: "123", 54321.9: "54322", -2: "-2.00"} {
		if got := Digits(v); got != want {
			t.Errorf("Digits(%v) = %s, want %s", v, got, want)
		}
	}
}

// TestHistogramOracle compares quantiles with those of the sorted sample.
func TestHistogramOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for name, draw := range map[string]func() float64{
		"uniform":   func() float64 { return r.Float64() * 1e6 },
		"lognormal": func() float64 { return math.Exp(r.NormFloat64()*2 + 12) },
		"bimodal":   func() float64 { return 1e5 + float64(r.IntN(100)/99)*5e9 },
		"small":     func() float64 { return float64(r.IntN(300)) },
		"constant":  func() float64 { return 77777 },
	} {
		t.Run(name, func(t *testing.T) {
			var whole, half Histogram
			values := make([]time.Duration, 20001)
			for i := range values {
				values[i] = time.Duration(draw())
				if i%2 == 0 {
					whole.Record(values[i])
				} else {
					half.Record(values[i])
				}
			}
			whole.Merge(&half)
			slices.Sort(values)
			if whole.Count() != uint64(len(values)) || whole.Max() != values[len(values)-1] {
				t.Fatalf("count %d, max %v, want %d, %v", whole.Count(), whole.Max(), len(values), values[len(values)-1])
			}
			for _, q := range []float64{0, 0.25, 0.5, 0.9, 0.99, 0.999, 1} {
				rank := max(1, int(math.Ceil(q*float64(len(values)))))
				want := values[rank-1]
				if got := whole.Quantile(q); math.Abs(float64(got-want)) > 0.0041*float64(want)+1 {
					t.Errorf("quantile %v = %v, want %v", q, got, want)
				}
			}
		})
	}
}

// TestHistogramBounds checks that each bucket begins where the one before ends.
func TestHistogramBounds(t *testing.T) {
	var next uint64
	for i := range (Histogram{}).counts {
		first, width := bounds(i)
		if first != next || bucketOf(first) != i || bucketOf(first+width-1) != i {
			t.Fatalf("bucket %d has %d values from %d, want them from %d", i, width, first, next)
		}
		next = first + width
	}
	if next != 1<<63 {
		t.Errorf("the buckets end at %d, want 2^63", next)
	}
	var h Histogram
	h.Record(-5)
	h.Record(math.MaxInt64)
	if h.Quantile(0.5) != 0 || h.Max() != math.MaxInt64 {
		t.Errorf("a negative duration became %v", h.Quantile(0.5))
	}
	if new(Histogram).Quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
}
