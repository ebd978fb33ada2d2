package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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
	conf Config
	now  atomic.Pointer[snapshot]
	// position asks the primary, as positions.ask.
	position func(context.Context, <-chan struct{}) (position, error)
	history  history

	mu    sync.Mutex // guards what follows, and serialises publishing
	nodes []*node    // never changed in place
	last  *node      // the last known primary, nil before the first
}

func newMonitor(conf Config, nodes []*node) *monitor {
	m := &monitor{conf: conf, nodes: nodes}
	first := &snapshot{reason: "not all nodes have been looked at yet", changed: make(chan struct{}), nodes: nodes}
	for _, n := range nodes {
		first.statuses = append(first.statuses, n.status)
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
		timer.Reset(max(m.interval(v)-looksApart, 0))
	}
}

// interval is the time to the next look. Without a primary it is short: the
// next one may be writable any moment. So it is for a replica that is behind: it
// may have caught up, and its lag is known the better for it.
func (m *monitor) interval(v view) time.Duration {
	switch {
	case m.now.Load().primary == nil:
		return min(m.conf.CheckInterval, searchInterval)
	case v.behind > 0:
		return min(m.conf.CheckInterval, max(m.conf.MaxLag/behindLooks, looksApart))
	}
	return m.conf.CheckInterval
}

func (m *monitor) look(ctx context.Context, l *link) view {
	var v view
	begun := time.Now()
	err := l.do(ctx, max(lookLimit, m.conf.CheckInterval), func(ctx context.Context, conn driver.Conn) (err error) {
		if v, err = probe(ctx, conn); err != nil {
			return err
		}
		return m.measure(ctx, l.node, conn, &v)
	})
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer: %w", err)
		}
		return view{looked: true, asked: begun, trouble: err.Error()}
	}
	v.asked = begun
	return v
}

// publish takes in a view of a node, unless that was removed.
func (m *monitor) publish(n *node, v view) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.Contains(m.nodes, n) {
		n.view = v
		m.refresh(n)
	}
}

// demoted takes in that a node has said itself that it is read-only. What else
// it is, the next look tells.
func (m *monitor) demoted(n *node) {
	m.mu.Lock()
	if slices.Contains(m.nodes, n) && n.view.writable {
		n.view = view{looked: true, asked: n.view.asked, reachable: true, dialect: n.view.dialect, serverID: n.view.serverID,
			positions: n.view.positions, statusKnown: true, trouble: errDemoted.Error()}
		m.refresh(n)
	}
	m.mu.Unlock()
	n.lookNow()
}

// join takes in a new node.
func (m *monitor) join(n *node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes = append(slices.Clone(m.nodes), n)
	m.refresh(n)
}

// leave forgets a node.
func (m *monitor) leave(n *node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes = slices.DeleteFunc(slices.Clone(m.nodes), func(other *node) bool { return other == n })
	if m.last == n {
		m.last = nil
	}
	m.conf.Logger.Info("dbrouter: node removed", "node", n.name, "addr", n.addr)
	m.refresh(n)
}

// drain takes a node out of use, or back into it.
func (m *monitor) drain(n *node, on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n.draining = on
	m.refresh(n)
}

// failed counts a read that a replica has failed, and ejects it after several.
func (m *monitor) failed(n *node) {
	if m.conf.EjectAfter < 0 || int(n.failures.Add(1)) < m.conf.EjectAfter {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n.failures.Store(0)
	n.ejected = time.Now().Add(m.conf.EjectFor)
	if slices.Contains(m.nodes, n) {
		m.refresh(n)
	}
}

// refresh makes a new snapshot, because something about a node is new. mu must
// be held.
func (m *monitor) refresh(n *node) {
	views, names := make([]view, len(m.nodes)), make([]string, len(m.nodes))
	for i, n := range m.nodes {
		views[i], names[i] = n.view, n.name
	}
	primary, reason := choosePrimary(views, names, slices.Index(m.nodes, m.last))
	if primary >= 0 {
		m.last = m.nodes[primary]
	}
	old := m.now.Load()
	next := &snapshot{reason: reason, nodes: m.nodes, statuses: make([]NodeStatus, len(m.nodes)), changed: make(chan struct{})}
	for i, n := range m.nodes {
		role, state, why := judge(views, i, primary, m.conf.Consistency, m.conf.MaxLag)
		if n.draining && state == Up {
			state, why = Draining, "it is drained"
			if role == Primary {
				next.reason = n.name + ", the primary, is drained"
			}
		}
		if role == Replica && state == Up && time.Now().Before(n.ejected) {
			state, why = Ejected, "it has failed reads"
		}
		next.statuses[i] = NodeStatus{Name: n.name, Addr: n.addr, Zone: n.zone, Role: role, State: state, LastError: why,
			Lag: views[i].lag, LagKnown: views[i].lagKnown, Behind: views[i].behind}
		switch {
		case state != Up:
		case role == Primary:
			next.primary, next.dialect, next.proof, next.asked = n, views[i].dialect, views[i].positions, views[i].asked
		case role == Replica:
			next.replicas = append(next.replicas, n)
		}
	}
	// Before the snapshot is used, so that it has its effect on the first read.
	for i, n := range m.nodes {
		m.warm(n, next.statuses[i])
	}
	m.now.Store(next)
	for i, n := range m.nodes {
		m.react(n, next.statuses[i])
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

// warm begins the slow start of a replica that comes back.
func (m *monitor) warm(n *node, now NodeStatus) {
	if now.State != Up {
		return
	}
	back := n.status.State != Up && (n.status.State != StateUnknown || n.cold)
	n.cold = false
	if back && now.Role == Replica && m.conf.SlowStart > 0 {
		n.warmSince.Store(time.Now().UnixNano())
	}
}

// react closes the connections of a node that lost its role, and tells.
func (m *monitor) react(n *node, now NodeStatus) {
	old := n.status
	n.status = now
	if before := n.known; now.Role != RoleUnknown && now.Role != before {
		n.known = now.Role
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
