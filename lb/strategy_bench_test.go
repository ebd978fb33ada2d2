//go:build unix

package lb

import (
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
)

// cpuTime adds the processor time of an operation, which other processes on the
// machine cannot prolong, to what b reports. The operation runs in b's goroutine.
func cpuTime(b *testing.B) {
	const thread = 1 // RUSAGE_THREAD
	now := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(thread, &u); err != nil {
			return 0
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	runtime.LockOSThread()
	began := now()
	b.Cleanup(func() {
		defer runtime.UnlockOSThread()
		if used := now() - began; used > 0 {
			b.ReportMetric(float64(used)/float64(b.N), "cpu-ns/op")
		}
	})
}

// BenchmarkPick is the time of a choice. Those that look at latency know one of
// each backend.
func BenchmarkPick(b *testing.B) {
	for _, s := range allStrategies {
		for _, n := range []int{10, 1000} {
			b.Run(benchName(s, n), func(b *testing.B) {
				p := s.Build(benchBackends(n))
				info := PickInfo{Key: "user-12345"}
				b.ReportAllocs()
				cpuTime(b)
				for b.Loop() {
					p.Pick(info)
				}
			})
		}
	}
}

// BenchmarkPickParallel shows what the processors pay for each other: run it with
// -cpu 1,2.
func BenchmarkPickParallel(b *testing.B) {
	for _, s := range allStrategies {
		b.Run(benchName(s, 10), func(b *testing.B) {
			p := s.Build(benchBackends(10))
			b.RunParallel(func(pb *testing.PB) {
				info := PickInfo{Key: "user-12345"}
				for pb.Next() {
					p.Pick(info)
				}
			})
		})
	}
}

// BenchmarkPickDone is a whole turn in a pool.
func BenchmarkPickDone(b *testing.B) {
	for _, s := range []Strategy{RoundRobin{}, LeastRequest{}, PeakEWMA{}, HotColdLexicographic{}} {
		b.Run(benchName(s, 10), func(b *testing.B) {
			pool := poolOf(b, PoolConfig{Strategy: s}, 10)
			b.ReportAllocs()
			cpuTime(b)
			for b.Loop() {
				picked, err := pool.Pick(PickInfo{})
				if err != nil {
					b.Fatal(err)
				}
				picked.Done(Outcome{Status: 200, Duration: time.Millisecond})
			}
		})
	}
}

// BenchmarkBuild is what a change of the set costs.
func BenchmarkBuild(b *testing.B) {
	for _, s := range []Strategy{LeastRequest{}, Random{}, RingHash{}, Maglev{}, Rendezvous{}} {
		for _, n := range []int{10, 1000} {
			b.Run(benchName(s, n), func(b *testing.B) {
				backends := benchBackends(n)
				cpuTime(b)
				for b.Loop() {
					s.Build(backends)
				}
			})
		}
	}
	for _, weights := range [][]int{{1}, {1, 2, 3}} {
		b.Run(fmt.Sprintf("Maglev-65537/1000/weights=%v", weights), func(b *testing.B) {
			backends := backendsOf(slices.Repeat(weights, 1000/len(weights))...)
			cpuTime(b)
			for b.Loop() {
				newMaglevTable(backends, 65_537)
			}
		})
	}
}

func benchName(s Strategy, n int) string {
	name := fmt.Sprintf("%T", s)[len("lb."):]
	if bounded, ok := s.(BoundedLoad); ok && bounded.Over != nil {
		name += fmt.Sprintf("-%T", bounded.Over)[len("-lb."):]
	}
	return fmt.Sprintf("%s/%d", name, n)
}

func benchBackends(n int) []*Backend {
	backends := backendsOf(slices.Repeat([]int{1}, n)...)
	now := tickNow()
	for i, b := range backends {
		b.latency.observe(nanosOf(time.Millisecond)*(1+0.1*float32(i%5)), 1000, now, false)
	}
	return backends
}
