package dbrouter

import (
	"container/list"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
)

// idleLimit is how long a connection may lie unused. It is well below the
// wait_timeout of any server.
const idleLimit = time.Minute

// physical is a connection to a node. It belongs to one goroutine at a time.
type physical struct {
	pool *pool
	conn driver.Conn
	// track has the reports of the server; nil if it makes none.
	track    *tracker
	prepared prepared
	// What conn can do beside the least, nil where it cannot: to ask an interface
	// for another one takes longer than many a call.
	validator driver.Validator
	resetter  driver.SessionResetter
	checker   driver.NamedValueChecker
	queryer   driver.QueryerContext
	execer    driver.ExecerContext
	// readOnly: the session refuses writes with error 1792.
	readOnly bool
	// generation is the pool's at the time of connecting. The role of the node
	// has changed if they differ.
	generation uint64
	since      time.Time // when it was connected
	idleSince  int64     // Unix time in ns
	// applied is a position that this server is known to have applied. It is
	// kept per connection because none outlives its server: the next server at
	// the same address may be an older copy.
	applied string
	// warm: it lies with its place in pool.warm, and belongs to whoever sets this
	// to false first.
	warm atomic.Bool
	// abandoned: the server was asked to end what it does.
	abandoned bool
}

// newPhysical returns a connection that belongs to no pool yet.
func newPhysical(conn driver.Conn, track *tracker) *physical {
	p := &physical{conn: conn, track: track}
	p.validator, _ = conn.(driver.Validator)
	p.resetter, _ = conn.(driver.SessionResetter)
	p.checker, _ = conn.(driver.NamedValueChecker)
	p.queryer, _ = conn.(driver.QueryerContext)
	p.execer, _ = conn.(driver.ExecerContext)
	return p
}

func (p *physical) valid() bool { return p.validator == nil || p.validator.IsValid() }

// pool holds the connections to one node. It is safe for concurrent use.
type pool struct {
	node  *node
	open  func(context.Context) (driver.Conn, *tracker, error)
	max   int // connections
	queue int // those that wait for one
	stmts int // kept prepared per connection
	done  <-chan struct{}

	// warm is a connection that keeps its place when it is given back: whoever
	// comes next takes it without a lock. nil if there is none.
	warm atomic.Pointer[physical]
	// clock is the Unix time in ns of the latest prune: it tells well enough since
	// when a connection has been idle, and costs nothing.
	clock atomic.Int64

	// used is how many places are taken: by connections in use, or being made, and
	// by the warm one. generation is how often the node's role has changed, queued
	// the length of waiting, and shut says that connections that come back are
	// closed. mu is held to change them.
	used       atomic.Int32
	generation atomic.Uint64
	queued     atomic.Int32
	shut       atomic.Bool

	mu sync.Mutex // guards what follows
	// waiting are those that wait for a connection, the first first; there are
	// none unless max are in use. Each has a channel that is closed when it may
	// have one.
	waiting list.List
	idle    []*physical
	all     map[*physical]struct{}
	closed  bool
	parked  bool // until it is told otherwise
}

func newPool(n *node, c Node, done <-chan struct{}) (*pool, error) {
	connector, err := mysql.NewConnector(c.Config)
	if err != nil {
		return nil, fmt.Errorf("dbrouter: node %s: %w", n.name, err)
	}
	limit := c.Config.Timeout
	open := func(ctx context.Context) (driver.Conn, *tracker, error) {
		// The driver's Timeout covers the dialing only; a server may also fall
		// silent in the handshake.
		bounded, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		var track *tracker
		conn, err := connector.Connect(context.WithValue(bounded, dialKey{}, &track))
		if err != nil && track != nil && track.err != nil {
			err = track.err // the driver tells only that it failed
		}
		if err != nil && bounded.Err() != nil && ctx.Err() == nil {
			// Not wrapped: it is not the caller's deadline.
			err = fmt.Errorf("no connection within %v: %v", limit, err)
		}
		return conn, track, err
	}
	l := &pool{node: n, open: open, max: c.MaxConns, queue: c.MaxWaiting, stmts: c.Statements, done: done,
		all: make(map[*physical]struct{})}
	l.clock.Store(time.Now().UnixNano())
	return l, nil
}

