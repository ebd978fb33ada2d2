package mysqltest

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	// maxRecorded bounds what Queries returns, maxRecordedBytes each statement of
	// it.
	maxRecorded      = 1000
	maxRecordedBytes = 1 << 10
	// maxGlobals bounds the variables that SET GLOBAL may define.
	maxGlobals = 256
)

// ErrClosed is returned by [Server.Restart] and [Server.Follow] after Close.
var ErrClosed = errors.New("mysqltest: server closed")

// Server is one server. Create it with [New]. It is safe for concurrent use.
type Server struct {
	conf   Config
	addr   string
	logger *slog.Logger
	log    *binlog
	faults faults
	writes chan struct{} // held while a write takes effect
	lag    atomic.Int64
	repl   atomic.Pointer[replication]
	// topology serialises Follow, Restart and Close, which may wait for an applier.
	topology sync.Mutex
	// life makes each death and each start of the server whole; nothing waits
	// while holding it, so that a handler may call Kill.
	life     sync.Mutex
	running  atomic.Bool
	readOnly atomic.Bool
	key      func() (*rsa.PrivateKey, error)
	loggedIn sync.Map                      // accounts that caching_sha2_password has seen
	paused   atomic.Pointer[chan struct{}] // closed by Resume; nil if not paused
	wg       sync.WaitGroup

	mu       sync.Mutex // guards what follows
	ln       net.Listener
	closed   bool
	conns    map[uint32]*conn
	lastConn uint32
	globals  map[string]any
	queries  []string
}

// New starts a server. It fails if the Config has mistakes, all of which the
// error names, or if the address is taken.
func New(conf Config) (*Server, error) {
	conf, err := conf.settle()
	if err != nil {
		return nil, err
	}
	s := &Server{conf: conf, logger: conf.Logger, writes: make(chan struct{}, 1), key: sync.OnceValues(newKey), conns: make(map[uint32]*conn)}
	ln, err := listen(conf.Addr)
	if err != nil {
		return nil, fmt.Errorf("mysqltest: %w", err)
	}
	s.addr = ln.Addr().String()
	if s.conf.ServerID == 0 {
		s.conf.ServerID = uint32(ln.Addr().(*net.TCPAddr).Port)
	}
	s.log = newBinlog(s.conf.ServerID, conf.LogEntries)
	s.lag.Store(int64(conf.Lag))
	if conf.Source != nil {
		if err := s.Follow(conf.Source); err != nil {
			ln.Close()
			return nil, err
		}
	}
	s.live(ln)
	return s, nil
}

// listen finds a port below the ephemeral range if no address is given: the
// kernel may hand one from within it to an outgoing connection while the server
// is down.
func listen(addr string) (net.Listener, error) {
	if addr != "" {
		return net.Listen("tcp", addr)
	}
	var err error
	for range 200 {
		var ln net.Listener
		if ln, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(15000+rand.IntN(17000))); err == nil {
			return ln, nil
		}
	}
	return nil, err
}

// live begins a life of the server on a listener.
func (s *Server) live(ln net.Listener) {
	s.life.Lock()
	s.mu.Lock()
	s.ln, s.globals = ln, make(map[string]any)
	s.readOnly.Store(s.conf.ReadOnly)
	s.Resume()
	s.running.Store(true)
	s.mu.Unlock()
	s.log.setUp(true)
	s.life.Unlock()
	if r := s.repl.Load(); r != nil {
		r.start()
	}
	s.wg.Go(func() { s.accept(ln) })
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Server) alive() bool { return s.running.Load() }

func (s *Server) mariaDB() bool { return isMariaDB(s.conf.Version) }

func (s *Server) accept(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(5 * time.Millisecond) // out of descriptors, or a client that left early
			continue
		}
		s.admit(ln, nc)
	}
}

// admit begins a connection, unless the life that accepted it is over.
func (s *Server) admit(ln net.Listener, nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ln != ln {
		nc.Close()
		return
	}
	s.lastConn++
	c := newConn(s, s.lastConn, nc)
	full := len(s.conns) >= s.conf.MaxConnections
	if !full {
		s.conns[c.id] = c
	}
	s.wg.Go(func() {
		if full {
			c.refuse()
			return
		}
		defer s.forget(c)
		c.serve()
	})
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c.id)
}

