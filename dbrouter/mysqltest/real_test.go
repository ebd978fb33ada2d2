package mysqltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

// said is what a server answers to a statement: its error, or its columns and
// rows.
func said(ctx context.Context, c *sql.Conn, query string) string {
	rows, err := c.QueryContext(ctx, query)
	if err == nil {
		defer rows.Close()
		var b strings.Builder
		names, _ := rows.Columns()
		fmt.Fprintf(&b, "%q", names)
		for rows.Next() {
			values, into := make([]sql.NullString, len(names)), make([]any, len(names))
			for i := range values {
				into[i] = &values[i]
			}
			if err = rows.Scan(into...); err != nil {
				return err.Error()
			}
			for _, v := range values {
				fmt.Fprintf(&b, " %q/%v", v.String, v.Valid)
			}
		}
		if err = rows.Err(); err == nil {
			return b.String()
		}
	}
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return fmt.Sprintf("error %d (%s)", e.Number, e.SQLState[:])
	}
	return err.Error()
}

// The real server is the oracle: both answer the same scripts the same way. The
// handler here knows the one table that the scripts use, which stays empty.
func TestAgainstMariaDB(t *testing.T) {
	if err := mariadb.Available(); err != nil {
		if os.Getenv("PALISADE_REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cluster, err := mariadb.Start(ctx, mariadb.Config{Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	real := cluster.Nodes()
	if err := real[0].Exec(ctx, "CREATE TABLE app.t (a INT)"); err != nil {
		t.Fatal(err)
	}
	empty := HandlerFunc(func(_ context.Context, q Query) (Result, error) {
		if strings.HasPrefix(strings.ToUpper(q.SQL), "SELECT") {
			return Result{Columns: Columns("a")}, nil
		}
		return Result{}, nil
	})
	source := start(t, Config{Handler: empty, ServerID: 1})
	replica := start(t, Config{Handler: empty, ServerID: 2, Source: source, ReadOnly: true})
	ours := []*Server{source, replica}
	write := "DELETE FROM t WHERE a=1"

	for name, script := range map[string]struct {
		node int
		sql  []string
	}{
		"selects": {0, []string{
			"SELECT 1", "SELECT 1, 'a' AS b, NULL c", "SELECT @@read_only", "SELECT @@global.read_only, @@server_id AS id", "SELECT @@super_read_only",
			"SELECT  @@session.autocommit ", "SELECT @x, DATABASE( )", "SELECT @@version_comment_x", "SELECT TRUE, -3, 1.5", "select `a` from t", "SELECT @@gtid_slave_pos",
			"SELECT @@tx_read_only, @@tx_isolation", "SELECT @@last_gtid", "SELECT LAST_INSERT_ID()", "SELECT 'it''s', 'a\\nb', \"q\"", "SELECT /*! 1, */ 2", "SELECT 1;",
			"SELECT SLEEP(0)", "SELECT MASTER_GTID_WAIT('')", "SELECT MASTER_GTID_WAIT(NULL)", "SELECT MASTER_GTID_WAIT('0-9-99', 0.01)", "SELECT MASTER_GTID_WAIT('x', 0)",
			"SELECT MASTER_GTID_WAIT('0-1-1,0-2-2', 0)", "SELECT 1 LIMIT 1", "SELECT 'open", ";", "", "SELECT 1; SELECT 2",
		}},
		"set": {0, []string{
			"SHOW WARNINGS", "SET @a=1, @b:='x'", "SELECT @a, @b", "SET @c=@a", "SELECT @c", "SET autocommit=0", "SELECT @@autocommit", "SET autocommit=1", "SET NAMES utf8mb4",
			"SET read_only=1", "SET @@session.read_only=0", "SET autocommit=2", "SET tx_read_only=maybe", "SET", "SET a", "SET time_zone='+00:00'", "SELECT @@time_zone",
			"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", "SELECT @@tx_isolation", "BEGIN", "SET TRANSACTION READ ONLY", "ROLLBACK",
			"SET STATEMENT max_statement_time=5 FOR SELECT 1", "SET STATEMENT max_statement_time=5 FOR SET @a=7", "SELECT @a", "SET STATEMENT max_statement_time=5 FOR SET STATEMENT max_statement_time=5 FOR SELECT 1", "KILL QUERY 999999", "KILL 999999", "KILL me",
			"SHOW SLAVE STATUS x", "SELECT @@gtid_binlog_pos, @@x",
		}},
		"read-only transactions": {0, []string{
			"START TRANSACTION READ ONLY", write, "SELECT a FROM t", "SELECT a FROM t FOR UPDATE", "TRUNCATE t", "CREATE TABLE t2 (a INT)",
			"ROLLBACK", write, "SET SESSION TRANSACTION READ ONLY", write, "SELECT @@tx_read_only", "TRUNCATE t", "SET STATEMENT max_statement_time=5 FOR DELETE FROM t",
			"START TRANSACTION READ WRITE", write, "COMMIT", write, "SET SESSION TRANSACTION READ WRITE", write,
			"SET TRANSACTION READ ONLY", write, write, "SET tx_read_only=1", write, "SET tx_read_only=0", write,
			"SET TRANSACTION READ ONLY", "SELECT a FROM t", write,
			"SET TRANSACTION READ ONLY", "SET SESSION TRANSACTION READ WRITE", write, "SET TRANSACTION READ ONLY", "SELECT 1", write, "BEGIN", write, "COMMIT", write,
		}},
		"read-only server": {1, []string{
			"SELECT @@read_only", write, "INSERT INTO t VALUES (1)", "CREATE TABLE t2 (a INT)", "TRUNCATE t", "SELECT a FROM t FOR UPDATE", "BEGIN", write, "SELECT a FROM t", "COMMIT",
			"CREATE TEMPORARY TABLE tt (a INT)", "DROP TEMPORARY TABLE tt", "START TRANSACTION READ ONLY", write, "TRUNCATE t", "ROLLBACK",
			"SET SESSION TRANSACTION READ ONLY", write, "CREATE TEMPORARY TABLE tt (a INT)",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			realConf := real[script.node].AppConfig()
			realDB, err := sql.Open("mysql", realConf.FormatDSN())
			if err != nil {
				t.Fatal(err)
			}
			defer realDB.Close()
			oracle, err := realDB.Conn(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer oracle.Close()
			c := pinned(t, ours[script.node], func(c *mysql.Config) { c.DBName = "app" })
			for i, q := range script.sql {
				if got, want := said(ctx, c, q), said(ctx, oracle, q); got != want {
					t.Errorf("%d: %s:\n  ours %s\n  real %s", i, q, got, want)
				}
			}
		})
	}

	t.Run("columns of the status", func(t *testing.T) {
		for _, q := range []string{"SHOW SLAVE STATUS", "SHOW ALL SLAVES STATUS", "SHOW REPLICA STATUS", "SHOW ALL REPLICAS STATUS"} {
			var names [2][]string
			for i, conf := range []*mysql.Config{real[1].AppConfig(), replica.Config()} {
				db, err := sql.Open("mysql", conf.FormatDSN())
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				rows, err := db.QueryContext(ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				names[i], _ = rows.Columns()
				rows.Close()
			}
			at := 0
			for _, n := range names[1] {
				i := slices.Index(names[0][at:], n)
				if i < 0 {
					t.Errorf("%s: %s is not there, or not in this order: %q", q, n, names[0])
					break
				}
				at += i + 1
			}
		}
	})
}
