package dbrouter

import (
	"context"
	"database/sql/driver"
	"strconv"
	"time"
)

const (
	// maxKills bounds the statements of a node that wait to be ended; a server
	// ends the others itself, once it tries to answer.
	maxKills = 256
	// killLimit bounds the ending of one.
	killLimit = 2 * time.Second
)

// victim is a statement that nobody waits for any more.
type victim struct {
	thread uint32
	since  time.Time // when it was connected
	// all: its connection ends, too, with what has been sent on it behind the
	// statement.
	all bool
}

// kills ends statements whose caller's context has ended. The driver only closes
// the connection then, which a server does not notice before it has the answer:
// a read of an hour goes on for its hour, and a write keeps its locks.
type kills struct {
	node  *node
	queue chan victim
}

func newKills(n *node) *kills { return &kills{node: n, queue: make(chan victim, maxKills)} }

// abandon has the server end what the connection does, if the driver has closed
// it because the context ended.
func (p *physical) abandon(ctx context.Context) {
	if p.track != nil && ctx.Err() != nil && !p.valid() {
		p.kill(p.track.ahead.open())
	}
}

// kill has the server end what the connection does, or the connection with all
// that was sent on it.
func (p *physical) kill(all bool) {
	if p.track.thread == 0 || p.abandoned {
		return
	}
	p.abandoned = true
	select {
	case p.pool.node.kills.queue <- victim{p.track.thread, p.since, all}:
	default:
	}
}

// run ends statements until the context ends. Its own connection is closed when
// there is nothing to end.
func (k *kills) run(ctx context.Context) {
	l := &link{node: k.node}
	defer func() { l.close() }()
	var since time.Time
	for {
		select {
		case v := <-k.queue:
			if l.conn != nil && since.Before(v.since) {
				l.close() // see kill
			}
			if l.conn == nil {
				since = time.Now()
			}
			k.kill(ctx, l, v)
			continue
		default:
		}
		l.close()
		select {
		case <-ctx.Done():
			return
		case v := <-k.queue:
			since = time.Now()
			k.kill(ctx, l, v)
		}
	}
}

// kill ends one statement. Threads are numbered anew by each life of a server,
// in the order of connecting: one that was connected to before, and has the
// higher number, belonged to an earlier life, and its number may be another's
// now.
func (k *kills) kill(ctx context.Context, l *link, v victim) {
	// Its error is of no use to anybody: the statement has ended by then (1094),
	// or the server is gone.
	_ = l.do(ctx, killLimit, func(ctx context.Context, conn driver.Conn) error {
		if l.track == nil || l.track.thread <= v.thread {
			return nil
		}
		what := "QUERY "
		if v.all {
			what = "CONNECTION "
		}
		return exec(ctx, conn, "KILL "+what+strconv.FormatUint(uint64(v.thread), 10))
	})
}
