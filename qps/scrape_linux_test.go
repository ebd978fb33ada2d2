//go:build !race

package qps

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
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
			route.series(methodOf("GET")).observe(m.picker.pick(), m.now(), took, class2xx, 0, 0)
		}
	}
	return m
}

// scrapeCPU is the least CPU time of a scrape. The least is what the scrape itself
// takes: other programs on the machine can only add to it.
func scrapeCPU(t testing.TB, m *Meter, times int, before func(*Meter)) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	least := time.Hour
	for range times {
		before(m)
		begin := threadCPU()
		m.set.WritePrometheus(io.Discard)
		if took := threadCPU() - begin; took > 0 {
			least = min(least, took)
		}
	}
	return least
}

// TestScrapeCost guards against a scrape whose cost has grown by a multiple. What
// it takes on a machine of its own is for BenchmarkScrape to say.
func TestScrapeCost(t *testing.T) {
	const allowed = 10 * time.Millisecond
	if took := scrapeCPU(t, manyRoutes(t, 1000), 50, touch); took > allowed {
		t.Errorf("a scrape of 1,000 routes takes %v of CPU, want %v at most", took, allowed)
	} else {
		t.Logf("a scrape of 1,000 routes takes %v of CPU", took)
	}
}

// BenchmarkScrape prints the cost of a scrape of 1,000 routes: settled if none had
// a request since the last, and fresh if all had.
//
//	go test -run '^$' -bench 'Scrape$' ./qps
func BenchmarkScrape(b *testing.B) {
	for _, c := range []struct {
		name   string
		before func(*Meter)
	}{{"settled", func(*Meter) {}}, {"fresh", touch}} {
		b.Run(c.name, func(b *testing.B) {
			m := manyRoutes(b, 1000)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				c.before(m)
				b.StartTimer()
				m.set.WritePrometheus(io.Discard)
			}
			b.ReportMetric(float64(scrapeCPU(b, m, 50, c.before).Nanoseconds()), "least-cpu-ns/op")
		})
	}
}

// touch has every route serve another request.
func touch(m *Meter) {
	for _, r := range m.routes.all() {
		if r != m.routes.other {
			r.series(methodOf("GET")).observe(m.picker.pick(), m.now(), 7*time.Millisecond, class2xx, 0, 5)
		}
	}
}

// BenchmarkScrapeShift prints the 99th percentile of the time that requests over
// TCP take while somebody scrapes 1,000 routes ten times a second, and while nobody
// does: medians of rounds in turn, and the median of their differences.
//
//	go test -run '^$' -bench ScrapeShift -benchtime 1x ./qps
func BenchmarkScrapeShift(b *testing.B) {
	const rounds, length, clients = 15, 500 * time.Millisecond, 4
	m := manyRoutes(b, 1000)
	served := httptest.NewServer(m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })))
	defer served.Close()
	served.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = clients
	round := func(scraped bool) time.Duration {
		stop := make(chan struct{})
		var work sync.WaitGroup
		var mu sync.Mutex
		var all []time.Duration
		for range clients {
			work.Go(func() {
				var took []time.Duration
				for begin := time.Now(); time.Since(begin) < length; time.Sleep(time.Millisecond) {
					start := time.Now()
					if res, err := served.Client().Get(served.URL); err == nil {
						io.Copy(io.Discard, res.Body)
						res.Body.Close()
					}
					took = append(took, time.Since(start))
				}
				mu.Lock()
				all = append(all, took...)
				mu.Unlock()
			})
		}
		var scraper sync.WaitGroup
		if scraped {
			scraper.Go(func() {
				for tick := time.Tick(100 * time.Millisecond); ; {
					select {
					case <-stop:
						return
					case <-tick:
						m.set.WritePrometheus(io.Discard)
					}
				}
			})
		}
		work.Wait()
		close(stop)
		scraper.Wait()
		slices.Sort(all)
		return all[len(all)*99/100]
	}
	for b.Loop() {
		var with, without, shift []time.Duration
		for range rounds {
			without = append(without, round(false))
			with = append(with, round(true))
			shift = append(shift, with[len(with)-1]-without[len(without)-1])
		}
		for _, s := range [][]time.Duration{with, without, shift} {
			slices.Sort(s)
		}
		b.ReportMetric(float64(without[rounds/2].Microseconds()), "p99-alone-µs")
		b.ReportMetric(float64(with[rounds/2].Microseconds()), "p99-scraped-µs")
		b.ReportMetric(float64(shift[rounds/2].Microseconds()), "shift-µs")
	}
}
