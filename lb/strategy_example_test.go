package lb_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/palisade-go/palisade/lb"
)

// poolOf3 has the backends a, b and c.
func poolOf3(s lb.Strategy) *lb.Pool {
	pool, err := lb.NewPool(lb.PoolConfig{
		Strategy: s,
		Backends: []lb.BackendConfig{{ID: "a", URL: "http://a"}, {ID: "b", URL: "http://b"}, {ID: "c", URL: "http://c"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	return pool
}

// pick sends n requests of which none ends, and returns how many each got.
func pick(pool *lb.Pool, info lb.PickInfo, n int) map[string]int {
	got := make(map[string]int)
	for range n {
		picked, err := pool.Pick(info)
		if err != nil {
			log.Fatal(err)
		}
		got[picked.Backend().ID()]++
	}
	return got
}

func ExampleRoundRobin() {
	pool := poolOf3(lb.RoundRobin{})
	defer pool.Close()
	fmt.Println(pick(pool, lb.PickInfo{}, 6))
	// Output: map[a:2 b:2 c:2]
}

func ExampleLeastRequest() {
	pool := poolOf3(lb.LeastRequest{})
	defer pool.Close()
	slow, err := pool.Pick(lb.PickInfo{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(slow.Backend(), "is busy, then:", pick(pool, lb.PickInfo{}, 2))
	// Output: a is busy, then: map[b:1 c:1]
}

func ExampleRandom() {
	pool := poolOf3(lb.Random{})
	defer pool.Close()
	got := pick(pool, lb.PickInfo{}, 3000)
	fmt.Println(got["a"] > 800, got["b"] > 800, got["c"] > 800)
	// Output: true true true
}

func ExamplePowerOfTwoChoices() {
	pool := poolOf3(lb.PowerOfTwoChoices{})
	defer pool.Close()
	got := pick(pool, lb.PickInfo{}, 300)
	// The emptier of two at random: much more even than one at random.
	fmt.Println(got["a"] > 90, got["b"] > 90, got["c"] > 90)
	// Output: true true true
}

func ExamplePeakEWMA() {
	pool := poolOf3(lb.PeakEWMA{})
	defer pool.Close()
	got := pick(pool, lb.PickInfo{}, 300)
	fmt.Println(got["a"] > 90, got["b"] > 90, got["c"] > 90)
	// Output: true true true
}

func ExampleFirst() {
	pool := poolOf3(lb.First{})
	defer pool.Close()
	fmt.Println(pick(pool, lb.PickInfo{}, 2))
	if err := pool.Drain("a"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(pick(pool, lb.PickInfo{}, 2))
	// Output:
	// map[a:2]
	// map[b:2]
}

// The requests of a user go to the same backend, in every process.
func ExampleMaglev() {
	pool := poolOf3(lb.Maglev{Key: lb.KeyCookie("user")})
	defer pool.Close()
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(&http.Cookie{Name: "user", Value: "alice"})
	got := pick(pool, lb.PickInfo{Request: r}, 100)
	fmt.Println(len(got))
	// Output: 1
}

func ExampleRingHash() {
	pool := poolOf3(lb.RingHash{Key: lb.KeyHeader("X-Tenant")})
	defer pool.Close()
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Tenant", "acme")
	fmt.Println(len(pick(pool, lb.PickInfo{Request: r}, 100)))
	// Output: 1
}

func ExampleRendezvous() {
	pool := poolOf3(lb.Rendezvous{Key: lb.KeyPath})
	defer pool.Close()
	r := httptest.NewRequest("GET", "/video/7?t=1", nil)
	fmt.Println(len(pick(pool, lb.PickInfo{Request: r}, 100)))
	// Output: 1
}

// Requests of one hot key spill over, so that no backend has more than half
// again its share.
func ExampleBoundedLoad() {
	pool := poolOf3(lb.BoundedLoad{Over: lb.RingHash{}, Factor: 1.5})
	defer pool.Close()
	got := pick(pool, lb.PickInfo{Key: "hot"}, 300)
	for _, id := range []string{"a", "b", "c"} {
		fmt.Println(id, got[id] <= 150)
	}
	// Output:
	// a true
	// b true
	// c true
}

// The first segment of the path names the shard.
func ExampleKeyFunc() {
	shard := lb.KeyFunc(func(r *http.Request) string {
		segment, _, _ := strings.Cut(r.URL.Path[1:], "/")
		return segment
	})
	one, _ := shard(lb.PickInfo{Request: httptest.NewRequest("GET", "/eu/orders", nil)})
	two, _ := shard(lb.PickInfo{Request: httptest.NewRequest("GET", "/eu/users", nil)})
	_, ok := shard(lb.PickInfo{Request: httptest.NewRequest("GET", "/", nil)})
	fmt.Println(one == two, ok)
	// Output: true false
}

func ExampleHashKey() {
	byHost := func(info lb.PickInfo) (uint64, bool) {
		return lb.HashString(info.Request.Host), true
	}
	pool := poolOf3(lb.Maglev{Key: byHost})
	defer pool.Close()
	r := httptest.NewRequest("GET", "http://shop.example/", nil)
	fmt.Println(len(pick(pool, lb.PickInfo{Request: r}, 10)))
	// Output: 1
}

// Backends are asked for their load; here they answer from a table.
func ExampleHotColdLexicographic() {
	busy := map[string]int{"a": 10, "b": 2, "c": 30}
	pool := poolOf3(lb.HotColdLexicographic{
		Probe: func(ctx context.Context, b *lb.Backend) (lb.Load, error) {
			return lb.Load{InFlight: busy[b.ID()]}, nil
		},
	})
	defer pool.Close()
	picked, err := pool.Pick(lb.PickInfo{})
	if err != nil {
		log.Fatal(err)
	}
	picked.Done(lb.Outcome{})
	fmt.Println(picked.Backend().InFlight())
	// Output: 0
}

// What a backend adds to its responses.
func ExampleLoad() {
	l := lb.Load{InFlight: 3, Latency: 12_500_000}
	fmt.Println(lb.LoadHeader+":", l)
	read, err := lb.ParseLoad(l.String())
	fmt.Println(read == l, err)
	// Output:
	// Endpoint-Load-Metrics: TEXT named_metrics.in_flight=3,named_metrics.latency_ms=12.5
	// true <nil>
}
