package dbrouter

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// idleLogical is how many unused driver connections a *sql.DB keeps. They cost
// next to nothing: a logical connection holds no server connection while idle.
const idleLogical = 128

// Router sends each statement to a node. Create it with [New]. It is a
// driver.Connector, and safe for concurrent use.
type Router struct {
	conf      Config
	told      bool // somebody wants to know of the statements
	timed     bool // it matters when a statement has begun
	monitor   *monitor
	positions *positions
	shared    *Session      // what has been written through the Router
	keys      [][]byte      // of tokens; the first signs
	held      chan struct{} // one for each statement held back
	cache     *cache
	balance   balance
	db        *sql.DB

	members sync.Mutex // serialises changes of the nodes, and Close
	removed []*node    // those whose connections may still be in use; members guards it

	done    chan struct{}   // closed by Close
	ended   atomic.Bool     // so is done
	ctx     context.Context // of the loops
	cancel  context.CancelFunc
	loops   sync.WaitGroup
	closing sync.Once
	err     error
}

var (
	_ driver.Connector = (*Router)(nil)
	_ driver.Driver    = refusingDriver{}
)

// New returns a Router that has begun to look at its nodes, or an error that
// lists everything wrong with the configuration. It does not wait for any node;
// see [Router.Ready].
func New(c Config) (*Router, error) {
	r, err := build(c)
	if err != nil {
		return nil, err
	}
	for _, n := range r.nodes() {
		r.start(n)
	}
	r.loops.Go(func() { r.positions.run(r.ctx) })
	return r, nil
}

// build makes a Router that has not begun.
func build(c Config) (*Router, error) {
	c, err := c.check()
	if err != nil {
		return nil, err
	}
	told := c.OnStatement != nil || c.OnSlow != nil
	r := &Router{conf: c, told: told, timed: told || c.BufferWait > 0, keys: c.TokenKeys, held: make(chan struct{}, c.BufferMax), cache: newCache(denyList(c.Deny)), done: make(chan struct{}),
		balance: balance{zone: c.Zone, slowStart: c.SlowStart}}
	var nodes []*node
	for i, conf := range c.Nodes {
		n, err := r.newNode(i, conf)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	r.monitor = newMonitor(c, nodes)
	r.positions = &positions{m: r.monitor, wake: make(chan struct{}, 1)}
	r.monitor.position = r.positions.ask
	r.shared = &Session{r: r}
	r.db = sql.OpenDB(connector{r})
	r.db.SetMaxIdleConns(idleLogical)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// connector is the Router without its Close: the DB that the Router made is
// closed by the Router, not the other way round.
type connector struct{ r *Router }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) { return c.r.Connect(ctx) }
func (c connector) Driver() driver.Driver                            { return c.r.Driver() }

// DB returns the Router's *sql.DB, always the same one. It needs no limits of
// its own: Node.MaxConns are those that count. Closing it does not close the
// Router.
func (r *Router) DB() *sql.DB { return r.db }

// Connect returns a driver connection, for database/sql. It connects to no
// server yet.
func (r *Router) Connect(ctx context.Context) (driver.Conn, error) {
	if r.closed() {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &conn{r: r}, nil
}

// Driver returns a driver that opens nothing: a Router is not made from a data
// source name.
func (r *Router) Driver() driver.Driver { return refusingDriver{} }

type refusingDriver struct{}

func (refusingDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("dbrouter: open a Router with New and sql.OpenDB")
}

func (r *Router) closed() bool { return r.ended.Load() }

// Ready waits until a primary is known. If the context ends before, the error
// says what is wrong with each node.
func (r *Router) Ready(ctx context.Context) error {
	for {
		s := r.monitor.now.Load()
		if s.primary != nil {
			return nil
		}
		select {
		case <-s.changed:
		case <-r.done:
			return ErrClosed
		case <-ctx.Done():
			errs := []error{s.noPrimary(), context.Cause(ctx)}
			for _, n := range s.statuses {
				if n.LastError != "" {
					errs = append(errs, &NodeError{Node: n.Name, Err: fmt.Errorf("%v: %s", n.State, n.LastError)})
				}
			}
			return errors.Join(errs...)
		}
	}
}

// Status returns what is known of each node, in the order of the configuration
// and then of their being added.
func (r *Router) Status() []NodeStatus {
	s := r.monitor.now.Load()
	out := make([]NodeStatus, len(s.nodes))
	for i, n := range s.nodes {
		out[i] = s.statuses[i]
		out[i].Connections = n.pool.connections()
		out[i].Latency = time.Duration(n.latency.average())
	}
	return out
}

// Close ends the router and its DB now: statements that run are cut and fail,
// and those that come fail with [ErrClosed] or, through the DB, with the error
// of a closed DB. It is idempotent.
func (r *Router) Close() error {
	r.closing.Do(func() {
		r.members.Lock()
		r.ended.Store(true)
		close(r.done)
		r.cancel()
		for _, n := range append(r.nodes(), r.removed...) {
			n.pool.close()
		}
		r.members.Unlock()
		r.err = r.db.Close()
		r.loops.Wait()
	})
	return r.err
}
