package qps

import (
	"runtime"
	"runtime/metrics"
	"time"
)

// ProcessSnapshot is the state of a process. What the system does not tell is
// zero and left out of the metrics: outside Linux that is all but the first
// five fields.
type ProcessSnapshot struct {
	// GoVersion is the version of Go that built the program.
	GoVersion string `json:"go_version,omitempty"`
	// Goroutines is the number of goroutines.
	Goroutines int `json:"goroutines,omitempty"`
	// HeapBytes is the memory of live objects and of dead ones that have not
	// been collected.
	HeapBytes uint64 `json:"heap_bytes,omitempty"`
	// GCCycles counts garbage collections, GCCPU is the time they have computed.
	GCCycles uint64        `json:"gc_cycles,omitempty"`
	GCCPU    time.Duration `json:"gc_cpu_ns,omitempty"`
	// CPU is the time that the process has computed, in user and system mode.
	CPU time.Duration `json:"cpu_ns,omitempty"`
	// ResidentBytes is the memory that is in RAM.
	ResidentBytes uint64 `json:"resident_bytes,omitempty"`
	// OpenFiles and MaxFiles are the number of file descriptors and their limit.
	OpenFiles int    `json:"open_files,omitempty"`
	MaxFiles  uint64 `json:"max_files,omitempty"`
	// Start is when the process was started, in UTC, to about a second.
	Start time.Time `json:"start,omitzero"`
	// NetworkIn and NetworkOut are bytes of all interfaces but loopback, in the
	// network namespace of the process.
	NetworkIn  uint64 `json:"network_in,omitempty"`
	NetworkOut uint64 `json:"network_out,omitempty"`
	// PressureCPU, PressureMemory and PressureIO are the times in which at least
	// one task of the machine stood still for want of it (Linux pressure stall
	// information, "some").
	PressureCPU    time.Duration `json:"pressure_cpu_ns,omitempty"`
	PressureMemory time.Duration `json:"pressure_memory_ns,omitempty"`
	PressureIO     time.Duration `json:"pressure_io_ns,omitempty"`
}

// readProcess reads what changes.
func readProcess(started time.Time) ProcessSnapshot {
	// Unlike runtime.ReadMemStats this does not stop the world.
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}, {Name: "/cpu/classes/gc/total:cpu-seconds"},
	}
	metrics.Read(samples)
	p := ProcessSnapshot{GoVersion: runtime.Version(), Start: started, Goroutines: runtime.NumGoroutine()}
	if v := samples[0].Value; v.Kind() == metrics.KindUint64 {
		p.HeapBytes = v.Uint64()
	}
	if v := samples[1].Value; v.Kind() == metrics.KindUint64 {
		p.GCCycles = v.Uint64()
	}
	if v := samples[2].Value; v.Kind() == metrics.KindFloat64 {
		p.GCCPU = time.Duration(v.Float64() * float64(time.Second))
	}
	readSystem(&p)
	return p
}
