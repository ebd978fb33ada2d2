package dbrouter

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// view is what one look at a node told. It never changes.
type view struct {
	looked    bool      // false: not looked at yet
	asked     time.Time // when the look began
	reachable bool
	trouble   string // what is wrong, if anything
	dialect   dialect
	serverID  string
	writable  bool
	// positions: the node records GTIDs that prove what a replica has applied.
	positions bool

	// What follows is about replicas.
	statusKnown bool
	replicating bool // all threads run
	// lag is how old its data are at the most, by the primary's positions, or
	// else by its own account in whole seconds.
	lagKnown bool
	lag      time.Duration
	lagOpen  bool   // it is that at the least
	behind   uint64 // transactions
	sourceID string // server ID of the node it replicates from
}

// choosePrimary decides which node takes the writes. last is the index of the
// one that did, or -1. If there is none, it says why.
//
// Two writable nodes are an operator's mistake or a failover that went wrong.
// Writing to both loses data (ProxySQL #789, #2179), so that only the one that
// was the primary before is trusted.
func choosePrimary(views []view, names []string, last int) (primary int, reason string) {
	var writable []string
	primary = -1
	for i, v := range views {
		if !v.looked {
			return last, "not all nodes have been looked at yet"
		}
		if v.reachable && v.writable {
			writable = append(writable, names[i])
			primary = i
		}
	}
	switch {
	case last >= 0 && views[last].reachable && views[last].writable:
		return last, ""
	case len(writable) == 1:
		return primary, ""
	case len(writable) > 1:
		return -1, "more than one node is writable, and none of them was the primary before: " + strings.Join(writable, ", ")
	}
	return -1, "no node is writable" + troubles(views, names)
}

// maxTroubles bounds the nodes whose troubles are told.
const maxTroubles = 3

// troubles says why nodes cannot be reached.
func troubles(views []view, names []string) string {
	var all []string
	for i, v := range views {
		if !v.reachable && v.trouble != "" && len(all) < maxTroubles {
			all = append(all, names[i]+" is down: "+v.trouble)
		}
	}
	if all == nil {
		return ""
	}
	return "; " + strings.Join(all, "; ")
}

// judge gives a node its role and state, with a reason if the state is not Up.
func judge(views []view, i, primary int, c Consistency, maxLag time.Duration) (Role, State, string) {
	v := views[i]
	switch {
	case !v.looked:
		return RoleUnknown, StateUnknown, "not looked at yet"
	case !v.reachable:
		return RoleUnknown, Down, v.trouble
	case i == primary:
		return Primary, Up, ""
	case v.writable && primary < 0 && slices.ContainsFunc(views, func(v view) bool { return !v.looked }):
		return RoleUnknown, StateUnknown, "writable, but not all nodes have been looked at yet"
	case v.writable && primary < 0:
		return RoleUnknown, Conflict, "writable, as another node is"
	case v.writable:
		return RoleUnknown, Conflict, "writable beside the primary"
	case !v.statusKnown && c == Global:
		return Replica, Up, "" // waiting for a position proves enough
	case !v.statusKnown, !v.replicating:
		return Replica, Stopped, v.trouble
	case !v.lagKnown:
		return Replica, Stopped, "the lag is not known"
	case v.lagOpen:
		return Replica, Lagging, fmt.Sprintf("more than %v behind, which is as long as it is known", v.lag.Round(time.Millisecond))
	case v.lag > maxLag:
		return Replica, Lagging, fmt.Sprintf("%v behind, want %v at most", v.lag.Round(time.Millisecond), maxLag)
	}
	if primary >= 0 && !follows(views, i, primary) {
		return Replica, Stopped, "it replicates from server ID " + v.sourceID + ", not from the primary"
	}
	return Replica, Up, ""
}

// follows says whether node i replicates from the primary, through other nodes
// maybe. A node that follows another history must not be read from: MariaDB
// compares the sequence numbers of positions only, so that waiting for one
// proves nothing there.
func follows(views []view, i, primary int) bool {
	for range views {
		source := views[i].sourceID
		if source == "" || source == views[primary].serverID {
			return true // an old server does not tell
		}
		next := -1
		for j, v := range views {
			if j != i && v.reachable && !v.writable && v.replicating && v.serverID == source {
				next = j
			}
		}
		if next < 0 {
			return false
		}
		i = next
	}
	return false
}

// snapshot is all that a statement needs to know. It never changes.
type snapshot struct {
	primary  *node // nil: none is known, for the reason
	reason   string
	dialect  dialect   // of the primary
	proof    bool      // the primary records positions
	asked    time.Time // when the look began that found the primary writable
	replicas []*node   // to be read from
	nodes    []*node
	statuses []NodeStatus  // of nodes
	changed  chan struct{} // closed when there is a newer one
}

// within returns the replicas that were fresh enough for the hint when they were
// looked at. Those there are have a lag of MaxLag at most.
func (s *snapshot) within(h hint) []*node {
	if h.kind != hintReplica || h.stale == 0 {
		return s.replicas
	}
	var out []*node
	for _, n := range s.replicas {
		if st := s.statuses[slices.Index(s.nodes, n)]; st.LagKnown && st.Lag <= h.stale {
			out = append(out, n)
		}
	}
	return out
}
