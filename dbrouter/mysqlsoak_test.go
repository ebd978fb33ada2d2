//go:build soak

package dbrouter

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// realMySQL is the environment variable that names a folder into which the
// packages of a MySQL server are unpacked: usr/sbin/mysqld and what it needs,
// its C library included.
const realMySQL = "PALISADE_MYSQL"

// mysqlPair starts a primary and a replica of real MySQL with GTIDs.
func mysqlPair(t *testing.T) []*mysql.Config {
	t.Helper()
	tree := os.Getenv(realMySQL)
	if tree == "" {
		if os.Getenv("PALISADE_REQUIRE_ALL") == "1" {
			t.Fatalf("%s is not set", realMySQL)
		}
		t.Skipf("%s is not set", realMySQL)
	}
	lib := filepath.Join(tree, "usr/lib/x86_64-linux-gnu")
	dir := t.TempDir()
	server := func(args ...string) *osexec.Cmd {
		return osexec.Command(filepath.Join(lib, "ld-linux-x86-64.so.2"), append([]string{"--library-path", lib, filepath.Join(tree, "usr/sbin/mysqld"),
			"--no-defaults", "--user=root", "--basedir=" + filepath.Join(tree, "usr"), "--plugin-dir=" + filepath.Join(tree, "usr/lib/mysql/plugin"),
			"--lc-messages-dir=" + filepath.Join(tree, "usr/share/mysql"), "--character-sets-dir=" + filepath.Join(tree, "usr/share/mysql/charsets"),
			"--secure-file-priv=NULL", "--mysqlx=OFF", "--innodb-redo-log-capacity=16M", "--innodb-buffer-pool-size=32M"}, args...)...)
	}
	var confs []*mysql.Config
	for i := range 2 {
		data := filepath.Join(dir, fmt.Sprint("n", i+1))
		init := filepath.Join(dir, "init.sql")
		err := os.WriteFile(init, []byte("CREATE USER app@'127.0.0.1' IDENTIFIED BY 'pw';\nGRANT ALL ON app.* TO app@'127.0.0.1';\n"+
			"GRANT REPLICATION CLIENT ON *.* TO app@'127.0.0.1';\nCREATE USER repl@'127.0.0.1' IDENTIFIED BY 'pw';\nGRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1';\n"+
			"CREATE USER admin@'127.0.0.1' IDENTIFIED BY 'pw';\nGRANT ALL ON *.* TO admin@'127.0.0.1';\nCREATE DATABASE app;\n"), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := server("--initialize-insecure", "--skip-log-bin", "--datadir="+data, "--init-file="+init).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().(*net.TCPAddr)
		ln.Close()
		cmd := server("--datadir="+data, fmt.Sprint("--port=", addr.Port), "--bind-address=127.0.0.1", "--socket="+filepath.Join(data, "s"),
			"--log-error="+filepath.Join(dir, fmt.Sprint("log", i+1)), fmt.Sprint("--server-id=", i+1), "--gtid-mode=ON", "--enforce-gtid-consistency=ON",
			"--skip-replica-start", "--performance-schema=OFF", "--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		conf := mysql.NewConfig()
		conf.User, conf.Passwd, conf.Net, conf.Addr, conf.DBName, conf.Logger = "app", "pw", "tcp", addr.String(), "app", &mysql.NopLogger{}
		confs = append(confs, conf)
	}
	for i, conf := range confs {
		admin := conf.Clone()
		admin.User, admin.DBName = "admin", ""
		connector, err := mysql.NewConnector(admin)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(connector)
		defer db.Close()
		db.SetMaxOpenConns(1)
		until(t, "MySQL is up", func() bool { return db.PingContext(t.Context()) == nil })
		if i == 1 {
			_, port, _ := net.SplitHostPort(confs[0].Addr)
			for _, s := range []string{"SET GLOBAL read_only=1", "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT=" + port +
				", SOURCE_USER='repl', SOURCE_PASSWORD='pw', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1", "START REPLICA"} {
				mustExec(t, db, s)
			}
		}
	}
	return confs
}

// TestSoakMySQL has real MySQL judge what the tests with MariaDB do: sessions,
// positions, lag, transactions and the net under the classifier.
func TestSoakMySQL(t *testing.T) {
	confs := mysqlPair(t)
	conf := Config{Nodes: []Node{{Name: "db1", Config: confs[0]}, {Name: "db2", Config: confs[1]}}, WaitLimit: 5 * time.Second, MaxLag: time.Minute}
	setup, _ := open(t, conf)
	if err := setup.Check(t.Context()); err != nil {
		t.Error(err)
	}
	mustExec(t, setup.DB(), "CREATE TABLE t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(100), a INT)")
	for i, consistency := range []Consistency{Global, PerSession, PerSession} {
		conf.Consistency = consistency
		if i == 2 {
			for _, n := range conf.Nodes {
				n.Config.TLSConfig = "skip-verify" // with certificates that the servers have made
			}
		}
		r, rec := open(t, conf)
		upReplicas(t, r, 1)
		var stale atomic.Int64
		var wg sync.WaitGroup
		const workers, pairs = 8, 250
		for range workers {
			wg.Go(func() {
				for i := range pairs {
					ctx := context.WithoutCancel(t.Context())
					if consistency == PerSession {
						ctx, _ = r.NewSession(ctx)
					}
					if err := writeAndRead(ctx, r.DB(), r.DB(), i, &stale); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		onReplica, _ := rec.onReplica()
		t.Logf("%v: %d of %d stale, %d on the replica", consistency, stale.Load(), workers*pairs, onReplica)
		if stale.Load() > 0 || onReplica < workers*pairs*9/10 {
			t.Errorf("%v: %d of %d stale, %d on the replica", consistency, stale.Load(), workers*pairs, onReplica)
		}
		until(t, "the lag is known", func() bool { s := r.Status()[1]; return s.State == Up && s.LagKnown && s.Behind == 0 })
		if consistency == PerSession {
			if n := r.nodes()[1]; n.waits.apart.Load() != together || !framed(n) {
				t.Errorf("waits do not go ahead: %d", n.waits.apart.Load())
			}
			ctx, s := r.NewSession(t.Context())
			mustExecIn(t, ctx, r.DB(), "INSERT INTO t (v) VALUES ('x')")
			if at, sure := s.known(); !sure || at.dialect != mySQL || at.text == "" {
				t.Errorf("the write was not reported: %+v, %v", at, sure)
			}
		}
		err := r.Tx(t.Context(), nil, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), "INSERT INTO t (v) VALUES ('tx')")
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	corpusOn(t, confs[1])
	admin := confs[0].Clone()
	admin.User = "admin"
	functionsBeforeASpace(t, admin)
}

// corpusOn: what is classified as a read must not be refused in a read-only
// session.
func corpusOn(t *testing.T, conf *mysql.Config) {
	connector, err := mysql.NewConnector(conf)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mustExec(t, conn, "SET SESSION TRANSACTION READ ONLY")
	before := one[string](t, conn, "SELECT @@global.gtid_executed")
	done := 0
	for _, query := range reads {
		rows, err := conn.QueryContext(t.Context(), query)
		if err == nil {
			done++
			rows.Close()
		}
		if refused(err) || errors.Is(err, mysql.ErrInvalidConn) {
			t.Errorf("%s: %v", query, err)
		}
	}
	if after := one[string](t, conn, "SELECT @@global.gtid_executed"); after != before {
		t.Errorf("the replica wrote: %s, before %s", after, before)
	}
	t.Logf("%d of %d reads ran", done, len(reads))
}
