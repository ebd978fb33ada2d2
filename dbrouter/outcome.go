package dbrouter

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-sql-driver/mysql"
)

// Outcome is what has become of a statement or transaction that failed.
type Outcome int

const (
	// Unknown: it may have been done or not; only the data can tell. It must not
	// be done again without a look at them.
	Unknown Outcome = iota
	// NotSent: no server has got it.
	NotSent
	// RolledBack: a server has refused it, and nothing of it is left. A statement
	// in a transaction does not end the transaction by that.
	RolledBack
	// Committed: it was done. That is the outcome of a nil error.
	Committed
)

func (o Outcome) String() string {
	switch o {
	case NotSent:
		return "not sent"
	case RolledBack:
		return "rolled back"
	case Committed:
		return "committed"
	}
	return "unknown"
}

// MarshalText returns the text of String.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads what MarshalText returns.
func (o *Outcome) UnmarshalText(text []byte) error { return parseText(o, text, Unknown, Committed) }

// OutcomeOf says what has become of a single statement, or of a COMMIT, whose
// error it was. It says Unknown to every error that it does not know, and
// RolledBack to a server's error only as long as the table's engine has
// transactions.
func OutcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return Committed
	case errors.Is(err, ErrNoPrimary), errors.Is(err, ErrNoNode), errors.Is(err, ErrClosed), errors.Is(err, ErrDenied), errors.Is(err, ErrBusy):
		return NotSent
	}
	if _, ok := errors.AsType[*NodeError](err); ok {
		return NotSent // no connection
	}
	if _, ok := errors.AsType[lostSession](err); ok {
		return NotSent
	}
	switch n := serverError(err); n {
	case 0, errShutdown, errKilled, errQueryKilled:
		return Unknown
	default:
		return RolledBack
	}
}

const (
	errLockTimeout = 1205
	errDeadlock    = 1213
	errChanged     = 1020 // with innodb_snapshot_isolation: changed since the last read
	errQueryKilled = 1317

	txTries     = 10
	txFirstWait = 5 * time.Millisecond
	txMostWait  = 500 * time.Millisecond
)

// Tx does a transaction: it begins one on the DB, calls f, and commits it, or
// rolls it back if f returns an error. The options are those of
// database/sql.DB.BeginTx; nil means a read-write transaction.
//
// It begins again, up to ten times and with growing pauses, when the server has
// rolled it back for another's sake (1213 deadlock, 1205 lock wait timeout, 1020
// changed since it was read), and when the node turned out not to be the primary
// any more, or was lost, before the COMMIT was sent. So f may run several times:
// what it does outside of the transaction must bear that. f must return the
// errors it gets, wrapped or not, and must not do what commits by itself, such
// as CREATE TABLE.
//
// If the answer to the COMMIT is lost, the transaction is not repeated, because
// it may have been done: [OutcomeOf] the error is Unknown. With
// Config.OutcomeTable the primary is asked, and the transaction repeated if it
// was not done: then Tx does it exactly once, as long as no acknowledged write is
// lost in a failover; the error is Unknown only if nobody could be asked, or if
// the context has ended.
func (r *Router) Tx(ctx context.Context, opts *sql.TxOptions, f func(*sql.Tx) error) error {
	wait := txFirstWait
	for try := 1; ; try++ {
		again, err := r.tryTx(ctx, opts, f)
		if !again || try == txTries || !r.pause(ctx, &wait) {
			return err
		}
	}
}

// pause waits before the next try, longer each time. It says no if there is to
// be none.
func (r *Router) pause(ctx context.Context, wait *time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	pause := time.NewTimer(*wait/2 + rand.N(*wait/2))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
	case <-r.done:
	}
	*wait = min(2**wait, txMostWait)
	return ctx.Err() == nil && !r.closed()
}

// tryTx does it once. It says whether another try may help.
func (r *Router) tryTx(ctx context.Context, opts *sql.TxOptions, f func(*sql.Tx) error) (again bool, err error) {
	tx, err := r.db.BeginTx(ctx, opts)
	if err != nil {
		return transient(err), err
	}
	defer tx.Rollback() // also if f panics; after the end it does nothing
	var row outcomeRow
	if r.conf.OutcomeTable != "" && (opts == nil || !opts.ReadOnly) {
		if row, err = newOutcomeRow(r.conf.OutcomeTable); err != nil {
			return false, err
		}
		if _, err := tx.ExecContext(ctx, row.insert(true)); err != nil {
			return transient(err), err
		}
	}
	if err := f(tx); err != nil {
		// Nothing was committed, whatever has been lost.
		return transient(err), err
	}
	err = tx.Commit()
	switch OutcomeOf(err) {
	case Committed:
		return false, nil
	case RolledBack:
		return transient(err), err
	}
	if row.token != "" && ctx.Err() == nil {
		done, why := r.committed(ctx, row)
		switch {
		case why != nil:
			err = errors.Join(err, why)
		case done:
			return false, nil
		default:
			return true, err
		}
	}
	return false, fmt.Errorf("dbrouter: the outcome of COMMIT is not known: %w", err)
}

// transient says whether another try of a transaction that was not committed may
// not meet the error.
func transient(err error) bool {
	switch serverError(err) {
	case errDeadlock, errLockTimeout, errChanged, errReadOnlyServer, errReadOnlyMode, errShutdown, errKilled:
		return true
	case 0:
		_, unreachable := errors.AsType[*NodeError](err)
		return unreachable || errors.Is(err, ErrNoPrimary) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn)
	}
	return false
}
