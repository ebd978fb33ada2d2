package report

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func tables() Tables {
	var r Rounds
	for _, v := range []float64{3, 1, 2} {
		r.Add("ours", "cpu", v)
		r.Add("theirs", "cpu", 2*v)
		r.Add("direct", "cpu", v/4)
	}
	r.Add("theirs", "other", 7)
	return Tables{{
		Scenario: "speed", About: "How fast.", Columns: []Column{{"cpu", "CPU, µs"}, {"other", "a|b"}},
		Rows: r.Rows([]string{"theirs", "ours", "nobody", "direct"}),
	}}
}

func TestJudge(t *testing.T) {
	ours, theirs, direct := Cell{"speed", "ours", "cpu"}, Cell{"speed", "theirs", "cpu"}, Cell{"speed", "direct", "cpu"}
	for _, c := range []struct {
		target Target
		result string
		value  float64
	}{
		{Target{Limit: 0.5, Value: Ratio(ours, theirs)}, "met", 0.5},
		{Target{Limit: 0.5, AtLeast: true, Value: Ratio(ours, theirs)}, "met", 0.5},
		{Target{Limit: 0.49, Value: Ratio(ours, theirs)}, "not met", 0.5},
		{Target{Limit: 0.49, AtLeast: true, Value: Ratio(ours, theirs)}, "met", 0.5},
		{Target{Limit: 0.51, AtLeast: true, Value: Ratio(ours, theirs)}, "not met", 0.5},
		{Target{Limit: 2, Value: Of(ours)}, "met", 2},
		{Target{Limit: 1, Value: Above(ours, theirs, direct)}, "met", 1.5 / 3.5},
		{Target{Limit: 1, Value: Above(ours, direct, theirs)}, "not measured", 0},
		{Target{Limit: 1, Value: Of(Cell{"speed", "nobody", "cpu"})}, "not measured", 0},
		{Target{Limit: 1, Value: Ratio(ours, Cell{"none", "ours", "cpu"})}, "not measured", 0},
	} {
		v := Judge([]Target{c.target}, tables())[0]
		if v.Result != c.result || v.Value != c.value {
			t.Errorf("limit %v: %+v, want %s at %v", c.target.Limit, v, c.result, c.value)
		}
	}
}

func TestSaveAndLoad(t *testing.T) {
	dir := t.TempDir()
	r, err := Load(dir)
	if err != nil || len(r.Sections) != 0 {
		t.Fatalf("an empty folder has %v, %v", r, err)
	}
	r.Put(Section{Suite: "a", Seed: 1})
	r.Put(Section{
		Suite: "b", Command: "go run . -run b", Tables: tables(),
		Programs:  []Program{{Name: "ours", Version: "1.2"}, {Name: "gone", Absent: "not on PATH"}},
		Verdicts:  Judge([]Target{{Text: "fast", Limit: 9, Unit: "×", Value: Of(Cell{"speed", "ours", "cpu"})}}, tables()),
		Incidents: []string{"two\nlines"},
	})
	r.Put(Section{Suite: "a", Seed: 2})
	if err := r.Save(dir); err != nil {
		t.Fatal(err)
	}
	again, err := Load(dir)
	if err != nil || !reflect.DeepEqual(r, again) {
		t.Errorf("what was saved is read as %+v, %v, want %+v", again, err, r)
	}
	if len(again.Sections) != 2 || again.Sections[0].Seed != 2 {
		t.Errorf("the sections are %+v, want a replaced in its place", again.Sections)
	}
	text, err := os.ReadFile(filepath.Join(dir, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"## b\n\n    go run . -run b\n", "- ours: 1.2\n", "- gone: absent: not on PATH\n",
		"|  | CPU, µs | a\\|b |\n| --- | ---: | ---: |\n| theirs | 4.00 (2.00–6.00) | 7.00 |\n| ours | 2.00 (1.00–3.00) | – |\n",
		"| fast |  | ≤ 9.00 × | 2.00 × | met |\n", "- two lines\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("report.md lacks %q:\n%s", want, text)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("half a report was read")
	}
	if err := r.Save(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("saving to a folder that is not there: %v", err)
	}
}

func TestOptions(t *testing.T) {
	o := Options{Seed: 4}
	if !o.Wants("x") {
		t.Error("no names do not mean all")
	}
	o.Scenarios = []string{"a", "b"}
	if !o.Wants("b") || o.Wants("c") {
		t.Error("the names are not looked at")
	}
	if a, b := o.Rand("x").Uint64(), o.Rand("x").Uint64(); a != b || a == o.Rand("y").Uint64() {
		t.Error("the order does not follow from the seed and the name")
	}
}

func TestMachine(t *testing.T) {
	if got := cpuModel([]byte("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz: fast\n"), "x"); got != "Some CPU @ 2 GHz: fast" {
		t.Errorf("the model is %q", got)
	}
	if got := cpuModel([]byte("BogoMIPS : 50\n"), "arm64"); got != "arm64" {
		t.Errorf("the model is %q", got)
	}
	if m := ThisMachine(t.TempDir()); m.Cores < 1 || m.Commit != "unknown" || m.Kernel == "" {
		t.Errorf("the machine is %+v", m)
	}
}
