package qpsbench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/puzpuzpuz/xsync/v4"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/palisade-go/palisade/bench/internal/measure"
	"github.com/palisade-go/palisade/qps"
)

// The operations that the targets are about.
const (
	plainAtomic    = "a plain atomic"
	heldCounter    = "palisade Counter, shard held"
	vmCounter      = "VictoriaMetrics Counter"
	promCounter    = "Prometheus Counter"
	heldRecorder   = "palisade Recorder, shard held"
	vmHistogram    = "VictoriaMetrics Histogram"
	ddSketchLocked = "DDSketch 1 %, mutex"
)

func counters() ([]measure.Operation, error) {
	ours := new(qps.Counter)
	vm := metrics.NewSet().NewCounter("c")
	prom := prometheus.NewCounter(prometheus.CounterOpts{Name: "c"})
	xs := xsync.NewCounter()
	otel, err := otelMeter().Int64Counter("c")
	if err != nil {
		return nil, err
	}
	with := metric.WithAttributeSet(attribute.NewSet(attribute.String("route", "/")))
	ctx := context.Background()
	plain := new(atomic.Uint64)
	return []measure.Operation{
		same(plainAtomic, func() { plain.Add(1) }),
		{Name: heldCounter, Prepare: func() func() { s := ours.Shard(); return func() { s.Add(1) } }},
		same("palisade Counter", ours.Inc),
		same(vmCounter, vm.Inc),
		same(promCounter, prom.Inc),
		same("xsync Counter", xs.Inc),
		same("OpenTelemetry Int64Counter, prebuilt set", func() { otel.Add(ctx, 1, with) }),
	}, nil
}

func otelMeter() metric.Meter {
	return sdk.NewMeterProvider(sdk.WithReader(sdk.NewManualReader())).Meter("bench")
}

func histograms() ([]measure.Operation, error) {
	ours := new(qps.Recorder)
	vm := metrics.NewSet().NewHistogram("h")
	classic := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h"})
	native := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "n", NativeHistogramBucketFactor: 1.1})
	otel, err := otelMeter().Float64Histogram("h")
	if err != nil {
		return nil, err
	}
	with := metric.WithAttributeSet(attribute.NewSet(attribute.String("route", "/")))
	ctx := context.Background()
	sketch, err := ddsketch.NewDefaultDDSketch(0.01)
	if err != nil {
		return nil, err
	}
	hdr := hdrhistogram.New(1, int64(time.Minute), 2)
	var sketchMu, hdrMu sync.Mutex
	return []measure.Operation{
		each(heldRecorder, func() func(time.Duration) { return ours.Shard().Record }),
		each("palisade Recorder", func() func(time.Duration) { return ours.Record }),
		each(vmHistogram, func() func(time.Duration) { return func(d time.Duration) { vm.Update(d.Seconds()) } }),
		each("Prometheus Histogram, 11 buckets", func() func(time.Duration) { return func(d time.Duration) { classic.Observe(d.Seconds()) } }),
		each("Prometheus native Histogram, 1.1", func() func(time.Duration) { return func(d time.Duration) { native.Observe(d.Seconds()) } }),
		each("OpenTelemetry Float64Histogram, prebuilt set", func() func(time.Duration) {
			return func(d time.Duration) { otel.Record(ctx, d.Seconds(), with) }
		}),
		each(ddSketchLocked, func() func(time.Duration) {
			return func(d time.Duration) {
				sketchMu.Lock()
				defer sketchMu.Unlock()
				sketch.Add(d.Seconds()) // fails for what is out of range only
			}
		}),
		each("HdrHistogram 2 digits, mutex", func() func(time.Duration) {
			return func(d time.Duration) {
				hdrMu.Lock()
				defer hdrMu.Unlock()
				hdr.RecordValue(int64(d))
			}
		}),
	}, nil
}
