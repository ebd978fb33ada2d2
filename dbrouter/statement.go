package dbrouter

import (
	"context"
	"database/sql/driver"
	"strings"
	"time"
)

// Statement is what OnStatement is told of a statement that was done, or that
// failed. The beginning and the end of a transaction are statements too.
type Statement struct {
	// Node is the name of the node that did it, the last one if it was
	// repeated; empty if none could be reached.
	Node string
	// Role is the role in which the node did it.
	Role Role
	// Reason says in a few words why it was sent there.
	Reason string
	// SQL is the text as the caller gave it. It may hold the caller's secrets:
	// the router never logs it.
	SQL string
	// Duration is the time until the result, or the head of the rows; it
	// includes waiting for a connection and for a replica.
	Duration time.Duration
	Err      error
	// Retried: it was sent to more than one node or connection, because of a
	// lost connection or a replica's refusal.
	Retried bool
}

// call is one statement on its way.
type call struct {
	ctx    context.Context
	sql    string
	known  *cached   // never changed but before it is sent
	wishes *wishes   // of ctx
	hint   hint      // of ctx or of the statement
	begun  time.Time // zero if nobody will ask; see Router.timed
	report

	// What it takes to repeat a query.
	args    []driver.NamedValue
	prepare bool

	// do runs the statement on a connection; rows does in its place, if not nil.
	do   func(*physical) error
	rows *rows
}

// begin classifies a statement. k is zero.
func (c *conn) begin(k *call, ctx context.Context, sql string) {
	k.ctx, k.sql = ctx, sql
	k.known = c.r.cache.classify(sql, &c.recent)
	k.wishes = asks(ctx)
	if k.wishes != nil || k.known.hint != noHint {
		k.hint = k.wishes.hinted(k.known.hint)
	}
	if c.r.timed {
		k.begun = time.Now()
	}
}

// report is what will be told about a call.
type report struct {
	by      *physical // nil: no node could be reached
	reason  string
	retried bool
	tries   int
}

// run does the statement on a connection and notes where.
func (k *call) run(p *physical, reason string) error {
	k.by, k.reason, k.retried = p, reason, k.tries > 0
	k.tries++
	var err error
	if k.rows != nil {
		err = k.rows.query(p)
	} else {
		err = k.do(p)
	}
	if err != nil {
		p.abandon(k.ctx)
	}
	if k.known.Kind == Pin {
		p.prepared.stale = true
	}
	if k.known.Kind == Pin && p.track != nil && mentions(k.sql, "session_track") {
		p.track.follow.lost = true // it may have ended the reports
	}
	return err
}

// runTimed is run for a read whose time counts in the choice of a replica, if
// there is a choice.
func (k *call) runTimed(p *physical, reason string, timed bool) error {
	if !timed {
		return k.run(p, reason)
	}
	begun := time.Now()
	err := k.run(p, reason)
	if err == nil {
		if p.track != nil && p.track.ahead.state == aheadPassed {
			begun = p.track.ahead.at
		}
		p.pool.node.latency.observe(time.Since(begun))
	}
	return err
}

// mentions says whether a statement has a word in it, in lower or upper case.
func mentions(sql, word string) bool {
	for i := range len(sql) - len(word) + 1 {
		if strings.EqualFold(sql[i:i+len(word)], word) {
			return true
		}
	}
	return false
}

// tell calls OnStatement and OnSlow, for a Router that is told.
func (r *Router) tell(k *call, err error) {
	s := Statement{Reason: k.reason, SQL: k.sql, Duration: time.Since(k.begun), Err: err, Retried: k.retried}
	if k.by != nil {
		s.Node, s.Role = k.by.pool.node.name, Primary
		if k.by.readOnly {
			s.Role = Replica
		}
	}
	if r.conf.OnStatement != nil {
		r.conf.OnStatement(k.ctx, s)
	}
	if r.conf.OnSlow != nil && s.Duration >= r.conf.SlowAfter {
		r.conf.OnSlow(k.ctx, s)
	}
}

// convert makes the arguments what the driver takes.
func convert(p *physical, args []driver.NamedValue) error {
	if p.checker == nil {
		return nil
	}
	for i := range args {
		if err := p.checker.CheckNamedValue(&args[i]); err != nil {
			return err
		}
	}
	return nil
}
