package mysqltest

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// store is a handler with one table of keys and values, for tests that need data.
//
//	INSERT INTO kv VALUES (?, ?)    UPDATE kv    SELECT v FROM kv WHERE k = ?    SELECT k, v FROM kv
type store struct {
	mu   sync.Mutex
	rows map[string]string
	undo map[uint32]map[string]string // the state before each transaction
	log  []string
	ids  uint64
	seen []Query
}

func newStore() *store {
	return &store{rows: make(map[string]string), undo: make(map[uint32]map[string]string)}
}

func (s *store) Handle(_ context.Context, q Query) (Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, q.SQL)
	s.seen = append(s.seen, q)
	switch q.SQL {
	case "START TRANSACTION":
		s.undo[q.ConnID] = maps.Clone(s.rows)
	case "COMMIT":
		delete(s.undo, q.ConnID)
	case "ROLLBACK":
		s.rows = s.undo[q.ConnID]
		delete(s.undo, q.ConnID)
	case "INSERT INTO kv VALUES (?, ?)":
		s.rows[q.Args[0].(string)] = q.Args[1].(string)
		s.ids++
		if q.InsertID != 0 {
			s.ids = q.InsertID
		}
		return Result{AffectedRows: 1, LastInsertID: s.ids}, nil
	case "SELECT k, v FROM kv":
		r := Result{Columns: Columns("k", "v")}
		for _, k := range slices.Sorted(maps.Keys(s.rows)) {
			r.Rows = append(r.Rows, []any{k, s.rows[k]})
		}
		return r, nil
	default:
		return Result{}, &Error{Code: 1146, State: "42S02", Message: "no such table"}
	}
	return Result{}, nil
}

func (s *store) state() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.rows)
}

func (s *store) statements() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

func start(t *testing.T, conf Config) *Server {
	t.Helper()
	conf.Logger = slog.New(slog.DiscardHandler)
	s, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// open returns a pool that connects to the server, with its configuration
// changed as wanted.
func open(t *testing.T, s *Server, change ...func(*mysql.Config)) *sql.DB {
	t.Helper()
	conf := s.Config()
	conf.Logger = &mysql.NopLogger{}
	for _, f := range change {
		f(conf)
	}
	connector, err := mysql.NewConnector(conf)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	t.Cleanup(func() { db.Close() })
	return db
}

// pinned returns one connection of its own.
func pinned(t *testing.T, s *Server, change ...func(*mysql.Config)) *sql.Conn {
	t.Helper()
	c, err := open(t, s, change...).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func exec(t *testing.T, db execer, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// one returns the single value that a query yields.
func one(t *testing.T, db execer, query string, args ...any) any {
	t.Helper()
	var v any
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return v
}

// number returns the number of a server's error, and 0 for nil.
func code(t *testing.T, err error) uint16 {
	t.Helper()
	if err == nil {
		return 0
	}
	e, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		t.Fatalf("not an error of the server: %v", err)
	}
	return e.Number
}

func wantCode(t *testing.T, db execer, want uint16, query string, args ...any) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), query, args...)
	if got := code(t, err); got != want {
		t.Errorf("%s: error %d (%v), want %d", query, got, err, want)
	}
}

const insert = "INSERT INTO kv VALUES (?, ?)"

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within ten seconds: %s", what)
		}
	}
}

// caughtUp waits until a replica has what its source has.
func caughtUp(t *testing.T, replica, source *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := replica.WaitPosition(ctx, source.Position()); err != nil {
		t.Fatalf("the replica is at %q, the source at %q: %v", replica.Position(), source.Position(), err)
	}
}
