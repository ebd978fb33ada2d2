//go:build !race

package qps

import (
	"bytes"
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
			route.series(methodOf("GET")).observe(m.picker.pick(), m.now(), took, class2xx, 0)
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
	const allowed = 20 * time.Millisecond
	m := manyRoutes(t, 1000)
	for name, before := range map[string]func(*Meter){"settled": func(*Meter) {}, "fresh": touch} {
		took := scrapeCPU(t, m, 20, before)
		if t.Logf("a scrape of 1,000 %s routes takes %v of CPU", name, took); took > allowed {
			t.Errorf("%s: want %v at most", name, allowed)
		}
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
			r.series(methodOf("GET")).observe(m.picker.pick(), m.now(), 7*time.Millisecond, class2xx, 0)
		}
	}
}

// BenchmarkScrapeShift prints the 99th percentile of the time that requests over
// TCP take while somebody else, ten times a second, asks over TCP for the metrics of
// 1,000 routes, settled or all changed, or for as many bytes that stand ready; or
// while nobody does. Rounds go in turn, those of nobody twice, which tells how far
// two medians of the same thing are apart.
//
//	go test -run '^$' -bench ScrapeShift -benchtime 1x ./qps
func BenchmarkScrapeShift(b *testing.B) {
	const rounds, length = 11, 400 * time.Millisecond
	m := manyRoutes(b, 1000)
	var text bytes.Buffer
	m.set.WritePrometheus(&text)
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	mux.Handle("/settled", m.MetricsHandler())
	mux.HandleFunc("/fresh", func(w http.ResponseWriter, r *http.Request) {
		touch(m)
		m.MetricsHandler().ServeHTTP(w, r)
	})
	mux.HandleFunc("/constant", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text.Bytes()))
	})
	served := httptest.NewServer(m.Middleware(mux))
	defer served.Close()
	names := []string{"alone", "again", "constant", "settled", "fresh"}
	for b.Loop() {
		p99 := make(map[string][]time.Duration)
		for range rounds {
			for _, name := range names {
				p99[name] = append(p99[name], shiftRound(served, name, length))
			}
		}
		for _, name := range names {
			slices.Sort(p99[name])
			b.ReportMetric(float64(p99[name][rounds/2].Microseconds()), "p99-"+name+"-µs")
		}
	}
}

// shiftRound is the 99th percentile of requests beside a scraper of that name.
func shiftRound(served *httptest.Server, scraper string, length time.Duration) time.Duration {
	get := func(path string) {
		if res, err := served.Client().Get(served.URL + path); err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	}
	const clients = 4
	served.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = clients + 1
	var work sync.WaitGroup
	var mu sync.Mutex
	var all []time.Duration
	begin := time.Now()
	for range clients {
		work.Go(func() {
			var took []time.Duration
			for ; time.Since(begin) < length; time.Sleep(time.Millisecond) {
				start := time.Now()
				get("/hello")
				took = append(took, time.Since(start))
			}
			mu.Lock()
			all = append(all, took...)
			mu.Unlock()
		})
	}
	if scraper != "alone" && scraper != "again" {
		work.Go(func() {
			for tick := time.Tick(100 * time.Millisecond); time.Since(begin) < length; <-tick {
				get("/" + scraper)
			}
		})
	}
	work.Wait()
	slices.Sort(all)
	return all[len(all)*99/100]
}
