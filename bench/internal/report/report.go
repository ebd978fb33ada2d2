// Package report is what the suites of benchmarks have in common: how they are
// asked, what they answer, and how that is judged and written.
package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/palisade-go/palisade/bench/internal/measure"
)

// Suite is the benchmarks of one block.
type Suite struct {
	Name      string // of -run
	Scenarios []string
	Targets   []Target
	// Run measures what o asks for. It appends to s, so that what was measured
	// before an error is kept.
	Run func(ctx context.Context, o Options, s *Section) error
}

// Options are what the flags say.
type Options struct {
	Rounds    int           // how often everything is measured
	Length    time.Duration // of one measurement
	Quick     bool          // fewer connections, too
	Scenarios []string      // names; empty means all
	Seed      uint64        // of the order and the schedules
	Root      string        // the folder of Palisade's module
	Cache     string        // a folder for programs that are built once
	Log       func(format string, args ...any)
}

// Wants says whether a scenario is to be run.
func (o Options) Wants(name string) bool {
	return len(o.Scenarios) == 0 || slices.Contains(o.Scenarios, name)
}

// Rand returns the generator for what a scenario leaves to chance.
func (o Options) Rand(name string) *rand.Rand {
	stream := uint64(14695981039346656037)
	for _, c := range []byte(name) {
		stream = (stream ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(o.Seed, stream))
}

// Section is the report of one suite.
type Section struct {
	Suite     string    `json:"suite"`
	Date      string    `json:"date"`
	Command   string    `json:"command"`
	Seed      uint64    `json:"seed"`
	Machine   Machine   `json:"machine"`
	Programs  []Program `json:"programs"`
	Tables    []Table   `json:"tables"`
	Verdicts  []Verdict `json:"verdicts"`
	Incidents []string  `json:"incidents,omitempty"` // measurements that failed and why
}

// Program is a rival, or ours.
type Program struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Absent  string `json:"absent,omitempty"` // why it was not measured
}

// Table is the result of one scenario.
type Table struct {
	Scenario string   `json:"scenario"`
	About    string   `json:"about"`
	Columns  []Column `json:"columns"`
	Rows     []Row    `json:"rows"`
}

// Column says what is measured.
type Column struct {
	Key   string `json:"key"`
	Title string `json:"title"` // with the unit
}

// Row is what was measured of one program.
type Row struct {
	Program string                    `json:"program"`
	Values  map[string]measure.Sample `json:"values"` // by Column.Key
}

// Rounds collects the values of the rounds until they become a Table. The zero
// value is empty and ready to use.
type Rounds struct {
	values map[string]map[string][]float64
}

// Add notes a value of a program.
func (r *Rounds) Add(program, key string, value float64) {
	if r.values == nil {
		r.values = make(map[string]map[string][]float64)
	}
	if r.values[program] == nil {
		r.values[program] = make(map[string][]float64)
	}
	r.values[program][key] = append(r.values[program][key], value)
}

// Rows sums up what was noted of the programs, in their order. Those of whom
// nothing was have no row.
func (r *Rounds) Rows(programs []string) []Row {
	var rows []Row
	for _, p := range programs {
		if r.values[p] == nil {
			continue
		}
		row := Row{Program: p, Values: make(map[string]measure.Sample)}
		for key, v := range r.values[p] {
			row.Values[key] = measure.SampleOf(v)
		}
		rows = append(rows, row)
	}
	return rows
}

// Report is all sections, by the name of the suite.
type Report struct {
	Sections []Section `json:"sections"`
}

// Load reads report.json of a folder; one that is not there is empty.
func Load(dir string) (*Report, error) {
	text, err := os.ReadFile(filepath.Join(dir, "report.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return new(Report), nil
	case err != nil:
		return nil, fmt.Errorf("report: %w", err)
	}
	r := new(Report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("report: %s: %w", filepath.Join(dir, "report.json"), err)
	}
	return r, nil
}

// Put replaces the section of the suite, or adds it.
func (r *Report) Put(s Section) {
	i := slices.IndexFunc(r.Sections, func(old Section) bool { return old.Suite == s.Suite })
	if i < 0 {
		r.Sections = append(r.Sections, s)
	} else {
		r.Sections[i] = s
	}
}

// Save writes report.json and report.md to a folder.
func (r *Report) Save(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "report.json"), append(text, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "report.md"), r.Markdown(), 0o644))
}
