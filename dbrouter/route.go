package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/go-sql-driver/mysql"
)

// writeTries is how often a statement is given to the primary's connections as
// long as nothing of it was sent.
const writeTries = 3

// route decides where a statement is done, and does it.
func (c *conn) route(k *call) error {
	if c.closed || c.r.closed() {
		return ErrClosed
	}
	if err := k.ctx.Err(); err != nil {
		return err
	}
	if k.known.denied {
		return ErrDenied
	}
	var err error
	switch {
	case c.tx != nil:
		err = k.run(c.tx.p, c.tx.reason)
		c.notice(c.tx.p, err)
		if k.known.Kind == Pin {
			c.tx.dirty = true
			c.pinned = c.pinned || !c.tx.p.readOnly
		}
		return err
	case c.pinned:
		return c.onPinned(k)
	case k.known.Kind == Same && c.last != nil && c.last.valid():
		p := c.last
		err = k.run(p, k.known.Reason)
		c.settle(p, err)
		return err
	case k.known.Kind != Read:
		return c.onPrimary(k, k.known.Reason)
	case k.hint.kind == hintPrimary:
		return c.onPrimary(k, "WithPrimary")
	case c.r.conf.Consistency == PrimaryOnly:
		return c.onPrimary(k, "replicas are not used")
	}
	return c.read(k)
}

// onPinned does a statement in the session that holds the state.
func (c *conn) onPinned(k *call) error {
	p := c.primary
	// Never silently in another session. database/sql closes a connection that
	// is reported as bad.
	if p == nil || !p.pool.current(p) {
		return lostSession{}
	}
	err := k.run(p, "pinned session")
	c.notice(p, err)
	if errors.Is(err, driver.ErrBadConn) {
		return lostSession{}
	}
	return err
}

// lostSession tells database/sql that the connection is of no more use.
type lostSession struct{}

func (lostSession) Error() string {
	return "dbrouter: the connection with the state of this session is gone"
}

func (lostSession) Is(target error) bool { return target == driver.ErrBadConn }

// onPrimary does a statement on the primary. It is repeated only if nothing of
// it was sent, or if it is a read.
func (c *conn) onPrimary(k *call, reason string) error {
	refusals := 0
	for try := 1; ; try++ {
		s := c.r.monitor.now.Load()
		if s.primary == nil {
			if c.r.hold(k, s, nil) {
				continue
			}
			if err := k.ctx.Err(); err != nil {
				return err
			}
			if k.known.Kind == Read {
				return fmt.Errorf("%w: %w", ErrNoNode, s.noPrimary())
			}
			return s.noPrimary()
		}
		p, err := c.take(k.ctx, s.primary, false, try == writeTries)
		if err != nil {
			if _, ok := errors.AsType[*NodeError](err); ok && c.r.hold(k, s, nil) {
				try = 0
				continue
			}
			return err
		}
		if err = k.run(p, reason); err == nil && k.known.Kind != Pin {
			return nil
		}
		c.notice(p, err)
		if k.known.Kind != Pin && !c.pinned && demoted(err) && c.r.conf.BufferWait > 0 {
			// Error 1290 also tells of other options than read_only: a node that
			// refuses twice, and says that it is writable, means one of those.
			if !p.saysReadOnly(k.ctx) {
				refusals++
			}
			if refusals < 2 && c.r.hold(k, s, s.primary) {
				c.settle(p, err)
				try = 0
				continue
			}
		}
		if k.known.Kind == Pin && !errors.Is(err, driver.ErrBadConn) {
			c.pinned = true // also after an error: part of it may have been done
		}
		repeat := errors.Is(err, driver.ErrBadConn) || k.known.Kind == Read && lost(k.ctx, p, err)
		if !c.pinned {
			c.settle(p, err)
		}
		if !repeat || try == writeTries || k.ctx.Err() != nil {
			return err
		}
	}
}

