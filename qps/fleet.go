package qps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"
)

const (
	mostPeers       = 64
	defaultInterval = 500 * time.Millisecond
	// A peer is lost when nothing was heard of it for so long, or when two
	// polls in a row have failed. With polls at most a second apart either is
	// so within two seconds.
	lostAfter = 1900 * time.Millisecond
)

// Peer is another server whose Meter is to be seen.
type Peer struct {
	// Name tells the peers apart. Empty means the URL.
	Name string
	// URL answers GET with a [Snapshot] as JSON, as [Meter.SnapshotHandler]
	// does; http or https.
	URL string
}

// FleetConfig says which servers a [Fleet] shows.
type FleetConfig struct {
	// Local is this server's own Meter. Nil means that it has none.
	Local *Meter
	// Peers are the others, 64 at most.
	Peers []Peer
	// Client polls the peers. Numbers are not for the public: let it prove who
	// it is, and whom it talks to, by mutual TLS. It is copied, and follows no
	// redirect: a peer does not say whom else to ask. Nil means http.DefaultClient.
	Client *http.Client
	// Interval is the time from one poll to the next, 100 ms to 1 s. Zero means
	// 500 ms.
	Interval time.Duration
	// Logger takes losses and returns of peers. Nil means slog.Default().
	Logger *slog.Logger
}

// Fleet polls the Meters of other servers, so that each server can show all.
// Create it with [NewFleet] and end it with [Fleet.Close]. It is safe for
// concurrent use.
type Fleet struct {
	local  *Meter
	client *http.Client
	logger *slog.Logger
	every  time.Duration
	peers  []*peer
	tasks  background
}

type peer struct {
	Peer
	state atomic.Pointer[peerState]
	lost  bool // as logged; belongs to the polling goroutine
}

// peerState is the outcome of polls. It does not change.
type peerState struct {
	snapshot Snapshot
	heard    time.Time // the zero time: never
	failures int
	err      error
	skew     time.Duration
	trip     time.Duration
}

func (s *peerState) lost(now time.Time) bool {
	return s.failures >= 2 || now.Sub(s.heard) > lostAfter
}

// NewFleet begins to poll. Its error names every mistake in the configuration.
func NewFleet(c FleetConfig) (*Fleet, error) {
	f := &Fleet{local: c.Local, client: c.Client, logger: c.Logger, every: c.Interval}
	var errs []error
	if len(c.Peers) > mostPeers {
		errs = append(errs, fmt.Errorf("qps: %d peers, want %d at most", len(c.Peers), mostPeers))
	}
	for i, p := range c.Peers {
		if u, err := url.Parse(p.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, fmt.Errorf("qps: Peer.URL is %q, want http or https and a host", p.URL))
		} else if p.Name == "" {
			p.Name = u.Redacted()
		}
		if slices.ContainsFunc(f.peers, func(o *peer) bool { return o.Name == p.Name }) {
			errs = append(errs, fmt.Errorf("qps: peer %d is called %q, like another", i, p.Name))
		}
		f.peers = append(f.peers, &peer{Peer: p})
	}
	if c.Interval != 0 && (c.Interval < 100*time.Millisecond || c.Interval > time.Second) {
		errs = append(errs, fmt.Errorf("qps: FleetConfig.Interval is %v, want 100ms to 1s", c.Interval))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if f.client == nil {
		f.client = http.DefaultClient
	}
	client := *f.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	f.client = &client
	if f.logger == nil {
		f.logger = slog.Default()
	}
	if f.every == 0 {
		f.every = defaultInterval
	}
	var run []func(context.Context)
	for _, p := range f.peers {
		p.state.Store(&peerState{heard: time.Now(), err: errors.New("qps: not polled yet")})
		run = append(run, func(ctx context.Context) { f.poll(ctx, p) })
	}
	f.tasks.start(run...)
	return f, nil
}