// Kill ends the server as kill -9 does: it stops listening, cuts all connections
// and stops replicating. Statements that are running get a cancelled context;
// what they still write is in the log, unseen by replicas until a restart. Kill
// does not wait for them, so a handler may call it. Killing a dead server does
// nothing.
func (s *Server) Kill() {
	if s.die() {
		s.logger.Info("mysqltest: server killed", "server", s.addr)
	}
}

// die says whether the server was alive.
func (s *Server) die() bool {
	s.life.Lock()
	defer s.life.Unlock()
	s.mu.Lock()
	if s.ln == nil {
		s.mu.Unlock()
		return false
	}
	s.running.Store(false)
	s.ln.Close()
	s.ln = nil
	conns := slices.Collect(maps.Values(s.conns))
	s.mu.Unlock()
	s.log.setUp(false)
	if r := s.repl.Load(); r != nil {
		r.halt()
	}
	for _, c := range conns {
		c.cut()
	}
	return true
}

// Restart starts a server that was killed, on the same address, with the
// Config's ReadOnly and without what SET GLOBAL changed. It replicates from where
// it was. Restarting a server that runs does nothing.
func (s *Server) Restart() error {
	s.topology.Lock()
	defer s.topology.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	if s.alive() {
		return nil
	}
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("mysqltest: %w", err)
	}
	s.live(ln)
	s.logger.Info("mysqltest: server restarted", "server", s.addr)
	return nil
}

// Close kills the server for good and waits until everything that it started has
// ended, handlers included; a handler must not call it. It is idempotent and
// returns nil.
func (s *Server) Close() error {
	s.topology.Lock()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.die()
	if r := s.repl.Load(); r != nil {
		r.source.log.leave(r)
		r.stop()
	}
	s.topology.Unlock()
	s.wg.Wait()
	return nil
}

// Addr returns the server's HOST:PORT, which stays the same over a restart.
func (s *Server) Addr() string { return s.addr }

// Config returns a driver configuration that connects to the server, with its
// first account in alphabetical order and without a database.
func (s *Server) Config() *mysql.Config {
	conf := mysql.NewConfig()
	conf.User = slices.Sorted(maps.Keys(s.conf.Users))[0]
	conf.Passwd = s.conf.Users[conf.User]
	conf.Net, conf.Addr = "tcp", s.addr
	// The driver's own 64 MiB would make it split what the server refuses.
	conf.MaxAllowedPacket = maxPayload - 1
	return conf
}

// DSN returns [Server.Config] as a data source name for sql.Open.
func (s *Server) DSN() string { return s.Config().FormatDSN() }

// SetReadOnly sets read_only at once. SET GLOBAL read_only=1, in contrast, waits
// for the write that is taking effect.
func (s *Server) SetReadOnly(on bool) { s.readOnly.Store(on) }

// ReadOnly says whether the server refuses writes.
func (s *Server) ReadOnly() bool { return s.readOnly.Load() }

// Connections returns the number of open connections, those included that are
// logging in, and those whose client is gone while their statement runs.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Queries returns the last 1000 statements that clients sent, oldest first, each
// cut to 1 KiB: those that the server answered itself included, replicated ones
// not. Restarts do not clear them.
func (s *Server) Queries() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.queries)
}

func (s *Server) record(sql string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queries) >= maxRecorded {
		s.queries = append(s.queries[:0], s.queries[1:]...)
	}
	// The clone lets go of the rest.
	s.queries = append(s.queries, strings.Clone(sql[:min(len(sql), maxRecordedBytes)]))
}

// kill ends a connection, or its statement only.
func (s *Server) kill(id uint64, statementOnly bool) error {
	s.mu.Lock()
	c := s.conns[uint32(id)]
	s.mu.Unlock()
	if c == nil || uint64(c.id) != id {
		return errorf(1094, "HY000", "Unknown thread id: %d", id)
	}
	if statementOnly {
		c.interrupt()
	} else {
		c.cut()
	}
	return nil
}

// lockWrites waits for the right to write.
func (s *Server) lockWrites(ctx context.Context) error {
	select {
	case s.writes <- struct{}{}:
		return nil
	default:
	}
	select {
	case s.writes <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Server) unlockWrites() { <-s.writes }
