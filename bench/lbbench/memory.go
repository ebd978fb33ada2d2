package lbbench

import (
	"errors"
	"time"

	"github.com/palisade-go/palisade/bench/internal/load"
	"github.com/palisade-go/palisade/bench/internal/measure"
	"github.com/palisade-go/palisade/bench/internal/proc"
)

// settle is how long programs get to release what they will.
const settle = time.Second

// idle measures the memory that idle connections take. The program is started
// anew, as it would otherwise reuse what it has, and first serves as many
// connections as the other scenarios do.
func idle(b *bench, s *scenario, p *target) (_ map[string]float64, err error) {
	conf := s.conf
	conf.Dir, conf.Backend = b.dir, b.backend.Addr
	fresh, err := b.rivals[p.name].start(b.ctx, b.cores.Proxy, conf)
	if err != nil {
		return nil, err
	}
	defer fresh.Stop()
	client := load.Client{Addr: fresh.Addr, Size: 1 << 10, Conns: clients}
	l := client.Closed()
	time.Sleep(b.warm())
	if err := l.Stop(); err != nil {
		return nil, err
	}
	before, err := memory(fresh)
	if err != nil {
		return nil, err
	}
	n := 2000
	if b.Quick {
		n = 500
	}
	conns, err := client.Idle(n)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, c := range conns {
			err = errors.Join(err, c.Close())
		}
	}()
	after, err := memory(fresh)
	if err != nil {
		return nil, err
	}
	if err := load.StillOpen(conns); err != nil {
		return nil, err
	}
	return map[string]float64{"kb": float64(after-before) / 1024 / float64(n), "base": float64(before) / (1 << 20)}, nil
}

func memory(p *proc.Process) (int64, error) {
	time.Sleep(settle)
	tree, err := p.Tree()
	if err != nil {
		return 0, err
	}
	return proc.PSS(tree)
}

// treeCPU is the processor time of processes in seconds; none have used none.
func treeCPU(tree []int) (float64, error) {
	d, err := proc.TreeCPU(tree)
	return d.Seconds(), err
}

// loadCPU is what this process and the backend have used, in seconds.
func (b *bench) loadCPU(backend []int) (float64, error) {
	theirs, err := treeCPU(backend)
	return theirs + measure.ProcessCPU().Seconds(), err
}

// measureCapacity measures how many requests nginx can serve in a second. If
// there is no nginx it takes half of what the backend can.
func (b *bench) measureCapacity(s *scenario) error {
	conf := s.conf
	conf.Dir, conf.Backend = b.dir, b.backend.Addr
	p := target{name: nginxName, proc: b.backend, addr: b.backend.Addr}
	share := 0.5
	if r := b.rivals[nginxName]; r.absent == nil {
		started, err := r.start(b.ctx, b.cores.Proxy, conf)
		if err != nil {
			return err
		}
		defer started.Stop()
		p, share = target{name: nginxName, addr: started.Addr, proc: started}, 1
	}
	c, err := load.Client{Addr: p.addr, Size: 1 << 10, Conns: clients}.Closed().Cost(p.proc, b.warm(), b.Length)
	if err != nil {
		return err
	}
	b.capacity = c.Ops / c.Elapsed * share
	b.Log("  capacity: %.0f requests per second", b.capacity)
	return nil
}