// saysReadOnly asks a server that has refused a statement whether it is read-only.
func (p *physical) saysReadOnly(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, positionLimit)
	defer cancel()
	answer, err := askOne(ctx, p.conn, "SELECT @@global.read_only", 1)
	return err == nil && !takesWrites(answer[0])
}

// notice has the monitor look at a node whose answer tells that its role has
// changed or that it is in trouble.
func (c *conn) notice(p *physical, err error) {
	if err != nil && (refused(err) || errors.Is(err, mysql.ErrInvalidConn) || serverError(err) == errShutdown) {
		p.pool.node.lookNow()
	}
}

// read does a read on a replica if one can prove to be fresh enough, and
// otherwise on the primary.
func (c *conn) read(k *call) error {
	var tried uint64 // bit set of node indexes; there are 64 nodes at most
	var want wanted
	var reason string
	var err error
	for {
		s := c.r.monitor.now.Load()
		want, reason, err = c.r.freshness(k)
		if !errors.Is(err, ErrNoPrimary) || !c.r.hold(k, s, nil) {
			break
		}
	}
	if err != nil {
		return err
	}
	if reason != "" {
		return c.onPrimary(k, reason)
	}
	for {
		s := c.r.monitor.now.Load()
		n := c.r.balance.choose(s.within(k.hint), tried, c.replica, want.position)
		if n == nil {
			return c.readOnPrimary(k, "no usable replica", want)
		}
		tried |= 1 << n.index
		p, reason, err := c.fresh(k.ctx, n, want.position)
		if err != nil {
			return err
		}
		if reason != "" {
			if reason == tooFarBehind || reason == replicaBusy {
				return c.readOnPrimary(k, reason, want)
			}
			k.tries++
			c.r.monitor.failed(n)
			continue
		}
		before := k.report
		err = k.runTimed(p, "read", len(s.replicas) > 1)
		if reason := p.waited(k.ctx, err); reason != "" {
			k.report = before // what was done on p does not count
			c.drop(p)
			switch {
			case k.ctx.Err() != nil:
				return k.ctx.Err()
			case reason == tooFarBehind:
				return c.readOnPrimary(k, reason, want)
			}
			k.tries++
			c.r.monitor.failed(n)
			continue
		}
		switch {
		case err == nil:
			if n.failures.Load() != 0 {
				n.failures.Store(0)
			}
			return nil
		case refused(err):
			// The classifier was wrong; the safety net was not. Nothing has
			// happened yet.
			c.settle(p, err)
			c.r.distrust(k.sql)
			return c.readOnPrimary(k, refusedByNet, want)
		case lost(k.ctx, p, err):
			n.lookNow()
			c.drop(p)
			c.r.monitor.failed(n)
		default:
			c.settle(p, err)
			return err
		}
	}
}

// readOnPrimary does a read on the primary, once that is known to have what the
// read must see.
func (c *conn) readOnPrimary(k *call, reason string, want wanted) error {
	if err := c.r.confirm(k.ctx, want); err != nil {
		return err
	}
	return c.onPrimary(k, reason)
}

// distrust remembers that a statement only looks like a read.
func (r *Router) distrust(sql string) {
	if Classify(sql).Kind == Read { // not the beginning of a transaction
		r.cache.learn(sql, Classification{Write, refusedByNet})
	}
}

// Reasons for which a read does not stay on a replica.
const (
	tooFarBehind = "replica too far behind"
	replicaBusy  = "all connections to the replica are in use"
	unreachable  = "replica could not be reached"
	refusedByNet = "refused by the safety net"
)

// fresh returns a connection to a replica whose server has applied the wanted
// position, or the reason why there is none.
func (c *conn) fresh(ctx context.Context, n *node, want position) (*physical, string, error) {
	p, err := c.take(ctx, n, true, false)
	switch {
	case errors.Is(err, errPoolBusy):
		return nil, replicaBusy, nil
	case err != nil && (ctx.Err() != nil || errors.Is(err, ErrClosed)):
		return nil, "", err
	case err != nil:
		return nil, unreachable, nil
	}
	ok, err := n.waits.wait(ctx, p, want, c.r.conf.WaitLimit, c.r.done)
	switch {
	case ok:
		return p, "", nil
	case ctx.Err() != nil:
		return nil, "", ctx.Err()
	case errors.Is(err, ErrClosed):
		return nil, "", err
	case err != nil:
		return nil, unreachable, nil
	}
	return nil, tooFarBehind, nil
}