// errPoolBusy is what acquire returns if it may not wait and would have to.
var errPoolBusy = errors.New("dbrouter: all connections are in use")

// acquire returns a connection with the wanted kind of session. It waits for
// one if all are in use, until the context ends, unless wait is false.
func (l *pool) acquire(ctx context.Context, readOnly, fresh, wait bool) (*physical, error) {
	var p *physical
	if !fresh {
		p = l.takeWarm()
	}
	var err error
	if p == nil {
		if p, err = l.enter(ctx, fresh, wait); err != nil {
			return nil, err
		}
	}
	for p != nil {
		if p.readOnly == readOnly && p.fit(ctx) {
			return p, nil
		}
		l.drop(p)
		p = l.pop()
	}
	if p, err = l.connect(ctx, readOnly); err != nil {
		l.leave()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !errors.Is(err, ErrClosed) {
			err = &NodeError{Node: l.node.name, Err: err}
			l.node.lookNow()
		}
		return nil, err
	}
	return p, nil
}

// enter counts one more connection in use, once there may be. It returns an idle
// one, if there is one and it need not be fresh.
func (l *pool) enter(ctx context.Context, fresh, wait bool) (*physical, error) {
	l.mu.Lock()
	if n := l.used.Load(); int(n) < l.max {
		l.used.Store(n + 1)
		var p *physical
		if !fresh {
			p = l.popLocked()
		}
		l.mu.Unlock()
		return p, nil
	}
	// Whoever gives one back from here on sees that somebody waits for it; if it
	// was before, it is warm.
	turn := make(chan struct{})
	e := l.waiting.PushBack(turn)
	l.queued.Store(int32(l.waiting.Len()))
	p := l.takeWarm()
	full := l.waiting.Len() > l.queue
	if p != nil || !wait || full {
		l.unqueueLocked(e)
		l.mu.Unlock()
		switch {
		case p != nil && fresh:
			l.drop(p) // for its place
			return nil, nil
		case p != nil:
			return p, nil
		case !wait:
			return nil, errPoolBusy
		}
		return nil, fmt.Errorf("%w: %d on node %s", ErrBusy, l.queue, l.node.name)
	}
	l.mu.Unlock()
	var err error
	select {
	case <-turn:
		if fresh {
			return nil, nil
		}
		return l.pop(), nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-l.done:
		err = ErrClosed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-turn: // at the same moment: it is the next one's
		l.leaveLocked()
	default:
		l.unqueueLocked(e)
	}
	return nil, err
}

func (l *pool) unqueueLocked(e *list.Element) {
	l.waiting.Remove(e)
	l.queued.Store(int32(l.waiting.Len()))
}

// leave counts one connection less, or gives it to the first that waits.
func (l *pool) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaveLocked()
}

func (l *pool) leaveLocked() {
	if e := l.waiting.Front(); e != nil {
		l.unqueueLocked(e)
		close(e.Value.(chan struct{}))
		return
	}
	l.used.Add(-1)
}

// fit says whether an idle connection may be used: its server has not closed it.
func (p *physical) fit(ctx context.Context) bool {
	if p.resetter != nil && p.resetter.ResetSession(ctx) != nil {
		return false
	}
	return p.valid()
}

func (l *pool) pop() *physical {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.popLocked()
}

func (l *pool) popLocked() *physical {
	if len(l.idle) == 0 {
		return nil
	}
	p := l.idle[len(l.idle)-1]
	l.idle[len(l.idle)-1] = nil
	l.idle = l.idle[:len(l.idle)-1]
	return p
}

func (l *pool) connect(ctx context.Context, readOnly bool) (*physical, error) {
	l.mu.Lock()
	generation, closed := l.generation.Load(), l.closed
	l.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	conn, track, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	p := newPhysical(conn, track)
	p.pool, p.readOnly, p.generation, p.since = l, readOnly, generation, time.Now()
	p.prepared.max = l.stmts
	// From here on Close can cut it.
	l.mu.Lock()
	if closed = l.closed; !closed {
		l.all[p] = struct{}{}
	}
	l.mu.Unlock()
	if closed {
		conn.Close()
		return nil, ErrClosed
	}
	if readOnly {
		// The net under the classifier: what it takes for a read and is none,
		// the replica refuses, even to an account that read_only does not bind.
		if err := exec(ctx, conn, "SET SESSION TRANSACTION READ ONLY"); err != nil {
			l.drop(p)
			return nil, err
		}
		return p, nil
	}
	if err := p.trackWrites(ctx); err != nil {
		l.drop(p)
		return nil, err
	}
	return p, nil
}

