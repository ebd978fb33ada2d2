// Package dbbench compares what a splitter costs a statement: package dbrouter,
// gorm's dbresolver and an HAProxy hop beside the driver alone, on a real MariaDB
// primary and replica.
package dbbench

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/palisade-go/palisade/bench/internal/measure"
	"github.com/palisade-go/palisade/bench/internal/report"
	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

// Suite is what -run dbrouter runs.
func Suite() report.Suite {
	return report.Suite{Name: "dbrouter", Scenarios: []string{selectName, pairName}, Targets: targets(), Run: run}
}

const (
	selectName = "select"
	pairName   = "write-read"

	direct      = "go-sql-driver alone"
	oursEvent   = "palisade, Eventual"
	oursSession = "palisade, PerSession"
	oursGlobal  = "palisade, Global"
	gormName    = "gorm alone"
	resolver    = "gorm dbresolver"
	hop         = "HAProxy hop, TCP"
	byHand      = "go-sql-driver, waiting by hand"
)

// rows are how many there are to be selected.
const rows = 1000

// batch is how many operations of one program follow each other: enough for its
// connection to be warm, and few enough that all programs see the same machine.
const batch = 25

// durable has the servers keep what they acknowledge, as they would be run where
// it counts: a commit is in the logs of the table and of replication, on the disk,
// before it is answered.
var durable = []string{
	"--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1", "--innodb-doublewrite=1",
	"--rpl-semi-sync-slave-enabled=1", "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
}

// replicate turns on what loses no acknowledged write in a failover: a commit is
// answered once the replica has got it (semi-synchronous replication, lossless).
// The replica itself, which can get everything from the primary again, need not
// wait for its disk: it leaves its logs to the system. Without the last setting it
// would all the same, since MariaDB writes its redo log past the system's cache.
func replicate(ctx context.Context, c *mariadb.Cluster) error {
	err := c.Nodes()[1].Exec(ctx, "SET GLOBAL innodb_flush_log_at_trx_commit=2", "SET GLOBAL sync_binlog=0", "SET GLOBAL innodb_log_file_buffering=1")
	if err != nil {
		return err
	}
	return c.Nodes()[0].Exec(ctx, "SET GLOBAL rpl_semi_sync_master_enabled=1")
}

// subject is a program in a scenario.
type subject struct {
	name string
	// operation does it once. It returns whether the data were those wanted.
	operation func(context.Context) (fresh bool, err error)
	// primary counts the reads that the primary has done; nil if it is not known.
	primary *atomic.Int64
}

func run(ctx context.Context, o report.Options, out *report.Section) error {
	out.Programs = append(out.Programs, report.Modules("github.com/go-sql-driver/mysql", "gorm.io/gorm", "gorm.io/plugin/dbresolver")...)
	out.Programs = append(out.Programs, report.Program{Name: "mysql-router", Absent: "it is in no package of this system"})
	if err := mariadb.Available(); err != nil {
		out.Programs = append(out.Programs, report.Program{Name: "mariadb", Absent: err.Error()})
		return nil
	}
	c, err := mariadb.Start(ctx, mariadb.Config{Replicas: 1, Flags: durable})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := replicate(ctx, c); err != nil {
		return err
	}
	out.Programs = append(out.Programs, report.Program{Name: "mariadb", Version: c.Version()})
	b, err := newBench(ctx, c, out)
	if err != nil {
		return err
	}
	defer b.close()
	for _, s := range []struct {
		name, about string
		subjects    []subject
	}{
		{selectName, "To select a row by its key over one connection, on the replica; the arguments are put into the text.", b.selects()},
		{pairName, "To insert a row and to select it: on the primary, or on the replica once it has it: through a router, or by hand, with the write's GTID asked for and waited for. dbresolver does not wait. The primary answers once the row is on its disk and the replica has received it; the replica leaves its own logs to the cache of its system.", b.pairs()},
	} {
		if !o.Wants(s.name) {
			continue
		}
		table, err := compare(ctx, o, s.name, s.about, s.subjects)
		out.Tables = append(out.Tables, table)
		if err != nil {
			return err
		}
	}
	return nil
}

