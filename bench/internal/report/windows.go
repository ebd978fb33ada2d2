package report

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/palisade-go/palisade/bench/internal/measure"
)

// allocOps is over how many operations allocations are counted.
const allocOps = 2000

// MeasureOperations makes the table of a scenario of short operations: the time
// of each on one thread and, where there are two processors, on two at once, and
// what it allocates. The windows are measure.Windows', three for each round.
func MeasureOperations(ctx context.Context, o Options, scenario, about string, ops []measure.Operation) (Table, error) {
	t := Table{Scenario: scenario, About: about, Columns: []Column{
		{Key: "one", Title: "1 thread, ns"}, {Key: "two", Title: "2 threads, ns"},
		{Key: "allocs", Title: "allocations"}, {Key: "counted", Title: "windows that count, %"},
	}}
	o.Log("%s: %s", scenario, about)
	limit := 4 * time.Duration(o.Rounds) * o.Length
	one := measure.Windows(1, 3*o.Rounds, limit, ops)
	var two []measure.Windowed
	if runtime.NumCPU() > 1 {
		two = measure.Windows(2, 3*o.Rounds, limit, ops)
	}
	for i, op := range ops {
		if err := ctx.Err(); err != nil {
			return t, context.Cause(ctx)
		}
		counted, tried := len(one[i].Nanos), one[i].Tried
		row := Row{Program: op.Name, Values: map[string]measure.Sample{
			"one": measure.SampleOf(one[i].Nanos), "allocs": measure.SampleOf([]float64{allocs(op)}),
		}}
		if two != nil {
			row.Values["two"] = measure.SampleOf(two[i].Nanos)
			counted, tried = counted+len(two[i].Nanos), tried+two[i].Tried
		}
		row.Values["counted"] = measure.SampleOf([]float64{100 * float64(counted) / float64(max(1, tried))})
		t.Rows = append(t.Rows, row)
		o.Log("  %-34s%s", op.Name, fmt.Sprint("  1 thread ", row.Values["one"], "  2 threads ", row.Values["two"], "  allocations ", row.Values["allocs"]))
	}
	return t, nil
}

// allocs returns how many objects an operation allocates, on average.
func allocs(op measure.Operation) float64 {
	f := op.Prepare()
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range allocOps {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64((after.Mallocs - before.Mallocs) / allocOps)
}
