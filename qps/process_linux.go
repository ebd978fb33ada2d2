package qps

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"
)

// userHZ is the unit of times in /proc: proc(5) gives it as a constant of the
// kernel's interface to programs.
const userHZ = 100

func readSystem(p *ProcessSnapshot) {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		p.CPU = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		p.MaxFiles = limit.Cur
	}
	p.OpenFiles = openFiles()
	buf := make([]byte, headBytes)
	if pages, ok := field(head("/proc/self/statm", buf), 1); ok {
		p.ResidentBytes = pages * uint64(os.Getpagesize())
	}
	p.NetworkIn, p.NetworkOut = traffic(head("/proc/self/net/dev", buf))
	p.PressureCPU = pressure(head("/proc/pressure/cpu", buf))
	p.PressureMemory = pressure(head("/proc/pressure/memory", buf))
	p.PressureIO = pressure(head("/proc/pressure/io", buf))
}

// processStart is when this process was started.
func processStart() time.Time {
	return startTime(head("/proc/self/stat", make([]byte, headBytes)), head("/proc/stat", make([]byte, headBytes)))
}

// traffic adds the bytes of all interfaces but loopback: the first and the ninth
// number after the name.
func traffic(dev []byte) (in, out uint64) {
	for line := range bytes.Lines(dev) {
		name, counts, ok := bytes.Cut(line, []byte(":"))
		if !ok || string(bytes.TrimSpace(name)) == "lo" {
			continue
		}
		received, ok1 := field(counts, 0)
		sent, ok2 := field(counts, 8)
		if ok1 && ok2 {
			in, out = in+received, out+sent
		}
	}
	return in, out
}

// pressure reads the total of the line "some", which is in microseconds. The
// file is not there if the kernel was built or started without it.
func pressure(file []byte) time.Duration {
	for line := range bytes.Lines(file) {
		rest, ok := bytes.CutPrefix(line, []byte("some "))
		if !ok {
			continue
		}
		_, total, _ := bytes.Cut(rest, []byte("total="))
		micros, ok := field(total, 0)
		if !ok || micros > 1<<53 {
			return 0
		}
		return time.Duration(micros) * time.Microsecond
	}
	return 0
}

const (
	headBytes = 4 << 10
	mostBytes = 1 << 20
)

// head reads the beginning of a file of /proc into buf, or into a larger one:
// /proc/stat has a few lines per CPU and interrupt. Package os would register the
// file with the poller first, which costs more than reading it.
func head(path string, buf []byte) []byte {
	fd, err := again(func() (int, error) { return syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0) })
	if err != nil {
		return nil
	}
	defer syscall.Close(fd)
	for n := 0; ; {
		got, err := again(func() (int, error) { return syscall.Read(fd, buf[n:]) })
		if err != nil {
			return nil
		}
		if n += got; got == 0 || n == mostBytes {
			return buf[:n]
		}
		if n == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
}

// again calls until no signal interrupts.
func again(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// field returns the number in the i-th field, from 0, of a line.
func field(line []byte, i int) (uint64, bool) {
	fields := bytes.Fields(line)
	if i >= len(fields) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(fields[i]), 10, 64)
	return n, err == nil
}

// openFiles asks for the size of the folder, which Linux 6.2 and later give as
// the number of descriptors; before that it was 0, and they are counted.
func openFiles() int {
	const dir = "/proc/self/fd"
	if info, err := os.Stat(dir); err == nil && info.Size() > 0 {
		return int(info.Size())
	}
	f, err := os.Open(dir)
	if err != nil {
		return 0
	}
	defer f.Close()
	n := 0
	for {
		names, err := f.Readdirnames(512)
		n += len(names)
		if err != nil {
			return max(n-1, 0) // one of them is f
		}
	}
}

// startTime adds the process's age at its start, in ticks since boot, to the
// time of boot. The zero time means that it is not known.
func startTime(self, system []byte) time.Time {
	// The second field is the program's name in parentheses and may hold
	// anything; the start is field 22 in the count of proc(5).
	i := bytes.LastIndexByte(self, ')')
	if i < 0 {
		return time.Time{}
	}
	ticks, ok := field(self[i+1:], 22-3)
	if !ok {
		return time.Time{}
	}
	for line := range bytes.Lines(system) {
		rest, found := bytes.CutPrefix(line, []byte("btime "))
		if !found {
			continue
		}
		boot, ok := field(rest, 0)
		// Year 9999 is the last that JSON can hold.
		if !ok || boot > 250e9 || ticks > 1e12 {
			return time.Time{}
		}
		return time.Unix(int64(boot+ticks/userHZ), 0).UTC()
	}
	return time.Time{}
}
