package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"

	"github.com/go-sql-driver/mysql"
)

var (
	// ErrNoPrimary is wrapped by the error of a statement that needs the primary
	// while none is known: no node is writable, or several are and none of them
	// was the primary before.
	ErrNoPrimary = errors.New("dbrouter: no primary is known")
	// ErrNoNode is wrapped by the error of a read that no node can serve: no
	// replica will do, and no primary is known.
	ErrNoNode = errors.New("dbrouter: no node can serve the read")
	// ErrWriteLost is wrapped by the error of a read whose [Session] has a write
	// that the primary does not have: an acknowledged write was lost in a
	// failover, or the primary is not of the history that the session knows.
	ErrWriteLost = errors.New("dbrouter: an acknowledged write is not on the primary")
	// ErrDenied is wrapped by the error of a statement that Config.Deny forbids.
	ErrDenied = errors.New("dbrouter: the statement is on the deny-list")
	// ErrBusy is wrapped by the error of a statement for a node whose connections
	// are all in use, and on which Node.MaxWaiting statements wait already.
	ErrBusy = errors.New("dbrouter: too many statements wait for a connection")
	// ErrClosed is wrapped by the error of everything done after Close.
	ErrClosed = errors.New("dbrouter: the router is closed")
)

// NodeError says which node an error came from. It wraps the errors of
// connecting; the error of a statement is the driver's own, unwrapped.
type NodeError struct {
	Node string
	Err  error
}

func (e *NodeError) Error() string { return "dbrouter: node " + e.Node + ": " + e.Err.Error() }

func (e *NodeError) Unwrap() error { return e.Err }

// Numbers of server errors that say something about a node rather than about a
// statement.
const (
	errTooManyConnections = 1040
	errUnknownCommand     = 1047 // also Galera: not ready
	errShutdown           = 1053
	errParse              = 1064
	errNoPrivilege        = 1227
	errReadOnlyServer     = 1290
	errTooManyPrepared    = 1461
	errReadOnlyTx         = 1792
	errReadOnlyMode       = 1836
	errKilled             = 1927
	errOfflineMode        = 3032
)

// serverError returns the number of a server's error, 0 for any other error.
func serverError(err error) uint16 {
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return e.Number
	}
	return 0
}

// refused says that a server did not do a statement because it, or the session,
// is read-only. Nothing has happened then, so that it may be sent elsewhere.
func refused(err error) bool {
	switch serverError(err) {
	case errReadOnlyServer, errReadOnlyTx, errReadOnlyMode:
		return true
	}
	return false
}

// demoted says that a server refused a statement because it is not the primary
// any more.
func demoted(err error) bool {
	n := serverError(err)
	return n == errReadOnlyServer || n == errReadOnlyMode
}

// lost says that an error is about the connection or the node, so that a read
// may be repeated elsewhere. A caller's cancellation is not.
func lost(ctx context.Context, p *physical, err error) bool {
	if err == nil || ctx.Err() != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	switch serverError(err) {
	case errTooManyConnections, errUnknownCommand, errShutdown, errKilled, errOfflineMode:
		return true
	case 0:
		return errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn) || p != nil && !p.valid()
	}
	return false
}

// final is the error that is shown outside. Everything that is safe to repeat
// has been repeated by then, so database/sql must not do it again.
func final(err error) error {
	if _, ok := errors.AsType[lostSession](err); !ok && errors.Is(err, driver.ErrBadConn) {
		return mysql.ErrInvalidConn
	}
	return err
}
