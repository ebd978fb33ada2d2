package mariadb

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func need(t *testing.T) {
	t.Helper()
	if err := Available(); err != nil {
		if os.Getenv("PALISADE_REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func start(t *testing.T, replicas int) *Cluster {
	t.Helper()
	need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := Start(ctx, Config{Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was left behind: %v", c.dir, err)
		}
	})
	return c
}

func open(t *testing.T, n *Node) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", n.AppConfig().FormatDSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func insert(t *testing.T, n *Node, v int) {
	t.Helper()
	if _, err := open(t, n).ExecContext(t.Context(), "INSERT INTO t VALUES (?)", v); err != nil {
		t.Fatal(err)
	}
}

// count waits until the node has n rows.
func count(t *testing.T, n *Node, want int) {
	t.Helper()
	db := open(t, n)
	var got int
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if err = db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM t").Scan(&got); err == nil && got == want {
			return
		}
	}
	t.Errorf("%s has %d rows (%v), want %d", n.Name, got, err, want)
}

func TestReplicationAndPromotion(t *testing.T) {
	c := start(t, 2)
	db1, db2, db3 := c.Nodes()[0], c.Nodes()[1], c.Nodes()[2]
	if !strings.Contains(c.Version(), "MariaDB") {
		t.Errorf("version %q", c.Version())
	}
	if _, err := open(t, db1).ExecContext(t.Context(), "CREATE TABLE t (a INT)"); err != nil {
		t.Fatal(err)
	}
	insert(t, db1, 1)
	count(t, db2, 1)
	if _, err := open(t, db2).ExecContext(t.Context(), "INSERT INTO t VALUES (9)"); err == nil || !strings.Contains(err.Error(), "1290") {
		t.Errorf("the application wrote to a replica: %v", err)
	}

	// A switchover, with the old primary alive.
	if err := c.Promote(t.Context(), db2); err != nil {
		t.Fatal(err)
	}
	insert(t, db2, 2)
	for _, n := range c.Nodes() {
		count(t, n, 2)
	}

	// A failover, with the old one dead; it comes back and follows.
	db2.Kill()
	if db2.Running() {
		t.Error("running after Kill")
	}
	if err := c.Promote(t.Context(), db3); err != nil {
		t.Fatal(err)
	}
	insert(t, db3, 3)
	if err := db2.Restart(t.Context()); err == nil {
		t.Error("an old primary started to replicate before it was told from whom")
	}
	if err := db2.Rejoin(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes() {
		count(t, n, 3)
	}

	// A replica that stops and comes back goes on.
	db1.Stop()
	insert(t, db3, 4)
	if err := db1.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	count(t, db1, 4)
}

func TestStartFailsClearly(t *testing.T) {
	need(t)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := Start(ctx, Config{Dir: dir, Flags: []string{"--no-such-flag=1"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("the error does not tell the reason: %v", err)
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	cancelled, stop := context.WithCancel(t.Context())
	stop()
	if _, err := Start(cancelled, Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
	for _, bad := range []Config{{Replicas: -1}, {Replicas: 8}, {Database: "a`b"}} {
		if _, err := Start(ctx, bad); err == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
}

func TestUnavailable(t *testing.T) {
	t.Setenv("PATH", "")
	if err := Available(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Available without PATH: %v", err)
	}
	if _, err := Start(t.Context(), Config{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Start without PATH: %v", err)
	}
}
