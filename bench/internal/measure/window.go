package measure

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Operation is something so short that it is measured many times at once.
type Operation struct {
	Name string
	// Prepare returns what is measured, once for each thread, so that threads
	// share only what the operation shares.
	Prepare func() func()
}

// Windowed is how long an operation took in each window that counts, in
// nanoseconds.
type Windowed struct {
	Nanos []float64
	Tried int // windows, those that do not count too
}

const (
	windowLength = 400 * time.Microsecond
	warmOps      = 200 // before a window
	batchOps     = 64  // between two looks at the clock
	minBusy      = 0.95
	minTogether  = 0.85
)

// Windows measures operations on several threads at once, a short window of
// each in turn, until each has enough windows that count or limit has passed. On
// a machine that others use too, "go test -bench" measures them as well, and
// hides contention, because its threads seldom run together. So a window counts
// only if each thread had a processor to itself 95 % of the time and ran beside
// the others for 85 %.
func Windows(threads, enough int, limit time.Duration, ops []Operation) []Windowed {
	all := make([]Windowed, len(ops))
	for begin := time.Now(); time.Since(begin) < limit; {
		missing := false
		for i, op := range ops {
			w := &all[i]
			if len(w.Nanos) >= enough {
				continue
			}
			w.Tried++
			if nanos, ok := window(threads, op.Prepare); ok {
				w.Nanos = append(w.Nanos, nanos)
			}
			missing = missing || len(w.Nanos) < enough
		}
		if !missing {
			break
		}
	}
	return all
}

// span is what one thread did in a window.
type span struct {
	begin, end time.Time
	cpu        time.Duration
	ops        int
}

func window(threads int, prepare func() func()) (nanos float64, ok bool) {
	spans := make([]span, threads)
	var ready atomic.Int32
	var all sync.WaitGroup
	for i := range threads {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			// Prepare may look at which processor it runs on, so that all threads
			// must have one.
			ready.Add(1)
			for int(ready.Load()) < threads {
			}
			op := prepare()
			for range warmOps {
				op()
			}
			ready.Add(1)
			for int(ready.Load()) < 2*threads {
			}
			s := span{begin: time.Now()}
			before := threadCPU()
			for s.end = s.begin; s.end.Sub(s.begin) < windowLength; s.end = time.Now() {
				for range batchOps {
					op()
				}
				s.ops += batchOps
			}
			s.cpu = threadCPU() - before
			spans[i] = s
		})
	}
	all.Wait()
	return judge(spans)
}

// judge returns the mean time of an operation, and whether the window counts.
func judge(spans []span) (nanos float64, ok bool) {
	begin, end := spans[0].begin, spans[0].end
	for _, s := range spans {
		wall := s.end.Sub(s.begin)
		if float64(s.cpu) < minBusy*float64(wall) {
			return 0, false
		}
		if s.begin.After(begin) {
			begin = s.begin
		}
		if s.end.Before(end) {
			end = s.end
		}
		nanos += float64(wall) / float64(s.ops) / float64(len(spans))
	}
	for _, s := range spans {
		if float64(end.Sub(begin)) < minTogether*float64(s.end.Sub(s.begin)) {
			return 0, false
		}
	}
	return nanos, true
}

// threadCPU reads the clock of the thread. Getrusage would not do: what it tells
// is as old as the last tick of the kernel, longer than a window.
func threadCPU() time.Duration { return clock(unix.CLOCK_THREAD_CPUTIME_ID) }

// ProcessCPU returns the processor time that this process has used.
func ProcessCPU() time.Duration { return clock(unix.CLOCK_PROCESS_CPUTIME_ID) }

// clock returns 0 if there is no such clock, so that no window counts.
func clock(id int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
