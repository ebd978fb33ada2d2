package leaktest

import (
	"strings"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

func TestInterestingFindsALeak(t *testing.T) {
	before := make(map[string]bool)
	for _, g := range goroutines() {
		before[id(g)] = true
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); leakOnPurpose(stop) }()
	var found []string
	for len(found) == 0 {
		found = interesting(goroutines(), before, nil)
	}
	if len(found) != 1 || !strings.Contains(found[0], "leaktest") {
		t.Errorf("found %d leaks, want the one started here: %q", len(found), found)
	}
	if got := interesting(found, nil, []string{"leakOnPurpose", "TestInterestingFindsALeak"}); len(got) != 0 {
		t.Errorf("an ignored function was reported: %q", got)
	}
	close(stop)
	<-done
	if left := wait(before, nil); len(left) != 0 {
		t.Errorf("reported after its end: %q", left)
	}
}

func leakOnPurpose(stop chan struct{}) { <-stop }
