package report

import (
	"bytes"
	"fmt"
	"strings"
)

// Markdown returns the report for people.
func (r *Report) Markdown() []byte {
	var b bytes.Buffer
	b.WriteString("# Benchmarks\n\nThis file is written by the commands below; what the figures mean is in README.md.\n" +
		"A cell is the median of the rounds, and the range in brackets.\n")
	for _, s := range r.Sections {
		s.markdown(&b)
	}
	return b.Bytes()
}

func (s *Section) markdown(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n## %s\n\n    %s\n\n", s.Suite, s.Command)
	fmt.Fprintf(b, "%s, seed %d. %s\n\n", s.Date, s.Seed, s.Machine)
	for _, p := range s.Programs {
		if p.Absent != "" {
			fmt.Fprintf(b, "- %s: absent: %s\n", p.Name, p.Absent)
		} else {
			fmt.Fprintf(b, "- %s: %s\n", p.Name, p.Version)
		}
	}
	for _, t := range s.Tables {
		t.markdown(b)
	}
	if len(s.Verdicts) > 0 {
		fmt.Fprintf(b, "\n### %s: targets\n\n", s.Suite)
		line(b, "target", "from", "wanted", "is", "")
		line(b, "---", "---", "---", "---", "---")
		for _, v := range s.Verdicts {
			result := v.Result
			if result == "not met" {
				result = "**not met**"
			}
			line(b, v.Text, v.Source, v.Want, v.Got, result)
		}
	}
	if len(s.Incidents) > 0 {
		b.WriteString("\nMeasurements that failed:\n\n")
		for _, i := range s.Incidents {
			fmt.Fprintf(b, "- %s\n", oneLine(i))
		}
	}
}

func (t *Table) markdown(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n### %s\n\n%s\n\n", t.Scenario, t.About)
	head, rule := []string{""}, []string{"---"}
	for _, c := range t.Columns {
		head, rule = append(head, c.Title), append(rule, "---:")
	}
	line(b, head...)
	line(b, rule...)
	for _, row := range t.Rows {
		cells := []string{row.Program}
		for _, c := range t.Columns {
			cells = append(cells, row.Values[c.Key].String())
		}
		line(b, cells...)
	}
}

// line writes a row of a table.
func line(b *bytes.Buffer, cells ...string) {
	for i, c := range cells {
		cells[i] = strings.ReplaceAll(oneLine(c), "|", `\|`)
	}
	fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
