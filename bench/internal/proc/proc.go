// Package proc starts the programs that are compared and accounts for their
// processor time and memory. It reads /proc, so that it needs Linux.
package proc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stat is what we need of /proc/PID/stat, proc_pid_stat(5).
type stat struct {
	pid, parent int
	state       byte
}

// parseStat reads a line of /proc/PID/stat. The command's name is in brackets
// and may have anything in it, brackets and newlines too.
func parseStat(line []byte) (stat, error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("proc: no command in brackets in %q", line)
	}
	rest := bytes.Fields(line[end+1:])
	if len(rest) < 2 || len(rest[0]) != 1 {
		return stat{}, fmt.Errorf("proc: no state and parent in %q", line)
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(line[:open])))
	parent, err2 := strconv.Atoi(string(rest[1]))
	if err := errors.Join(err, err2); err != nil {
		return stat{}, fmt.Errorf("proc: %w", err)
	}
	return stat{pid: pid, parent: parent, state: rest[0][0]}, nil
}

// Tree returns a process and its descendants that live, in ascending order.
func Tree(root int) ([]int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	found := false
	for _, p := range paths {
		line, err := os.ReadFile(p)
		if err != nil {
			continue // it has ended meanwhile
		}
		s, err := parseStat(line)
		if err != nil {
			return nil, err
		}
		if s.state == 'Z' || s.state == 'X' {
			continue
		}
		found = found || s.pid == root
		children[s.parent] = append(children[s.parent], s.pid)
	}
	if !found {
		return nil, fmt.Errorf("proc: no process %d", root)
	}
	tree := []int{root}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	slices.Sort(tree)
	return tree, nil
}

// CPU returns the processor time, user and system, that a process has used in
// all its threads, those that have ended included. It reads the clock of the
// process, clock_getcpuclockid(3), which counts nanoseconds where /proc/PID/stat
// counts ticks of 10 ms.
func CPU(pid int) (time.Duration, error) {
	const clockSched = 2 // CPUCLOCK_SCHED of the whole process
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|clockSched), &ts); err != nil {
		return 0, fmt.Errorf("proc: clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// TreeCPU returns the sum of CPU over the processes.
func TreeCPU(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		d, err := CPU(pid)
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// PSS returns the proportional resident memory of the processes, in bytes: a
// page that n processes share counts 1/n to each.
func PSS(pids []int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, fmt.Errorf("proc: %w", err)
		}
		kb, err := parseField(text, "Pss:")
		if err != nil {
			return 0, err
		}
		sum += kb << 10
	}
	return sum, nil
}

// parseField returns the number after a name at the beginning of a line, as
// /proc/PID/smaps_rollup has it.
func parseField(text []byte, name string) (int64, error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok {
			continue
		}
		number, unit, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if unit != "kB" {
			return 0, fmt.Errorf("proc: %s is in %q, want kB", name, unit)
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("proc: %s: %w", name, err)
		}
		return n, nil
	}
	return 0, fmt.Errorf("proc: no line begins with %s", name)
}
