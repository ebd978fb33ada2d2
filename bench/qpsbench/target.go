package qpsbench

import "github.com/palisade-go/palisade/bench/internal/report"

// targets are the figures of issue 7 that this suite can tell; what the
// middleware costs a proxied request is in the suite lb.
func targets() []report.Target {
	const issue, times = "issue 7", "×"
	one := func(scenario, name string) report.Cell {
		return report.Cell{Scenario: scenario, Program: name, Key: "one"}
	}
	two := func(scenario, name string) report.Cell {
		return report.Cell{Scenario: scenario, Program: name, Key: "two"}
	}
	ratio := func(text string, limit float64, atLeast bool, a, b report.Cell) report.Target {
		return report.Target{Text: text, Source: issue, Limit: limit, AtLeast: atLeast, Unit: times, Value: report.Ratio(a, b)}
	}
	const most, least = false, true
	return []report.Target{
		ratio("a held counter / a plain atomic, 1 thread", 1.2, most, one("counter", heldCounter), one("counter", plainAtomic)),
		ratio("a held counter, 2 threads / 1", 1.15, most, two("counter", heldCounter), one("counter", heldCounter)),
		ratio("VictoriaMetrics / a held counter, 2 threads", 4, least, two("counter", vmCounter), two("counter", heldCounter)),
		ratio("Prometheus / a held counter, 2 threads", 4, least, two("counter", promCounter), two("counter", heldCounter)),
		{Text: "to record in a held histogram, 1 thread", Source: issue, Limit: 6, Unit: "ns", Value: report.Of(one("histogram", heldRecorder))},
		ratio("a held histogram, 2 threads / 1", 1.15, most, two("histogram", heldRecorder), one("histogram", heldRecorder)),
		ratio("VictoriaMetrics / a held histogram, 1 thread", 6, least, one("histogram", vmHistogram), one("histogram", heldRecorder)),
		ratio("DDSketch with a mutex / a held histogram, 1 thread", 7, least, one("histogram", ddSketchLocked), one("histogram", heldRecorder)),
		{Text: "middleware above the handler and two readings of the clock", Source: issue, Limit: 40, Unit: "ns", Value: aboveClock},
		{
			Text: "allocations of the middleware", Source: issue, Limit: 1, Unit: "",
			Value: report.Of(report.Cell{Scenario: "middleware", Program: oursMiddleware, Key: "allocs"}),
		},
		ratio("three layers of promhttp / middleware, 1 thread", 8, least, one("middleware", promThree), one("middleware", oursMiddleware)),
		ratio("otelhttp / middleware, 1 thread", 30, least, one("middleware", otelMiddleware), one("middleware", oursMiddleware)),
	}
}

func aboveClock(t report.Tables) (float64, error) {
	var v [3]float64
	for i, name := range []string{oursMiddleware, bareHandler, clockReads} {
		var err error
		if v[i], err = t.Median("middleware", name, "one"); err != nil {
			return 0, err
		}
	}
	return v[0] - v[1] - v[2], nil
}
