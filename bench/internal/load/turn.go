package load

import (
	"fmt"
	"sync"
	"time"

	"github.com/palisade-go/palisade/bench/internal/proc"
)

// turn lets the workers of a load run only while it is open.
type turn struct {
	mu     sync.Mutex // guards the rest
	change sync.Cond
	open   bool
	idle   int // workers that wait, or have ended
	all    int
}

func newTurn(workers int) *turn {
	t := &turn{all: workers}
	t.change.L = &t.mu
	return t
}

// set opens or closes, without waiting for anybody.
func (t *turn) set(open bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open = open
	t.change.Broadcast()
}

// wait returns once it is open.
func (t *turn) wait() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle++
	t.change.Broadcast()
	for !t.open {
		t.change.Wait()
	}
	t.idle--
}

// leave is for a worker that ends.
func (t *turn) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle++
	t.change.Broadcast()
}

// rest closes, and returns once all workers wait or have ended.
func (t *turn) rest() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open = false
	for t.idle < t.all {
		t.change.Wait()
	}
}

// goesOn says whether the turn is not over, and the load neither.
func (l *Load) goesOn() bool {
	if l.stop.Load() || l.turn == nil {
		return !l.stop.Load()
	}
	l.turn.mu.Lock()
	defer l.turn.mu.Unlock()
	return l.turn.open
}

// work starts a worker, which asks next before each operation.
func (l *Load) work(f func() error) {
	l.all.Go(func() {
		l.fail(f())
		if l.turn != nil {
			l.turn.leave()
		}
	})
}

// next says whether there is another operation to do; in a load of turns it waits
// for one.
func (l *Load) next() bool {
	if l.turn != nil && !l.stop.Load() {
		l.turn.wait()
	}
	return !l.stop.Load()
}

// Tree is what a [proc.Process] is: it has processes.
type Tree interface {
	Tree() (pids []int, err error)
}

// Turn lets a load that was started in turns run for some time and measures the
// program meanwhile: from before the first operation until the last has ended and
// the program is at rest, so that nothing is counted by half. Programs that are to
// be compared take turns of some tens of milliseconds: what happens to the machine
// then happens to each of them.
func (l *Load) Turn(p Tree, length time.Duration) (Cost, error) {
	l.turn.rest() // whoever connects has connected
	tree, err := p.Tree()
	if err != nil {
		return Cost{}, err
	}
	before, err := settled(tree)
	if err != nil {
		return Cost{}, err
	}
	ops, begin := l.Ops(), time.Now()
	l.turn.set(true)
	time.Sleep(length)
	l.turn.rest()
	elapsed := time.Since(begin)
	after, err := settled(tree)
	if err != nil {
		return Cost{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := Cost{(after - before).Seconds(), float64(l.Ops() - ops), elapsed.Seconds()}
	if l.err == nil && c.Ops == 0 {
		return Cost{}, fmt.Errorf("load: nothing was done in %v", length)
	}
	return c, l.err
}

const (
	settleStep  = 300 * time.Microsecond
	settleLimit = 30 * time.Millisecond
	// restless is more than a program at rest uses in a step.
	restless = 20 * time.Microsecond
)

// settled returns what the processes have used, once they use next to nothing any
// more.
func settled(tree []int) (time.Duration, error) {
	last, err := proc.TreeCPU(tree)
	for begin := time.Now(); err == nil && time.Since(begin) < settleLimit; {
		time.Sleep(settleStep)
		now, err := proc.TreeCPU(tree)
		if err != nil {
			return 0, err
		}
		if now-last < restless {
			return now, nil
		}
		last = now
	}
	return last, err
}