// Close stops polling. It may be called more than once.
func (f *Fleet) Close() error {
	f.tasks.stop()
	return nil
}

func (f *Fleet) poll(ctx context.Context, p *peer) {
	ticker := time.NewTicker(f.every)
	defer ticker.Stop()
	for {
		state := f.ask(ctx, p)
		if ctx.Err() != nil {
			return
		}
		p.state.Store(state)
		if lost := state.lost(time.Now()); lost != p.lost {
			p.lost = lost
			f.logger.Warn("qps: peer", "peer", p.Name, "lost", lost, "err", state.err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// ask polls once. What fails leaves the numbers of the last success.
func (f *Fleet) ask(ctx context.Context, p *peer) *peerState {
	state := *p.state.Load()
	ctx, cancel := context.WithTimeout(ctx, f.every)
	defer cancel()
	begin := time.Now()
	snap, err := f.fetch(ctx, p.URL)
	if err != nil {
		state.failures++
		state.err = err
		return &state
	}
	trip := time.Since(begin)
	return &peerState{snapshot: snap, heard: begin.Add(trip), trip: trip, skew: snap.At.Sub(begin.Add(trip / 2))}
}

func (f *Fleet) fetch(ctx context.Context, address string) (Snapshot, error) {
	var snap Snapshot
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return snap, fmt.Errorf("qps: %w", err)
	}
	resp, err := f.client.Do(r)
	if err != nil {
		return snap, fmt.Errorf("qps: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return snap, fmt.Errorf("qps: status %d, want 200", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxSnapshotBytes+1))
	if err != nil {
		return snap, fmt.Errorf("qps: %w", err)
	}
	if err := json.Unmarshal(data, &snap); err != nil {
		return snap, fmt.Errorf("qps: snapshot: %w", err)
	}
	return snap, nil
}

// FleetSnapshot is what a [Fleet] knows at one moment.
type FleetSnapshot struct {
	// Peers are this server, if it has a Meter, and the others in their order.
	Peers []PeerSnapshot `json:"peers"`
	// Merged is [Merge] of those that are not lost.
	Merged Snapshot `json:"merged"`
}

// PeerSnapshot is what a [Fleet] knows of one server.
type PeerSnapshot struct {
	Name string `json:"name"`
	// Lost is true within two seconds after a server has ceased to answer. A
	// server that has never answered is lost after as long.
	Lost bool `json:"lost,omitempty"`
	// Heard is when the last answer came, by the clock of this server, and Error
	// what went wrong since, empty if nothing did.
	Heard time.Time `json:"heard"`
	Error string    `json:"error,omitempty"`
	// Skew is how far the peer's clock is ahead of this server's, give or take
	// half of Trip, which is the time that the last poll took.
	Skew time.Duration `json:"skew_ns"`
	Trip time.Duration `json:"trip_ns"`
	// Snapshot is the last that came. Its Version is 0 if none did.
	Snapshot Snapshot `json:"snapshot"`
}

// Snapshot returns what is known now.
func (f *Fleet) Snapshot() FleetSnapshot {
	var out FleetSnapshot
	var alive []Snapshot
	now := time.Now()
	if f.local != nil {
		s := f.local.Snapshot()
		out.Peers = append(out.Peers, PeerSnapshot{Name: s.Server, Heard: now.UTC(), Skew: s.At.Sub(now), Snapshot: s})
		alive = append(alive, s)
	}
	for _, p := range f.peers {
		state := p.state.Load()
		ps := PeerSnapshot{
			Name: p.Name, Lost: state.lost(now), Heard: state.heard.UTC(),
			Skew: state.skew, Trip: state.trip, Snapshot: state.snapshot,
		}
		if state.err != nil {
			ps.Error = state.err.Error()
		}
		if !ps.Lost && state.snapshot.Version != 0 {
			alive = append(alive, state.snapshot)
		}
		out.Peers = append(out.Peers, ps)
	}
	out.Merged = Merge(alive...)
	return out
}
