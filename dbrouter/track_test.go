package dbrouter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
	"github.com/palisade-go/palisade/internal/testcert"
)

// secureCluster is a cluster that speaks TLS, too.
func secureCluster(t *testing.T, replicas int, more ...string) (*mariadb.Cluster, *testcert.CA) {
	t.Helper()
	ca := testcert.NewCA(t)
	chain, key := testcert.EncodePEM(t, ca.Issue(testcert.Leaf{Names: []string{"127.0.0.1"}}))
	dir := t.TempDir()
	flags := append(more, "--max-allowed-packet=64M") // for rows of several packets
	for name, pem := range map[string][]byte{"ssl-cert": chain, "ssl-key": key} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem, 0o600); err != nil {
			t.Fatal(err)
		}
		flags = append(flags, "--"+name+"="+file)
	}
	return clusterWith(t, mariadb.Config{Replicas: replicas, Flags: flags}), ca
}

// tracked says whether all connections to a node for writes report.
func tracked(n *node) bool {
	n.pool.cool()
	n.pool.mu.Lock()
	defer n.pool.mu.Unlock()
	count := 0
	for _, p := range n.pool.idle {
		if p.readOnly {
			continue
		}
		if count++; p.track == nil || !p.track.on || p.track.follow.lost {
			return false
		}
	}
	return count > 0
}

// TestTracking does every kind of write on real servers, with and without TLS:
// the server's report must be what the server itself says afterwards.
func TestTracking(t *testing.T) {
	c, ca := secureCluster(t, 1)
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secure), func(t *testing.T) {
			conf := Config{Nodes: nodes(c), Consistency: PerSession, WaitLimit: 10 * time.Second}
			for _, n := range conf.Nodes {
				if secure {
					n.Config.TLS = &tls.Config{RootCAs: ca.Pool()}
				}
				n.Config.MultiStatements = true
			}
			r, rec := open(t, conf)
			upReplicas(t, r, 1)
			for _, ctx := range []context.Context{t.Context(), WithPrimary(t.Context())} {
				var name, cipher string
				if err := r.DB().QueryRowContext(ctx, "SHOW SESSION STATUS LIKE 'Ssl_cipher'").Scan(&name, &cipher); err != nil || (cipher != "") != secure {
					t.Errorf("cipher %q, %v", cipher, err)
				}
			}
			mustExec(t, r.DB(), "CREATE OR REPLACE TABLE w (id BIGINT AUTO_INCREMENT PRIMARY KEY, v INT, text LONGTEXT)")
			mustExec(t, r.DB(), "CREATE OR REPLACE PROCEDURE twice() BEGIN INSERT INTO w (v) VALUES (1); SELECT v FROM w LIMIT 3; INSERT INTO w (v) VALUES (2); END")
			testTracking(t, r, rec)
		})
	}
}

func testTracking(t *testing.T, r *Router, rec *record) {
	position := func() string {
		return oneIn[string](t, WithPrimary(t.Context()), r.DB(), "SELECT @@global.gtid_binlog_pos")
	}
	for _, w := range []struct {
		sql    string
		rows   bool
		args   []any
		writes bool
	}{
		{sql: "INSERT INTO w (v) VALUES (1)", writes: true},
		{sql: "INSERT INTO w (v) VALUES (?)", args: []any{2}, writes: true},
		{sql: "INSERT INTO w (v) VALUES (3) RETURNING id, v", rows: true, writes: true},
		{sql: "INSERT INTO w (v) VALUES (?), (5) RETURNING id, v", args: []any{4}, rows: true, writes: true},
		{sql: "CALL twice()", writes: true},
		{sql: "CALL twice()", rows: true, writes: true},
		{sql: "INSERT INTO w (v) VALUES (6); SELECT 1; INSERT INTO w (v) VALUES (7)", rows: true, writes: true},
		{sql: "UPDATE w SET v = 1 WHERE id = -1"},
		{sql: "SELECT text FROM w FOR UPDATE", rows: true},
		{sql: "SELECT REPEAT('x', 17000000) FROM w LIMIT 2 FOR UPDATE", rows: true},
		{sql: "ALTER TABLE w ADD COLUMN IF NOT EXISTS more INT", writes: true},
		{sql: "SELECT nope", rows: true},
	} {
		before := position()
		ctx, s := r.NewSession(t.Context())
		if w.rows {
			rows, err := r.DB().QueryContext(ctx, w.sql, w.args...)
			if err == nil {
				for rows.Next() {
				}
				err = errors.Join(rows.Err(), rows.Close())
			}
			if err != nil && !strings.Contains(w.sql, "nope") {
				t.Fatalf("%s: %v", w.sql, err)
			}
		} else if _, err := r.DB().ExecContext(ctx, w.sql, w.args...); err != nil {
			t.Fatalf("%s: %v", w.sql, err)
		}
		after := position()
		if w.writes && (s.at.text != after || after == before) || !w.writes && s.at.text != "" || s.unsure {
			t.Errorf("%s: the session has %q, the server %q, and before %q", w.sql, s.at.text, after, before)
		}
	}
	if !tracked(r.nodes()[0]) {
		t.Error("the server's reports have been lost")
	}
	// Many at a time: each sees its own, on the replica, once that has done with the
	// long statements.
	upReplicas(t, r, 1)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 25 {
				ctx, _ := r.NewSession(t.Context())
				result, err := r.DB().ExecContext(ctx, "INSERT INTO w (v) VALUES (?)", i*100+j)
				if err != nil {
					t.Error(err)
					return
				}
				id, _ := result.LastInsertId()
				var v int
				if err := r.DB().QueryRowContext(ctx, "SELECT v FROM w WHERE id = ?", id).Scan(&v); err != nil || v != i*100+j {
					t.Errorf("read %d, %v, want %d", v, err, i*100+j)
				}
			}
		})
	}
	wg.Wait()
	if n, _ := rec.onReplica(); n < 150 {
		t.Errorf("only %d of 200 reads were done by the replica", n)
	}
}

