package qps

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestBurnRatesAgainstOracle replays four days, second by second, with phases
// of errors and idle ones, and compares every burn rate and the second of every
// alert with sums over plain lists.
func TestBurnRatesAgainstOracle(t *testing.T) {
	const begin, span = 1_800_000_000, 4 * 24 * 3600
	target := 0.99
	now := int64(begin) * 1e9
	var alerts []Alert
	o := newObjective(SLO{Name: "o", Target: target}, now)
	w := watcher{objectives: []*objective{o}, onAlert: func(a Alert) { alerts = append(alerts, a) },
		logger: slog.New(slog.DiscardHandler), now: func() int64 { return now }}
	rng := rand.New(rand.NewPCG(5, 6))
	var picker picker
	all, bad := make([]uint64, span), make([]uint64, span)
	sumAll, sumBad := make([]uint64, span+1), make([]uint64, span+1) // of the seconds before
	firing := [len(burnRules)]bool{}
	badShare, busy, phase := 0.0, 3, 0
	transitions := 0
	for second := range span {
		if second >= phase {
			phase = second + 60 + rng.IntN(3*3600)
			badShare = []float64{0, 0, 0.002, 0.012, 0.08, 0.4}[rng.IntN(6)]
			busy = []int{0, 1, 3, 6}[rng.IntN(4)]
		}
		for range rng.IntN(busy + 1) {
			at := second
			if rng.IntN(10) == 0 { // recorded late
				at = max(second-rng.IntN(burnSettling), 0)
			}
			c := class2xx
			if rng.Float64() < badShare {
				c = class5xx
				bad[at]++
			}
			all[at]++
			o.observe(picker.pick(), int64(begin+at)*1e9+rng.Int64N(1e9), 0, c)
		}
		if rng.IntN(5000) == 0 && second > 0 {
			continue // the goroutine missed a second
		}
		now = int64(begin+second+1)*1e9 + rng.Int64N(1e8)
		alerts = nil
		w.look()
		for i := max(second-2*burnSettling, 0); i <= second; i++ {
			sumAll[i+1], sumBad[i+1] = sumAll[i]+all[i], sumBad[i]+bad[i]
		}
		rate := func(length int64) float64 {
			from := max(second+1-int(length), 0)
			n := sumAll[second+1] - sumAll[from]
			if n == 0 {
				return 0
			}
			return float64(sumBad[second+1]-sumBad[from]) / float64(n) / (1 - target)
		}
		for i, b := range o.state.Load().Burns {
			long, short := rate(burnRules[i].long), rate(burnRules[i].short)
			fires := long > burnRules[i].limit && short > burnRules[i].limit
			if b.LongRate != long || b.ShortRate != short || b.Firing != fires {
				t.Fatalf("second %d, rule %d: %+v; want %v, %v, %v", second, i, b, long, short, fires)
			}
			if told := slices.ContainsFunc(alerts, func(a Alert) bool {
				return a.Burn == b && a.Firing == fires && a.At.Unix() == int64(begin+second+1)
			}); told != (fires != firing[i]) {
				t.Fatalf("second %d, rule %d: alert %v, was firing %v, is %v", second, i, told, firing[i], fires)
			}
			if fires != firing[i] {
				transitions++
			}
			firing[i] = fires
		}
	}
	if transitions < 10 {
		t.Errorf("only %d alerts began or ended: the test did not reach what it tests", transitions)
	}
}

