package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// TestErrorsByNumber: what each error of a server says, wrapped or not.
func TestErrorsByNumber(t *testing.T) {
	for _, c := range []struct {
		number                           uint16
		refused, demoted, lost, tryAgain bool
	}{
		{number: 1020, tryAgain: true},
		{number: 1040, lost: true}, // too many connections
		{number: 1047, lost: true}, // not ready
		{number: 1053, lost: true, tryAgain: true},
		{number: 1054},
		{number: 1062},
		{number: 1205, tryAgain: true},
		{number: 1213, tryAgain: true},
		{number: 1290, refused: true, demoted: true, tryAgain: true},
		{number: 1317},
		{number: 1792, refused: true},
		{number: 1836, refused: true, demoted: true, tryAgain: true},
		{number: 1927, lost: true, tryAgain: true},
		{number: 3032, lost: true},
	} {
		err := fmt.Errorf("wrapped: %w", &mysql.MySQLError{Number: c.number})
		if refused(err) != c.refused || demoted(err) != c.demoted || lost(t.Context(), nil, err) != c.lost || transient(err) != c.tryAgain {
			t.Errorf("%d: refused %v, demoted %v, lost %v, transient %v, want %+v", c.number, refused(err), demoted(err), lost(t.Context(), nil, err), transient(err), c)
		}
	}
}

// TestErrorsWithoutNumber: of connections, of the router's own, and of the caller.
func TestErrorsWithoutNumber(t *testing.T) {
	broken := &physical{validator: never{}}
	for _, c := range []struct {
		err            error
		p              *physical
		lost, tryAgain bool
	}{
		{err: nil},
		{err: errors.New("?")},
		{err: errors.New("?"), p: new(physical)},
		{err: errors.New("?"), p: broken, lost: true},
		{err: driver.ErrBadConn, lost: true, tryAgain: true},
		{err: mysql.ErrInvalidConn, lost: true, tryAgain: true},
		{err: &NodeError{Node: "a", Err: errors.New("?")}, tryAgain: true},
		{err: fmt.Errorf("x: %w", ErrNoPrimary), tryAgain: true},
		{err: ErrClosed},
		{err: context.Canceled, p: broken},
		{err: context.DeadlineExceeded, p: broken},
	} {
		if lost(t.Context(), c.p, c.err) != c.lost || transient(c.err) != c.tryAgain {
			t.Errorf("%v: lost %v, transient %v", c.err, lost(t.Context(), c.p, c.err), transient(c.err))
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if lost(ended, broken, mysql.ErrInvalidConn) {
		t.Error("a caller's cancellation counts against the node")
	}
	if err := final(fmt.Errorf("x: %w", driver.ErrBadConn)); errors.Is(err, driver.ErrBadConn) {
		t.Errorf("database/sql is told to do it again: %v", err)
	}
	if err := final(lostSession{}); !errors.Is(err, driver.ErrBadConn) {
		t.Errorf("database/sql is not told to close the connection: %v", err)
	}
}

// never is a connection that is not valid any more.
type never struct{}

func (never) IsValid() bool { return false }
