package qps

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// load takes over what an earlier process has saved. A file that does not exist
// is an empty one; one that cannot be understood is an error, so that nothing is
// overwritten that somebody may want.
func (m *Meter) load() error {
	// O_NONBLOCK: a pipe would be waited for.
	f, err := os.OpenFile(m.stateFile, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("qps: Config.StateFile: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("qps: Config.StateFile %q is not a plain file: %w", m.stateFile, cmp.Or(err, os.ErrInvalid))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSnapshotBytes+1))
	if err != nil {
		return fmt.Errorf("qps: Config.StateFile: %w", err)
	}
	var s Snapshot
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("qps: Config.StateFile %q: %w", m.stateFile, err)
	}
	if s.Server != m.server {
		return fmt.Errorf("qps: Config.StateFile %q is of server %q, want %q", m.stateFile, s.Server, m.server)
	}
	m.restore(s)
	return nil
}

// restore counts what a snapshot has, before anything else is counted. Nothing
// is in flight or open any more.
func (m *Meter) restore(s Snapshot) {
	now := m.now() / int64(time.Second)
	p := m.picker.pick()
	for _, r := range s.Routes {
		route, _ := m.routes.find(r.Route)
		route.series(methodOf(r.Method)).restore(p, now, r)
	}
	for _, u := range s.Upstreams {
		m.Upstream(u.Upstream).restore(p, now, RouteSnapshot{
			Counts: Counts{Status2xx: u.OK, Status5xx: u.Failed}, Duration: u.Duration, Window: u.Window,
		})
	}
	for _, l := range s.Listeners {
		c, _ := m.listeners.find(l.Listener)
		sh := c.shards.at(p)
		sh.accepted.Add(l.Accepted)
		sh.in.Add(l.BytesIn)
		sh.out.Add(l.BytesOut)
	}
	if m.top != nil && s.Top != nil {
		m.top.paths.earlier, m.top.clients.earlier, m.top.agents.earlier = s.Top.Paths, s.Top.Clients, s.Top.UserAgents
	}
	m.overflow.Add(s.Overflow)
	m.timeline.restore(s.Events, s.EventCount)
}

func (s *series) restore(p place, now int64, r RouteSnapshot) {
	sh := s.shards.at(p)
	for c, n := range r.Counts.each() {
		sh.classes[c].Add(n)
	}
	sh.bytesIn.Add(r.BytesIn)
	sh.flow.earlier.Add(r.BytesOut)
	sh.otherThan2xx().add(r.Duration) // as the classes have been counted
	s.mu.Lock()
	defer s.mu.Unlock()
	w := r.Window
	s.requests.restore(now, w.Second, w.Requests)
	s.errors.restore(now, w.Second, w.Errors)
	s.requests.restore(now, w.Second+1, []uint32{w.Current})
	s.requests.peak.raise(w.Peak)
	s.requests.late.Add(w.Late)
}

// restore adds the counts of the seconds before the given one, as far as the log
// goes back. What a clock that was set back makes the future is left out: it
// would make new events late.
func (l *secondLog) restore(now, second int64, counts []uint32) {
	for i, n := range counts {
		if at := second - 1 - int64(i); n != 0 && at < now && at > now-logSeconds {
			l.add(uint32(at), n)
		}
	}
}

// restore begins the timeline with events of an earlier process.
func (t *timeline) restore(events []Event, happened uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next = max(happened, uint64(len(events)))
	for i, e := range events {
		t.events[(t.next-uint64(len(events))+uint64(i))%maxEvents] = e
	}
}

// save replaces the file in one step: whoever is killed leaves the old or the
// new one.
func (m *Meter) save() error {
	data, err := json.Marshal(m.Snapshot())
	if err != nil {
		return fmt.Errorf("qps: state: %w", err)
	}
	temporary := m.stateFile + ".new"
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return fmt.Errorf("qps: state: %w", err)
	}
	if err := os.Rename(temporary, filepath.Clean(m.stateFile)); err != nil {
		return fmt.Errorf("qps: state: %w", err)
	}
	return nil
}

// saveEvery is the time from one save to the next, less what they take.
const saveEvery = 700 * time.Millisecond

// keep saves so often that a kill costs a second at most: what a file has is as
// old as the beginning of its save, so the next must end within a second of that.
func (m *Meter) keep(ctx context.Context) {
	report := m.changes("saving the state")
	timer := time.NewTimer(saveEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		begin := time.Now()
		report(m.save())
		timer.Reset(max(saveEvery-2*time.Since(begin), saveEvery/4))
	}
}
