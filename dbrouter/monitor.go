package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// looksApart is the least time between two looks at a node, however often
	// one is asked for.
	looksApart = 10 * time.Millisecond
	// searchInterval is the time between two looks while there is no primary.
	searchInterval = 50 * time.Millisecond
	// lookLimit bounds one look, unless CheckInterval is longer.
	lookLimit = 2 * time.Second
)

// monitor looks at the nodes, one goroutine each, and publishes what it sees.
type monitor struct {
	conf  Config
	nodes []*node
	names []string
	now   atomic.Pointer[snapshot]

	mu    sync.Mutex // guards what follows, and serialises publishing
	views []view
	roles []Role // the last known ones; a node that is down has one too
	last  int    // index of the last known primary, -1 before the first
}

func newMonitor(conf Config, nodes []*node) *monitor {
	m := &monitor{conf: conf, nodes: nodes, last: -1, views: make([]view, len(nodes)), roles: make([]Role, len(nodes))}
	first := &snapshot{reason: "not all nodes have been looked at yet", changed: make(chan struct{})}
	for _, n := range nodes {
		m.names = append(m.names, n.name)
		first.statuses = append(first.statuses, NodeStatus{Name: n.name, Addr: n.addr, LastError: "not looked at yet"})
	}
	m.now.Store(first)
	return m
}

// watch looks at a node until the context ends.
func (m *monitor) watch(ctx context.Context, n *node) {
	l := &link{node: n}
	defer l.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-n.check:
		}
		v := m.look(ctx, l)
		if ctx.Err() != nil {
			return
		}
		m.publish(n, v)
		n.pool.prune(idleLimit)
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(looksApart, m.conf.CheckInterval)):
		}
		timer.Reset(max(m.interval()-looksApart, 0))
	}
}

// interval is the time to the next look. Without a primary it is short: the
// next one may be writable any moment.
func (m *monitor) interval() time.Duration {
	if m.now.Load().primary == nil {
		return min(m.conf.CheckInterval, searchInterval)
	}
	return m.conf.CheckInterval
}

func (m *monitor) look(ctx context.Context, l *link) view {
	var v view
	err := l.do(ctx, max(lookLimit, m.conf.CheckInterval), func(ctx context.Context, conn driver.Conn) (err error) {
		v, err = probe(ctx, conn)
		return err
	})
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer: %w", err)
		}
		return view{looked: true, trouble: err.Error()}
	}
	return v
}

// publish takes in a view of a node and makes a new snapshot of it.
func (m *monitor) publish(n *node, v view) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.views[n.index] = v
	primary, reason := choosePrimary(m.views, m.names, m.last)
	if primary >= 0 {
		m.last = primary
	}
	old := m.now.Load()
	next := &snapshot{reason: reason, statuses: make([]NodeStatus, len(m.nodes)), changed: make(chan struct{})}
	for i, n := range m.nodes {
		role, state, why := judge(m.views, i, primary, m.conf.Consistency, m.conf.MaxLag)
		next.statuses[i] = NodeStatus{Name: n.name, Addr: n.addr, Role: role, State: state, LastError: why,
			Lag: m.views[i].lag, LagKnown: m.views[i].lagKnown}
		switch {
		case role == Primary:
			next.primary, next.dialect, next.proof = n, m.views[i].dialect, m.views[i].positions
		case role == Replica && state == Up:
			next.replicas = append(next.replicas, n)
		}
	}
	m.now.Store(next)
	for i, n := range m.nodes {
		m.react(n, old.statuses[i], next.statuses[i])
	}
	m.logPrimary(old, next)
	if next.primary == nil && old.primary != nil {
		for _, other := range m.nodes {
			if other != n {
				other.lookNow() // one of them may be the successor
			}
		}
	}
	close(old.changed)
}

// react closes the connections of a node that lost its role, and tells.
func (m *monitor) react(n *node, old, now NodeStatus) {
	if before := m.roles[n.index]; now.Role != RoleUnknown && now.Role != before {
		m.roles[n.index] = now.Role
		if before != RoleUnknown {
			n.pool.turn()
		}
	}
	if old.Role == now.Role && old.State == now.State {
		return
	}
	if now.State != Up {
		n.pool.prune(0)
	}
	change := NodeChange{Node: n.name, Addr: n.addr, OldRole: old.Role, Role: now.Role, OldState: old.State, State: now.State, Reason: now.LastError}
	level := slog.LevelInfo
	if now.State != Up {
		level = slog.LevelWarn
	}
	m.conf.Logger.Log(context.Background(), level, "dbrouter: node", "node", n.name, "addr", n.addr,
		"role", now.Role.String(), "state", now.State.String(), "reason", now.LastError)
	if m.conf.OnStateChange != nil {
		m.conf.OnStateChange(change)
	}
}

func (m *monitor) logPrimary(old, now *snapshot) {
	switch {
	case now.primary == nil && (old.primary != nil || old.reason != now.reason):
		m.conf.Logger.Warn("dbrouter: no primary", "reason", now.reason)
	case now.primary != nil && now.primary != old.primary:
		m.conf.Logger.Info("dbrouter: primary", "node", now.primary.name)
	}
}

// noPrimary is the error for a snapshot without a primary.
func (s *snapshot) noPrimary() error { return fmt.Errorf("%w: %s", ErrNoPrimary, s.reason) }