// compare measures all subjects in turns, in an order that is drawn anew each
// time.
func compare(ctx context.Context, o report.Options, name, about string, subjects []subject) (report.Table, error) {
	t := report.Table{Scenario: name, About: about, Columns: []report.Column{
		{Key: "p50", Title: "median, µs"}, {Key: "p99", Title: "99 %, µs"}, {Key: "allocs", Title: "allocations"}, {Key: "stale", Title: "stale, %"}, {Key: "primary", Title: "read on the primary, %"},
	}}
	o.Log("%s: %s", name, about)
	r := o.Rand(name)
	var rounds report.Rounds
	var names []string
	for _, s := range subjects {
		names = append(names, s.name)
	}
	for range o.Rounds {
		taken := make([]turns, len(subjects))
		for begun := time.Now(); time.Since(begun) < time.Duration(len(subjects))*o.Length; {
			for _, i := range r.Perm(len(subjects)) {
				if err := taken[i].do(ctx, subjects[i]); err != nil {
					t.Rows = rounds.Rows(names)
					return t, fmt.Errorf("%s: %s: %w", name, subjects[i].name, err)
				}
			}
		}
		for i, s := range subjects {
			taken[i].note(&rounds, s)
		}
	}
	t.Rows = rounds.Rows(names)
	for _, row := range t.Rows {
		o.Log("  %-24s %s µs, %s stale", row.Program, row.Values["p50"], row.Values["stale"])
	}
	return t, nil
}

// turns are what one subject did in a round.
type turns struct {
	times   measure.Histogram
	stale   int
	allocs  uint64
	primary int64 // reads that the primary has done
}

func (t *turns) do(ctx context.Context, s subject) error {
	if _, err := s.operation(ctx); err != nil { // the caches are another's
		return err
	}
	var before, after runtime.MemStats
	var there int64
	if s.primary != nil {
		there = s.primary.Load()
	}
	runtime.ReadMemStats(&before)
	for range batch {
		begun := time.Now()
		fresh, err := s.operation(ctx)
		t.times.Record(time.Since(begun))
		if err != nil {
			return err
		}
		if !fresh {
			t.stale++
		}
	}
	runtime.ReadMemStats(&after)
	t.allocs += after.Mallocs - before.Mallocs
	if s.primary != nil {
		t.primary += s.primary.Load() - there
	}
	return nil
}

func (t *turns) note(rounds *report.Rounds, s subject) {
	n, name := float64(t.times.Count()), s.name
	rounds.Add(name, "p50", float64(t.times.Quantile(0.5))/1e3)
	rounds.Add(name, "p99", float64(t.times.Quantile(0.99))/1e3)
	rounds.Add(name, "allocs", float64(t.allocs)/n)
	rounds.Add(name, "stale", 100*float64(t.stale)/n)
	if s.primary != nil {
		rounds.Add(name, "primary", 100*float64(t.primary)/n)
	}
}

// targets are the figures of issue 8 that this suite can tell; what the router
// itself costs is in BenchmarkOverhead of package dbrouter.
func targets() []report.Target {
	const issue, times = "issue 8", "×"
	p50 := func(scenario, name string) report.Cell {
		return report.Cell{Scenario: scenario, Program: name, Key: "p50"}
	}
	ratio := func(text string, limit float64, a, b report.Cell) report.Target {
		return report.Target{Text: text, Source: issue, Limit: limit, Unit: times, Value: report.Ratio(a, b)}
	}
	return []report.Target{
		ratio("point select, per session / direct", 1.05, p50(selectName, oursSession), p50(selectName, direct)),
		ratio("point select, per session / HAProxy hop", 1, p50(selectName, oursSession), p50(selectName, hop)),
		ratio("point select, per session / gorm dbresolver", 1, p50(selectName, oursSession), p50(selectName, resolver)),
		ratio("write then read, per session / the same by hand", 1, p50(pairName, oursSession), p50(pairName, byHand)),
		ratio("write then read, per session on the replica / direct on the primary", 1.3, p50(pairName, oursSession), p50(pairName, direct)),
		{
			Text: "reads after a write that the primary did, per session", Source: issue, Limit: 10, Unit: "%",
			Value: report.Of(report.Cell{Scenario: pairName, Program: oursSession, Key: "primary"}),
		},
		{
			Text: "stale reads after a write, per session", Source: issue, Limit: 0, Unit: "%",
			Value: report.Of(report.Cell{Scenario: pairName, Program: oursSession, Key: "stale"}),
		},
	}
}
