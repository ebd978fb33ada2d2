package dbrouter

import (
	"context"
	"fmt"
	"strings"
)

// Explanation says where a statement goes. It is what holds now: the next
// moment may have another primary.
type Explanation struct {
	Classification
	// Role is that of the node it goes to.
	Role Role
	// Nodes are the names of those that may get it; empty if none can.
	Nodes []string
	// Why says in a few words why it goes there.
	Why string
	// See says what a read is certain to see; empty for other statements.
	See string
}

// String is one line for people.
func (e Explanation) String() string {
	var s strings.Builder
	s.WriteString(fmt.Sprintf("%v → %v", e.Kind, e.Role))
	for i, n := range e.Nodes {
		s.WriteString(" ")
		if i > 0 {
			s.WriteString("or ")
		}
		s.WriteString(n)
	}
	if len(e.Nodes) == 0 {
		s.WriteString(" (there is none)")
	}
	s.WriteString(": " + e.Why)
	if e.See != "" {
		s.WriteString("; sees " + e.See)
	}
	return s.String()
}

// Explain says where a statement would go if it was done now, outside a
// transaction and a pinned session, and why. It asks no server.
func (r *Router) Explain(ctx context.Context, sql string) Explanation {
	known := r.cache.classify(sql, nil)
	class := known.Classification
	s := r.monitor.now.Load()
	e := Explanation{Classification: class, Role: Primary, Why: class.Reason}
	if s.primary != nil {
		e.Nodes = []string{s.primary.name}
	}
	its := asks(ctx)
	h := its.hinted(known.hint)
	switch {
	case known.denied:
		e.Nodes, e.Why = nil, "Config.Deny forbids it"
		return e
	case class.Kind == Same:
		e.Why = class.Reason + ", so on the connection of that one"
		return e
	case class.Kind != Read:
		return e
	case h.kind == hintPrimary:
		e.Why, e.See = "asked for", "everything"
		return e
	case r.conf.Consistency == PrimaryOnly:
		e.Why, e.See = "replicas are not used", "everything"
		return e
	}
	e.See = r.promise(r.session(its), h)
	replicas := s.within(h)
	if len(replicas) == 0 {
		e.Why = class.Reason + ", but no replica is usable"
		return e
	}
	e.Role, e.Nodes = Replica, nil
	for _, n := range replicas {
		e.Nodes = append(e.Nodes, n.name)
	}
	return e
}

// promise says what a read on a replica is certain to see.
func (r *Router) promise(own *Session, h hint) string {
	switch {
	case h.kind == hintReplica:
		return fmt.Sprintf("what is older than %v", r.staleLimit(h))
	case r.conf.Consistency == Global:
		return "every write acknowledged before it"
	}
	switch own {
	case nil:
		return fmt.Sprintf("what is older than %v", r.conf.MaxLag)
	case r.shared:
		return "every write made through this router"
	}
	return "every write of its session"
}
