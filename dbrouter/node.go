package dbrouter

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Role is what a node is for.
type Role int

const (
	// RoleUnknown: not found out yet, or writable beside the primary.
	RoleUnknown Role = iota
	// Primary takes the writes.
	Primary
	// Replica is read-only and follows a primary.
	Replica
)

func (r Role) String() string {
	switch r {
	case Primary:
		return "primary"
	case Replica:
		return "replica"
	}
	return "unknown"
}

// MarshalText returns the text of String.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText returns.
func (r *Role) UnmarshalText(text []byte) error { return parseText(r, text, RoleUnknown, Replica) }

// State is how a node fares.
type State int

const (
	// StateUnknown: not looked at yet.
	StateUnknown State = iota
	// Up: it is used.
	Up
	// Lagging: a replica further behind than MaxLag. It is not read from.
	Lagging
	// Stopped: a replica that does not replicate, or not from the primary. It is
	// not read from.
	Stopped
	// Conflict: a writable node beside the primary. It is not used.
	Conflict
	// Down: it does not answer. It is not used.
	Down
	// Draining: [Router.Drain] was called. It finishes what it does.
	Draining
	// Ejected: a replica that answers, but fails reads; see Config.EjectAfter. It
	// is not read from.
	Ejected
)

func (s State) String() string {
	switch s {
	case Up:
		return "up"
	case Lagging:
		return "lagging"
	case Stopped:
		return "stopped"
	case Conflict:
		return "conflict"
	case Down:
		return "down"
	case Draining:
		return "draining"
	case Ejected:
		return "ejected"
	}
	return "unknown"
}

// MarshalText returns the text of String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText returns.
func (s *State) UnmarshalText(text []byte) error { return parseText(s, text, StateUnknown, Ejected) }

// parseText finds the value between first and last whose text it is.
func parseText[T interface {
	~int
	fmt.Stringer
}](v *T, text []byte, first, last T) error {
	for t := first; t <= last; t++ {
		if t.String() == string(text) {
			*v = t
			return nil
		}
	}
	return fmt.Errorf("dbrouter: %T %q, want one of %v to %v", first, text, first, last)
}

// NodeStatus is what is known of a node.
type NodeStatus struct {
	Name  string `json:"name"`
	Addr  string `json:"addr"`
	Role  Role   `json:"role"`
	State State  `json:"state"`
	// Lag is how old a replica's data were at the most when it was looked at, by
	// the GTIDs of the primary, or where those cannot be had by the replica's own
	// account in whole seconds; it counts only if LagKnown. For a replica that is
	// further behind than the router can look back it is the least.
	Lag      time.Duration `json:"lag"`
	LagKnown bool          `json:"lag_known"`
	// Behind is how many transactions of the primary a replica lacked when it was
	// looked at; 0 if it had them within a few milliseconds.
	Behind uint64 `json:"behind,omitempty"`
	// LastError says why State is not Up; empty if it is. It holds no password.
	LastError string `json:"last_error,omitempty"`
	// Zone is Node.Zone.
	Zone string `json:"zone,omitempty"`
	// Latency is what the reads of late have taken, up to the head of their
	// rows, on average; 0 while there is but one replica, which needs no choice.
	Latency time.Duration `json:"latency,omitempty"`
	// Connections is the number of open connections for statements.
	Connections int `json:"connections"`
}

// NodeChange is a change of a node's role or state.
type NodeChange struct {
	Node     string
	Addr     string
	OldRole  Role
	Role     Role
	OldState State
	State    State
	// Reason says why State is not Up; empty if it is.
	Reason string
}

func (c NodeChange) String() string {
	s := fmt.Sprintf("%s: %v %v → %v %v", c.Node, c.OldRole, c.OldState, c.Role, c.State)
	if c.Reason != "" {
		s += ": " + c.Reason
	}
	return s
}

// node is a configured server with its pool.
type node struct {
	index  int // below maxNodes, and no other node's
	name   string
	addr   string
	target string // network and address
	zone   string
	weight int
	pool   *pool
	waits  *waits
	kills  *kills
	check  chan struct{} // asks for a look at the node now; one may wait
	cancel context.CancelFunc

	latency   latency
	failures  atomic.Int32 // of reads, in a row
	warmSince atomic.Int64 // Unix time in ns at which a slow start began; 0: none

	// The monitor's mu guards what follows.
	view     view
	known    Role // the last one that was known; a node that is down has one too
	status   NodeStatus
	draining bool
	ejected  time.Time // until when
	cold     bool      // it was added later: its first use is a slow start
}

// lookNow asks the monitor for an immediate look.
func (n *node) lookNow() {
	select {
	case n.check <- struct{}{}:
	default:
	}
}
