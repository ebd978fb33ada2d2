package mysqltest

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Commands of the protocol.
const (
	comQuit            = 0x01
	comInitDB          = 0x02
	comQuery           = 0x03
	comPing            = 0x0e
	comStmtPrepare     = 0x16
	comStmtExecute     = 0x17
	comStmtLongData    = 0x18
	comStmtClose       = 0x19
	comStmtReset       = 0x1a
	comResetConnection = 0x1f
)

var (
	errQuit        = errors.New("mysqltest: the client quits")
	errCut         = errors.New("mysqltest: connection cut")
	errInterrupted = &Error{Code: 1317, State: "70100", Message: "Query execution was interrupted"}
)

// conn is one connection. Its goroutine alone uses it, but for cut and
// interrupt.
type conn struct {
	*wire
	session
	s        *Server
	id       uint32
	caps     uint32
	tls      bool
	user     string // the account
	database string
	ctx      context.Context // ends when the connection is cut
	cancel   context.CancelCauseFunc
	running  context.Context // of the statement; only the connection's goroutine reads it

	mu   sync.Mutex              // guards stop
	stop context.CancelCauseFunc // ends the running statement; nil between statements
}

func newConn(s *Server, id uint32, nc net.Conn) *conn {
	c := &conn{wire: newWire(nc), session: newSession(), s: s, id: id}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.running = c.ctx
	return c
}

// query is the context of the statement that runs.
func (c *conn) query() context.Context { return c.running }

// cut ends the connection and what runs on it.
func (c *conn) cut() {
	c.cancel(errCut)
	c.Close()
}

// interrupt ends the statement that runs on the connection, if one does.
func (c *conn) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		c.stop(errInterrupted)
	}
}

// refuse tells the client that there are too many.
func (c *conn) refuse() {
	defer c.cut()
	c.SetDeadline(time.Now().Add(time.Second))
	c.sendError(errorf(1040, "08004", "Too many connections"))
	c.flush()
}

// serve runs the connection to its end.
func (c *conn) serve() {
	defer c.cut()
	if c.s.pass(c.ctx) != nil || c.greet() != nil {
		return
	}
	defer c.rollback()
	for {
		c.seq = 0
		payload, err := c.read(maxPayload)
		if errors.Is(err, errTooLarge) {
			c.sendError(errorf(1153, "08S01", "Got a packet bigger than 'max_allowed_packet' bytes"))
			c.flush()
			// An unread rest would reset the connection and take the error with it.
			c.SetReadDeadline(time.Now().Add(time.Second))
			io.CopyN(io.Discard, c.r, 4*maxPayload)
		}
		if err != nil {
			return
		}
		if c.s.pass(c.ctx) != nil {
			return
		}
		if err := c.command(payload); err != nil {
			return
		}
		if c.s.pass(c.ctx) != nil {
			return
		}
		if err := c.flush(); err != nil {
			return
		}
	}
}

// command answers one command. An error ends the connection without a word.
func (c *conn) command(payload []byte) error {
	if len(payload) == 0 {
		return errMalformed
	}
	d := decoder{b: payload[1:]}
	switch payload[0] {
	case comQuit:
		return errQuit
	case comInitDB:
		c.database = string(d.b)
		c.sendOK(Result{}, 0)
	case comQuery:
		return c.run(parse(string(d.b)), nil, false)
	case comPing:
		c.sendOK(Result{}, 0)
	case comStmtPrepare:
		c.prepare(string(d.b))
	case comStmtExecute:
		return c.execute(d)
	case comStmtLongData:
		return c.longData(d)
	case comStmtClose:
		delete(c.prepared, uint32(d.uint(4)))
		if d.bad {
			return errMalformed
		}
	case comStmtReset:
		return c.resetStatement(d)
	case comResetConnection:
		c.rollback()
		c.session = newSession()
		c.sendOK(Result{}, 0)
	default:
		c.sendError(errorf(1047, "08S01", "Unknown command"))
	}
	return nil
}

func (c *conn) resetStatement(d decoder) error {
	id := uint32(d.uint(4))
	if d.bad {
		return errMalformed
	}
	p := c.prepared[id]
	if p == nil {
		c.sendError(errorf(1243, "HY000", "Unknown prepared statement handler (%d) given to RESET", id))
		return nil
	}
	p.reset()
	c.sendOK(Result{}, 0)
	return nil
}

// run runs a statement and sends the answer.
func (c *conn) run(st *statement, args []any, binaryRows bool) error {
	ctx, stop := context.WithCancelCause(c.ctx)
	c.mu.Lock()
	c.stop = stop
	c.mu.Unlock()
	c.running = ctx
	defer func() {
		c.mu.Lock()
		c.stop = nil
		c.mu.Unlock()
		c.running = c.ctx
		stop(nil)
	}()
	c.s.record(st.sql)
	r, err := c.struck(ctx, c.s.faults.take(st.sql), st, args)
	switch {
	case errors.Is(err, errCut) || c.ctx.Err() != nil:
		return errCut
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx) // whatever the handler made of it
	}
	if err != nil {
		e := asError(err)
		c.sendError(&Error{Code: e.Code, State: e.State, Message: strings.ToValidUTF8(e.Message[:min(len(e.Message), 512)], "")})
		return nil
	}
	c.sendResult(r, binaryRows)
	return nil
}

// struck runs a statement under a fault.
func (c *conn) struck(ctx context.Context, f Fault, st *statement, args []any) (Result, error) {
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return Result{}, context.Cause(ctx)
		}
	}
	switch {
	case f.CutBefore:
		return Result{}, errCut
	case f.Err != nil:
		return Result{}, f.Err
	}
	r, err := c.answer(st, args)
	if f.CutAfter {
		return Result{}, errCut
	}
	return r, err
}
