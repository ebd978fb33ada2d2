package mysqltest

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// replication is what makes a server a replica of another: the log entries that
// it received and has not applied, and the state of both halves. Receiving takes
// no time; applying waits for the lag. It is in use from follow to unfollow, over
// deaths and restarts of either server.
type replication struct {
	s      *Server // the replica
	source *Server
	wake   chan struct{} // tells the applier that something changed

	mu        sync.Mutex // guards what follows; held after a log's mu
	relay     []entry    // received, not applied
	received  gtid
	io, sql   bool // asked to run
	connected bool // the source sends what it writes
	ioErr     *Error
	sqlErr    *Error
	done      int // changes of relay[0] that are applied
	cancel    context.CancelFunc
	ended     chan struct{} // closed when the applier has ended
}

func newReplication(s, source *Server) *replication {
	last, _ := s.log.positions()
	ended := make(chan struct{})
	close(ended)
	return &replication{
		s: s, source: source, wake: make(chan struct{}, 1),
		received: last, io: true, sql: true, cancel: func() {}, ended: ended,
	}
}

func (r *replication) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// start runs the applier and connects. It waits for the end of an applier that
// was told to stop.
func (r *replication) start() {
	r.stop()
	r.mu.Lock()
	if !r.s.alive() { // killed meanwhile; the restart starts it
		r.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	r.cancel, r.ended = cancel, ended
	r.mu.Unlock()
	go func() {
		defer close(ended)
		r.apply(ctx)
	}()
	r.connect()
}

// halt tells the applier to end and cuts the connection to the source.
func (r *replication) halt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connected = false
	r.cancel()
}

// stop is halt, and waits for the applier.
func (r *replication) stop() {
	r.halt()
	r.mu.Lock()
	ended := r.ended
	r.mu.Unlock()
	<-ended
}

// set starts and stops the halves; nil leaves a half as it is.
func (r *replication) set(io, sql *bool) {
	r.mu.Lock()
	if io != nil {
		r.io = *io
		r.connected = r.connected && r.io
		r.ioErr = nil
	}
	if sql != nil {
		r.sql = *sql
		if r.sql {
			r.sqlErr = nil
		}
	}
	r.mu.Unlock()
	r.connect()
	r.nudge()
}

// connect makes the source send what it writes, from where the replica stands.
func (r *replication) connect() {
	log := r.source.log
	log.mu.Lock()
	defer log.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, follows := log.followers[r]; !follows || !r.io || r.connected || !r.s.alive() {
		return
	}
	if !log.up {
		r.lost()
		return
	}
	missing, err := log.after(r.received)
	if r.ioErr = err; err != nil {
		return
	}
	room := max(0, log.limit-len(r.relay))
	r.connected = len(missing) <= room
	for _, e := range missing[:min(room, len(missing))] {
		r.relay, r.received = append(r.relay, e), e.gtid
	}
	r.nudge()
}

// lost notes that the source does not answer. The caller holds mu.
func (r *replication) lost() {
	r.connected = false
	r.ioErr = errorf(2003, "HY000", "error connecting to master 'repl@%s' - retry-time: 1", r.source.addr)
}

// disconnect is called when the source has died, with its log locked.
func (r *replication) disconnect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.io {
		r.lost()
	}
}

// receive takes an entry that the source wrote, with its log locked. A replica
// that is full disconnects, and comes back when it has applied everything.
func (r *replication) receive(e entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.connected {
		return
	}
	if len(r.relay) >= r.source.log.limit {
		r.connected = false
		return
	}
	r.relay, r.received = append(r.relay, e), e.gtid
	r.nudge()
}

// apply applies entries when they are due, until the context ends.
func (r *replication) apply(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		e, done, wait := r.due()
		if wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-r.wake:
			case <-ctx.Done():
			}
			continue
		}
		done, err := r.s.applyEntry(ctx, e, done)
		r.finish(ctx, done, err)
	}
}

// due returns the next entry, and how much of it is applied, if it is to be
// applied now; otherwise how long to wait at most.
func (r *replication) due() (e entry, done int, wait time.Duration) {
	r.mu.Lock()
	empty, behind := len(r.relay) == 0, r.io && !r.connected
	r.mu.Unlock()
	if empty && behind {
		r.connect()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.relay) == 0 || !r.sql {
		return entry{}, 0, time.Hour
	}
	e = r.relay[0]
	return e, r.done, time.Until(e.at.Add(time.Duration(r.s.lag.Load())))
}

// finish notes how far the application of the first entry came.
func (r *replication) finish(ctx context.Context, done int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = done
	if err == nil {
		r.relay[0] = entry{}
		r.relay, r.done = r.relay[1:], 0
		return
	}
	if ctx.Err() != nil {
		return // a kill of the server is no error of the statement
	}
	r.sql, r.sqlErr = false, asError(err)
	r.s.logger.Warn("mysqltest: replication stopped", "server", r.s.addr, "source", r.source.addr, "err", err)
}