// positionTries is how often the primary's position is asked for. Each time
// but the first, the monitor has looked at the nodes anew.
const positionTries = 3

// wanted is what a read must see.
type wanted struct {
	position
	// proved: the primary itself has told it, since the read began.
	proved bool
	// session is whose it is, if it is not proved, and changes its count.
	session *Session
	changes uint64
}

// freshness finds out what a replica must have applied to serve a read that
// begins now. It gives a reason if the read has to be done on the primary.
func (r *Router) freshness(k *call) (wanted, string, error) {
	if len(r.nodes()) == 1 || k.hint.kind == hintReplica {
		return wanted{}, "", nil
	}
	own := r.session(k.wishes)
	if r.conf.Consistency != Global {
		if own == nil {
			return wanted{}, "", nil
		}
		at, sure, changes := own.read()
		s := r.monitor.now.Load()
		if sure && (at.text == "" || s.primary == nil || s.dialect == at.dialect) {
			return wanted{position: at, session: own, changes: changes}, "", nil
		}
		want, reason, err := r.primaryPosition(k.ctx)
		if err == nil && reason == "" {
			own.settle(want.position, changes)
		}
		return want, reason, err
	}
	return r.primaryPosition(k.ctx)
}

// primaryPosition asks the primary for all that it has written.
//
// The answer proves that the primary was the primary when the read began, so it
// is needed even if the primary is going to do the read: a node that was
// demoted since the last look would not see the writes to its successor.
func (r *Router) primaryPosition(ctx context.Context) (wanted, string, error) {
	for try := 1; ; try++ {
		s := r.monitor.now.Load()
		want, err := r.positions.ask(ctx, r.done)
		switch {
		case err == nil:
			return wanted{position: want, proved: true}, "", nil
		case errors.Is(err, errNoProof):
			return wanted{}, "the primary records no GTIDs", nil
		case errors.Is(err, ErrNoPrimary):
			return wanted{}, "", fmt.Errorf("%w: %w", ErrNoNode, err)
		case ctx.Err() != nil || errors.Is(err, ErrClosed) || try == positionTries:
			return wanted{}, "", err
		}
		if err := r.newerThan(ctx, s); err != nil {
			return wanted{}, "", err
		}
	}
}

// confirm makes sure that the primary has what a read must see before it does
// the read. What is taken for the primary may have a successor, with the write,
// since the last look; or be a successor that never got it.
func (r *Router) confirm(ctx context.Context, want wanted) error {
	if want.proved || want.text == "" {
		return nil
	}
	for try := 1; ; try++ {
		s := r.monitor.now.Load()
		have, reason, err := r.primaryPosition(ctx)
		if err != nil || reason != "" {
			return err
		}
		if have.dialect == want.dialect && holds(want.dialect, have.text, want.text, false) {
			return nil
		}
		if try == positionTries {
			want.session.settle(have.position, want.changes) // it is told once
			return fmt.Errorf("%w: want %s", ErrWriteLost, want.text)
		}
		for _, n := range r.nodes() {
			n.lookNow()
		}
		if err := r.newerThan(ctx, s); err != nil {
			return err
		}
	}
}

// newerThan waits until the monitor has something newer than s, for as long as
// it may take to look at a node.
func (r *Router) newerThan(ctx context.Context, s *snapshot) error {
	limit := time.NewTimer(r.conf.CheckInterval + lookLimit)
	defer limit.Stop()
	select {
	case <-s.changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.done:
		return ErrClosed
	case <-limit.C:
		return s.noPrimary()
	}
}
