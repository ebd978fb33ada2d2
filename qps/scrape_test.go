package qps

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// ofRoutes is an exposition without what a process has, which changes by itself.
func ofRoutes(text string) string {
	before, _, _ := strings.Cut(text, "# HELP timeline_events_total")
	return before
}

func scraped(t testing.TB, m *Meter) string {
	t.Helper()
	var b bytes.Buffer
	m.set.WritePrometheus(&b)
	return ofRoutes(b.String())
}

// TestScrapeEqualsSnapshot scrapes again and again while requests of every kind
// end, begin, change their route, come late, and stop. What is kept of a scrape for
// the next must never show: it is compared with what a snapshot has.
func TestScrapeEqualsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(t, Config{Server: `we"b`, MaxRoutes: 9})
		rng := rand.New(rand.NewPCG(1, 7))
		release := make(chan struct{})
		h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			SetRoute(w, r.URL.Path)
			switch r.Header.Get("Do") {
			case "fail":
				w.WriteHeader(500)
			case "read":
				io.Copy(w, r.Body)
			case "wait":
				<-release
				SetRoute(w, "/moved")
			}
		}))
		serve := func(do, path string) {
			r := httptest.NewRequest([]string{"GET", "POST"}[rng.IntN(2)], path, strings.NewReader("body"))
			r.Header.Set("Do", do)
			h.ServeHTTP(httptest.NewRecorder(), r)
		}
		compare := func(step int) {
			t.Helper()
			if got, want := scraped(t, m), ofRoutes(render(t, m.Snapshot())); got != want {
				t.Fatalf("step %d: scraped\n%s\nwant\n%s", step, got, want)
			}
		}
		waiting := 0
		for step := range 1500 {
			path := fmt.Sprintf("/%d", rng.IntN(12))
			switch rng.IntN(12) {
			case 0:
				serve("fail", path)
			case 1:
				serve("read", path)
			case 2:
				go serve("wait", path)
				waiting++
				synctest.Wait()
			case 3:
				if waiting > 0 {
					waiting--
					release <- struct{}{}
					synctest.Wait()
				}
			case 4:
				time.Sleep(time.Duration(rng.Int64N(int64(3 * time.Second))))
			case 5: // recorded long after it ended
				route, _ := m.routes.find(path)
				ago := time.Duration(rng.Int64N(int64(600 * time.Second)))
				route.series(0).observe(m.picker.pick(), m.now()-int64(ago), time.Millisecond, class4xx, 1)
			case 6:
				if rng.IntN(40) == 0 {
					time.Sleep(time.Hour)
				}
			default:
				serve("", path)
			}
			if rng.IntN(3) == 0 {
				compare(step)
			}
		}
		close(release)
		synctest.Wait()
		compare(-1)
		sizes := 0
		for _, r := range m.routes.all() {
			for i := range r.methods {
				if s := r.methods[i].Load(); s != nil {
					sizes += cap(s.kept.lines.text)
				}
			}
		}
		if kept := m.scraper.kept; kept < 1000 || kept != sizes || m.scraper.writing != 0 {
			t.Errorf("%d bytes are kept, and %d scrapes go on", kept, m.scraper.writing)
		}
	})
}

