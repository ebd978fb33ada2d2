package mysqltest

import (
	"context"
	"sync"
	"time"
)

const (
	// maxTransaction bounds the statements that a transaction may hold back until
	// its COMMIT, maxTransactionBytes their size.
	maxTransaction      = 10000
	maxTransactionBytes = 64 << 20
	// maxLogBytes bounds the size of a log.
	maxLogBytes = 64 << 20
)

// change is a statement that changed something.
type change struct {
	sql, database, user string
	args                []any
	insertID            uint64
}

// size is about the memory that the change holds.
func (c *change) size() int {
	n := 100 + len(c.sql) + len(c.database) + len(c.user)
	for _, a := range c.args {
		n += 16
		switch v := a.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		}
	}
	return n
}

// entry is a committed transaction. It is immutable.
type entry struct {
	gtid    gtid
	changes []change
	at      time.Time // when this server committed it
	size    int
}

// binlog is a server's log of what it wrote and applied. Its sequence numbers
// follow one another without a gap.
type binlog struct {
	self  uint32 // the server's number
	limit int    // in entries

	mu        sync.Mutex // guards what follows; held before a replication's mu
	entries   []entry
	bytes     int
	purged    gtid // the last entry that fell out
	last      gtid
	counts    counts // those that fell out included
	applied   gtid   // the last entry that came from a source
	up        bool   // the server runs
	changed   chan struct{}
	followers map[*replication]struct{}
}

func newBinlog(self uint32, limit int) *binlog {
	return &binlog{self: self, limit: limit, counts: make(counts), changed: make(chan struct{}), followers: make(map[*replication]struct{})}
}

// write logs a transaction of this server's own, and returns its GTID and its
// number among those of the server.
func (b *binlog) write(changes []change) (g gtid, n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g = gtid{server: b.self, seq: b.last.seq + 1}
	b.add(g, changes)
	return g, b.counts[b.self]
}

// apply logs a transaction of the source; what makes it conflict with a write of
// this server's own is an error.
func (b *binlog) apply(g gtid, changes []change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.applied = g
	b.add(g, changes)
}

func (b *binlog) add(g gtid, changes []change) {
	e := entry{gtid: g, changes: changes, at: time.Now()}
	for i := range changes {
		e.size += changes[i].size()
	}
	b.entries, b.bytes, b.last = append(b.entries, e), b.bytes+e.size, g
	b.counts[g.server]++
	for len(b.entries) > b.limit || b.bytes > maxLogBytes && len(b.entries) > 1 {
		b.purged, b.bytes = b.entries[0].gtid, b.bytes-b.entries[0].size
		b.entries[0] = entry{}
		b.entries = b.entries[1:]
	}
	close(b.changed)
	b.changed = make(chan struct{})
	if !b.up {
		return // nobody is connected
	}
	for f := range b.followers {
		f.receive(e)
	}
}

// check says whether the log may take g next: known means that it has it.
func (b *binlog) check(g gtid) (known bool, err *Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g.seq > b.last.seq {
		return false, nil
	}
	if b.has(g) {
		return true, nil
	}
	return false, errorf(1950, "HY000", "An attempt was made to binlog GTID %v which would create an out-of-order sequence number with existing GTID %v, and gtid strict mode is enabled", g, b.last)
}

// has says whether g is in the log, or was: what fell out is taken on trust.
func (b *binlog) has(g gtid) bool {
	if g.seq == 0 || g.seq < b.purged.seq {
		return true
	}
	if g.seq == b.purged.seq {
		return g == b.purged
	}
	i := g.seq - b.purged.seq - 1
	return i < uint64(len(b.entries)) && b.entries[i].gtid == g
}

// after returns the entries that follow g, for a replica whose position it is.
// The caller holds mu.
func (b *binlog) after(g gtid) ([]entry, *Error) {
	switch {
	case g.seq < b.purged.seq:
		return nil, errorf(1236, "HY000", "Got fatal error 1236 from master when reading data from binary log: 'Could not find GTID state requested by slave in any binlog files. Probably the slave state is too old and required binlog files have been purged.'")
	case g.seq > b.last.seq || !b.has(g):
		return nil, errorf(1236, "HY000", "Got fatal error 1236 from master when reading data from binary log: 'Error: connecting slave requested to start from GTID %v, which is not in the master's binlog'", g)
	}
	return b.entries[g.seq-b.purged.seq:], nil
}

// positions returns the position of the log and that of the source's part.
func (b *binlog) positions() (last, applied gtid) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last, b.applied
}

// wait waits until what came from the source, or with own the whole log, has
// reached g. It returns false if the context ends first.
func (b *binlog) wait(ctx context.Context, g gtid, own bool) bool {
	for {
		b.mu.Lock()
		at, changed := b.applied, b.changed
		if own {
			at = b.last
		}
		b.mu.Unlock()
		if at.seq >= g.seq {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
