package firewall

import (
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSwapUnderLoad replaces a set of 2,000 prefixes 100 times while requests and
// connections are decided. TestSoakSwapUnderLoad does so with 100,000 prefixes,
// which takes too long under the race detector.
func TestSwapUnderLoad(t *testing.T) { swapUnderLoad(t, 2_000, 100) }

// swapUnderLoad has two lists of prefixes take turns. One network is in both, one is
// in neither, and one is in the first. A verdict is wrong if it is about one
// of the first two and not what it always has to be, and if a decision sees the set before
// a swap in one rule and after it in the next, so that neither rule applies.
func swapUnderLoad(t *testing.T, size, swaps int) {
	all := randomPrefixes(2 * size) // none in 240.0.0.0/4
	both, first := netip.MustParsePrefix("240.0.0.0/8"), netip.MustParsePrefix("241.0.0.0/8")
	lists := [2][]netip.Prefix{
		append(all[:size:size], both, first),
		append(all[size:], both),
	}
	set, err := NewPrefixSet(lists[0]...)
	if err != nil {
		t.Fatal(err)
	}
	f := newFirewall(t, Config{Policy: Policy{
		Sets: map[string]*PrefixSet{"s": set},
		Rules: []Rule{
			{ID: "in", Match: SourceSet("s")},
			{ID: "out", Match: Not(SourceSet("s")), Verdict: Accept},
		},
		Default: Reject, // by which nothing may be decided
	}})
	var decided, wrong, changed atomic.Uint64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			last := no
			for {
				select {
				case <-stop:
					return
				default:
				}
				for i, src := range []netip.AddrPort{
					netip.MustParseAddrPort("240.1.1.1:5"),
					netip.MustParseAddrPort("250.1.1.1:5"),
					netip.MustParseAddrPort("241.1.1.1:5"),
				} {
					for _, d := range []Decision{f.DecideConn(src, src), f.DecideRequest(swapRequest(src))} {
						in := truthOf(d.RuleID == "in")
						switch {
						case d.Reason != ByRule, i == 0 && in != yes, i == 1 && in != no:
							wrong.Add(1)
						case i == 2 && in != last:
							last = in
							changed.Add(1)
						}
						decided.Add(1)
					}
				}
			}
		})
	}
	deadline := time.Now().Add(5 * time.Minute)
	for i := range swaps {
		before := decided.Load()
		if err := set.Replace(lists[(i+1)%2]...); err != nil {
			t.Error(err)
			break
		}
		for decided.Load()-before < 20 { // so that each list is seen
			if time.Now().After(deadline) {
				t.Error("no decisions are made")
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
	close(stop)
	load.Wait()
	if wrong.Load() > 0 || changed.Load() < uint64(swaps)/2 {
		t.Errorf("%d verdicts of %d were wrong; the change was seen %d times in %d swaps", wrong.Load(), decided.Load(), changed.Load(), swaps)
	}
	t.Logf("%d verdicts during %d swaps of %d prefixes, none wrong", decided.Load(), swaps, size)
}

func swapRequest(src netip.AddrPort) *http.Request {
	return &http.Request{Method: http.MethodGet, RemoteAddr: src.String(), Header: http.Header{}}
}
