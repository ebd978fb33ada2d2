package dbrouter

import (
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// watched is a Router that looks at nothing: what is seen of its nodes, the test says.
func watched(t *testing.T, conf Config, names ...string) (*Router, *[]NodeChange) {
	t.Helper()
	changes := new([]NodeChange)
	for i, name := range names {
		c := fakeConf()
		c.Addr = "db" + string(rune('1'+i)) + ":3306"
		conf.Nodes = append(conf.Nodes, Node{Name: name, Config: c})
	}
	conf.Logger = slog.New(slog.DiscardHandler)
	conf.OnStateChange = func(c NodeChange) { *changes = append(*changes, c) }
	r, err := build(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, changes
}

// Looks at a primary, at its replica and at a node that does not answer.
var (
	sawPrimary = view{looked: true, reachable: true, dialect: mariaDB, writable: true, positions: true, serverID: "1"}
	sawReplica = view{looked: true, reachable: true, dialect: mariaDB, positions: true, serverID: "2",
		statusKnown: true, replicating: true, lagKnown: true, sourceID: "1"}
	sawNothing = view{looked: true, trouble: "no answer"}
)

// asked is asked for since the last call.
func asksForLook(n *node) bool {
	select {
	case <-n.check:
		return true
	default:
		return false
	}
}

// TestLineage: the primary there was is known for as long as it is a node, whatever
// comes between.
func TestLineage(t *testing.T) {
	r, _ := watched(t, Config{}, "a", "b", "c")
	m, n := r.monitor, r.nodes()
	see := func(views ...view) *node {
		for i, v := range views {
			v.serverID = string(rune('1' + i))
			m.publish(n[i], v)
		}
		return m.now.Load().primary
	}
	if p := see(sawPrimary, sawReplica, sawReplica); p != n[0] {
		t.Fatalf("the primary is %v", p)
	}
	if p := see(sawNothing); p != nil {
		t.Errorf("the primary is %s, which is down", p.name)
	}
	if !asksForLook(n[1]) || !asksForLook(n[2]) {
		t.Error("nobody looks for a successor")
	}
	// While it is away, two others: neither. With it back: it again.
	m.mu.Lock()
	n[1].view, n[2].view = sawPrimary, sawPrimary
	m.mu.Unlock()
	if p := see(sawNothing); p != nil {
		t.Errorf("%s is the primary, as another might be", p.name)
	}
	if p := see(sawPrimary); p != n[0] {
		t.Errorf("the primary there was is not known again: %v", p)
	}
	// Removed, it counts for nothing.
	m.leave(n[0])
	if p := m.now.Load().primary; p != nil {
		t.Errorf("%s is the primary, as another might be", p.name)
	}
	m.join(n[0])
	if p := see(sawPrimary, sawPrimary, sawPrimary); p != nil {
		t.Errorf("%s is the primary after it was removed and added", p.name)
	}
}

// TestSeen: what follows on each look.
func TestSeen(t *testing.T) {
	r, changes := watched(t, Config{CheckInterval: time.Minute, MaxLag: 4 * time.Second}, "a", "b")
	m, a, b := r.monitor, r.nodes()[0], r.nodes()[1]
	open := new(atomic.Int32)
	fill := func(n *node) {
		t.Helper()
		n.pool.open = countedOpen(open)
		p, err := n.pool.acquire(t.Context(), n == b, false, true)
		if err != nil {
			t.Fatal(err)
		}
		n.pool.release(p)
	}
	told := func(what string, want ...NodeChange) {
		t.Helper()
		for i := range *changes {
			(*changes)[i].Addr, (*changes)[i].Reason = "", ""
		}
		if !slices.Equal(*changes, want) {
			t.Errorf("%s: told %v, want %v", what, *changes, want)
		}
		*changes = nil
	}
	before := m.now.Load()
	v := sawPrimary
	v.asked = time.Now().Add(-time.Second)
	m.publish(a, v)
	select {
	case <-before.changed:
	default:
		t.Error("nobody is told that there is something newer")
	}
	if d := m.interval(v); d != searchInterval {
		t.Errorf("without a primary the next look is in %v", d)
	}
	m.publish(b, sawReplica)
	if s := m.now.Load(); s.primary != a || s.asked != v.asked || !slices.Equal(s.replicas, []*node{b}) {
		t.Errorf("%+v", s)
	}
	told("the start", NodeChange{Node: "a", Role: Primary, State: Up}, NodeChange{Node: "b", Role: Replica, State: Up})
	if b.warmSince.Load() != 0 {
		t.Error("a slow start of all there are")
	}
	if d := m.interval(sawReplica); d != time.Minute {
		t.Errorf("the next look is in %v", d)
	}
	behind := sawReplica
	behind.behind = 1
	if d := m.interval(behind); d != 4*time.Second/behindLooks {
		t.Errorf("the next look at a replica that is behind is in %v", d)
	}
	// Only what was writable can be demoted.
	m.demoted(b)
	if s := m.now.Load(); !slices.Equal(s.replicas, []*node{b}) || !asksForLook(b) {
		t.Errorf("a replica that refuses a write is out of use: %+v", s.statuses[1])
	}
	told("a refusal")

	fill(b)
	m.publish(b, sawNothing)
	told("down", NodeChange{Node: "b", OldRole: Replica, OldState: Up, State: Down})
	if open.Load() != 0 {
		t.Error("connections to a node that is down are kept")
	}
	m.publish(b, sawReplica)
	told("back", NodeChange{Node: "b", OldState: Down, Role: Replica, State: Up})
	if b.warmSince.Load() == 0 || b.pool.generation.Load() != 0 {
		t.Errorf("back: warm since %d, %d changes of role", b.warmSince.Load(), b.pool.generation.Load())
	}
	m.publish(a, sawNothing)
	m.publish(a, sawPrimary)
	if *changes = nil; a.warmSince.Load() != 0 {
		t.Error("a slow start of a primary")
	}

	// A switchover between two looks: both are up all the time.
	fill(a)
	fill(b)
	one, two := sawReplica, sawPrimary
	one.serverID, one.sourceID, two.serverID = "1", "2", "2"
	m.mu.Lock()
	b.view = two
	m.mu.Unlock()
	m.publish(a, one)
	told("a switchover", NodeChange{Node: "a", OldRole: Primary, OldState: Up, Role: Replica, State: Up}, NodeChange{Node: "b", OldRole: Replica, OldState: Up, Role: Primary, State: Up})
	if open.Load() != 0 || a.pool.generation.Load() != 1 || b.pool.generation.Load() != 1 {
		t.Errorf("%d connections of the old roles are kept, %d and %d changes of role", open.Load(), a.pool.generation.Load(), b.pool.generation.Load())
	}
	if s := m.now.Load(); s.primary != b || !slices.Equal(s.replicas, []*node{a}) {
		t.Errorf("%+v", s)
	}
}