// TestScrapeBesideTraffic scrapes while others record. Every scrape has what was
// recorded before it began, nothing that had not begun when it ended, and no number
// that is less than it was.
func TestScrapeBesideTraffic(t *testing.T) {
	const workers, scrapes = 3, 150
	m := newMeter(t, Config{})
	route, _ := m.routes.find("/")
	s := route.series(0)
	classes := []class{class2xx, class2xx, class2xx, class5xx}
	durations := []time.Duration{time.Millisecond, 1 << 20, 40 * time.Millisecond, time.Duration(upperEdge(longBucket - 1)), 3 * time.Hour}
	var begun, ended atomic.Uint64
	var stop atomic.Bool
	var work sync.WaitGroup
	for i := range workers {
		work.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 4))
			for !stop.Load() {
				p := m.picker.pick()
				begun.Add(1)
				s.enter(p)
				s.observe(p, m.now(), durations[rng.IntN(len(durations))], classes[rng.IntN(len(classes))], 1)
				s.leave(p, 1)
				ended.Add(1)
			}
		})
	}
	last := make(map[string]float64)
	for i := range scrapes {
		least := ended.Load()
		text := scraped(t, m)
		most := begun.Load()
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			one, err := parseSample(strings.TrimSuffix(line, "\n"))
			if err != nil {
				t.Fatal(err)
			}
			key := line[:strings.LastIndexByte(line, ' ')]
			if one.name != "http_requests_in_flight" && one.value < last[key] {
				t.Errorf("scrape %d: %s is %v after %v", i, key, one.value, last[key])
			}
			last[key] = one.value
			whole := one.name == "http_request_bytes_total" || one.name == "http_response_bytes_total" || one.name == "http_request_duration_seconds_count"
			if whole && (one.value < float64(least) || one.value > float64(most)) {
				t.Errorf("scrape %d: %s is %v, want %d to %d", i, key, one.value, least, most)
			}
			if one.name == "http_requests_in_flight" && (one.value < 0 || one.value > workers) {
				t.Errorf("scrape %d: %v in flight, want 0 to %d", i, one.value, workers)
			}
		}
	}
	stop.Store(true)
	work.Wait()
	// The last second is part of the peak when it is over.
	for second := m.now() / 1e9; m.now()/1e9 == second; {
		time.Sleep(10 * time.Millisecond)
	}
	if got, want := scraped(t, m), ofRoutes(render(t, m.Snapshot())); got != want {
		t.Errorf("scraped\n%s\nwant\n%s", got, want)
	}
}

// TestScrapeOfFullCells: what has been in cells that are emptied is still there, and
// so is the sum of durations that are too long for a cell.
func TestScrapeOfFullCells(t *testing.T) {
	m := newMeter(t, Config{})
	route, _ := m.routes.find("/")
	s, p := route.series(0), m.picker.pick()
	// In one octave: the bound of 60 s, and the bucket above it.
	took := [classCount]time.Duration{
		class2xx: time.Duration(bounds[len(bounds)-1]), class3xx: time.Duration(upperEdge(bucketOf(bounds[len(bounds)-1]) + 1)),
	}
	for round := range 6 {
		for range 4000 {
			for _, c := range []class{class2xx, class3xx} {
				s.observe(p, m.now(), took[c], c, 0)
			}
		}
		s.observe(p, m.now(), 59*time.Second, class2xx, 0)
		s.observe(p, m.now(), 3*time.Hour, class(round%2)+class2xx, 0)
		second := m.now() / 1e9
		got, want := scraped(t, m), ofRoutes(render(t, m.Snapshot()))
		if got != want && m.now()/1e9 == second {
			t.Fatalf("round %d: scraped\n%s\nwant\n%s", round, got, want)
		}
	}
	full := false
	for sh := range s.shards.all() {
		full = full || sh.spilled != nil
	}
	if !full {
		t.Error("no cell was ever full")
	}
}

// TestSettling: the last requests of a route are part of its peak when their second
// is over, however long the scrape took that saw them.
func TestSettling(t *testing.T) {
	m := newMeter(t, Config{})
	route, _ := m.routes.find("/")
	s := route.series(0)
	const second = 1_800_000_000
	count := func(at int64) { s.observe(m.picker.pick(), at*1e9, time.Millisecond, class2xx, 0) }
	want := func(looked uint32, peak uint64) {
		t.Helper()
		if m.scraper.look(s, "", looked); s.kept.figures.peak != peak {
			t.Errorf("looked at in second %d the peak is %d, want %d", looked-second, s.kept.figures.peak, peak)
		}
	}
	count(second)
	want(second, 0)
	// The scrape went on for three seconds after it had taken the time.
	m.scraper.ended = second + 3
	want(second+1, 1)
	m.scraper.ended = second + 3
	s.mu.Lock()
	s.requests.add(second+3, 5) // as an event that was noted, but not in that second yet
	s.mu.Unlock()
	want(second+4, 5)
	if s.kept.unsettled {
		t.Error("looked at after the end of the last scrape it is not settled")
	}
	before := uint32(m.now() / 1e9)
	scraped(t, m)
	if ended := m.scraper.ended; ended < before || ended > uint32(m.now()/1e9) {
		t.Errorf("the scrape ended in second %d, want %d or a little later", ended, before)
	}
}

