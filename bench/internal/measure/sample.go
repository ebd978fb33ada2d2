// Package measure has the arithmetic of the benchmarks: samples of few values,
// histograms of many, and windows of time in which an operation is counted.
package measure

import (
	"fmt"
	"math"
	"slices"
)

// Sample sums up what one thing measured over several rounds. The zero value
// is a sample of nothing.
type Sample struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"` // how many rounds
}

// SampleOf sums up values, which it does not change. The median of an even
// number of values is the middle between the two.
func SampleOf(values []float64) Sample {
	if len(values) == 0 {
		return Sample{}
	}
	v := slices.Sorted(slices.Values(values))
	mid := len(v) / 2
	median := v[mid]
	if len(v)%2 == 0 {
		median = (v[mid-1] + v[mid]) / 2
	}
	return Sample{Median: median, Min: v[0], Max: v[len(v)-1], N: len(v)}
}

// String gives the median with the range in brackets, to three digits.
func (s Sample) String() string {
	switch {
	case s.N == 0:
		return "–"
	case s.N == 1:
		return Digits(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", Digits(s.Median), Digits(s.Min), Digits(s.Max))
}

// Digits prints a number to three significant digits, but never fewer than its
// whole part has.
func Digits(v float64) string {
	whole := 1
	if a := math.Abs(v); a >= 1 {
		whole = int(math.Log10(a)) + 1
	}
	return fmt.Sprintf("%.*f", max(0, 3-whole), v)
}
