package lb

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

func backendsOf(weights ...int) []*Backend {
	out := make([]*Backend, len(weights))
	for i, w := range weights {
		out[i] = &Backend{id: string(rune('a' + i%26))}
		out[i].weight.Store(int64(w))
	}
	return out
}

// order picks n times, each request ending before the next begins.
func order(p Picker, n int) string {
	var s strings.Builder
	for range n {
		s.WriteString(p.Pick(PickInfo{}).ID())
	}
	return s.String()
}

func TestRoundRobin(t *testing.T) {
	if got, want := order(RoundRobin{}.Build(backendsOf(1, 5, 1)), 7), "abcabca"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
}

// The first row is the example in the commit that brought the algorithm to
// nginx; the others follow from it by hand.
func TestWeightedRoundRobinOrder(t *testing.T) {
	for _, c := range []struct {
		weights []int
		want    string
	}{
		{[]int{5, 1, 1}, "aabacaa" + "aabacaa"},
		{[]int{1, 1, 1}, "abcabc"},
		{[]int{4, 2, 1}, "abacaba" + "abacaba"},
		{[]int{1}, "aaa"},
	} {
		if got := order(WeightedRoundRobin{}.Build(backendsOf(c.weights...)), len(c.want)); got != c.want {
			t.Errorf("weights %v: order %s, want %s", c.weights, got, c.want)
		}
	}
}

func TestWeightedRoundRobinIsExactUnderConcurrency(t *testing.T) {
	backends := backendsOf(7, 2, 1)
	p := WeightedRoundRobin{}.Build(backends)
	var mu sync.Mutex
	got := make(map[*Backend]int)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 100 {
				b := p.Pick(PickInfo{})
				mu.Lock()
				got[b]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for i, want := range []int{700, 200, 100} {
		if got[backends[i]] != want {
			t.Errorf("backend %v got %d requests, want %d", backends[i], got[backends[i]], want)
		}
	}
}

func TestLeastRequestPrefersTheIdle(t *testing.T) {
	backends := backendsOf(1, 1, 4)
	p := LeastRequest{}.Build(backends)
	for _, c := range []struct {
		inFlight [3]int64
		want     string
	}{
		{[3]int64{1, 0, 1}, "b"},
		{[3]int64{0, 1, 1}, "a"},
		{[3]int64{1, 1, 3}, "c"}, // 3 of weight 4 is less than 1 of weight 1
		{[3]int64{1, 2, 5}, "a"},
	} {
		for i, n := range c.inFlight {
			backends[i].inFlight.Store(n)
		}
		if got := order(p, 3); got != strings.Repeat(c.want, 3) {
			t.Errorf("in flight %v: picked %s, want %s", c.inFlight, got, c.want)
		}
	}
}

func TestLeastRequestSharesAmongEquals(t *testing.T) {
	if got, want := order(LeastRequest{}.Build(backendsOf(1, 1)), 6), "ababab"; got != want {
		t.Errorf("two idle backends: order %s, want %s", got, want)
	}
	got := order(LeastRequest{}.Build(backendsOf(3, 1)), 400)
	if a := strings.Count(got, "a"); a != 300 {
		t.Errorf("weights 3 and 1, idle: the first got %d of 400, want 300", a)
	}
	busy := backendsOf(1, 1, 1)
	busy[1].inFlight.Store(1)
	if got, want := order(LeastRequest{}.Build(busy), 4), "acac"; got != want {
		t.Errorf("the second is busy: order %s, want %s", got, want)
	}
}

func TestLeastRequestAmongMany(t *testing.T) {
	backends := backendsOf(slices.Repeat([]int{1}, 200)...)
	p := LeastRequest{}.Build(backends)
	if _, ok := p.(*betterOfTwo); !ok {
		t.Fatalf("%d backends get a %T", len(backends), p)
	}
	// Nobody ends: the better of two keeps the loads close, where a choice at
	// random would let the fullest reach about 20 above the mean.
	for range 50 * len(backends) {
		p.Pick(PickInfo{}).inFlight.Add(1)
	}
	for i, b := range backends {
		if n := b.InFlight(); n < 35 || n > 58 {
			t.Errorf("backend %d has %d in flight, want 50 or nearly so", i, n)
		}
	}
}

func TestPickersSkipTheTried(t *testing.T) {
	many := make([]int, scanMax+6)
	for i := range many {
		many[i] = i + 1
	}
	for _, s := range []Strategy{RoundRobin{}, WeightedRoundRobin{}, LeastRequest{}} {
		for _, weights := range [][]int{{1}, {1, 1}, {1, 2, 3}, many} {
			backends := backendsOf(weights...)
			p := s.Build(backends)
			var info PickInfo
			for range backends {
				b := p.Pick(info)
				if b == nil || info.HasTried(b) {
					t.Fatalf("%T, %d backends: after %d were tried, got %v", s, len(backends), len(info.Tried), b)
				}
				info.Tried = append(info.Tried, b)
			}
			if b := p.Pick(info); b != nil {
				t.Errorf("%T, %d backends: all were tried, got %v", s, len(backends), b)
			}
		}
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	for _, s := range []Strategy{RoundRobin{}, WeightedRoundRobin{}, LeastRequest{}} {
		for _, n := range []int{10, 100} {
			pool := poolOf(t, PoolConfig{Strategy: s}, n)
			if got := testing.AllocsPerRun(100, func() {
				picked, err := pool.Pick(PickInfo{})
				if err != nil {
					t.Fatal(err)
				}
				picked.Done(Outcome{})
			}); got != 0 {
				t.Errorf("%T, %d backends: %v allocations for a pick, want none", s, n, got)
			}
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, s := range []Strategy{RoundRobin{}, WeightedRoundRobin{}, LeastRequest{}} {
		for _, n := range []int{10, 1000} {
			b.Run(fmt.Sprintf("%T/%d", s, n), func(b *testing.B) {
				p := s.Build(backendsOf(slices.Repeat([]int{1}, n)...))
				for b.Loop() {
					p.Pick(PickInfo{})
				}
			})
		}
	}
}