// applyEntry hands the changes of an entry to the handler, from the one that was
// not applied before, and logs the entry.
func (s *Server) applyEntry(ctx context.Context, e entry, done int) (int, error) {
	known, err := s.log.check(e.gtid)
	if err != nil {
		return done, err
	}
	if known {
		return done, nil
	}
	if err := s.lockWrites(ctx); err != nil {
		return done, err
	}
	defer s.unlockWrites()
	whole := s.conf.Transactions && len(e.changes) > 1
	if whole {
		done = 0
		if err := s.handleReplicated(ctx, change{sql: "START TRANSACTION"}); err != nil {
			return 0, err
		}
	}
	for ; done < len(e.changes); done++ {
		if err := s.handleReplicated(ctx, e.changes[done]); err != nil {
			if whole {
				s.handleReplicated(context.WithoutCancel(ctx), change{sql: "ROLLBACK"})
			}
			return done, err
		}
	}
	if whole {
		if err := s.handleReplicated(ctx, change{sql: "COMMIT"}); err != nil {
			return 0, err
		}
	}
	s.log.apply(e.gtid, e.changes)
	return done, nil
}

func (s *Server) handleReplicated(ctx context.Context, c change) error {
	if s.conf.Handler == nil {
		return nil
	}
	_, err := s.conf.Handler.Handle(ctx, Query{
		SQL: c.sql, Args: c.args, Database: c.database, User: c.user, Replicated: true, InsertID: c.insertID,
	})
	return err
}

// Follow makes s a replica of source from where it stands, as a failover does
// with the survivors. It returns [ErrClosed] for a closed server. A nil source makes s a primary, which keeps what it has
// applied and drops what it has only received. It changes nothing about
// read_only.
func (s *Server) Follow(source *Server) error {
	if source == s {
		return fmt.Errorf("mysqltest: server %s cannot follow itself", s.addr)
	}
	s.topology.Lock()
	defer s.topology.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	if old := s.repl.Swap(nil); old != nil {
		old.source.log.leave(old)
		old.stop()
	}
	if source == nil {
		return nil
	}
	s.log.adopt()
	r := newReplication(s, source)
	source.log.join(r)
	s.repl.Store(r)
	if s.alive() {
		r.start()
	}
	return nil
}

// adopt counts what this server wrote as applied, as MASTER_DEMOTE_TO_SLAVE does:
// the source must have it, too.
func (b *binlog) adopt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.applied = b.last
}

func (b *binlog) join(r *replication) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.followers[r] = struct{}{}
}

func (b *binlog) leave(r *replication) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.followers, r)
}

// setUp notes that the server runs or not, and tells the followers.
func (b *binlog) setUp(up bool) {
	b.mu.Lock()
	b.up = up
	var followers []*replication
	for f := range b.followers {
		if !up {
			f.disconnect()
		}
		followers = append(followers, f)
	}
	b.mu.Unlock()
	if up {
		for _, f := range followers {
			f.connect()
		}
	}
}

// SetLag sets the time between a commit at the source and its application here;
// zero means at once. It holds for what was received already, too.
func (s *Server) SetLag(d time.Duration) {
	s.lag.Store(int64(max(0, d)))
	if r := s.repl.Load(); r != nil {
		r.nudge()
	}
}

// StopIO stops receiving, as STOP SLAVE IO_THREAD does. On a server that is no
// replica it does nothing.
func (s *Server) StopIO() { s.setReplication(new(false), nil) }

// StopApply stops applying, as STOP SLAVE SQL_THREAD does. A transaction that is
// being applied is still finished.
func (s *Server) StopApply() { s.setReplication(nil, new(false)) }

// StartReplication starts both again, also after an error.
func (s *Server) StartReplication() { s.setReplication(new(true), new(true)) }

func (s *Server) setReplication(io, sql *bool) {
	if r := s.repl.Load(); r != nil {
		r.set(io, sql)
	}
}

// Position returns the GTID of the last write that the server made or applied,
// such as "0-1-42", or with a MySQL version the set of all; "" before the first.
func (s *Server) Position() string {
	if !s.mariaDB() {
		return s.log.executed().String()
	}
	last, _ := s.log.positions()
	return last.String()
}

// WaitPosition waits until the server has made or applied the write at the
// position, which is another server's [Server.Position]. It returns the
// context's error if that ends first.
func (s *Server) WaitPosition(ctx context.Context, position string) error {
	there, err := s.waitPosition(ctx, position)
	if err == nil && !there {
		err = context.Cause(ctx)
	}
	return err
}
