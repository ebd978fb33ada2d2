package qps

import (
	"runtime"
	"runtime/metrics"
	"time"
)

// ProcessSnapshot is the state of a process. What the system does not tell is
// zero and left out of the metrics: outside Linux that is all but the first
// three fields.
type ProcessSnapshot struct {
	// GoVersion is the version of Go that built the program.
	GoVersion string `json:"go_version,omitempty"`
	// Goroutines is the number of goroutines.
	Goroutines int `json:"goroutines,omitempty"`
	// HeapBytes is the memory of live objects and of dead ones that have not
	// been collected.
	HeapBytes uint64 `json:"heap_bytes,omitempty"`
	// CPU is the time that the process has computed, in user and system mode.
	CPU time.Duration `json:"cpu_ns,omitempty"`
	// ResidentBytes is the memory that is in RAM.
	ResidentBytes uint64 `json:"resident_bytes,omitempty"`
	// OpenFiles and MaxFiles are the number of file descriptors and their limit.
	OpenFiles int    `json:"open_files,omitempty"`
	MaxFiles  uint64 `json:"max_files,omitempty"`
	// Start is when the process was started, in UTC, to about a second.
	Start time.Time `json:"start,omitzero"`
}

func readProcess() ProcessSnapshot {
	// Unlike runtime.ReadMemStats this does not stop the world.
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	p := ProcessSnapshot{GoVersion: runtime.Version(), Goroutines: runtime.NumGoroutine()}
	if sample[0].Value.Kind() == metrics.KindUint64 {
		p.HeapBytes = sample[0].Value.Uint64()
	}
	readSystem(&p)
	return p
}
