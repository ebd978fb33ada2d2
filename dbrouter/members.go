package dbrouter

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ErrNode is wrapped by the error for a node that cannot be added, removed,
// drained or resumed: its name is not known, or in use already.
var ErrNode = errors.New("dbrouter: no such change of the nodes")

// newNode makes a node of a checked configuration. Nothing runs yet.
func (r *Router) newNode(index int, conf Node) (*node, error) {
	n := &node{index: index, name: conf.Name, addr: conf.Config.Addr, zone: conf.Zone, weight: conf.Weight,
		target: conf.Config.Net + " " + conf.Config.Addr, check: make(chan struct{}, 1)}
	var err error
	if n.pool, err = newPool(n, conf, r.done); err != nil {
		return nil, err
	}
	n.waits, n.kills = newWaits(n), newKills(n)
	n.status = NodeStatus{Name: n.name, Addr: n.addr, Zone: n.zone, LastError: "not looked at yet"}
	return n, nil
}

// start begins to look at a node.
func (r *Router) start(n *node) {
	ctx, cancel := context.WithCancel(r.ctx)
	n.cancel = cancel
	r.loops.Go(func() { r.monitor.watch(ctx, n) })
	r.loops.Go(func() { n.waits.run(ctx, r.conf.WaitLimit) })
	r.loops.Go(func() { n.kills.run(ctx) })
}

// nodes are those there are now, in the order of their being added.
func (r *Router) nodes() []*node { return r.monitor.now.Load().nodes }

// node returns the node of that name.
func (r *Router) node(name string) (*node, error) {
	nodes := r.nodes()
	if i := slices.IndexFunc(nodes, func(n *node) bool { return n.name == name }); i >= 0 {
		return nodes[i], nil
	}
	return nil, fmt.Errorf("%w: there is none called %q", ErrNode, name)
}

// AddNode adds a node while the Router runs. It is used once it has been looked
// at, and as a replica with a slow start. The error lists what is wrong with the
// configuration, and wraps [ErrNode] if its name or address is in use.
func (r *Router) AddNode(conf Node) error {
	r.members.Lock()
	defer r.members.Unlock()
	if r.closed() {
		return ErrClosed
	}
	checked, err := conf.check()
	if err != nil {
		return fmt.Errorf("dbrouter: Node: %w", err)
	}
	nodes := r.nodes()
	if len(nodes) == maxNodes {
		return fmt.Errorf("%w: there are %d nodes, which is the most", ErrNode, maxNodes)
	}
	var used uint64
	for _, n := range nodes {
		used |= 1 << n.index
		if n.name == checked.Name {
			return fmt.Errorf("%w: Node.Name is %q, which another node has", ErrNode, n.name)
		}
		if conf.Config.DialFunc == nil && n.target == checked.Config.Net+" "+checked.Config.Addr {
			return fmt.Errorf("%w: Node.Config.Addr is %s, which node %q has", ErrNode, n.addr, n.name)
		}
	}
	index := 0
	for used&(1<<index) != 0 {
		index++
	}
	n, err := r.newNode(index, checked)
	if err != nil {
		return err
	}
	n.cold = true
	r.monitor.join(n)
	r.start(n)
	return nil
}

// RemoveNode has the Router forget a node. It gets no new statement; its idle
// connections are closed, and those in use once their statement, their
// transaction or their pinned session has ended. If it was the primary, another
// node takes the writes once it is writable. The last node stays. The error
// wraps [ErrNode].
func (r *Router) RemoveNode(name string) error {
	r.members.Lock()
	defer r.members.Unlock()
	if r.closed() {
		return ErrClosed
	}
	n, err := r.node(name)
	if err != nil {
		return err
	}
	if len(r.nodes()) == 1 {
		return fmt.Errorf("%w: %q is the last one", ErrNode, name)
	}
	r.monitor.leave(n)
	n.cancel()
	n.pool.park(true)
	r.removed = slices.DeleteFunc(r.removed, func(n *node) bool { return n.pool.connections() == 0 })
	r.removed = append(r.removed, n)
	return nil
}

// Drain gives a node no new statements, until [Router.Resume]: its idle
// connections are closed, those in use finish what they do. It goes on being
// looked at. The drained primary takes no writes, so that they are held back for
// Config.BufferWait, as before a switchover, or fail. It does not wait; see
// [NodeStatus].Connections. The error wraps [ErrNode].
func (r *Router) Drain(name string) error { return r.drain(name, true) }

// Resume ends what [Router.Drain] began. A replica comes back with a slow start.
func (r *Router) Resume(name string) error { return r.drain(name, false) }

func (r *Router) drain(name string, on bool) error {
	r.members.Lock()
	defer r.members.Unlock()
	if r.closed() {
		return ErrClosed
	}
	n, err := r.node(name)
	if err != nil {
		return err
	}
	n.pool.park(on)
	r.monitor.drain(n, on)
	if on {
		n.pool.prune(0) // those that came back in between
	}
	return nil
}
