package dbrouter

import (
	"context"
	"database/sql"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

// cluster starts real MariaDB servers, or skips the test.
func cluster(t testing.TB, replicas int) *mariadb.Cluster {
	t.Helper()
	return clusterWith(t, mariadb.Config{Replicas: replicas})
}

func clusterWith(t testing.TB, conf mariadb.Config) *mariadb.Cluster {
	t.Helper()
	if err := mariadb.Available(); err != nil {
		if os.Getenv("PALISADE_REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := mariadb.Start(ctx, conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// nodes are the nodes of a cluster, with the application's account.
func nodes(c *mariadb.Cluster) []Node {
	var out []Node
	for _, n := range c.Nodes() {
		out = append(out, Node{Name: n.Name, Config: n.AppConfig()})
	}
	return out
}

// record collects what OnStatement is told.
type record struct {
	mu  sync.Mutex
	all []Statement
}

func (r *record) add(_ context.Context, s Statement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, s)
}

func (r *record) last(t *testing.T) Statement {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) == 0 {
		t.Fatal("OnStatement was not called")
	}
	return r.all[len(r.all)-1]
}

// onReplica returns how many statements were done by a replica.
func (r *record) onReplica() (n, all int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.all {
		if s.Role == Replica && s.Err == nil {
			n++
		}
	}
	return n, len(r.all)
}

// newRouter returns a router and the record of its statements.
func newRouter(t *testing.T, conf Config) (*Router, *record) {
	t.Helper()
	rec := new(record)
	conf.OnStatement = rec.add
	conf.Logger = slog.New(slog.DiscardHandler)
	r, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, rec
}

// open returns a router that knows its primary, and the record of its
// statements.
func open(t *testing.T, conf Config) (*Router, *record) {
	t.Helper()
	r, rec := newRouter(t, conf)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := r.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return r, rec
}

// until waits for a condition.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

// upReplicas waits until n replicas are read from.
func upReplicas(t *testing.T, r *Router, n int) {
	t.Helper()
	until(t, "replicas are up", func() bool { return len(r.monitor.now.Load().replicas) == n })
}

func mustExec(t *testing.T, e interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}, query string, args ...any) sql.Result {
	t.Helper()
	result, err := e.ExecContext(t.Context(), query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return result
}

func one[T any](t *testing.T, q interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, query string, args ...any) T {
	t.Helper()
	var v T
	if err := q.QueryRowContext(t.Context(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}
