package qps

import (
	"encoding/json"
	"testing"
)

func newMeter(t testing.TB, c Config) *Meter {
	t.Helper()
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// only returns the one route of a snapshot.
func only(t testing.TB, m *Meter) RouteSnapshot {
	t.Helper()
	s := m.Snapshot()
	if len(s.Routes) != 1 {
		t.Fatalf("%d routes, want one: %+v", len(s.Routes), s.Routes)
	}
	return s.Routes[0]
}

func roundTrip[T any](t testing.TB, v T) T {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out T
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return out
}

func (r *recorder) histogram() Histogram {
	h, _ := gather([]*recorder{r}, 0)
	return h
}
