package report

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is where the figures were measured, and what.
type Machine struct {
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`
	Kernel  string `json:"kernel"`
	TCP     string `json:"tcp"` // congestion control
	Go      string `json:"go"`
	Commit  string `json:"commit"`
	Changed bool   `json:"changed,omitempty"` // the sources are not those of the commit
}

// ThisMachine asks the system; root is the folder of the sources.
func ThisMachine(root string) Machine {
	m := Machine{CPU: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version(), Commit: "unknown"}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.CPU = cpuModel(text, m.CPU)
	}
	if text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control"); err == nil {
		m.TCP = string(bytes.TrimSpace(text))
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if out, err := exec.Command("git", "-C", root, "rev-parse", "--short=12", "HEAD").Output(); err == nil {
		m.Commit = string(bytes.TrimSpace(out))
	}
	// The report itself may have changed.
	out, err := exec.Command("git", "-C", root, "status", "--porcelain", "--", ".", ":!bench/report.*").Output()
	m.Changed = err == nil && len(out) > 0
	return m
}

// cpuModel returns the model that /proc/cpuinfo has, or fallback.
func cpuModel(cpuinfo []byte, fallback string) string {
	for line := range strings.Lines(string(cpuinfo)) {
		name, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return fallback
}

func (m Machine) String() string {
	changed := ""
	if m.Changed {
		changed = " with changes"
	}
	return fmt.Sprintf("%s, %d processors, Linux %s, TCP %s, %s, commit %s%s.", m.CPU, m.Cores, m.Kernel, m.TCP, m.Go, m.Commit, changed)
}
