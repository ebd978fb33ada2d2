package qpsbench

import (
	"testing"
	"time"

	"github.com/palisade-go/palisade/bench/internal/report"
)

// TestOperations runs every operation, and checks that each target is of
// operations that exist.
func TestOperations(t *testing.T) {
	var tables report.Tables
	for i, s := range scenarios() {
		ops, err := s.operations()
		if err != nil {
			t.Fatal(err)
		}
		var rounds report.Rounds
		var names []string
		for j, op := range ops {
			f := op.Prepare()
			for range 300 {
				f()
			}
			names = append(names, op.Name)
			for _, key := range []string{"one", "two", "allocs"} {
				rounds.Add(op.Name, key, float64(i+j+1))
			}
		}
		if s.name != Suite().Scenarios[i] {
			t.Errorf("scenario %d is %s, not %s", i, s.name, Suite().Scenarios[i])
		}
		tables = append(tables, report.Table{Scenario: s.name, Rows: rounds.Rows(names)})
	}
	for _, v := range report.Judge(targets(), tables) {
		if v.Result == "not measured" {
			t.Errorf("%s: %s", v.Text, v.Got)
		}
	}
}

func TestRun(t *testing.T) {
	var out report.Section
	o := report.Options{Rounds: 1, Length: 20 * time.Millisecond, Scenarios: []string{"middleware"}, Log: t.Logf}
	if err := Suite().Run(t.Context(), o, &out); err != nil {
		t.Fatal(err)
	}
	if len(out.Tables) != 1 || len(out.Tables[0].Rows) != 6 || len(out.Programs) != 7 {
		t.Errorf("the section is %+v", out)
	}
}

func TestDurations(t *testing.T) {
	for _, d := range durations() {
		if d < 50*time.Microsecond || d > 50*time.Millisecond {
			t.Errorf("a duration is %v", d)
		}
	}
}