// trackWrites has the server report the GTID of each write. One that cannot is
// asked instead.
func (p *physical) trackWrites(ctx context.Context) error {
	if p.track == nil || !p.track.on {
		return nil
	}
	err := exec(ctx, p.conn, p.track.request())
	if serverError(err) != 0 {
		p.track.on, err = false, nil
	}
	p.track.follow.take()
	return err
}

// wrote returns the GTIDs of what was written since the last call, and whether
// they are known to be all.
func (p *physical) wrote() (gtids position, sure bool) {
	if p.track == nil || !p.track.on {
		return position{}, false
	}
	text, sure := p.track.follow.take()
	return position{dialect: p.track.follow.dialect, text: text}, sure
}

// release gives a connection back. It is closed if it is broken or if the role
// of its node has changed.
func (l *pool) release(p *physical) {
	if !p.valid() {
		l.discard(p)
		return
	}
	p.idleSince = l.clock.Load()
	if !l.keepWarm(p) {
		l.putIdle(p)
	}
}

// putIdle puts a connection among the idle ones, and gives its place to another.
func (l *pool) putIdle(p *physical) {
	l.mu.Lock()
	if !l.shut.Load() && p.generation == l.generation.Load() {
		l.idle = append(l.idle, p)
		l.leaveLocked()
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	l.discard(p)
}

// busy is how many connections are in use, or being made.
func (l *pool) busy() int {
	n := int(l.used.Load())
	if p := l.warm.Load(); n > 0 && p != nil && p.warm.Load() {
		n--
	}
	return n
}

// discard closes a connection that was acquired.
func (l *pool) discard(p *physical) {
	l.drop(p)
	l.leave()
}

func (l *pool) drop(p *physical) {
	l.warm.CompareAndSwap(p, nil)
	l.mu.Lock()
	delete(l.all, p)
	l.mu.Unlock()
	p.conn.Close()
}

// current says whether the role of the node is what it was when p was made.
func (l *pool) current(p *physical) bool { return p.generation == l.generation.Load() }

// connections counts the open ones.
func (l *pool) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.all)
}

// turn closes all idle connections, and those in use once they come back,
// because the role of the node has changed. Idle connections to a demoted
// primary would otherwise live for days.
func (l *pool) turn() {
	l.mu.Lock()
	l.generation.Add(1)
	l.mu.Unlock()
	l.prune(0)
}

// park closes all idle connections, and those in use once they come back, until
// it is told otherwise.
func (l *pool) park(on bool) {
	l.mu.Lock()
	l.parked = on
	l.shut.Store(l.parked || l.closed)
	l.mu.Unlock()
	if on {
		l.prune(0)
	}
}

// prune closes connections that have been idle for the given time.
func (l *pool) prune(age time.Duration) {
	now := time.Now()
	before := now.Add(-age).UnixNano()
	var old []*physical
	l.clock.Store(now.UnixNano())
	l.cool()
	l.mu.Lock()
	kept := l.idle[:0]
	for _, p := range l.idle {
		if age == 0 || p.idleSince < before {
			old = append(old, p)
		} else {
			kept = append(kept, p)
		}
	}
	clear(l.idle[len(kept):])
	l.idle = kept
	l.mu.Unlock()
	for _, p := range old {
		l.drop(p)
	}
}

// close closes the idle connections and cuts those in use: their statements
// fail and whoever holds them gives them back.
func (l *pool) close() {
	l.mu.Lock()
	l.closed = true
	l.shut.Store(true)
	if p := l.takeWarm(); p != nil {
		l.idle = append(l.idle, p)
	}
	idle := l.idle
	l.idle = nil
	for _, p := range idle {
		delete(l.all, p)
	}
	for p := range l.all {
		if p.track != nil {
			p.track.Close()
		}
	}
	l.mu.Unlock()
	for _, p := range idle {
		p.conn.Close()
	}
}
