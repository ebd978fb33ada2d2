package load

import (
	"fmt"
	"time"

	"github.com/palisade-go/palisade/bench/internal/proc"
)

// Cost is what a program used while a load ran, and what was done.
type Cost struct {
	CPU     float64 // of the program and its children, in seconds
	Ops     float64
	Elapsed float64 // in seconds
}

// Add adds what was used and done in another turn.
func (c *Cost) Add(other Cost) {
	c.CPU += other.CPU
	c.Ops += other.Ops
	c.Elapsed += other.Elapsed
}

// Cost measures a program while the load runs, after some time to get warm, and
// stops the load. An error of the load is one here.
func (l *Load) Cost(p *proc.Process, warm, length time.Duration) (_ Cost, err error) {
	defer func() {
		if stopErr := l.Stop(); stopErr != nil {
			err = stopErr
		}
	}()
	time.Sleep(warm)
	tree, err := p.Tree()
	if err != nil {
		return Cost{}, err
	}
	cpu, err := proc.TreeCPU(tree)
	if err != nil {
		return Cost{}, err
	}
	ops, begin := l.Ops(), time.Now()
	time.Sleep(length)
	after, err := proc.TreeCPU(tree)
	if err != nil {
		return Cost{}, err
	}
	c := Cost{(after - cpu).Seconds(), float64(l.Ops() - ops), time.Since(begin).Seconds()}
	if c.Ops == 0 {
		return Cost{}, fmt.Errorf("load: nothing was done in %v", length)
	}
	return c, nil
}
