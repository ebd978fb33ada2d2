package mysqltest

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-sql-driver/mysql"
)

// Handler answers the statements that the server does not answer itself. It is
// called for one statement at a time per connection and concurrently for several
// connections, except that writes come one at a time.
//
// The context ends when the statement is killed, or the server: the handler must
// then return. A result must not change once it is returned. An *[Error] or a *mysql.MySQLError is sent as it is; another error
// becomes number 1105 with its text.
type Handler interface {
	Handle(ctx context.Context, q Query) (Result, error)
}

// HandlerFunc is a function as a [Handler].
type HandlerFunc func(ctx context.Context, q Query) (Result, error)

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, q Query) (Result, error) { return f(ctx, q) }

// Query is a statement. Its Args must not be modified.
type Query struct {
	// SQL is the statement as the client sent it.
	SQL string
	// Args are the values of a prepared statement's placeholders: int64, uint64,
	// float64, string, []byte, time.Time or nil. A client that puts the values
	// into the text, as the driver does with InterpolateParams, sends none.
	Args []any
	// Database is the connection's default database, and may be empty.
	Database string
	// User is the account.
	User string
	// ConnID is what CONNECTION_ID() returns on the connection, and zero for a
	// replicated statement.
	ConnID uint32
	// Replicated says that the statement comes from the source of this replica.
	Replicated bool
	// InsertID is, for a replicated statement, the LastInsertID that the source's
	// handler returned, so that the replica can assign the same; zero if none.
	InsertID uint64
}

// Result is the answer to a statement. The zero value is a plain OK.
type Result struct {
	// Columns makes the answer a result set. Empty means that there is none.
	Columns []Column
	// Rows are the rows of the result set, one value for each column: nil, bool,
	// any integer, float32, float64, string, []byte or time.Time.
	Rows [][]any
	// AffectedRows is the number of rows changed.
	AffectedRows uint64
	// LastInsertID is the number assigned to an AUTO_INCREMENT column, if any.
	LastInsertID uint64
	// Warnings is the count of warnings to tell; SHOW WARNINGS lists none.
	Warnings uint16
}

// Column describes one column of a result set.
type Column struct {
	// Name is the column's name.
	Name string
	// Type is the column's type. Zero is [Infer].
	Type Type
}

// Columns returns columns with these names whose types are inferred.
func Columns(names ...string) []Column {
	out := make([]Column, len(names))
	for i, n := range names {
		out[i].Name = n
	}
	return out
}

// Type is the type of a column.
type Type uint8

// The types of columns.
const (
	// Infer takes the type of the column's first value that is not nil, and
	// VARCHAR if there is none.
	Infer Type = iota
	// Int is BIGINT.
	Int
	// Uint is BIGINT UNSIGNED.
	Uint
	// Float is DOUBLE.
	Float
	// Text is VARCHAR. It takes values of all kinds.
	Text
	// Bytes is BLOB.
	Bytes
	// Decimal is DECIMAL. It takes values of all kinds but time.Time.
	Decimal
	// JSON is JSON.
	JSON
	// DateTime is DATETIME(6), in UTC.
	DateTime
	// Date is DATE, in UTC.
	Date
)

// Error is an error as it is sent to the client.
type Error struct {
	// Code is the error's number, such as 1213. Zero means 1105, unknown error.
	Code uint16
	// State is the SQLSTATE, five characters. Empty means "HY000".
	State string
	// Message is the text.
	Message string
}

// Error returns the number, the state and the message.
func (e *Error) Error() string {
	return fmt.Sprintf("mysqltest: error %d (%s): %s", e.code(), e.state(), e.Message)
}

func (e *Error) code() uint16 {
	if e.Code == 0 {
		return 1105
	}
	return e.Code
}

func (e *Error) state() string {
	if len(e.State) != 5 {
		return "HY000"
	}
	return e.State
}

// asError returns what the client is told about err.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return &Error{Code: e.Number, State: string(e.SQLState[:]), Message: e.Message}
	}
	return &Error{Code: 1105, Message: err.Error()}
}

func errorf(code uint16, state, format string, args ...any) *Error {
	return &Error{Code: code, State: state, Message: fmt.Sprintf(format, args...)}
}