// TestAlertsOfRequests has a Meter watch requests: an outage of one route, and
// slow requests.
func TestAlertsOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var alerts []Alert
		m := newMeter(t, Config{
			SLOs: []SLO{
				{Name: "all", Target: 0.9}, {Name: "api", Target: 0.9, Routes: []string{"api"}},
				{Name: "fast", Target: 0.9, Latency: 20 * time.Millisecond}, {Name: "none", Target: 0.9, Routes: []string{}},
			},
			OnAlert: func(a Alert) { alerts = append(alerts, a) },
			Logger:  slog.New(slog.DiscardHandler),
		})
		status, pause := 200, time.Millisecond
		h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			SetRoute(w, strings.TrimPrefix(r.URL.Path, "/"))
			time.Sleep(pause)
			if r.URL.Path == "/api" {
				w.WriteHeader(status)
			}
		}))
		serve := func(seconds int) {
			for range seconds {
				for _, path := range []string{"/api", "/pages"} {
					h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
				}
				time.Sleep(time.Second - 2*pause)
			}
		}
		serve(60)
		if len(alerts) != 0 {
			t.Errorf("alerts without errors: %+v", alerts)
		}
		status = 500
		serve(60)
		status = 200
		got := make(map[string]int)
		for _, a := range alerts {
			got[fmt.Sprint(a.SLO, a.Burn.Limit, a.Firing)]++
		}
		// Half of the requests to the api fail: 5 times the budget of 10 %. Of
		// all it is a quarter.
		want := map[string]int{"api1 true": 1, "all1 true": 1, "fast1 true": 1}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("alerts %v, want %v", got, want)
		}
		pause = 30 * time.Millisecond
		serve(60)
		time.Sleep(time.Second)
		s := m.Snapshot().SLOs
		if len(s) != 4 || s[0].Requests != 360 || s[1].Requests != 180 || s[1].Bad != 60 || s[2].Bad != 180 || s[3].Requests != 0 {
			t.Errorf("%+v", s)
		}
		m.Close()
		m.Close()
	})
}

func TestSLORefuses(t *testing.T) {
	_, err := New(Config{TopK: 101, SLOs: append(slices.Repeat([]SLO{{Name: "twice", Target: 0.5}}, 15),
		SLO{Name: "", Target: 1}, SLO{Name: "\xff", Latency: -1})})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range []string{"TopK is 101", "17 SLOs", `called "twice"`, `Name is ""`, "is 1, want", "is 0, want", "-1ns", `\xff`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not name %q", err, part)
		}
	}
}

func TestTimeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(t, Config{Server: "web1"})
		for i := range maxEvents + 3 {
			time.Sleep(time.Second)
			m.Event("ban", fmt.Sprintf("number %d\xff", i))
		}
		s := roundTrip(t, m.Snapshot())
		if len(s.Events) != maxEvents || s.EventCount != maxEvents+3 {
			t.Fatalf("%d events of %d", len(s.Events), s.EventCount)
		}
		want := Event{At: time.Date(2000, 1, 1, 0, 0, 4, 0, time.UTC), Server: "web1", Kind: "ban", Text: "number 3\uFFFD"}
		if s.Events[0] != want || s.Events[maxEvents-1].Text != fmt.Sprintf("number %d\uFFFD", maxEvents+2) {
			t.Errorf("%+v, want %+v; last %+v", s.Events[0], want, s.Events[maxEvents-1])
		}
	})
}

// TestConfigIsCloned: what the caller changes later changes nothing.
func TestConfigIsCloned(t *testing.T) {
	routes := []string{"a"}
	header := http.Header{"X": {"a"}}
	push := &Push{URL: "http://127.0.0.1:9/", Header: header}
	p := newPusher(*push, func(io.Writer) {}, func(error) {})
	m := newMeter(t, Config{SLOs: []SLO{{Name: "s", Target: 0.5, Routes: routes}}})
	defer m.Close()
	routes[0], header["X"][0] = "b", "b"
	if a, b := m.newRoute("a"), m.newRoute("b"); len(a.objectives) != 1 || len(b.objectives) != 0 {
		t.Errorf("%d and %d objectives, want those of the route that was given", len(a.objectives), len(b.objectives))
	}
	if p.conf.Header.Get("X") != "a" {
		t.Errorf("%v, want the header that was given", p.conf.Header)
	}
}
