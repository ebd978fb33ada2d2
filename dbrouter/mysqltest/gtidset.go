package mysqltest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// counts are how many transactions of each server a log has: the same as a set
// of MySQL's GTIDs, in which the writes of each server are numbered from 1 and,
// as here, have no gaps.
type counts map[uint32]uint64

// uuid is the server_uuid of a server in MySQL's GTIDs.
func uuid(server uint32) string { return fmt.Sprintf("00000000-0000-0000-0000-%012x", server) }

// String is the set as MySQL writes it, without its line breaks.
func (c counts) String() string {
	var out []string
	for _, server := range slices.Sorted(maps.Keys(c)) {
		switch n := c[server]; n {
		case 0:
		case 1:
			out = append(out, uuid(server)+":1")
		default:
			out = append(out, uuid(server)+":1-"+strconv.FormatUint(n, 10))
		}
	}
	return strings.Join(out, ",")
}

// covers says whether all of another set is in it.
func (c counts) covers(want counts) bool {
	for server, n := range want {
		if c[server] < n {
			return false
		}
	}
	return true
}

// maxSet bounds the elements of a set that is read.
const maxSet = 1024

// parseSet reads a set such as "uuid:1-5:7,uuid:3". Of each server the highest
// number counts, as the logs have no gaps. A server that is none of ours is never
// reached.
func parseSet(s string) (set counts, reachable bool, err error) {
	bad := errorf(1772, "HY000", "Malformed GTID set specification '%s'", clip(s))
	set, reachable = make(counts), true
	n := 0
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		id, numbers, ok := strings.Cut(item, ":")
		if n++; !ok || n > maxSet || len(id) != len(uuid(0)) {
			return nil, false, bad
		}
		var server uint32
		if v, err := strconv.ParseUint(id[len(id)-12:], 16, 32); err == nil && strings.EqualFold(id, uuid(uint32(v))) {
			server = uint32(v)
		} else {
			reachable = false
		}
		for part := range strings.SplitSeq(numbers, ":") {
			first, last, two := strings.Cut(strings.TrimSpace(part), "-")
			from, err := strconv.ParseUint(first, 10, 63)
			to := from
			if err == nil && two {
				to, err = strconv.ParseUint(last, 10, 63)
			}
			if err != nil || from == 0 {
				return nil, false, bad
			}
			if to >= from {
				set[server] = max(set[server], to)
			}
		}
	}
	return set, reachable, nil
}

// gtidMode says whether a server with a MySQL version has GTIDs: unless somebody
// has set gtid_mode to something else than ON.
func (s *Server) gtidMode() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mode, set := s.globals["gtid_mode"]
	return !set || strings.EqualFold(fmt.Sprint(mode), "ON")
}

// executed returns what the log has.
func (b *binlog) executed() counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.counts)
}

// waitSet waits until the log has all of the set. It returns false if the context
// ends first.
func (b *binlog) waitSet(ctx context.Context, want counts) bool {
	for {
		b.mu.Lock()
		there, changed := b.counts.covers(want), b.changed
		b.mu.Unlock()
		if there {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// setWait is WAIT_FOR_EXECUTED_GTID_SET: 0 once the set is there, 1 on a timeout.
// No timeout, or one of 0, waits for ever.
func setWait(ctx context.Context, c *conn, args []any) (any, error) {
	if c.s.mariaDB() {
		return nil, errorf(1305, "42000", "FUNCTION WAIT_FOR_EXECUTED_GTID_SET does not exist")
	}
	if args[0] == nil {
		return nil, nil
	}
	if !c.s.gtidMode() {
		return nil, errorf(3111, "HY000", "GTID_MODE is OFF")
	}
	set, reachable, err := parseSet(fmt.Sprint(args[0]))
	if err != nil {
		return nil, err
	}
	if !reachable {
		set[0] = 1<<64 - 1
	}
	wait, cancel := ctx, func() {}
	if len(args) == 2 {
		if d, forever := seconds(args[1]); !forever && d > 0 {
			wait, cancel = context.WithTimeout(ctx, d)
		}
	}
	defer cancel()
	switch {
	case c.s.log.waitSet(wait, set):
		return int64(0), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return int64(1), nil
}

// tracksGTIDs says whether the client asked a MySQL server for the GTIDs of its own
// writes.
func (c *conn) tracksGTIDs() bool {
	v, err := c.variable("", "session_track_gtids")
	return err == nil && strings.EqualFold(fmt.Sprint(v), "OWN_GTID")
}

// waitPosition waits until the log has a position in the server's own form.
func (s *Server) waitPosition(ctx context.Context, position string) (bool, error) {
	if s.mariaDB() {
		g, reachable, err := parsePosition(position)
		if err == nil && !reachable {
			err = errorf(1941, "HY000", "position %q is not in domain 0", clip(position))
		}
		if err != nil {
			return false, err
		}
		return s.log.wait(ctx, g, true), nil
	}
	set, reachable, err := parseSet(position)
	if err == nil && !reachable {
		err = errorf(1772, "HY000", "position %q is of no server of ours", clip(position))
	}
	if err != nil {
		return false, err
	}
	return s.log.waitSet(ctx, set), nil
}
