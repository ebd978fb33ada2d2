//go:build soak

package dbrouter

import (
	"database/sql"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// pureParts and otherParts are what statements are made of: the first only read,
// of the others one is enough for a statement not to.
var (
	pureParts = map[string][]string{
		"value": {
			"v", "t.a", "`b`", "c + 1", "-d", "e IS NULL", "a BETWEEN 1 AND 2", "v LIKE 'x%'", "id IN (1, 2)", "'for update'", "\"it''s\"", "0x41", "_utf8mb4'é'",
			"COUNT(*)", "MAX(a)", "COALESCE(v, 'none')", "CONCAT(v, '-', a)", "UPPER(v)", "LENGTH(v)", "IF(a > 1, 'x', 'y')", "CASE WHEN a = 1 THEN 2 ELSE 3 END",
			"CAST(a AS CHAR)", "CONVERT(v, UNSIGNED)", "DATE_ADD('2026-01-01', INTERVAL 1 DAY)", "ROUND(a / 3, 2)", "JSON_EXTRACT('{\"a\": 1}', '$.a')", "MD5(v)", "ABS(a)",
			"(SELECT MAX(b) FROM u)", "EXISTS (SELECT 1 FROM u WHERE u.b = t.b)", "ROW_NUMBER() OVER (ORDER BY id)", "GREATEST(a, b, 1)", "SUBSTRING(v, 1, 2)", "GROUP_CONCAT(v)",
		},
		"before": {"", "", "", "/* a comment */ ", "-- for update\n", "# into outfile\n", "  \n"},
		"list":   {"", "", "DISTINCT ", "ALL ", "SQL_NO_CACHE "},
		"from":   {" FROM t", " FROM t AS t", " FROM t LEFT JOIN u ON u.b = t.b", " FROM t, u", " FROM (SELECT * FROM t) AS t", " FROM t USE INDEX (PRIMARY)"},
		"where":  {"", "", " WHERE a = 1", " WHERE v <> 'into' AND (a > 0 OR b IS NULL)", " WHERE t.id = (SELECT MIN(id) FROM t)", " WHERE NOT a <=> NULL"},
		"end":    {"", "", " ORDER BY 1", " LIMIT 5", " ORDER BY 1 DESC LIMIT 1, 2", " GROUP BY t.id", " UNION SELECT 1", " LIMIT 1 OFFSET 0"},
	}
	otherParts = map[string][]string{
		"value": {
			"NEXTVAL(s)", "NEXT VALUE FOR s", "writes()", "app.writes()", "GET_LOCK('l', 0)", "RELEASE_LOCK('l')", "SLEEP(0)", "@x := 1", "LAST_INSERT_ID(5)", "UUID_SHORT()", "SETVAL(s, 1000)",
			"/*! writes() */", "/*M! writes() */", "(SELECT MAX(b) FROM u WHERE b = writes())", "wri/**/tes()", "CONNECTION_ID()", "@@server_id", "LOAD_FILE('/etc/hostname')", "`writes` ()",
		},
		"where": {" WHERE writes() = 1", " WHERE a = (SELECT writes())"},
		"end":   {" FOR UPDATE", " LOCK IN SHARE MODE", " INTO @x", " LIMIT 1 FOR UPDATE", " UNION SELECT writes()", " for/**/update", " LIMIT 1 INTO @y", " ORDER BY writes()"},
	}
)

// statement puts a SELECT together; if other, with a part that does not only read.
func statement(rng *rand.Rand, other bool) string {
	spoiled := [...]string{"value", "where", "end"}[rng.IntN(3)]
	part := func(name string) string {
		from := pureParts[name]
		if other && name == spoiled {
			from = otherParts[name]
			other = false
		}
		return from[rng.IntN(len(from))]
	}
	b := new(strings.Builder)
	b.WriteString(part("before") + "SELECT " + part("list") + part("value"))
	for range rng.IntN(3) {
		b.WriteString(", " + part("value"))
	}
	b.WriteString(part("from") + part("where") + part("end"))
	return b.String()
}

// adminConn is a connection of one who may do everything.
func adminConn(t *testing.T, c *mysql.Config) *sql.Conn {
	t.Helper()
	c = c.Clone()
	c.DBName = "app"
	db, err := sql.Open("mysql", c.FormatDSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestSoakCorpus has real servers judge 20,000 statements that chance puts together.
// What is taken for a read neither moves the primary's GTID nor is refused by a
// session that may only read; and of those that only read, 99 of 100 are.
func TestSoakCorpus(t *testing.T) {
	c := cluster(t, 1)
	r, _ := open(t, Config{Nodes: nodes(c)})
	upReplicas(t, r, 1)
	primary, replica := adminConn(t, c.Nodes()[0].AdminConfig()), adminConn(t, c.Nodes()[1].AdminConfig())
	for _, conn := range []*sql.Conn{primary, replica} {
		mustExec(t, conn, "SET GLOBAL log_bin_trust_function_creators = 1") // for writes()
	}
	for _, text := range []string{
		"CREATE TABLE t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(100), a INT, b INT, c INT, d INT, e VARCHAR(9)) ENGINE=InnoDB",
		"CREATE TABLE u (id BIGINT, b INT)", "INSERT INTO t (v, a, b) VALUES ('first', 1, 1), ('second', 2, 2)", "INSERT INTO u VALUES (1, 1)",
		"CREATE TABLE w (n INT)", "CREATE SEQUENCE s",
		"CREATE FUNCTION writes() RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO w VALUES (1); RETURN 1; END",
	} {
		mustExec(t, primary, text)
	}
	position := func() string { return one[string](t, primary, "SELECT @@global.gtid_current_pos") }
	if one[int](t, replica, "SELECT MASTER_GTID_WAIT(?, 10)", position()) != 0 {
		t.Fatal("the replica does not catch up")
	}
	mustExec(t, replica, "SET SESSION TRANSACTION READ ONLY")
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	var pure, taken, ran, wrote int
	before := position()
	for i := range 20_000 {
		text := statement(rng, i%2 == 1)
		kind := Classify(text).Kind
		if i%2 == 0 {
			if pure++; kind == Read {
				taken++
			} else if pure-taken < 20 {
				t.Logf("not a read: %s: %s", text, Classify(text).Reason)
			}
		}
		run := func(conn *sql.Conn) error {
			rows, err := conn.QueryContext(t.Context(), text)
			if err != nil {
				return err
			}
			for rows.Next() {
			}
			err = rows.Err()
			rows.Close()
			return err
		}
		err := run(primary)
		if err == nil {
			ran++
		}
		after := position()
		if after != before {
			wrote++
		}
		if kind == Read && after != before {
			t.Errorf("seed %d: %s: it moved the position from %s to %s", seed, text, before, after)
		}
		if err := run(replica); kind == Read && refused(err) {
			t.Errorf("seed %d: %s: %v", seed, text, err)
		}
		before = after
	}
	t.Logf("seed %d: %d of %d reads are taken for reads; %d statements ran, %d wrote", seed, taken, pure, ran, wrote)
	if taken*100 < pure*99 || ran < 10_000 || wrote < 1000 {
		t.Error("too few")
	}
}
