package qps

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

// busyMeter has recorded something in every field.
func busyMeter(t testing.TB, server string) *Meter {
	t.Helper()
	m := newMeter(t, Config{Server: server, MaxRoutes: 8, TopK: 5, Logger: slog.New(slog.DiscardHandler), SLOs: []SLO{{Name: "all \"good\"", Target: 0.99}}})
	t.Cleanup(func() { m.Close() })
	m.Event("failover", "db1 → db2")
	m.Listener("front", memnet.Listen("10.0.0.1:80"))
	statuses := []int{101, 200, 302, 404, 500, 499}
	h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		SetRoute(w, r.Header.Get("Route"))
		w.WriteHeader(statuses[int(r.ContentLength)%len(statuses)])
		fmt.Fprint(w, "answer")
	}))
	for i := range 60 {
		for _, route := range append(slices.Clone(hostileRoutes), fmt.Sprint(i)) {
			r := httptest.NewRequest("POST", "/", strings.NewReader(strings.Repeat("x", i+1)))
			r.Header.Set("Route", route)
			h.ServeHTTP(httptest.NewRecorder(), r)
		}
		m.Upstream(hostileRoutes[i%len(hostileRoutes)]).Observe(time.Duration(i)*time.Millisecond, i%3 == 0)
	}
	return m
}

