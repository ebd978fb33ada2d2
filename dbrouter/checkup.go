package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Problem is a mistake in how a server or the account on it is set up, found by
// [Router.Check]. It never changes.
type Problem struct {
	// Node is the name of the node that has it.
	Node string
	// What is wrong, in a sentence without its end.
	What string
	// Mend says what to do about it.
	Mend string
}

// Error returns all of it.
func (p *Problem) Error() string {
	return "dbrouter: node " + p.Node + ": " + p.What + "; to mend it, " + p.Mend
}

// Check looks for what makes the promises of the Router void, and costs no time
// to see later: an account that a server's read_only does not bind, servers that
// report no GTIDs or write none, several writable nodes, a replica of another
// primary, a version that is too old. It asks every node now; call it once at
// the start, after [Router.Ready]. The error joins all that was found, each a
// [*Problem], or a [*NodeError] for a node that could not be asked. Check changes
// nothing, and statements run meanwhile.
func (r *Router) Check(ctx context.Context) error {
	nodes := r.nodes()
	exams := make([]exam, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { exams[i] = n.examine(ctx) })
	}
	wg.Wait()
	if r.closed() {
		return ErrClosed
	}
	var found []error
	for _, e := range exams {
		if e.err != nil {
			found = append(found, &NodeError{Node: e.node, Err: e.err})
			continue
		}
		for _, p := range e.problems() {
			found = append(found, p)
		}
	}
	for _, p := range topologyProblems(exams) {
		found = append(found, p)
	}
	return errors.Join(found...)
}

// exam is what one node told for Check.
type exam struct {
	node string
	view
	version string
	account string
	grants  []string
	tracked bool // it reports the GTIDs of writes
	err     error
}

func (n *node) examine(ctx context.Context) exam {
	e := exam{node: n.name}
	l := &link{node: n}
	defer l.close()
	e.err = l.do(ctx, lookLimit, func(ctx context.Context, conn driver.Conn) (err error) {
		if e.view, err = probe(ctx, conn); err != nil {
			return err
		}
		who, err := askOne(ctx, conn, "SELECT VERSION(), CURRENT_USER()", 2)
		if err != nil {
			return err
		}
		e.version, e.account = who[0], who[1]
		rows, err := ask(ctx, conn, "SHOW GRANTS")
		if err != nil {
			return err
		}
		e.grants = nil
		for _, r := range rows {
			e.grants = append(e.grants, r.values[0])
		}
		if err := newPhysical(conn, l.track).trackWrites(ctx); err != nil {
			return err
		}
		e.tracked = l.track != nil && l.track.on
		return nil
	})
	return e
}

// problems are those that a node has by itself.
func (e exam) problems() []*Problem {
	var out []*Problem
	add := func(what, mend string) { out = append(out, &Problem{Node: e.node, What: what, Mend: mend}) }
	product, least := "MySQL", [3]int{8, 0, 22} // SHOW REPLICA STATUS
	if e.dialect == mariaDB {
		product, least = "MariaDB", [3]int{10, 5, 2} // READ_ONLY ADMIN apart from SUPER
	}
	if v := versionOf(e.version); slices.Compare(v[:], least[:]) < 0 {
		add(fmt.Sprintf("its version %q is too old", e.version), fmt.Sprintf("upgrade it to %s %d.%d.%d or later", product, least[0], least[1], least[2]))
	}
	switch {
	case e.positions:
	case e.dialect == mariaDB:
		add("log_bin is off, so that its writes have no GTIDs", "set log_bin and log_slave_updates in its configuration, and restart it")
	default:
		add("gtid_mode is not ON, so that its writes may have no GTIDs", "set enforce_gtid_consistency=ON and gtid_mode=ON, on all nodes")
	}
	if !e.tracked {
		add("it does not report the GTIDs of writes (session tracking is off), so that the primary is asked after each write of a Session",
			"connect without compression, with tls=true rather than preferred, and without a proxy that hides session tracking")
	}
	for _, privilege := range overriding(e) {
		add(fmt.Sprintf("the account %s has %s, so that read_only does not bind it", e.account, privilege),
			fmt.Sprintf("REVOKE %s ON *.* FROM %s, or use another account", privilege, e.account))
	}
	return out
}

// overriding returns the privileges of the account that read_only does not bind.
// SUPER is one on MySQL, and was one on MariaDB before 10.11
// (https://mariadb.com/kb/en/grant/#read_only-admin).
func overriding(e exam) []string {
	list := []string{"ALL PRIVILEGES", "SUPER", "CONNECTION_ADMIN"}
	if e.dialect == mariaDB {
		list = []string{"ALL PRIVILEGES", "READ_ONLY ADMIN", "READ ONLY ADMIN"}
		if v := versionOf(e.version); slices.Compare(v[:], []int{10, 11, 0}) < 0 {
			list = append(list, "SUPER")
		}
	}
	var out []string
	for _, g := range e.grants {
		privileges, _, ok := strings.Cut(g, " ON *.* TO ")
		if privileges, is := strings.CutPrefix(privileges, "GRANT "); ok && is {
			for p := range strings.SplitSeq(privileges, ",") {
				if p = strings.ToUpper(strings.TrimSpace(p)); slices.Contains(list, p) {
					out = append(out, p)
				}
			}
		}
	}
	return out
}

// versionOf reads the numbers that a version begins with; those that are not
// there are 0.
func versionOf(s string) (v [3]int) {
	s, _, _ = strings.Cut(s, "-")
	for i, part := range strings.SplitN(s, ".", 3) {
		part = part[:len(part)-len(strings.TrimLeft(part, "0123456789"))]
		v[i], _ = strconv.Atoi(part) // what is no number is 0
	}
	return v
}

// topologyProblems are those that nodes have with each other.
func topologyProblems(exams []exam) []*Problem {
	var out []*Problem
	var writable []string
	primary := -1
	views := make([]view, len(exams))
	for i, e := range exams {
		views[i] = e.view
		if e.err == nil && e.writable {
			writable, primary = append(writable, e.node), i
		}
	}
	if len(writable) > 1 {
		for _, n := range writable {
			out = append(out, &Problem{Node: n, What: "it is writable, as are " + strings.Join(slices.DeleteFunc(slices.Clone(writable), func(o string) bool { return o == n }), ", "),
				Mend: "set read_only=1 on all nodes but the primary, in their configuration files as well"})
		}
		return out
	}
	if primary < 0 {
		return nil // Ready tells
	}
	for i, e := range exams {
		switch {
		case e.err != nil || i == primary || !e.statusKnown:
		case e.sourceID == "":
			out = append(out, &Problem{Node: e.node, What: "it is read-only and replicates from no server", Mend: "have it replicate from " + exams[primary].node + ", or remove it"})
		case !follows(views, i, primary):
			out = append(out, &Problem{Node: e.node, What: "it is a replica of another primary, server ID " + e.sourceID,
				Mend: fmt.Sprintf("have it replicate from %s, server ID %s", exams[primary].node, exams[primary].serverID)})
		}
	}
	return out
}
