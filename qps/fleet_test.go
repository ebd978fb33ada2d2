package qps

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestMergeEqualsPooledData records every event twice, in the Meter of one of
// three servers and in one Meter for all, and compares the merged snapshots, after
// a trip through JSON, with that of the one.
func TestMergeEqualsPooledData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := Config{MaxRoutes: 8, TopK: 10}
		pooled := newMeter(t, config)
		single := []*Meter{newMeter(t, config), newMeter(t, config), newMeter(t, config)}
		rng := rand.New(rand.NewPCG(1, 9))
		for range 3000 {
			time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
			m := single[rng.IntN(3)]
			route, status := fmt.Sprint("route ", rng.IntN(6)), []int{101, 200, 302, 404, 500, 499}[rng.IntN(6)]
			took := time.Duration(math.Exp(rng.NormFloat64()*3)) * time.Millisecond
			for _, m := range []*Meter{m, pooled} {
				h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					SetRoute(w, route)
					io.Copy(io.Discard, r.Body)
					w.WriteHeader(status)
					io.WriteString(w, "out")
				}))
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/"+route[6:], strings.NewReader("in")))
				m.Upstream(route).Observe(took, status == 500)
			}
			if rng.IntN(100) == 0 {
				m.Event("ban", route)
				pooled.Event("ban", route)
			}
		}
		var parts []Snapshot
		for _, m := range single {
			parts = append(parts, roundTrip(t, m.Snapshot()))
		}
		got, want := Merge(parts...), pooled.Snapshot()
		// The busiest second of all may have been anyone's, beyond five minutes.
		for i := range got.Routes {
			got.Routes[i].Window.Peak, want.Routes[i].Window.Peak = Peak{}, Peak{}
		}
		for i := range got.Upstreams {
			got.Upstreams[i].Window.Peak, want.Upstreams[i].Window.Peak = Peak{}, Peak{}
		}
		got.Process = want.Process
		if !reflect.DeepEqual(got, want) {
			t.Errorf("merged\n%+v\nwant\n%+v", got, want)
		}
		if len(want.Routes) < 6 || want.Routes[0].Requests() == 0 || len(want.Events) == 0 {
			t.Error("the test did not reach what it tests")
		}
	})
}

// TestMergeOfDifferentSeconds: windows end where all of them do.
func TestMergeOfDifferentSeconds(t *testing.T) {
	a := Window{Second: 100, Requests: []uint32{1, 2, 3}, Errors: []uint32{1}, Current: 9, Peak: Peak{97, 3}, Late: 1}
	b := Window{Second: 102, Requests: []uint32{10, 20, 30, 40}, Errors: []uint32{0, 0, 5}, Current: 90, Peak: Peak{98, 40}, Late: 2}
	want := Window{Second: 100, Requests: []uint32{31, 42, 3}, Errors: []uint32{6}, Current: 29, Peak: Peak{98, 42}, Late: 3}
	if got := mergeWindows(a, b); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := mergeWindows(b, a); !reflect.DeepEqual(got, want) {
		t.Errorf("the other way round: %+v, want %+v", got, want)
	}
	far := mergeWindows(a, Window{Second: math.MaxInt64, Requests: []uint32{7}})
	if !slices.Equal(far.Requests, a.Requests) || far.Current != a.Current {
		t.Errorf("with a clock far ahead: %+v", far)
	}
	if got := Merge(); got.Version != SnapshotVersion || got.Routes != nil {
		t.Errorf("merge of nothing: %+v", got)
	}
}

