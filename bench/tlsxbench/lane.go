package tlsxbench

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/palisade-go/palisade/bench/internal/load"
)

// turnLength is how long a lane runs before it is the turn of the next. The speed
// of a machine that others use too changes within seconds: in turns as short as
// this, it changes for all lanes of a round alike, and their ratio stays.
const turnLength = 40 * time.Millisecond

// lane is one load of one program.
type lane struct {
	target *target
	key    string
	start  func() *load.Load // again after an error
	load   *load.Load        // nil: not started
}

// cost is what a lane cost in a round.
type cost struct {
	load.Cost
	reused float64 // share of the requests that went over connections of before; of a proxy
}

// micros is the processor time of an operation in µs.
func (c cost) micros() float64 { return c.CPU / c.Ops * 1e6 }

// busy is the share of one processor that was used, in per cent.
func (c cost) busy() float64 { return c.CPU / c.Elapsed * 100 }

func (l *lane) stop() {
	if l.load != nil {
		l.load.Stop()
		l.load = nil
	}
}

// round lets the lanes take turns, in an order that chance decides anew each
// time, until each has run for length. A lane that fails has no cost in this
// round, and begins anew in the next.
func (b *bench) round(random *rand.Rand, lanes []*lane, length time.Duration, failed func(*lane, error)) map[string]map[string]cost {
	sums := make(map[*lane]*cost)
	for _, l := range lanes {
		sums[l] = new(cost)
		if l.load == nil {
			l.load = l.start()
		}
	}
	opened, requests := make(map[*lane]int64), make(map[*lane]int64)
	order := append([]*lane(nil), lanes...)
	for range max(1, int(length/turnLength)) {
		random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, l := range order {
			if sums[l] == nil || b.ctx.Err() != nil {
				continue
			}
			var conns, asked int64
			if l.target.back != nil {
				conns, asked = l.target.back.counts()
			}
			c, err := l.load.Turn(l.target.proc, turnLength)
			if err != nil {
				l.stop()
				delete(sums, l)
				if failed != nil {
					failed(l, fmt.Errorf("%s: %w", l.key, err))
				}
				continue
			}
			sums[l].Add(c)
			if l.target.back != nil {
				moreConns, moreAsked := l.target.back.counts()
				opened[l] += moreConns - conns
				requests[l] += moreAsked - asked
			}
		}
	}
	costs := make(map[string]map[string]cost)
	for l, c := range sums {
		if costs[l.target.name] == nil {
			costs[l.target.name] = make(map[string]cost)
		}
		if requests[l] > 0 {
			c.reused = 1 - float64(opened[l])/float64(requests[l])
		}
		costs[l.target.name][l.key] = *c
	}
	return costs
}