// TestScrapeInFlight: a request under a mux is in flight under the route "other",
// which is gone when that has ended, and so does one whose middleware has another
// route.
func TestScrapeInFlight(t *testing.T) {
	m := newMeter(t, Config{})
	var during string
	h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		during = scraped(t, m)
		io.WriteString(w, "hello")
	}))
	outside := http.NewServeMux()
	outside.Handle("/a", h)
	outside.Handle("/b", h)
	inside := http.NewServeMux()
	inside.HandleFunc("/c", func(w http.ResponseWriter, r *http.Request) {
		during = scraped(t, m)
		io.WriteString(w, "hello")
	})
	for _, c := range []struct {
		h           http.Handler
		path, route string
	}{{outside, "/a", "/a"}, {outside, "/b", "/b"}, {m.Middleware(inside), "/c", other}, {outside, "/a", "/a"}} {
		c.h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", c.path, nil))
		if want := `http_requests_in_flight{route="` + c.route + `",method="GET"} 1`; strings.Count(during, want) != 1 {
			t.Errorf("during a request to %s:\n%s", c.path, during)
		}
		after := scraped(t, m)
		if strings.Contains(after, `route="other"`) || !strings.Contains(after, `http_response_bytes_total{route="`+c.path+`",method="GET"} `) {
			t.Errorf("after a request to %s:\n%s", c.path, after)
		}
		if want := ofRoutes(render(t, m.Snapshot())); after != want {
			t.Errorf("scraped\n%s\nwant\n%s", after, want)
		}
	}
}

// TestOctavesHaveOneBound is what a tally takes for granted.
func TestOctavesHaveOneBound(t *testing.T) {
	for i := range bounds[1:] {
		if a, b := bucketOf(bounds[i])>>subBits, bucketOf(bounds[i+1])>>subBits; a == b {
			t.Errorf("bounds %d and %d are in octave %d", bounds[i], bounds[i+1], a)
		}
	}
	if pageCount > 64 {
		t.Errorf("%d octaves have no place in 64 bits", pageCount)
	}
}

// slowly hands on what it has been given only when it is told to, as a client does
// that reads slowly.
type slowly struct {
	bytes.Buffer
	wait, resume chan struct{}
}

func (s *slowly) Write(p []byte) (int, error) {
	s.wait <- struct{}{}
	<-s.resume
	return s.Buffer.Write(p)
}

// TestScrapesDoNotMeet: what one scrape is writing, another may not change, nor
// need it wait.
func TestScrapesDoNotMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(t, Config{})
		h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { SetRoute(w, r.URL.Path) }))
		serve := func() {
			for i := range 200 {
				h.ServeHTTP(new(nullWriter), httptest.NewRequest("GET", fmt.Sprintf("/%d", i), nil))
			}
		}
		serve()
		want := scraped(t, m)
		slow := slowly{wait: make(chan struct{}), resume: make(chan struct{})}
		var done sync.WaitGroup
		done.Go(func() { _ = m.scrape(&slow, false) })
		<-slow.wait
		serve()
		serve()
		if got, want := scraped(t, m), ofRoutes(render(t, m.Snapshot())); got != want {
			t.Errorf("beside a slow scrape: \n%s\nwant\n%s", got, want)
		}
		go func() {
			for range slow.wait {
				slow.resume <- struct{}{}
			}
		}()
		slow.resume <- struct{}{}
		done.Wait()
		close(slow.wait)
		if got := ofRoutes(slow.String()); got != want {
			t.Errorf("the slow scrape has\n%s\nwant what it had found\n%s", got, want)
		}
		if m.scraper.writing != 0 {
			t.Errorf("%d scrapes go on", m.scraper.writing)
		}
	})
}

// TestScrapeKeepsLittle: beyond its bound nothing is kept, and nothing is missing.
func TestScrapeKeepsLittle(t *testing.T) {
	m := newMeter(t, Config{})
	for i := range 100 {
		route, _ := m.routes.find(fmt.Sprint("/", i))
		route.series(0).observe(m.picker.pick(), m.now(), time.Millisecond, class2xx, 0)
	}
	const room = 100_000 // for some, not for all
	m.scraper.kept = mostText - room
	for range 3 {
		text := scraped(t, m)
		if n := strings.Count(text, "http_request_duration_seconds_count{"); n != 100 {
			t.Errorf("%d routes, want 100", n)
		}
		if kept := m.scraper.kept; kept > mostText || kept < mostText-room/2 {
			t.Errorf("%d bytes are kept, want %d at most, and not much less", kept, mostText)
		}
	}
}
