package proc

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain serves as the program that the tests start, when it is told to.
func TestMain(m *testing.M) {
	if addr := os.Getenv("PROC_TEST_LISTEN"); addr != "" {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			os.Exit(1)
		}
		child := exec.Command("sleep", "60")
		if err := child.Start(); err != nil {
			os.Exit(1)
		}
		for {
			conn, err := ln.Accept()
			if err != nil {
				os.Exit(0)
			}
			for begin := time.Now(); time.Since(begin) < 20*time.Millisecond; {
			}
			conn.Close()
		}
	}
	os.Exit(m.Run())
}

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		line string
		want stat
		ok   bool
	}{
		{"42 (nginx) S 1 42 42 0 -1 4194560", stat{42, 1, 'S'}, true},
		{"7 (a) b (c)) R 6 7", stat{7, 6, 'R'}, true},
		{"8 (new\nline) Z 5 1", stat{8, 5, 'Z'}, true},
		{"42 nginx S 1", stat{}, false},
		{"x (a) S 1", stat{}, false},
		{"1 (a) S", stat{}, false},
		{"1 (a) S y", stat{}, false},
		{"", stat{}, false},
	} {
		got, err := parseStat([]byte(c.line))
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("parseStat(%q) = %+v, %v, want %+v", c.line, got, err, c.want)
		}
	}
}

func TestParseField(t *testing.T) {
	text := []byte("00400000-7ffc [rollup]\nRss:    1234 kB\nPss:     567 kB\nPss_Anon: 5 kB\nBad: 5 MB\nWorse: x kB\n")
	for name, want := range map[string]int64{"Rss:": 1234, "Pss:": 567, "Pss_Anon:": 5} {
		if got, err := parseField(text, name); got != want || err != nil {
			t.Errorf("%s %d, %v, want %d", name, got, err, want)
		}
	}
	for _, name := range []string{"Bad:", "Worse:", "None:"} {
		if got, err := parseField(text, name); err == nil {
			t.Errorf("%s %d, want an error", name, got)
		}
	}
}

// FuzzParseStat checks that what is read is in the line.
func FuzzParseStat(f *testing.F) {
	f.Add("42 (nginx) S 1 42 42")
	f.Add("7 (a) b (c)) R 6 7")
	f.Fuzz(func(t *testing.T, line string) {
		s, err := parseStat([]byte(line))
		if err == nil && !strings.Contains(line, string(s.state)) {
			t.Errorf("the state %q is not in %q", s.state, line)
		}
	})
}

// TestProcess starts a program with a child, and checks its processes, its
// processor time, its memory and its end.
func TestProcess(t *testing.T) {
	addr, err := FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	cores, err := Split()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(t.Context(), cores.Proxy, addr, []string{"PROC_TEST_LISTEN=" + addr}, os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	var tree []int
	for deadline := time.Now().Add(10 * time.Second); len(tree) < 2; {
		if tree, err = p.Tree(); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the processes are %v, want two", tree)
		}
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(tree[0], &set); err != nil || set != cores.Proxy {
		t.Errorf("it may use %v (%v), want %v", set, err, cores.Proxy)
	}
	before, err := TreeCPU(tree)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	conn.Read(make([]byte, 1)) // until it closes
	conn.Close()
	after, err := TreeCPU(tree)
	if used := after - before; err != nil || used < time.Millisecond || used > 10*time.Second {
		t.Errorf("to loop for 20 ms it used %v of processor time, %v", used, err)
	}
	if pss, err := PSS(tree); err != nil || pss < 1<<20 {
		t.Errorf("its memory is %d bytes, %v", pss, err)
	}
	p.Stop()
	p.Stop()
	if _, err := p.Tree(); err == nil {
		t.Error("a program that was stopped has processes")
	}
	for _, pid := range tree {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		if s, err := parseStat(line); err == nil && s.state != 'Z' && s.state != 'X' {
			t.Errorf("process %d is in state %c after Stop", pid, s.state)
		}
	}
}

func TestStartFails(t *testing.T) {
	cores, err := Split()
	if err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), cores.Proxy, "127.0.0.1:1", nil, "sh", "-c", "echo no such luck; exit 3")
	if err == nil || !strings.Contains(err.Error(), "no such luck") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("the error is %v, want what the program said", err)
	}
	if _, err = Start(t.Context(), cores.Proxy, "127.0.0.1:1", nil, "/nonexistent/program"); err == nil {
		t.Error("a program that does not exist was started")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = Start(ctx, cores.Proxy, "127.0.0.1:1", nil, "sleep", "60"); err == nil {
		t.Error("a program that does not listen is ready")
	}
}

func TestTreeOfNobody(t *testing.T) {
	if tree, err := Tree(1 << 30); err == nil {
		t.Errorf("process 2^30 is %v", tree)
	}
	tree, err := Tree(os.Getpid())
	if err != nil || !slices.Contains(tree, os.Getpid()) {
		t.Errorf("this process is not in its tree %v, %v", tree, err)
	}
	if _, err := CPU(1 << 28); err == nil {
		t.Error("process 2^28 has used processor time")
	}
}

func TestTail(t *testing.T) {
	var out tail
	for range 1000 {
		out.Write([]byte("0123456789"))
	}
	out.Write([]byte("the end\n"))
	if s := out.String(); len(s) >= tailBytes+1 || !strings.HasSuffix(s, "789the end") {
		t.Errorf("%d bytes are kept: %.20q…", len(s), s)
	}
}
