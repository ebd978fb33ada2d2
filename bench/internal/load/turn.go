package load

import (
	"errors"
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
// program meanwhile, but for the beginning: a program that has been idle is slower
// for some milliseconds on a virtual machine, whatever it does then.
func (l *Load) Turn(p Tree, length time.Duration) (Cost, error) {
	tree, err := p.Tree()
	if err != nil {
		return Cost{}, err
	}
	l.turn.rest() // whoever connects has connected
	l.turn.set(true)
	time.Sleep(length / leadIn)
	begin, ops := time.Now(), l.Ops()
	before, err1 := proc.TreeCPU(tree)
	time.Sleep(length - length/leadIn)
	after, err2 := proc.TreeCPU(tree)
	c := Cost{(after - before).Seconds(), float64(l.Ops() - ops), time.Since(begin).Seconds()}
	l.turn.rest()
	l.mu.Lock()
	defer l.mu.Unlock()
	err = errors.Join(l.err, err1, err2)
	if err == nil && c.Ops == 0 {
		err = fmt.Errorf("load: nothing was done in %v", length)
	}
	return c, err
}

// leadIn is what part of a turn is not measured: one of so many.
const leadIn = 3
