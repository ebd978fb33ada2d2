package qps

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

func TestStateSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := Config{Server: "web1", StateFile: filepath.Join(t.TempDir(), "state"), TopK: 3, Logger: slog.New(slog.DiscardHandler)}
		use := func(m *Meter, n int) {
			h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				SetRoute(w, "notes")
				time.Sleep(7 * time.Millisecond)
				w.WriteHeader(500)
			}))
			for range n {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
				m.Upstream("db").Observe(time.Millisecond, true)
			}
			m.Event("renewal", fmt.Sprint(n))
		}
		first := newMeter(t, config)
		use(first, 50)
		ln := memnet.Listen("10.0.0.1:80")
		defer ln.Close()
		if c, err := ln.DialContext(t.Context(), "tcp", "10.0.0.1:80"); err != nil {
			t.Fatal(err)
		} else {
			defer c.Close()
		}
		if c, err := first.Listener("front", ln).Accept(); err != nil {
			t.Fatal(err)
		} else {
			defer c.Close()
		}
		time.Sleep(2 * time.Second)
		want := first.Snapshot()
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		second := newMeter(t, config)
		got := second.Snapshot()
		want.Listeners[0].Open = 0 // such things do not survive
		want.Process, got.Process = ProcessSnapshot{}, ProcessSnapshot{}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v\nwas\n%+v", got, want)
		}
		// Without Close: what is a second old has been saved.
		use(second, 30)
		time.Sleep(time.Second)
		third := newMeter(t, config)
		s := third.Snapshot()
		if r := s.Routes[0]; r.Requests() != 80 || r.Duration.Count() != 80 || sum(r.Window.Errors, windowSeconds) != 80 || r.Window.Peak.Requests != 50 {
			t.Errorf("%d requests, %d durations, %d errors in the window, peak %+v; want 80, peak 50", r.Requests(), r.Duration.Count(), sum(r.Window.Errors, windowSeconds), r.Window.Peak)
		}
		if s.Upstreams[0].Failed != 80 || s.Top.Paths.Keys[0].Count != 80 || s.EventCount != 2 || s.Events[1].Text != "30" {
			t.Errorf("%+v", s)
		}
		second.Close()
		third.Close()
		if err := third.Close(); err != nil {
			t.Error(err)
		}
		// After an hour the seconds are gone, the totals are not.
		time.Sleep(time.Hour)
		fourth := newMeter(t, config)
		if r := fourth.Snapshot().Routes[0]; r.Requests() != 80 || r.Window.Requests != nil || r.Window.Peak.Requests != 50 {
			t.Errorf("after an hour: %d requests, window %v, peak %+v", r.Requests(), r.Window.Requests, r.Window.Peak)
		}
		fourth.Close()
	})
}

func TestStateRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for _, text := range []string{"", "{}", "junk", `{"version":1,"server":"db1"}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Server: "web1", StateFile: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := New(Config{StateFile: dir}); err == nil {
		t.Error("a folder was accepted")
	}
	if _, err := New(Config{StateFile: filepath.Join(dir, "none", "state")}); err == nil {
		t.Error("a file that cannot be written was accepted")
	}
	folder := filepath.Join(dir, "gone")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	m := newMeter(t, Config{StateFile: filepath.Join(folder, "state")})
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err == nil {
		t.Error("Close does not say that the state was not saved")
	}
}

func TestStateFailureIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		folder := filepath.Join(t.TempDir(), "folder")
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		m := newMeter(t, Config{StateFile: filepath.Join(folder, "state"), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5500 * time.Millisecond)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if got := log.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "failing=true") || !strings.Contains(got, "failing=false") {
			t.Errorf("logged %q", got)
		}
	})
}

// TestStateOfAKilledProcess counts in a process of its own until that is
// killed, and compares what was saved with what it said it had counted.
func TestStateOfAKilledProcess(t *testing.T) {
	if path := os.Getenv("PALISADE_TEST_STATE"); path != "" {
		m := newMeter(t, Config{StateFile: path})
		u := m.Upstream("db")
		for i := 1; ; i++ {
			u.Observe(0, false)
			if i%100 == 0 {
				fmt.Println(time.Now().UnixNano(), m.Snapshot().Upstreams[0].OK)
				time.Sleep(time.Millisecond)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "state")
	var last uint64
	for round, tries := 0, 0; round < 2; {
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestStateOfAKilledProcess$")
		cmd.Env = append(os.Environ(), "PALISADE_TEST_STATE="+path)
		cmd.Stdout = out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if info, err := out.Stat(); err == nil && info.Size() > 0 {
				break // it runs
			}
		}
		time.Sleep(2200 * time.Millisecond)
		cmd.Process.Kill()
		killed := time.Now()
		cmd.Wait()
		m := newMeter(t, Config{StateFile: path})
		m.Upstream("db") // exists from now on
		saved := m.Snapshot().Upstreams[0].OK
		m.tasks.stop() // without saving
		// A second is the promise. A loaded machine may be late by some, and by more
		// now and then: it is asked again.
		var atLeast uint64
		told, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(told)) {
			var nanos int64
			var n uint64
			if _, err := fmt.Sscan(line, &nanos, &n); err == nil && killed.Sub(time.Unix(0, nanos)) > 1500*time.Millisecond {
				atLeast = max(atLeast, n)
			}
		}
		if tries++; saved >= last && saved < atLeast && tries < 5 {
			last = saved
			continue
		}
		if saved < last || saved < atLeast {
			t.Errorf("saved %d, want at least %d of before and %d", saved, last, atLeast)
		}
		last, tries = saved, 0
		round++
	}
	if last == 0 {
		t.Error("nothing was saved")
	}
}

// TestStateHasEverything restores a state that has something in every field, and
// seconds that are too old, or to come.
func TestStateHasEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "state")
		now := time.Now().Unix()
		h := new(recorder)
		for i := range 28 {
			h.record(uint64(i) << 30)
		}
		want := Snapshot{
			Version: SnapshotVersion, Server: "web1", At: time.Now().UTC(), Overflow: 9,
			Routes: []RouteSnapshot{{
				Route: "/", Method: "GET", Counts: Counts{1, 2, 3, 4, 5, 6, 7}, BytesIn: 10, BytesOut: 1 << 50, Duration: h.histogram(),
				Window: Window{Second: now, Requests: []uint32{0, 3, 4}, Errors: []uint32{0, 1, 2}, Current: 5, Peak: Peak{now - 900, 70}, Late: 8},
			}},
			Upstreams: []UpstreamSnapshot{{Upstream: "db", OK: 20, Failed: 8, Duration: h.histogram(), Window: Window{Second: now}}},
			Listeners: []ListenerSnapshot{{Listener: "front", Accepted: 11, BytesIn: 12, BytesOut: 13}},
			Events:    []Event{{At: time.Now().UTC(), Kind: "a"}, {At: time.Now().UTC(), Kind: "b"}}, EventCount: 2,
		}
		restored := func(s Snapshot) Snapshot {
			t.Helper()
			data, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			m := newMeter(t, Config{Server: "web1", StateFile: path})
			defer m.Close()
			got := m.Snapshot()
			got.Process = ProcessSnapshot{}
			return got
		}
		// The second in which the process ends is the one in which the next begins.
		if got := restored(want); !reflect.DeepEqual(got.Routes[0].Window.Requests, want.Routes[0].Window.Requests) || got.Routes[0].BytesOut != 1<<50 {
			t.Errorf("%+v", got.Routes[0])
		}
		time.Sleep(time.Second)
		got := restored(want)
		want.At = got.At
		w := &want.Routes[0].Window
		w.Second, w.Requests, w.Errors, w.Current = now+1, []uint32{5, 0, 3, 4}, []uint32{0, 0, 1, 2}, 0
		want.Upstreams[0].Window.Second = now + 1
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v\nwas\n%+v", got, want)
		}
		// A clock that was set back, and a state that is older than what is kept.
		for _, second := range []int64{now + 100, now - logSeconds - 5} {
			w.Second, w.Peak = second, Peak{}
			want.EventCount = 1 // fewer than there are
			got := restored(want)
			if g := got.Routes[0].Window; len(g.Requests) != 0 || g.Current != 0 || g.Late != 8 || g.Peak.Requests != 0 {
				t.Errorf("seconds around %d: %+v", second-now, g)
			}
			if got.EventCount != 2 || len(got.Events) != 2 {
				t.Errorf("%d events, %d of them shown, want 2", got.EventCount, len(got.Events))
			}
		}
	})
}