func TestMergeTopLists(t *testing.T) {
	a := TopList{Total: 30, Rest: 2, Keys: []TopKey{{"x", 20, 1}, {"y", 5, 0}}}
	b := TopList{Total: 12, Rest: 1, Keys: []TopKey{{"z", 6, 0}, {"x", 4, 0}}}
	want := TopList{Total: 42, Rest: 6, Keys: []TopKey{{"x", 24, 1}, {"z", 8, 2}}}
	if got := mergeTop(2, []TopList{a, b}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// peers is a network of servers by host name.
type peers map[string]http.Handler

func (p peers) RoundTrip(r *http.Request) (*http.Response, error) {
	h := p[r.URL.Host]
	if h == nil {
		return nil, errors.New("no such host")
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return rec.Result(), nil
}

func TestFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local, web1, web2 := newMeter(t, Config{Server: "edge"}), newMeter(t, Config{Server: "web1"}), newMeter(t, Config{Server: "web2"})
		web2.baseNanos += int64(3 * time.Second) // its clock is ahead
		for i, m := range []*Meter{local, web1, web2} {
			for range i + 1 {
				m.Upstream("db").Observe(time.Millisecond, false)
			}
		}
		var hangs, refuses atomic.Bool
		network := peers{
			"web1": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(100 * time.Millisecond)
				if hangs.Load() {
					<-r.Context().Done()
				}
				web1.SnapshotHandler().ServeHTTP(w, r)
			}),
			"web2": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if refuses.Load() {
					w.WriteHeader(503)
				}
				web2.SnapshotHandler().ServeHTTP(w, r)
			}),
			"liar": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"version":9}`) }),
		}
		f, err := NewFleet(FleetConfig{
			Local:  local,
			Peers:  []Peer{{"web1", "https://web1/api/v1/snapshot"}, {"", "https://user:secret@web2/"}, {"liar", "http://liar"}, {"none", "http://none"}},
			Client: &http.Client{Transport: network}, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		check := func(when string, lost string, merged uint64) FleetSnapshot {
			t.Helper()
			s := f.Snapshot()
			var names []string
			for _, p := range s.Peers {
				if p.Lost {
					names = append(names, p.Name)
				}
			}
			if got := strings.Join(names, " "); got != lost {
				t.Errorf("%s: lost %q, want %q", when, got, lost)
			}
			if u := s.Merged.Upstreams; len(u) != 1 || u[0].OK != merged || u[0].Duration.Count() != merged {
				t.Errorf("%s: merged %+v, want %d calls", when, u, merged)
			}
			return s
		}
		synctest.Wait() // all have been asked, and web2 has answered
		check("at first", "", 4)
		time.Sleep(2 * time.Second)
		s := check("after two seconds", "liar none", 6)
		if p := s.Peers[2]; p.Name != "https://user:xxxxx@web2/" || p.Skew != 3*time.Second || p.Error != "" {
			t.Errorf("%+v", p)
		}
		if p := s.Peers[1]; p.Trip != 100*time.Millisecond || p.Skew != 50*time.Millisecond || p.Snapshot.Server != "web1" {
			t.Errorf("trip %v, skew %v of %q", p.Trip, p.Skew, p.Snapshot.Server)
		}
		if p := s.Peers[3]; !strings.Contains(p.Error, ErrVersion.Error()) {
			t.Errorf("error %q of a peer of another version", p.Error)
		}
		hangs.Store(true)
		refuses.Store(true)
		time.Sleep(2 * time.Second)
		s = check("two seconds after two have failed", "web1 https://user:xxxxx@web2/ liar none", 1)
		if s.Peers[1].Snapshot.Upstreams[0].OK != 2 {
			t.Error("the last numbers of a lost peer are gone")
		}
		hangs.Store(false)
		refuses.Store(false)
		time.Sleep(2 * time.Second)
		check("when they are back", "liar none", 6)
		f.Close()
		f.Close()
	})
}

// TestPeerDoesNotSayWhomToAsk: a poll goes to the peer, and nowhere else.
func TestPeerDoesNotSayWhomToAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := false
		network := peers{
			"web1": http.RedirectHandler("http://inner/delete", http.StatusFound),
			"inner": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked = true
				newMeter(t, Config{}).SnapshotHandler().ServeHTTP(w, nil)
			}),
		}
		client := &http.Client{Transport: network}
		f, err := NewFleet(FleetConfig{Peers: []Peer{{URL: "http://web1"}}, Client: client, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		f.Close()
		if p := f.Snapshot().Peers[0]; asked || !p.Lost || !strings.Contains(p.Error, "302") {
			t.Errorf("redirect followed: %v; %+v", asked, p)
		}
		if client.CheckRedirect != nil {
			t.Error("the caller's client was changed")
		}
	})
}

// TestMergeDoesNotWrapAround: a peer that lies about its counts makes sums that are
// too high, never low.
func TestMergeDoesNotWrapAround(t *testing.T) {
	const most = math.MaxUint64
	liar := Snapshot{
		Routes:    []RouteSnapshot{{Route: "a", Method: "GET", Counts: Counts{most, most, most, most, most, most, most}, BytesIn: most, BytesOut: most}},
		Upstreams: []UpstreamSnapshot{{Upstream: "db", OK: most, Failed: most}},
	}
	honest := Snapshot{
		Routes:    []RouteSnapshot{{Route: "a", Method: "GET", Counts: Counts{1, 2, 3, 4, 5, 6, 7}, BytesIn: 8, BytesOut: 9}},
		Upstreams: []UpstreamSnapshot{{Upstream: "db", OK: 10, Failed: 11}},
	}
	got := Merge(honest, liar)
	if r, u := got.Routes[0], got.Upstreams[0]; r.Counts != liar.Routes[0].Counts || r.BytesIn != most || r.BytesOut != most || u.OK != most || u.Failed != most {
		t.Errorf("%+v, %+v", r, u)
	}
}

func TestFleetRefuses(t *testing.T) {
	_, err := NewFleet(FleetConfig{
		Interval: time.Minute,
		Peers:    append(slices.Repeat([]Peer{{"a", "http://a"}}, mostPeers), Peer{"b", "ftp://b"}, Peer{"c", "http://"}, Peer{"d", "http://\x00"}),
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range []string{"67 peers", "1m0s", "ftp://b", `"http://"`, `\x00`, `called "a"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not name %q", err, part)
		}
	}
}

