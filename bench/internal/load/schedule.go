package load

import (
	"math/rand/v2"
	"time"
)

// Schedule is the times at which requests are due, as if they came from very
// many clients who know nothing of each other: the gaps between them are
// exponential. The same seed gives the same times.
type Schedule struct {
	random *rand.Rand
	gap    float64 // mean, in nanoseconds
	next   float64
}

// NewSchedule returns one of rate requests a second, which must be positive.
func NewSchedule(rate float64, seed uint64) *Schedule {
	return &Schedule{random: rand.New(rand.NewPCG(seed, 0)), gap: float64(time.Second) / rate}
}

// Next returns when the next request is due, from the beginning.
func (s *Schedule) Next() time.Duration {
	s.next += s.random.ExpFloat64() * s.gap
	return time.Duration(s.next)
}
