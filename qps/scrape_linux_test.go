//go:build !race

package qps

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"
)

// manyRoutes returns a Meter with so many routes that are in use.
func manyRoutes(t testing.TB, routes int) *Meter {
	t.Helper()
	m := newMeter(t, Config{Server: "web1", MaxRoutes: routes})
	rng := rand.New(rand.NewPCG(3, 3))
	h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		SetRoute(w, r.URL.Path)
	}))
	for i := range routes {
		r := httptest.NewRequest("GET", fmt.Sprintf("/api/v1/things/%d", i), nil)
		h.ServeHTTP(new(nullWriter), r)
		route, _ := m.routes.find(r.URL.Path)
		for range 100 {
			took := time.Millisecond + time.Duration(rng.Int64N(int64(30*time.Millisecond)))
			route.series(methodOf("GET")).observe(m.picker.pick(), m.now(), took, class2xx)
		}
	}
	return m
}

// scrapeCPU is the least CPU time of a scrape. The least is what the scrape itself
// takes: other programs on the machine can only add to it.
func scrapeCPU(t testing.TB, m *Meter, times int) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	least := time.Hour
	for range times {
		before := threadCPU()
		m.set.WritePrometheus(io.Discard)
		if took := threadCPU() - before; took > 0 {
			least = min(least, took)
		}
	}
	return least
}

// TestScrapeCost guards against a scrape whose cost has grown by a multiple. What
// it takes on a machine of its own is for BenchmarkScrape to say.
func TestScrapeCost(t *testing.T) {
	const allowed = 10 * time.Millisecond
	if took := scrapeCPU(t, manyRoutes(t, 1000), 50); took > allowed {
		t.Errorf("a scrape of 1,000 routes takes %v of CPU, want %v at most", took, allowed)
	} else {
		t.Logf("a scrape of 1,000 routes takes %v of CPU", took)
	}
}

// BenchmarkScrape prints the cost of a scrape of 1,000 routes.
//
//	go test -run '^$' -bench Scrape ./qps
func BenchmarkScrape(b *testing.B) {
	m := manyRoutes(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		m.set.WritePrometheus(io.Discard)
	}
	b.ReportMetric(float64(scrapeCPU(b, m, 50).Nanoseconds()), "least-cpu-ns/op")
}
