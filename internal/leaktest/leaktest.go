// Package leaktest fails a test, or a whole test binary, that leaves
// goroutines behind.
//
// Every package of this project calls [Main] from its TestMain, because
// "every goroutine ends on Close" is a promise of the public API.
package leaktest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience bounds how long goroutines that are on their way out may take.
// A loaded machine needs more than one might expect; a leak never ends.
const patience = 5 * time.Second

// Main runs the tests of m and exits with status 1 if they pass but leave
// goroutines behind. A goroutine whose stack contains one of ignore is not
// counted; name a function of a third-party package there, with the reason.
func Main(m *testing.M, ignore ...string) { os.Exit(Run(m, ignore...)) }

// Run is [Main] for a TestMain that has something to clean up: it returns the
// exit status instead of exiting.
func Run(m *testing.M, ignore ...string) int {
	code := m.Run()
	if code == 0 {
		if leaked := wait(nil, ignore); len(leaked) > 0 {
			fmt.Fprintf(os.Stderr, "leaktest: %d goroutines left after the tests:\n\n%s\n", len(leaked), strings.Join(leaked, "\n\n"))
			code = 1
		}
	}
	return code
}

// Check fails tb at its end if goroutines that did not exist at the call are
// still running then. It must not be used in parallel tests, which share the
// process's goroutines.
func Check(tb testing.TB, ignore ...string) {
	tb.Helper()
	before := make(map[string]bool)
	for _, g := range goroutines() {
		before[id(g)] = true
	}
	tb.Cleanup(func() {
		if leaked := wait(before, ignore); len(leaked) > 0 {
			tb.Errorf("%d goroutines left:\n\n%s", len(leaked), strings.Join(leaked, "\n\n"))
		}
	})
}

func wait(before map[string]bool, ignore []string) []string {
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		leaked := interesting(goroutines(), before, ignore)
		if len(leaked) == 0 || time.Now().After(deadline) {
			return leaked
		}
		time.Sleep(pause)
	}
}

func interesting(all []string, before map[string]bool, ignore []string) []string {
	// The runtime's own goroutines are not in the trace; these few belong to
	// the test binary, and the signal loop lives until the process ends.
	ignore = append([]string{
		"testing.(*M).", "testing.RunTests", "testing.(*T).Run", "testing.tRunner.func1", "testing.runFuzz", "testing.(*F).Fuzz",
		"os/signal.signal_recv", "os/signal.loop", "leaktest.goroutines", "runtime.ensureSigM", "runtime.ReadTrace",
	}, ignore...)
	var out []string
next:
	for _, g := range all {
		if before[id(g)] {
			continue
		}
		for _, s := range ignore {
			if strings.Contains(g, s) {
				continue next
			}
		}
		out = append(out, g)
	}
	return out
}

// goroutines returns one stack trace per goroutine.
func goroutines() []string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			return strings.Split(strings.TrimSpace(string(buf[:n])), "\n\n")
		}
		buf = make([]byte, 2*len(buf))
	}
}

// id is the "goroutine N" of a trace; the runtime never reuses N.
func id(trace string) string {
	head, _, _ := strings.Cut(trace, " [")
	return head
}
