// Package qpsbench compares what recording costs: counters, histograms and
// middlewares of the well-known libraries with those of package qps.
package qpsbench

import (
	"context"
	"math"
	"math/rand/v2"
	"time"

	"github.com/palisade-go/palisade/bench/internal/measure"
	"github.com/palisade-go/palisade/bench/internal/report"
)

// Suite is what -run qps runs.
func Suite() report.Suite {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return report.Suite{Name: "qps", Scenarios: names, Targets: targets(), Run: run}
}

type scenario struct {
	name, about string
	operations  func() ([]measure.Operation, error)
}

func scenarios() []scenario {
	return []scenario{
		{"counter", "To add 1 to a counter that all threads share.", counters},
		{"histogram", "To record a duration, lognormal around 0.9 ms, in a histogram that all threads share.", histograms},
		{"middleware", "To serve a request by a handler that writes 5 bytes to nowhere, with metrics around it.", middlewares},
	}
}

func run(ctx context.Context, o report.Options, out *report.Section) error {
	out.Programs = append(out.Programs, report.Modules(
		"github.com/prometheus/client_golang", "go.opentelemetry.io/otel", "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp",
		"github.com/VictoriaMetrics/metrics", "github.com/puzpuzpuz/xsync/v4", "github.com/DataDog/sketches-go",
		"github.com/HdrHistogram/hdrhistogram-go")...)
	for _, s := range scenarios() {
		if !o.Wants(s.name) {
			continue
		}
		ops, err := s.operations()
		if err != nil {
			return err
		}
		table, err := report.MeasureOperations(ctx, o, s.name, s.about, ops)
		out.Tables = append(out.Tables, table)
		if err != nil {
			return err
		}
	}
	return nil
}

// durations are what the histograms record, over and over: they are as uneven as
// those of a server, and drawing them takes no time that is measured.
func durations() *[256]time.Duration {
	r := rand.New(rand.NewPCG(3, 5))
	d := new([256]time.Duration)
	for i := range d {
		d[i] = time.Duration(math.Exp(r.NormFloat64()*0.7) * 9e5)
	}
	return d
}

// each returns an operation that calls f with one duration after the other, from
// a place of its own for each thread.
func each(name string, f func() func(time.Duration)) measure.Operation {
	all := durations()
	return measure.Operation{Name: name, Prepare: func() func() {
		record := f()
		i := rand.Uint32()
		return func() {
			record(all[i%256])
			i++
		}
	}}
}

// same returns an operation that is the same for all threads.
func same(name string, f func()) measure.Operation {
	return measure.Operation{Name: name, Prepare: func() func() { return f }}
}
