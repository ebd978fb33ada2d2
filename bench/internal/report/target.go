package report

import (
	"fmt"

	"github.com/palisade-go/palisade/bench/internal/measure"
)

// Target is a figure that was promised.
type Target struct {
	Text    string  // what was promised
	Source  string  // where
	Limit   float64 // of what Value returns
	AtLeast bool    // Value must not be below Limit; otherwise not above
	Unit    string  // of Value; "×" is for ratios
	// Value computes the figure from the tables.
	Value func(Tables) (float64, error)
}

// Verdict is what became of a target.
type Verdict struct {
	Text   string  `json:"text"`
	Source string  `json:"source"`
	Want   string  `json:"want"`
	Value  float64 `json:"value"`
	Got    string  `json:"got"`
	Result string  `json:"result"` // "met", "not met" or "not measured"
}

// Judge computes all targets.
func Judge(targets []Target, tables Tables) []Verdict {
	verdicts := make([]Verdict, 0, len(targets))
	for _, t := range targets {
		sign := "≤"
		if t.AtLeast {
			sign = "≥"
		}
		v := Verdict{Text: t.Text, Source: t.Source, Want: fmt.Sprintf("%s %s %s", sign, measure.Digits(t.Limit), t.Unit)}
		value, err := t.Value(tables)
		switch {
		case err != nil:
			v.Result, v.Got = "not measured", err.Error()
		default:
			v.Value, v.Got, v.Result = value, fmt.Sprintf("%s %s", measure.Digits(value), t.Unit), "not met"
			if value == t.Limit || (value > t.Limit) == t.AtLeast {
				v.Result = "met"
			}
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// Tables are the results of the scenarios.
type Tables []Table

// Median returns a cell.
func (t Tables) Median(scenario, program, key string) (float64, error) {
	for _, table := range t {
		if table.Scenario != scenario {
			continue
		}
		for _, row := range table.Rows {
			if row.Program != program {
				continue
			}
			if s, ok := row.Values[key]; ok && s.N > 0 {
				return s.Median, nil
			}
		}
	}
	return 0, fmt.Errorf("no %s of %s in %s", key, program, scenario)
}

// Cell names a cell of a table.
type Cell struct{ Scenario, Program, Key string }

// Of is a Value that is one cell.
func Of(c Cell) func(Tables) (float64, error) {
	return func(t Tables) (float64, error) { return t.Median(c.Scenario, c.Program, c.Key) }
}

// Ratio is a Value that is one cell divided by another.
func Ratio(a, b Cell) func(Tables) (float64, error) {
	return func(t Tables) (float64, error) {
		x, err := Of(a)(t)
		if err != nil {
			return 0, err
		}
		y, err := Of(b)(t)
		if err != nil {
			return 0, err
		}
		if y <= 0 {
			return 0, fmt.Errorf("%s of %s in %s is %v", b.Key, b.Program, b.Scenario, y)
		}
		return x / y, nil
	}
}

// Above is a Ratio of what the two cells have above a third, the control.
func Above(a, b, control Cell) func(Tables) (float64, error) {
	return func(t Tables) (float64, error) {
		var v [3]float64
		for i, c := range []Cell{a, b, control} {
			var err error
			if v[i], err = Of(c)(t); err != nil {
				return 0, err
			}
		}
		if v[1] <= v[2] {
			return 0, fmt.Errorf("%s of %s is not above that of %s", b.Key, b.Program, control.Program)
		}
		return (v[0] - v[2]) / (v[1] - v[2]), nil
	}
}
