package dbrouter

import (
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
	// readOnly: the session refuses writes with error 1792.
	readOnly bool
	// generation is the pool's at the time of connecting. The role of the node
	// has changed if they differ.
	generation uint64
	since      time.Time // when it was connected
	idleSince  time.Time
	// applied is a position that this server is known to have applied. It is
	// kept per connection because none outlives its server: the next server at
	// the same address may be an older copy.
	applied string
	// abandoned: the server was asked to end what it does.
	abandoned bool
}

func (p *physical) valid() bool {
	v, ok := p.conn.(driver.Validator)
	return !ok || v.IsValid()
}

// pool holds the connections to one node. It is safe for concurrent use.
type pool struct {
	node  *node
	open  func(context.Context) (driver.Conn, *tracker, error)
	slots chan struct{} // one for each connection in use
	// waiting counts those that wait for a slot; queue is the most.
	waiting atomic.Int32
	queue   int32
	stmts   int // kept prepared per connection
	done    <-chan struct{}

	mu         sync.Mutex // guards what follows
	idle       []*physical
	all        map[*physical]struct{}
	generation uint64
	closed     bool
	parked     bool // connections that come back are closed
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
	return &pool{node: n, open: open, slots: make(chan struct{}, c.MaxConns), queue: int32(c.MaxWaiting), stmts: c.Statements, done: done, all: make(map[*physical]struct{})}, nil
}

// errPoolBusy is what acquire returns if it may not wait and would have to.
var errPoolBusy = errors.New("dbrouter: all connections are in use")

// acquire returns a connection with the wanted kind of session. It waits for
// one if all are in use, until the context ends, unless wait is false.
func (l *pool) acquire(ctx context.Context, readOnly, fresh, wait bool) (*physical, error) {
	select {
	case l.slots <- struct{}{}:
	default:
		if !wait {
			return nil, errPoolBusy
		}
		if l.waiting.Add(1) > l.queue {
			l.waiting.Add(-1)
			return nil, fmt.Errorf("%w: %d on node %s", ErrBusy, l.queue, l.node.name)
		}
		defer l.waiting.Add(-1)
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.done:
			return nil, ErrClosed
		}
	}
	for !fresh {
		p := l.pop()
		if p == nil {
			break
		}
		if p.readOnly == readOnly && p.fit(ctx) {
			return p, nil
		}
		l.drop(p)
	}
	p, err := l.connect(ctx, readOnly)
	if err != nil {
		<-l.slots
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

// fit says whether an idle connection may be used: its server has not closed it.
func (p *physical) fit(ctx context.Context) bool {
	if r, ok := p.conn.(driver.SessionResetter); ok && r.ResetSession(ctx) != nil {
		return false
	}
	return p.valid()
}

func (l *pool) pop() *physical {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	generation, closed := l.generation, l.closed
	l.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	conn, track, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	p := &physical{pool: l, conn: conn, track: track, readOnly: readOnly, generation: generation, since: time.Now(),
		prepared: prepared{max: l.stmts}}
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
	keep := p.valid()
	if keep {
		p.idleSince = time.Now()
		l.mu.Lock()
		if keep = !l.closed && !l.parked && p.generation == l.generation; keep {
			l.idle = append(l.idle, p)
		}
		l.mu.Unlock()
	}
	if !keep {
		l.drop(p)
	}
	<-l.slots
}

// discard closes a connection that was acquired.
func (l *pool) discard(p *physical) {
	l.drop(p)
	<-l.slots
}

func (l *pool) drop(p *physical) {
	l.mu.Lock()
	delete(l.all, p)
	l.mu.Unlock()
	p.conn.Close()
}

// current says whether the role of the node is what it was when p was made.
func (l *pool) current(p *physical) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return p.generation == l.generation
}

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
	l.generation++
	l.mu.Unlock()
	l.prune(0)
}

// park closes all idle connections, and those in use once they come back, until
// it is told otherwise.
func (l *pool) park(on bool) {
	l.mu.Lock()
	l.parked = on
	l.mu.Unlock()
	if on {
		l.prune(0)
	}
}

// prune closes connections that have been idle for the given time.
func (l *pool) prune(age time.Duration) {
	before := time.Now().Add(-age)
	var old []*physical
	l.mu.Lock()
	kept := l.idle[:0]
	for _, p := range l.idle {
		if age == 0 || p.idleSince.Before(before) {
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
