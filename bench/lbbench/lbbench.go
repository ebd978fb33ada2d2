// Package lbbench compares proxies: what processor time a request costs them,
// what memory an idle connection, and what latency they add.
package lbbench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/palisade-go/palisade/bench/internal/load"
	"github.com/palisade-go/palisade/bench/internal/proc"
	"github.com/palisade-go/palisade/bench/internal/report"
)

// Suite is what -run lb runs.
func Suite() report.Suite {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return report.Suite{Name: "lb", Scenarios: names, Targets: targets(), Run: run}
}

// scenario is one table.
type scenario struct {
	name, about string
	programs    []string // in the order of the table
	conf        configData
	// size is of the bodies in a closed loop, in which the programs take turns;
	// compared are those whose costs are divided by each other's. 0: see measure.
	size     int
	compared []string
	tls      bool
	// columns are of what measure takes from a program that serves at p.addr: one
	// value of each.
	columns []report.Column
	measure func(b *bench, s *scenario, p *target) (map[string]float64, error)
}

// bench is what the scenarios share while the suite runs.
type bench struct {
	report.Options
	ctx      context.Context
	cores    proc.Cores
	dir      string
	rivals   map[string]*rival
	backend  *proc.Process // HTTP
	source   *proc.Process // streams
	cert     certFiles
	client   *tls.Config
	capacity float64 // of nginx, requests per second; 0 if not measured yet
}

// target is what is measured: a program, or the backend itself.
type target struct {
	name string
	addr string
	proc *proc.Process // nil: the backend itself
}

// The arguments that make the suite's program a backend.
const (
	ServeHTTP   = "serve-http"
	ServeStream = "serve-stream"
)

// Serve is the backend, in a process of its own.
func Serve(what, addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	if what == ServeStream {
		return load.ServeStream(ln)
	}
	return load.ServeHTTP(ln.(*net.TCPListener))
}

func run(ctx context.Context, o report.Options, out *report.Section) (err error) {
	dir, err := os.MkdirTemp("", "palisade-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{Options: o, ctx: ctx, dir: dir}
	if b.cores, err = proc.Split(); err != nil {
		return err
	}
	b.rivals = findRivals(ctx, o, dir)
	if b.cert, b.client, err = newCert(dir); err != nil {
		return err
	}
	if err := proc.PinSelf(b.cores.Load); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proc.PinSelf(b.cores.All)) }()
	// A generator that waits blocks one of these; see package load.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	if b.backend, err = b.serve(ServeHTTP); err != nil {
		return err
	}
	defer b.backend.Stop()
	if b.source, err = b.serve(ServeStream); err != nil {
		return err
	}
	defer b.source.Stop()
	var used []string
	for _, s := range scenarios() {
		if !o.Wants(s.name) {
			continue
		}
		for _, p := range s.programs {
			if p != directName && !slices.Contains(used, p) {
				used = append(used, p)
			}
		}
		o.Log("%s: %s", s.name, s.about)
		table, err := b.run(&s, out)
		out.Tables = append(out.Tables, table)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for _, name := range used {
		r := b.rivals[name]
		p := report.Program{Name: name, Version: r.version}
		if r.absent != nil {
			p.Absent = r.absent.Error()
		}
		out.Programs = append(out.Programs, p)
	}
	return nil
}

// serve starts the backend on the processors of the load.
func (b *bench) serve(what string) (*proc.Process, error) {
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return proc.Start(b.ctx, b.cores.Load, addr, []string{"GOMAXPROCS=2"}, self, what, addr)
}

// run starts the programs of a scenario and measures each of them once a round.
func (b *bench) run(s *scenario, out *report.Section) (report.Table, error) {
	table := report.Table{Scenario: s.name, About: s.about, Columns: s.columns}
	var rounds report.Rounds
	random := b.Rand(s.name)
	live, stop := b.start(s, out)
	defer stop()
	failed := func(round int, err error) {
		out.Incidents = append(out.Incidents, fmt.Sprintf("%s, round %d, %v", s.name, round+1, err))
		b.Log("  %v", err)
	}
	measure := b.oneByOne
	if s.size > 0 {
		measure = b.inTurns
	}
	err := measure(s, live, random, &rounds, failed)
	if err != nil {
		return table, err
	}
	table.Rows = rounds.Rows(s.programs)
	for _, row := range table.Rows {
		var cells []string
		for _, c := range s.columns {
			cells = append(cells, c.Title+" "+row.Values[c.Key].String())
		}
		b.Log("  %-26s%s", row.Program, strings.Join(cells, "  "))
	}
	return table, nil
}

// oneByOne measures the programs one after the other, in an order that chance
// decides anew in each round.
func (b *bench) oneByOne(s *scenario, live []*target, random *rand.Rand, rounds *report.Rounds, failed func(int, error)) error {
	for round := range b.Rounds {
		random.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
		for _, p := range live {
			if b.ctx.Err() != nil {
				return context.Cause(b.ctx)
			}
			values, err := s.measure(b, s, p)
			if err != nil {
				failed(round, fmt.Errorf("%s: %w", p.name, err))
				continue
			}
			for key, v := range values {
				rounds.Add(p.name, key, v)
			}
		}
	}
	return nil
}

// inTurns measures all programs at once; see [load.Round].
func (b *bench) inTurns(s *scenario, live []*target, random *rand.Rand, rounds *report.Rounds, failed func(int, error)) error {
	var lanes []*load.Lane
	for _, p := range live {
		l := s.lane(b, p)
		defer l.Stop()
		lanes = append(lanes, l)
	}
	load.Warm(b.ctx, random, lanes)
	for round := range b.Rounds {
		costs := load.Round(b.ctx, random, lanes, b.Length, func(_ *load.Lane, err error) { failed(round, err) })
		if b.ctx.Err() != nil {
			return context.Cause(b.ctx)
		}
		for program, values := range s.values(costs) {
			for key, v := range values {
				rounds.Add(program, key, v)
			}
		}
	}
	return nil
}

// start starts the programs of a scenario. What does not start is noted, and
// left out.
func (b *bench) start(s *scenario, out *report.Section) (live []*target, stop func()) {
	conf := s.conf
	conf.Dir, conf.Backend = b.dir, b.backend.Addr
	if conf.Stream {
		conf.Backend = b.source.Addr
	}
	if s.tls {
		conf.certFiles = b.cert
	}
	for _, name := range s.programs {
		if name == directName {
			live = append(live, &target{name: name, addr: conf.Backend})
			continue
		}
		r := b.rivals[name]
		p, err := r.start(b.ctx, b.cores.Proxy, conf)
		if err != nil {
			if r.absent == nil {
				out.Incidents = append(out.Incidents, fmt.Sprintf("%s: %s did not start: %v", s.name, name, err))
			}
			b.Log("  %s: %v", name, err)
			continue
		}
		live = append(live, &target{name: name, addr: p.Addr, proc: p})
	}
	return live, func() {
		for _, p := range live {
			if p.proc != nil {
				p.proc.Stop()
			}
		}
	}
}
