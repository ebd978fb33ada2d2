// Package tlsxbench compares what accepts TLS: what processor time a connection
// costs, with a full handshake and with a session that is resumed, and what a
// proxy pays to encrypt again behind it.
package tlsxbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/palisade-go/palisade/bench/internal/load"
	"github.com/palisade-go/palisade/bench/internal/proc"
	"github.com/palisade-go/palisade/bench/internal/report"
)

// Suite is what -run tlsx runs.
func Suite() report.Suite {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return report.Suite{Name: "tlsx", Scenarios: names, Targets: targets(), Run: run}
}

// scenario is one table.
type scenario struct {
	name, about string
	programs    []string // in the order of the table
	conf        configData
	columns     []report.Column
	// prepare says whether a program that has just started can be measured, and
	// how. Nil leaves p as it is.
	prepare func(b *bench, p *target) error
	// loads are what a program is measured under.
	loads func(b *bench, p *target) []*load.Lane
	// values takes the columns of each program from what a round cost.
	values func(load.Costs) map[string]map[string]float64
}

// target is a program that runs.
type target struct {
	name    string
	proc    *proc.Process
	resumes bool
	back    *backend // of a proxy
}

// bench is what the scenarios share while the suite runs.
type bench struct {
	report.Options
	ctx      context.Context
	cores    proc.Cores
	dir      string
	subjects map[string]*subject
	certs    *certs
	plain    *backend
	secure   *backend // over mutual TLS
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
	if b.certs, err = newCerts(dir); err != nil {
		return err
	}
	b.subjects = findSubjects(ctx, o, dir)
	if err := proc.PinSelf(b.cores.Load); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proc.PinSelf(b.cores.All)) }()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(1, b.cores.Load.Count())))
	if err := b.startBackends(); err != nil {
		return err
	}
	defer b.stopBackends()
	var used []string
	for _, s := range scenarios() {
		if !o.Wants(s.name) {
			continue
		}
		for _, p := range s.programs {
			if !slices.Contains(used, p) && !b.subjects[p].encrypt {
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
		s := b.subjects[name]
		p := report.Program{Name: name, Version: s.Version}
		if s.Absent != nil {
			p.Absent = s.Absent.Error()
		}
		out.Programs = append(out.Programs, p)
	}
	return nil
}

// run starts the programs of a scenario and measures each of them in each round.
func (b *bench) run(s *scenario, out *report.Section) (report.Table, error) {
	table := report.Table{Scenario: s.name, About: s.about, Columns: s.columns}
	var rounds report.Rounds
	live := b.start(s, out)
	var lanes []*load.Lane
	for _, p := range live {
		defer p.proc.Stop()
		lanes = append(lanes, s.loads(b, p)...)
	}
	defer func() {
		for _, l := range lanes {
			l.Stop()
		}
	}()
	random := b.Rand(s.name)
	load.Warm(b.ctx, random, lanes)
	for round := range b.Rounds {
		costs := load.Round(b.ctx, random, lanes, b.Length, func(_ *load.Lane, err error) {
			out.Incidents = append(out.Incidents, fmt.Sprintf("%s, round %d, %v", s.name, round+1, err))
			b.Log("  %v", err)
		})
		if b.ctx.Err() != nil {
			return table, context.Cause(b.ctx)
		}
		for program, values := range s.values(costs) {
			for key, v := range values {
				rounds.Add(program, key, v)
			}
		}
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

// start starts the programs of a scenario. What does not start, or cannot do
// what the scenario is about, is noted and left out.
func (b *bench) start(s *scenario, out *report.Section) (live []*target) {
	leaveOut := func(name string, err error) {
		if b.subjects[name].Absent == nil {
			out.Incidents = append(out.Incidents, fmt.Sprintf("%s: %s is left out: %v", s.name, name, err))
		}
		b.Log("  %s: %v", name, err)
	}
	for _, name := range s.programs {
		subject, conf := b.subjects[name], s.conf
		conf.Dir, conf.certFiles = b.dir, b.certs.certFiles
		p := &target{name: name}
		if conf.Backend != "" {
			p.back, conf.Encrypt = b.plain, subject.encrypt
			if subject.encrypt {
				p.back = b.secure
			}
			conf.Backend = p.back.addr
		}
		var err error
		if p.proc, err = subject.start(b.ctx, b.cores.Proxy, conf); err != nil {
			leaveOut(name, err)
			continue
		}
		if err := s.prepare(b, p); err != nil {
			leaveOut(name, err)
			p.proc.Stop()
			continue
		}
		if !p.resumes && conf.Backend == "" {
			out.Incidents = append(out.Incidents, fmt.Sprintf("%s: %s resumes no session", s.name, name))
		}
		live = append(live, p)
	}
	return live
}