var hostileRoutes = []string{
	"GET /notes/{id}", `quote " and backslash \ and \n`, "line\nbreak\r\x00\t", "not \xff\xfe UTF-8", "zero\u200bwidth\u2028", `\`, "{a=\"b\"} 1 # é",
}

func TestSnapshotJSONLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := busyMeter(t, "web1")
		time.Sleep(2500 * time.Millisecond)
		busy := httptest.NewRequest("GET", "/", nil)
		m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := m.Snapshot()
			if s.Version != SnapshotVersion || s.Overflow == 0 || len(s.Upstreams) == 0 || s.At.Nanosecond() != 500e6 {
				t.Errorf("the snapshot lacks something: %+v", s)
			}
			if got := roundTrip(t, s); !reflect.DeepEqual(got, s) {
				t.Errorf("%+v\nbecame\n%+v", s, got)
			}
		})).ServeHTTP(httptest.NewRecorder(), busy)
	})
}

func TestSnapshotSharesNothing(t *testing.T) {
	m := busyMeter(t, "web1")
	s := m.Snapshot()
	before := roundTrip(t, s)
	m.Upstream(hostileRoutes[0]).Observe(time.Hour, true)
	if !reflect.DeepEqual(s, before) {
		t.Error("a snapshot changed after it was taken")
	}
	if !slices.IsSortedFunc(s.Routes, func(a, b RouteSnapshot) int { return strings.Compare(a.Route, b.Route) }) {
		t.Error("the routes are not sorted")
	}
}

func TestSnapshotRefuses(t *testing.T) {
	long := strings.Repeat("x", maxLabel+1)
	for name, data := range map[string]string{
		"no version":         `{}`,
		"later version":      `{"version":2}`,
		"long server":        `{"version":1,"server":"` + long + `"}`,
		"long Go version":    `{"version":1,"process":{"go_version":"` + long + `"}}`,
		"long route":         `{"version":1,"routes":[{"method":"GET","route":"` + long + `"}]}`,
		"unknown method":     `{"version":1,"routes":[{"method":"BREW"}]}`,
		"route twice":        `{"version":1,"routes":[{"method":"GET"},{"method":"GET"}]}`,
		"too many routes":    `{"version":1,"routes":[` + strings.Repeat(`{},`, maxRoutes) + `{}]}`,
		"long upstream":      `{"version":1,"upstreams":[{"upstream":"` + long + `"}]}`,
		"upstream twice":     `{"version":1,"upstreams":[{},{}]}`,
		"too many upstreams": `{"version":1,"upstreams":[` + strings.Repeat(`{},`, maxUpstreams) + `{}]}`,
		"long window":        `{"version":1,"routes":[{"method":"GET","window":{"errors":[` + strings.Repeat("0,", windowSeconds) + `0]}}]}`,
		"upstream window":    `{"version":1,"upstreams":[{"window":{"requests":[` + strings.Repeat("0,", windowSeconds) + `0]}}]}`,
		"buckets descend":    `{"version":1,"upstreams":[{"duration":{"buckets":[[2,1],[1,1]]}}]}`,
		"bucket beyond":      fmt.Sprintf(`{"version":1,"upstreams":[{"duration":{"buckets":[[%d,1]]}}]}`, buckets),
		"bucket of three":    `{"version":1,"upstreams":[{"duration":{"buckets":[[1,1,1]]}}]}`,
		"empty bucket":       `{"version":1,"upstreams":[{"duration":{"buckets":[[1,0]]}}]}`,
		"bucket overflow":    `{"version":1,"upstreams":[{"duration":{"buckets":[[1,18446744073709551615],[2,1]]}}]}`,
		"long top key":       `{"version":1,"top":{"paths":{"total":1,"keys":[{"key":"` + long + `"}]}}}`,
		"impossible top":     `{"version":1,"top":{"clients":{"total":1,"keys":[{"key":"a","count":2}]}}}`,
		"top key twice":      `{"version":1,"top":{"user_agents":{"total":1,"keys":[{"key":"a"},{"key":"a"}]}}}`,
		"impossible error":   `{"version":1,"top":{"clients":{"total":3,"keys":[{"key":"a","count":1,"error":2}]}}}`,
		"too many top keys":  `{"version":1,"top":{"clients":{"total":3,"keys":[` + topKeys(mostTop+1) + `]}}}`,
		"SLO without name":   `{"version":1,"slos":[{}]}`,
		"SLO twice":          `{"version":1,"slos":[{"slo":"a"},{"slo":"a"}]}`,
		"too many SLOs":      `{"version":1,"slos":[` + strings.Repeat(`{},`, mostSLOs) + `{}]}`,
		"many burn rates":    `{"version":1,"slos":[{"slo":"a","burns":[{},{},{},{}]}]}`,
		"too many events":    `{"version":1,"events":[` + strings.Repeat(`{},`, maxEvents) + `{}]}`,
		"long event":         `{"version":1,"events":[{"text":"` + long + `"}]}`,
		"listener twice":     `{"version":1,"listeners":[{},{}]}`,
		"routes an object":   `{"version":1,"routes":{}}`,
		"not an object":      `[]`,
		"too long":           `{"version":1,"x":"` + strings.Repeat(" ", maxSnapshotBytes) + `"}`,
	} {
		s := Snapshot{Server: "kept"}
		err := json.Unmarshal([]byte(data), &s)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		if errors.Is(err, ErrVersion) != strings.HasSuffix(name, "version") && name != "long Go version" {
			t.Errorf("%s: %v", name, err)
		}
		if s.Server != "kept" {
			t.Errorf("%s: refused, but the snapshot was changed", name)
		}
	}
	var s Snapshot
	if err := json.Unmarshal([]byte(`{"version":1,"routes":null,"later":[1]}`), &s); err != nil {
		t.Errorf("an unknown field was refused: %v", err)
	}
}

func FuzzSnapshotJSON(f *testing.F) {
	small := busyMeter(f, "web1").Snapshot()
	small.Routes, small.Upstreams = small.Routes[:2], small.Upstreams[:1]
	data, err := json.Marshal(small)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"routes":[{"method":"GET"}],"process":{"start":"2026-01-01T00:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Snapshot
		if json.Unmarshal(data, &s) != nil {
			return
		}
		for _, r := range s.Routes {
			r.Rate(time.Minute)
			r.Quantile(0.9)
			if e := r.ErrorRatio(time.Minute); e < 0 || e > 1 {
				t.Errorf("error ratio %v", e)
			}
		}
		// Whatever is accepted must make an exposition that can be read.
		checkExposition(t, render(t, s))
		again := roundTrip(t, s)
		if again.At.Equal(s.At) {
			again.At = s.At
		}
		if again.Process.Start.Equal(s.Process.Start) {
			again.Process.Start = s.Process.Start
		}
		if !equal(s, again) {
			t.Errorf("%+v\nbecame\n%+v", s, again)
		}
	})
}

// equal compares as JSON, which has one form for an empty slice and for none.
func equal(a, b Snapshot) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

func TestProcess(t *testing.T) {
	p := newMeter(t, Config{}).Snapshot().Process
	if p.Goroutines < 1 || p.HeapBytes == 0 || p.GoVersion != runtime.Version() {
		t.Errorf("%+v", p)
	}
}

func topKeys(n int) string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf(`{"key":"%d"}`, i)
	}
	return strings.Join(keys, ",")
}