// TestTLSIsStrict: what the driver would refuse is refused, and a password is
// never sent to a server that is not who it should be.
func TestTLSIsStrict(t *testing.T) {
	c, ca := secureCluster(t, 0)
	plain := newPair(t) // speaks no TLS
	for _, try := range []struct {
		name string
		conf *mysql.Config
		tls  *tls.Config
		want string
	}{
		{"another authority", c.Nodes()[0].AppConfig(), &tls.Config{RootCAs: testcert.NewCA(t).Pool()}, "certificate signed by unknown authority"},
		{"another name", c.Nodes()[0].AppConfig(), &tls.Config{RootCAs: ca.Pool(), ServerName: "db.example"}, "db.example"},
		{"no TLS", plain.primary.Config(), &tls.Config{RootCAs: ca.Pool()}, mysql.ErrNoTLS.Error()},
	} {
		try.conf.TLS = try.tls
		r, _ := newRouter(t, Config{Nodes: []Node{{Name: "db1", Config: try.conf}}})
		until(t, try.name+" is refused", func() bool { return r.Status()[0].State == Down })
		if s := r.Status()[0]; !strings.Contains(s.LastError, try.want) {
			t.Errorf("%s: %s", try.name, s.LastError)
		}
	}
	for _, name := range []string{"skip-verify", "preferred"} {
		conf := c.Nodes()[0].AppConfig()
		conf.TLSConfig = name
		r, _ := open(t, Config{Nodes: []Node{{Name: "db1", Config: conf}}})
		var v, cipher string
		if err := r.DB().QueryRowContext(t.Context(), "SHOW SESSION STATUS LIKE 'Ssl_cipher'").Scan(&v, &cipher); err != nil || cipher == "" {
			t.Errorf("%s: cipher %q, %v", name, cipher, err)
		}
		// The driver's own TLS cannot be looked into.
		if got := tracked(r.nodes()[0]); got != (name == "skip-verify") {
			t.Errorf("%s: tracked %v", name, got)
		}
	}
}

// TestTrackWithCachingSHA2: MySQL's usual way to log in, in the router's own TLS:
// the first login gives the password away, which the driver does only where it
// takes the connection for safe.
func TestTrackWithCachingSHA2(t *testing.T) {
	ca := testcert.NewCA(t)
	cert := ca.Issue(testcert.Leaf{Names: []string{"127.0.0.1"}})
	s, err := mysqltest.New(mysqltest.Config{Handler: new(number), AuthPlugin: "caching_sha2_password",
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, encrypted := range []bool{false, true} {
		conf := s.Config()
		if encrypted {
			conf.TLS = &tls.Config{RootCAs: ca.Pool(), ServerName: "127.0.0.1"}
		}
		r, _ := open(t, Config{Nodes: []Node{{Name: "db1", Config: conf}}, Consistency: PerSession})
		mustExec(t, r.DB(), update)
		if !tracked(r.nodes()[0]) {
			t.Errorf("TLS %v: the server's reports are not read", encrypted)
		}
		r.Close()
	}
}