func TestSnapshotHandler(t *testing.T) {
	m := busyMeter(t, "web1")
	rec := httptest.NewRecorder()
	m.SnapshotHandler().ServeHTTP(rec, httptest.NewRequest("GET", "/api/v1/snapshot", nil))
	var s Snapshot
	if err := s.UnmarshalJSON(rec.Body.Bytes()); err != nil || s.Server != "web1" || len(s.Routes) == 0 {
		t.Errorf("%v: %s", err, rec.Body)
	}
	if ct := rec.Header().Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type %q", ct)
	}
	f, err := NewFleet(FleetConfig{Local: m})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rec = httptest.NewRecorder()
	f.SnapshotHandler().ServeHTTP(rec, httptest.NewRequest("GET", "/api/v1/fleet", nil))
	if !strings.Contains(rec.Body.String(), `"merged":{"version":1`) {
		t.Errorf("%s", rec.Body)
	}
}

func FuzzMergeWindows(f *testing.F) {
	f.Add(int64(5), int64(7), []byte{1, 2, 3}, []byte{4, 5})
	f.Fuzz(func(t *testing.T, x, y int64, a, b []byte) {
		window := func(second int64, counts []byte) Window {
			w := Window{Second: second}
			for _, n := range counts[:min(len(counts), windowSeconds)] {
				w.Requests = append(w.Requests, uint32(n))
			}
			return w
		}
		v, w := window(x, a), window(y, b)
		got := mergeWindows(v, w)
		if other := mergeWindows(w, v); !reflect.DeepEqual(got, other) {
			t.Fatalf("%+v is not %+v", got, other)
		}
		at := func(w Window, second int64) uint32 {
			if d := w.Second - 1 - second; d >= 0 && d < int64(len(w.Requests)) {
				return w.Requests[d]
			}
			return 0
		}
		if x < 1000 || y < 1000 || x > math.MaxInt64-1000 || y > math.MaxInt64-1000 {
			return
		}
		for i := range int64(windowSeconds) {
			second := min(x, y) - 1 - i
			if got, want := at(got, second), at(v, second)+at(w, second); got != want {
				t.Fatalf("second %d has %d, want %d", second, got, want)
			}
		}
	})
}

// TestMergeOfWhatIsNoSum: the time, the events, the peak and the processes.
func TestMergeOfWhatIsNoSum(t *testing.T) {
	at := time.Unix(1_800_000_000, 0).UTC()
	events := func(n int, from time.Time) (all []Event) {
		for i := range n {
			all = append(all, Event{At: from.Add(time.Duration(i) * time.Second), Kind: "k"})
		}
		return all
	}
	snap := func(at time.Time, version string, peak Peak, all []Event) Snapshot {
		return Snapshot{
			Version: SnapshotVersion, At: at, Events: all, EventCount: uint64(len(all)),
			Routes:  []RouteSnapshot{{Route: "/", Method: "GET", Window: Window{Second: at.Unix(), Peak: peak}}},
			Process: ProcessSnapshot{GoVersion: version, Start: at, OpenFiles: 3, MaxFiles: 100, HeapBytes: 5, Goroutines: 7},
		}
	}
	a := snap(at.Add(time.Second), "go1", Peak{Second: at.Unix() - 900, Requests: 4}, events(200, at))
	b := snap(at, "go2", Peak{Second: at.Unix() - 800, Requests: 9}, events(200, at.Add(500*time.Millisecond)))
	for _, snaps := range [][]Snapshot{{a, b}, {b, a}} {
		s := Merge(snaps...)
		if s.At != at || s.Routes[0].Window.Peak != (Peak{Second: at.Unix() - 800, Requests: 9}) {
			t.Errorf("at %v, peak %+v; want the earlier time and the higher peak", s.At, s.Routes[0].Window.Peak)
		}
		if len(s.Events) != maxEvents || s.EventCount != 400 || !slices.IsSortedFunc(s.Events, func(a, b Event) int { return a.At.Compare(b.At) }) {
			t.Errorf("%d of %d events", len(s.Events), s.EventCount)
		}
		if last := s.Events[len(s.Events)-1].At; last != at.Add(199*time.Second+500*time.Millisecond) {
			t.Errorf("the last event is of %v", last)
		}
		if s.Process != (ProcessSnapshot{OpenFiles: 6, HeapBytes: 10, Goroutines: 14}) {
			t.Errorf("%+v", s.Process)
		}
	}
	if s := Merge(a, a); s.Process.GoVersion != "go1" {
		t.Errorf("of one version it is %q", s.Process.GoVersion)
	}
}
