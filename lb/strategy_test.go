package lb

import (
	"fmt"
	"math"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// allStrategies are all of the package, and BoundedLoad over each hash.
var allStrategies = []Strategy{
	RoundRobin{}, WeightedRoundRobin{}, Random{}, LeastRequest{}, PowerOfTwoChoices{}, PeakEWMA{},
	HotColdLexicographic{}, First{}, RingHash{}, Maglev{}, Rendezvous{},
	BoundedLoad{}, BoundedLoad{Over: RingHash{}}, BoundedLoad{Over: Rendezvous{}},
}

func backendsOf(weights ...int) []*Backend {
	out := make([]*Backend, len(weights))
	for i, w := range weights {
		out[i] = &Backend{id: string(rune('a' + i%26))}
		if i >= 26 {
			out[i].id += fmt.Sprint(i / 26)
		}
		out[i].weight.Store(int64(w))
	}
	return out
}

// order picks n times, each request ending before the next begins.
func order(p Picker, n int) string {
	var s strings.Builder
	for range n {
		b := p.Pick(PickInfo{})
		b.requests.Add(1) // as acquire does
		s.WriteString(b.ID())
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
	for _, s := range allStrategies {
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
	info := PickInfo{Request: httptest.NewRequest("GET", "/", nil)}
	load := new(Load{InFlight: 3, Latency: time.Millisecond})
	for _, s := range allStrategies {
		for _, n := range []int{10, 100} {
			pool := poolOf(t, PoolConfig{Strategy: s}, n)
			if got := testing.AllocsPerRun(100, func() {
				picked, err := pool.Pick(info)
				if err != nil {
					t.Fatal(err)
				}
				picked.Done(Outcome{Duration: time.Millisecond, Load: load})
			}); got != 0 {
				t.Errorf("%T, %d backends: %v allocations for a pick, want none", s, n, got)
			}
		}
	}
}

// spread picks n times and returns how often each backend was chosen. Each
// request ends before the next begins.
func spread(p Picker, backends []*Backend, n int, info func(int) PickInfo) []int {
	index := make(map[*Backend]int)
	for i, b := range backends {
		index[b] = i
	}
	got := make([]int, len(backends))
	for i := range n {
		got[index[p.Pick(info(i))]]++
	}
	return got
}

// checkShares fails if a share is more than sigmas standard deviations of chance
// away from its weight's, slack being allowed on top.
func checkShares(t *testing.T, name string, backends []*Backend, got []int, sigmas, slack float64) {
	t.Helper()
	total, n := 0.0, 0
	for i, b := range backends {
		total += float64(b.Weight())
		n += got[i]
	}
	for i, b := range backends {
		p := float64(b.Weight()) / total
		want := p * float64(n)
		if off := math.Abs(float64(got[i]) - want); off > sigmas*math.Sqrt(want*(1-p))+slack*want {
			t.Errorf("%s: backend %v of weight %d got %d of %d, want %.0f or nearly so", name, b, b.Weight(), got[i], n, want)
		}
	}
}

func anyRequest(int) PickInfo { return PickInfo{} }

func TestRandomShares(t *testing.T) {
	for _, weights := range [][]int{{1}, {1, 1}, {5, 1, 1}, {1, 2, 3, 4, 5, 6, 7, 8}, {1000, 1}, {3, 3, 3, 1}} {
		backends := backendsOf(weights...)
		p := Random{}.Build(backends)
		checkShares(t, fmt.Sprintf("weights %v", weights), backends, spread(p, backends, 40_000, anyRequest), 5, 0)
		// Among those that are left the weights hold as well.
		if len(weights) > 2 {
			tried := PickInfo{Tried: backends[:1]}
			got := spread(p, backends, 40_000, func(int) PickInfo { return tried })
			if got[0] != 0 {
				t.Errorf("weights %v: the first was tried and got %d", weights, got[0])
			}
			checkShares(t, fmt.Sprintf("weights %v without the first", weights), backends[1:], got[1:], 5, 0)
		}
	}
}

func TestPowerOfTwoChoices(t *testing.T) {
	// Of two, the less loaded one relative to its weight.
	backends := backendsOf(1, 4)
	p := PowerOfTwoChoices{}.Build(backends)
	for _, c := range []struct {
		inFlight [2]int64
		want     int
	}{{[2]int64{1, 3}, 1}, {[2]int64{1, 5}, 0}, {[2]int64{0, 1}, 0}} {
		backends[0].inFlight.Store(c.inFlight[0])
		backends[1].inFlight.Store(c.inFlight[1])
		got := spread(p, backends, 2000, anyRequest)
		// Chance may draw the heavy one four times and see no other: (4/5)^5.
		if share := float64(got[c.want]) / 2000; share < 0.6 {
			t.Errorf("in flight %v: backend %d got a share of %.2f", c.inFlight, c.want, share)
		}
	}
	// Balls into bins: nobody ends.
	many := backendsOf(slices.Repeat([]int{1}, 500)...)
	p = PowerOfTwoChoices{}.Build(many)
	for range 20 * len(many) {
		p.Pick(PickInfo{}).inFlight.Add(1)
	}
	for i, b := range many {
		if n := b.InFlight(); n < 10 || n > 26 {
			t.Errorf("backend %d has %d in flight, want 20 or nearly so", i, n)
		}
	}
	// Weights count in the draw as well as in the comparison.
	unequal := backendsOf(30, 10, 10, 10, 10, 10, 10, 10)
	p = PowerOfTwoChoices{}.Build(unequal)
	got := spread(p, unequal, 40_000, anyRequest)
	checkShares(t, "idle", unequal, got, 5, 0.15)
}

func TestFirst(t *testing.T) {
	backends := backendsOf(1, 9, 9)
	p := First{}.Build(backends)
	backends[0].inFlight.Store(1000)
	if got := order(p, 3); got != "aaa" {
		t.Errorf("order %s, want aaa", got)
	}
	if b := p.Pick(PickInfo{Tried: backends[:1]}); b != backends[1] {
		t.Errorf("the first was tried: got %v, want b", b)
	}
}
