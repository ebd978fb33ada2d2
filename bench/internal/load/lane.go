package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// turnLength is how long a lane runs before it is the turn of the next. The speed
// of a machine that others use too changes within seconds: in turns as short as
// this, it changes for all lanes of a round alike, and their ratio stays.
const turnLength = 100 * time.Millisecond

// Lane is one load of one program, of which a [Round] has many.
type Lane struct {
	Program string // whose name it is reported under
	Key     string // which of its lanes it is
	Proc    Tree
	// Start starts the load, in turns; again after an error.
	Start func() *Load
	// Watch, if not nil, is asked for a sum and for another before and after each
	// turn.
	Watch func() (a, b int64)

	load *Load // nil: not started
}

// Stop ends the load of a lane, if there is one.
func (l *Lane) Stop() {
	if l.load != nil {
		l.load.Stop()
		l.load = nil
	}
}

// Shared is what a lane cost in a round.
type Shared struct {
	Cost
	A, B int64 // by how much the sums of Watch grew
}

// Micros is the processor time of an operation in µs.
func (s Shared) Micros() float64 { return s.CPU / s.Ops * 1e6 }

// Busy is the share of one processor that was used, in per cent.
func (s Shared) Busy() float64 { return s.CPU / s.Elapsed * 100 }

// Costs is what lanes cost, by program and key.
type Costs map[string]map[string]Shared

// Round lets lanes take turns, in an order that chance decides anew each time,
// until each has run for length. A lane that fails, of which failed is told, has
// no cost in this round, and begins anew in the next.
func Round(ctx context.Context, random *rand.Rand, lanes []*Lane, length time.Duration, failed func(*Lane, error)) Costs {
	sums := make(map[*Lane]*Shared)
	for _, l := range lanes {
		sums[l] = new(Shared)
		if l.load == nil {
			l.load = l.Start()
		}
	}
	order := slices.Clone(lanes)
	for range max(1, int(length/turnLength)) {
		random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, l := range order {
			if sums[l] == nil || ctx.Err() != nil {
				continue
			}
			if err := l.turn(sums[l]); err != nil {
				l.Stop()
				delete(sums, l)
				failed(l, fmt.Errorf("%s, %s: %w", l.Program, l.Key, err))
			}
		}
	}
	costs := make(Costs)
	for l, sum := range sums {
		if costs[l.Program] == nil {
			costs[l.Program] = make(map[string]Shared)
		}
		costs[l.Program][l.Key] = *sum
	}
	return costs
}

// turn adds what a turn costs.
func (l *Lane) turn(sum *Shared) error {
	watch := l.Watch
	if watch == nil {
		watch = func() (a, b int64) { return 0, 0 }
	}
	a, b := watch()
	c, err := l.load.Turn(l.Proc, turnLength)
	if err != nil {
		return err
	}
	moreA, moreB := watch()
	sum.Cost.Add(c)
	sum.A += moreA - a
	sum.B += moreB - b
	return nil
}

// Warm lets each lane take one turn that nobody looks at.
func Warm(ctx context.Context, random *rand.Rand, lanes []*Lane) {
	Round(ctx, random, lanes, turnLength, func(*Lane, error) {})
}
