package main

import (
	"context"
	"strings"
	"sync"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
)

// maxEmbedded bounds what the embedded database remembers.
const maxEmbedded = 10000

// embedded is the notes table of one in-process server: it understands the
// three statements of noteStore, and nothing else.
type embedded struct {
	mu     sync.Mutex
	lastID int64
	rows   [][]any // id, text, created; oldest first
}

// Handle implements mysqltest.Handler.
func (e *embedded) Handle(_ context.Context, q mysqltest.Query) (mysqltest.Result, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case strings.HasPrefix(q.SQL, "CREATE TABLE IF NOT EXISTS notes "):
		return mysqltest.Result{}, nil
	case strings.HasPrefix(q.SQL, "INSERT INTO notes ") && len(q.Args) == 2:
		return e.insert(q.Args[0], q.Args[1]), nil
	case strings.HasPrefix(q.SQL, "SELECT id, text, created FROM notes "):
		return e.newest(maxListed), nil
	}
	return mysqltest.Result{}, &mysqltest.Error{Code: 1064, State: "42000", Message: "the embedded database knows the statements of the notes service only"}
}

func (e *embedded) insert(text, created any) mysqltest.Result {
	e.lastID++
	e.rows = append(e.rows, []any{e.lastID, text, created})
	if len(e.rows) > maxEmbedded {
		e.rows = append([][]any(nil), e.rows[maxEmbedded/10:]...)
	}
	return mysqltest.Result{AffectedRows: 1, LastInsertID: uint64(e.lastID)}
}

func (e *embedded) newest(n int) mysqltest.Result {
	out := mysqltest.Result{Columns: mysqltest.Columns("id", "text", "created")}
	for i := len(e.rows) - 1; i >= 0 && len(out.Rows) < n; i-- {
		out.Rows = append(out.Rows, e.rows[i])
	}
	return out
}
