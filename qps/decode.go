package qps

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// maxSnapshotBytes bounds the JSON form of a snapshot.
	maxSnapshotBytes = 64 << 20
	maxRoutes        = (mostRoutes + 1) * len(methodNames)
	maxUpstreams     = mostRoutes + 1
)

// ErrVersion is wrapped by the error of decoding a snapshot that was written by
// a version of this package with another JSON form.
var ErrVersion = errors.New("qps: snapshot of another version")

// UnmarshalJSON implements [json.Unmarshaler]. It refuses what no Meter would
// have written: other versions, more routes than a Meter has, labels that are
// too long or occur twice, buckets and seconds that do not exist. Fields that it
// does not know are ignored. Bound the reader as well: a snapshot of 512 routes
// has at most a few megabytes.
func (s *Snapshot) UnmarshalJSON(data []byte) error {
	if len(data) > maxSnapshotBytes {
		return fmt.Errorf("qps: snapshot of %d bytes, want %d at most", len(data), maxSnapshotBytes)
	}
	var wire struct {
		Version   int             `json:"version"`
		Server    string          `json:"server"`
		At        time.Time       `json:"at"`
		Routes    json.RawMessage `json:"routes"`
		Upstreams json.RawMessage `json:"upstreams"`
		Listeners json.RawMessage `json:"listeners"`
		Top       *TopSnapshot    `json:"top"`
		SLOs      json.RawMessage `json:"slos"`
		Events    json.RawMessage `json:"events"`
		Happened  uint64          `json:"event_count"`
		Overflow  uint64          `json:"overflow"`
		Process   ProcessSnapshot `json:"process"`
	}
	if err := json.Unmarshal(data, &wire); err != nil {
		return err
	}
	if wire.Version != SnapshotVersion {
		return fmt.Errorf("%w: %d, want %d", ErrVersion, wire.Version, SnapshotVersion)
	}
	routes, err := decodeList[RouteSnapshot](wire.Routes, maxRoutes)
	if err != nil {
		return fmt.Errorf("qps: routes: %w", err)
	}
	upstreams, err := decodeList[UpstreamSnapshot](wire.Upstreams, maxUpstreams)
	if err != nil {
		return fmt.Errorf("qps: upstreams: %w", err)
	}
	listeners, err := decodeList[ListenerSnapshot](wire.Listeners, maxUpstreams)
	if err != nil {
		return fmt.Errorf("qps: listeners: %w", err)
	}
	slos, err := decodeList[SLOSnapshot](wire.SLOs, mostSLOs)
	if err != nil {
		return fmt.Errorf("qps: SLOs: %w", err)
	}
	events, err := decodeList[Event](wire.Events, maxEvents)
	if err != nil {
		return fmt.Errorf("qps: events: %w", err)
	}
	out := Snapshot{
		Version: wire.Version, Server: wire.Server, At: wire.At,
		Routes: routes, Upstreams: upstreams, Listeners: listeners, Top: wire.Top,
		SLOs: slos, Events: events, EventCount: wire.Happened, Overflow: wire.Overflow, Process: wire.Process,
	}
	if err := out.check(); err != nil {
		return err
	}
	*s = out
	return nil
}

// decodeList decodes a JSON array of limit elements at most, and stops there:
// two bytes of JSON can make a large struct. Null and nothing are no elements.
func decodeList[T any](data json.RawMessage, limit int) ([]T, error) {
	if len(data) == 0 || bytes.Equal(data, []byte("null")) {
		return nil, nil
	}
	if data[0] != '[' {
		return nil, errors.New("not an array")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	var out []T
	for dec.More() {
		if len(out) == limit {
			return nil, fmt.Errorf("more than %d elements", limit)
		}
		var v T
		if err := dec.Decode(&v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// check says what is wrong with a decoded snapshot. Labels must differ, or the
// exposition would hold the same series twice.
func (s *Snapshot) check() error {
	if !isLabel(s.Server) {
		return fmt.Errorf("qps: server %q, want at most %d bytes", cut(s.Server), maxLabel)
	}
	if !isLabel(s.Process.GoVersion) {
		return fmt.Errorf("qps: Go version %q, want at most %d bytes", cut(s.Process.GoVersion), maxLabel)
	}
	type key struct{ route, method string }
	seen := make(map[key]bool, len(s.Routes))
	for _, r := range s.Routes {
		k := key{r.Route, r.Method}
		if !isLabel(r.Route) || !slices.Contains(methodNames[:], r.Method) || seen[k] {
			return fmt.Errorf("qps: route %q, method %q: not a label, not a known method, or there twice", cut(r.Route), cut(r.Method))
		}
		seen[k] = true
		if err := r.Window.check(); err != nil {
			return err
		}
	}
	clear(seen)
	for _, u := range s.Upstreams {
		if k := (key{route: u.Upstream}); !isLabel(u.Upstream) || seen[k] {
			return fmt.Errorf("qps: upstream %q: not a label, or there twice", cut(u.Upstream))
		} else {
			seen[k] = true
		}
		if err := u.Window.check(); err != nil {
			return err
		}
	}
	clear(seen)
	for _, l := range s.Listeners {
		k := key{route: l.Listener}
		if !isLabel(l.Listener) || seen[k] {
			return fmt.Errorf("qps: listener %q: not a label, or there twice", cut(l.Listener))
		}
		seen[k] = true
	}
	clear(seen)
	for _, o := range s.SLOs {
		k := key{route: o.SLO}
		if o.SLO == "" || !isLabel(o.SLO) || seen[k] || len(o.Burns) > len(burnRules) {
			return fmt.Errorf("qps: SLO %q: not a label, there twice, or with too many burn rates", cut(o.SLO))
		}
		seen[k] = true
	}
	for _, e := range s.Events {
		if !isLabel(e.Kind) || !isLabel(e.Text) || !isLabel(e.Server) {
			return fmt.Errorf("qps: event %q: longer than %d bytes", cut(e.Kind), maxLabel)
		}
	}
	if s.Top == nil {
		return nil
	}
	return errors.Join(s.Top.Paths.check(), s.Top.Clients.check(), s.Top.UserAgents.check())
}

func (w Window) check() error {
	if len(w.Requests) > windowSeconds || len(w.Errors) > windowSeconds {
		return fmt.Errorf("qps: a window of %d and %d seconds, want %d at most", len(w.Requests), len(w.Errors), windowSeconds)
	}
	return nil
}
