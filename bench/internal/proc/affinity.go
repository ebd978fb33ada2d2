package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Cores says which processors the programs that are compared run on, and which
// the load and the backend. On a machine with one processor they share it.
type Cores struct {
	Proxy, Load unix.CPUSet
	All         unix.CPUSet // both
}

// Split gives the first processor that this process may use to the programs
// that are compared and the others to the load.
func Split() (Cores, error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return Cores{}, fmt.Errorf("proc: sched_getaffinity: %w", err)
	}
	c := Cores{Load: all, All: all}
	for cpu := range len(all) * 64 {
		if all.IsSet(cpu) {
			c.Proxy.Set(cpu)
			break
		}
	}
	if all.Count() > 1 {
		for cpu := range len(all) * 64 {
			if c.Proxy.IsSet(cpu) {
				c.Load.Clear(cpu)
			}
		}
	}
	return c, nil
}

// PinSelf moves every thread of this process to the processors of set. Threads
// that start later inherit it.
func PinSelf(set unix.CPUSet) error {
	tasks, err := filepath.Glob("/proc/self/task/[0-9]*")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(filepath.Base(t))
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil {
			if _, gone := os.Stat(t); gone != nil {
				continue
			}
			return fmt.Errorf("proc: sched_setaffinity of thread %d: %w", tid, err)
		}
	}
	return nil
}

// onCores calls f in a thread that may only use the processors of set, so that
// the processes that it starts inherit that.
func onCores(set unix.CPUSet, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("proc: sched_getaffinity: %w", err)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("proc: sched_setaffinity: %w", err)
	}
	err := f()
	if back := unix.SchedSetaffinity(0, &before); back != nil && err == nil {
		return fmt.Errorf("proc: sched_setaffinity: %w", back)
	}
	return err
}
