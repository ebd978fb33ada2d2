package dbrouter

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// reads must be taken for reads, or replicas are of no use.
var reads = []string{
	"SELECT 1",
	"select * from t",
	"SELECT id, text, created FROM notes ORDER BY id DESC LIMIT 100",
	"(SELECT a FROM t) UNION ALL (SELECT b FROM u) ORDER BY 1",
	"((SELECT 1))",
	"SELECT 1;", // ProxySQL #1048
	"SELECT 1 ; -- done",
	"SELECT 1 ;; ",
	"/* app */ SELECT 1 -- tail",
	"-- head\nSELECT 1",
	"# head\nSELECT 1",
	"SELECT\n*\nFROM\tt", // ProxySQL #1670
	"SELECT COUNT(*), MAX(a), GROUP_CONCAT(b) FROM t WHERE c IN (1, 2) AND (d = 3 OR e LIKE 'x%')",
	"SELECT count(*) FROM t WHERE a = ? AND b BETWEEN ? AND ?",
	"SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.id = t.id)",
	"SELECT a FROM t JOIN u USING (id) LEFT JOIN w ON (w.id = u.id)",
	"SELECT a FROM t USE INDEX (i) WHERE x = 1",
	"SELECT REPLACE(a, 'x', 'y'), INSERT(a, 1, 2, 'z'), LEFT(a, 3), CONCAT_WS(',', a, b) FROM t",
	"SELECT CAST(a AS CHAR(10)), CONVERT(b, DECIMAL(10,2)) FROM t",
	"SELECT ROW_NUMBER() OVER (PARTITION BY a ORDER BY b) FROM t",
	"WITH c AS (SELECT 1 AS a) SELECT a FROM c",
	"WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5) SELECT n FROM c",
	"SELECT t.update, t.lock, `into`, `for` FROM t",
	"SELECT share FROM t",
	"SELECT 'INSERT INTO x; DELETE @a FOR UPDATE' FROM t",
	"SELECT \"it's\", 'say \"x\"', 'it''s' FROM t",
	"SELECT a AS `back``tick` FROM `t`",
	"SELECT 'a@b.c', JSON_EXTRACT(d, '$.x') FROM t",
	"SELECT a FROM t WHERE a > 1.5 AND b < .5 AND c = 1e3 AND d = 0x1F AND e = x'41'",
	"SELECT 5-1, 5--1 FROM t",
	"SELECT NOW(), CURRENT_TIMESTAMP, DATE_ADD(a, INTERVAL 1 DAY), INTERVAL(3, 1, 2) FROM t",
	"SELECT a FROM t WHERE a = ANY (SELECT b FROM u)",
	"SELECT a FROM t WHERE MATCH(a) AGAINST ('x' IN BOOLEAN MODE)",
	"SELECT a FROM t FOR SYSTEM_TIME AS OF '2020-01-01'",
	"SELECT größe FROM tücher WHERE ü = 'ß'",
	"SELECT IF(a > 1, 'x', 'y'), CASE WHEN (a) THEN (b) ELSE (c) END FROM t",
	"SELECT SLEEP(0)",
	"SELECT SQL_CALC_FOUND_ROWS a FROM t LIMIT 1",
	"SELECT SQL_NO_CACHE (SELECT MAX(a) FROM t)",
	"SELECT DISTINCTROW SQL_BUFFER_RESULT SQL_NO_CACHE (a + 1) FROM t",
	"SELECT HIGH_PRIORITY (a) FROM t",
	"SELECT straight_join sql_no_cache(a) FROM t",
	"SELECT SQL_SMALL_RESULT (a) FROM t UNION SELECT SQL_BIG_RESULT (a) FROM t",
	"SELECT SQL_CALC_FOUND_ROWS (SELECT 1) LIMIT 1",
	"SELECT IF (a > 1, 2, 3), COALESCE (a, b), CONCAT ('a', 'b'), CHAR (65), AVG (a) FROM t",
	"SELECT a FROM t WHERE MATCH (v) AGAINST ('x' IN BOOLEAN MODE) ORDER BY FIELD (a, 1, 2)",
	"SELECT x.a FROM (SELECT 1 UNION SELECT 2) AS x (a)",
	"SELECT a FROM JSON_TABLE('[1]', '$[*]' COLUMNS(a INT PATH '$', NESTED PATH '$.b[*]' COLUMNS (b INT PATH '$'))) AS j",
	"SELECT /*+ MAX_EXECUTION_TIME(1000) INDEX(t@qb1 i, j) */ a FROM t",
	"SELECT t1.email, a2.e5 FROM t1",
	"SELECT 1E3, 1e3 FROM t",
	"WITH c (n) AS (SELECT 1) SELECT n FROM c",
	"SELECT a FROM t WHERE a <> SOME (SELECT b FROM u)",
	"SELECT AES_DECRYPT(v, 'k'), TO_CHAR(NOW()), JSON_OVERLAPS('[1]', '[2]'), ST_AREA(NULL), UUID_TO_BIN(v) FROM t",
}

// others must not be taken for less than this.
var others = []struct {
	kind Kind
	sql  string
}{
	// Textual rules that misled others: gorm dbresolver looks at the first 6
	// and the last 10 characters only, bxcodec #28 for "RETURNING".
	{Write, "SELECT a FROM t FOR UPDATE"},
	{Write, "SELECT a FROM t FOR UPDATE;"},
	{Write, "SELECT a FROM t FOR UPDATE SKIP LOCKED"},
	{Write, "SELECT a FROM t FOR SHARE"},
	{Write, "SELECT a FROM t for\n/**/share NOWAIT"},
	{Write, "SELECT a FROM t LOCK IN SHARE MODE"},
	{Write, "(SELECT a FROM t FOR UPDATE)"},
	{Write, "SELECT a--1 FROM t FOR UPDATE"}, // two dashes that begin no comment
	{Write, "SELECT 1 --\r'\n FOR UPDATE -- '"},
	{Write, "SELECT 1 --\x01'\n FOR UPDATE -- '"},
	{Write, "SELECT a INTO OUTFILE '/tmp/x' FROM t"},
	{Write, "SELECT a FROM t INTO DUMPFILE '/tmp/x'"},
	{Pin, "SELECT a INTO @v FROM t"},
	{Write, "SELECT 1.0into outfile '/tmp/x'"},
	{Write, "SELECT 1e5into outfile '/tmp/x'"},
	{Write, "SELECT 1.e5into outfile '/tmp/x'"},
	{Write, "SELECT .5into outfile '/tmp/x'"},
	{Write, "SELECT 1. into outfile '/tmp/x'"},
	{Write, "SELECT 1e+5into outfile '/tmp/x'"},
	{Pin, "SELECT GET_LOCK('x', 1)"},
	{Pin, "SELECT get_lock ('x', 1)"},
	{Pin, "SELECT RELEASE_LOCK('x')"},
	{Pin, "SELECT RELEASE_ALL_LOCKS()"},
	{Pin, "SELECT SERVICE_GET_READ_LOCKS('n', 'x', 1)"},
	{Pin, "SELECT service_get_write_locks('n', 'x', 1)"},
	{Pin, "SELECT SERVICE_RELEASE_LOCKS('n')"},
	{Pin, "DO GET_LOCK('x', 1)"},
	{Pin, "INSERT INTO t VALUES (GET_LOCK('x', 1))"},
	{Pin, "CALL p()"},
	{Write, "INSERT INTO t VALUES (1)"},
	{Write, "INSERT INTO t VALUES (1) RETURNING a"},
	{Write, "REPLACE INTO t VALUES (1)"},
	{Write, "WITH c AS (SELECT 1) DELETE FROM t"},
	{Write, "WITH c AS (SELECT 1) UPDATE t SET a = 1"},
	{Write, "WITH c AS (SELECT 1) INSERT INTO t SELECT * FROM c"},
	{Write, "WITH c AS (SELECT 1) INSERT t SELECT * FROM c"},
	{Write, "WITH c AS (SELECT 1) REPLACE t SELECT * FROM c"},
	{Write, "EXPLAIN SELECT 1"},
	{Write, "ANALYZE DELETE FROM t"},
	{Write, "DESCRIBE t"},
	{Pin, "SET STATEMENT max_statement_time=1 FOR DELETE FROM t"},
	{Pin, "SET @a = 1"},       // ProxySQL #2597
	{Pin, "SET autocommit=0"}, // ProxySQL #1340, #1755
	{Pin, "SELECT @a"},
	{Pin, "SELECT @a := 1"},
	{Pin, "INSERT INTO t VALUES (@a)"},
	{Write, "SELECT @@read_only"},
	{Write, "SELECT @@session.autocommit"},
	{Pin, "SELECT @ @x"},
	{Pin, "CREATE TEMPORARY TABLE x (a INT)"},
	{Pin, "CREATE OR REPLACE TEMPORARY TABLE x (a INT)"},
	{Pin, "DROP TEMPORARY TABLE x"},
	{Write, "CREATE TABLE x (a INT)"},
	{Write, "ALTER TABLE x ADD b INT"},
	{Write, "TRUNCATE t"},
	{Pin, "LOCK TABLES t READ"},
	{Pin, "UNLOCK TABLES"},
	{Pin, "FLUSH TABLES WITH READ LOCK"},
	{Pin, "USE x"},
	{Pin, "BEGIN"},
	{Pin, "START TRANSACTION READ ONLY"},
	{Pin, "COMMIT AND CHAIN"},
	{Pin, "SAVEPOINT a"},
	{Pin, "PREPARE s FROM 'DELETE FROM t'"},
	{Pin, "EXECUTE s"},
	{Pin, "HANDLER t OPEN"},
	{Pin, "XA START 'x'"},
	{Pin, "SELECT 1; DELETE FROM t"},
	{Pin, "SELECT 1;/**/SET @a=1"},
	{Pin, "SELECT 1;(SELECT 2)"},
	{Pin, "SELECT 1;; DELETE FROM t"},
	{Pin, "/*!50000 DELETE FROM t */"},
	{Pin, "SELECT 1 /*! FOR UPDATE */"},
	{Pin, "SELECT 1 /*!FOR UPDATE */"},
	{Pin, "SELECT 1 /*M! INTO OUTFILE '/tmp/x' */"},
	{Pin, "SELECT /*+ SET_VAR(sql_mode='ANSI_QUOTES') */ 1"},
	{Pin, "SELECT /*+ set_var(sql_safe_updates=0) */ 1"},
	{Pin, "SELECT /*+ RESOURCE_GROUP(a) */ 1"},
	{Pin, "SELECT /*+ QB_NAME(`a*/b`) */ 1 FOR UPDATE -- `"},
	{Pin, "SELECT /*+ MAX_EXECUTION_TIME(1)"},
	{Write, "SELECT /*+ NO_BKA(t) */ a FROM t FOR UPDATE"},
	{Write, "SELECT 'x' f (1)"},
	{Write, "SELECT a COLUMNS (1)"},
	{Write, "SELECT now (), rank () FROM t"},
	{Write, "SELECT f(1)"},
	{Write, "SELECT SQL_CACHE (SELECT 1)"}, // a name to MySQL
	{Write, "SELECT a, SQL_NO_CACHE (1)"},
	{Write, "SELECT app.SQL_BUFFER_RESULT (1)"},
	{Write, "SELECT SQL_NO_CACHE f(1)"},
	{Write, "SELECT db.count(a) FROM t"},
	{Write, "SELECT `f`(1)"},
	{Write, "SELECT \"f\"(1)"}, // a call under ANSI_QUOTES
	{Write, "SELECT count (a) FROM t"},
	{Write, "SELECT count/**/(a) FROM t"},
	{Write, "SELECT NEXT VALUE FOR s"},
	{Write, "SELECT previous value FOR s"},
	{Write, "SELECT nextval(s)"},
	{Write, "SELECT s.nextval"},
	{Write, "SELECT s.currval"},
	{Write, "SELECT s.`nextval`"},
	{Write, "SELECT `s` . \"Currval\""},
	{Pin, "SELECT [a'b] FROM t FOR UPDATE -- '"}, // sql_mode MSSQL
	{Write, "SELECT setval(s, 1)"},
	{Write, "SELECT a FROM t PROCEDURE ANALYSE()"},
	{Write, "SELECT LAST_INSERT_ID()"}, // ProxySQL #4621
	{Same, "SELECT FOUND_ROWS()"},
	{Same, "SELECT ROW_COUNT()"},
	{Same, "SHOW WARNINGS"},
	{Same, "SHOW ERRORS"},
	{Same, "SHOW COUNT(*) WARNINGS"},
	{Write, "SHOW STATUS"},
	{Write, "SELECT {fn f()}"},
	{Write, "SELECT {d '2020-01-01'}"},
	{Write, "SELECT CONNECTION_ID()"},
	{Write, "SELECT MASTER_GTID_WAIT('0-1-1')"},
	{Write, "SELECT LOAD_FILE('/etc/passwd')"},
	{Write, "SELECT BENCHMARK(1, f())"},
	{Pin, `SELECT 'a\'; DELETE FROM t; -- '`}, // NO_BACKSLASH_ESCAPES
	{Pin, `SELECT "a\" FOR UPDATE -- "`},
	{Pin, `SELECT 'a\\' FROM t`},
	{Pin, `SELECT \N`},
	{Pin, "SELECT 'a"},
	{Pin, "SELECT `a"},
	{Pin, "SELECT 1 /* a"},
	{Pin, "SELECT 1 /*/ FOR UPDATE"},
	{Pin, "SELECT 1 -- a\x00 FOR UPDATE"}, // a NUL ends a comment
	{Pin, "SELECT 1 --\x01FOR UPDATE\n;\x02"},
	{Pin, "SELECT '\xbf`' FOR UPDATE, '`'"}, // a character of GBK
	{Pin, "SELECT a\x01 FROM t"},
	{Pin, "\ufeffSELECT 1"},
	{Pin, "'SELECT' 1"},
	{Pin, "= 1"},
	{Pin, ""},
}

// notReading are functions that write, wait, lock, tell of this server or of the
// session, or read a file; and words that are no functions of a server, so that
// one that is stored may have the name. Those that are in others are not repeated.
var notReading = []string{
	"ASYNCHRONOUS_CONNECTION_FAILOVER_ADD_SOURCE", "BINLOG_GTID_POS", "GROUP_REPLICATION_SET_AS_PRIMARY",
	"IS_FREE_LOCK", "IS_USED_LOCK", "KEYRING_KEY_GENERATE", "LASTVAL", "MASTER_POS_WAIT", "PASSWORD", "PS_CURRENT_THREAD_ID",
	"ROLES_GRAPHML", "SOURCE_POS_WAIT", "SPIDER_DIRECT_SQL", "SYS_GUID", "UUID_SHORT", "VERSION_TOKENS_SET",
	"WAIT_FOR_EXECUTED_GTID_SET", "WAIT_UNTIL_SQL_THREAD_AFTER_GTIDS",
	"AGAINST", "ALGORITHM", "ANY", "BEGIN", "BENCHMARK", "CALL", "COLUMNS", "END", "ESCAPE", "EXECUTE", "FIRST", "NAMES", "NESTED", "NEXT",
	"OFFSET", "OPEN", "PATH", "ROLE", "ROLLUP", "SHARE", "SOME", "SYSTEM", "TABLES", "TEMPORARY", "VALUE", "VARIABLES",
}

func TestReads(t *testing.T) {
	for _, sql := range reads {
		if got := Classify(sql); got.Kind != Read {
			t.Errorf("%s\n\tis %v, want a read", sql, got)
		}
	}
}

func TestOthers(t *testing.T) {
	for _, c := range others {
		got := Classify(c.sql)
		if c.sql == "" {
			c.kind = Write
		}
		// What cannot be read may be stricter than what it was written for.
		if got.Kind != c.kind && !(got.Kind == Pin && c.kind == Write && strings.Contains(got.Reason, "number")) {
			t.Errorf("%s\n\tis %v, want %v", c.sql, got, c.kind)
		}
		if got.Reason == "" {
			t.Errorf("%s has no reason", c.sql)
		}
	}
}

func TestNotReading(t *testing.T) {
	for _, name := range notReading {
		for _, sql := range []string{"SELECT " + name + "(1)", "SELECT a FROM t WHERE " + strings.ToLower(name) + " (a) > 1"} {
			if got := Classify(sql); got.Kind < Write {
				t.Errorf("%s\n\tis %v", sql, got)
			}
		}
	}
}

func TestClassifyDoesNotAllocate(t *testing.T) {
	c := newCache(nil)
	for _, sql := range reads {
		if n := testing.AllocsPerRun(10, func() { Classify(sql) }); n != 0 {
			t.Errorf("%s: %v allocations", sql, n)
		}
		c.classify(sql, nil)
		var last *cached
		if n := testing.AllocsPerRun(10, func() { c.classify(sql, nil); c.classify(sql, &last) }); n != 0 {
			t.Errorf("%s: %v allocations with the cache", sql, n)
		}
	}
}

func TestCache(t *testing.T) {
	c := newCache(nil)
	var last *cached
	// More statements than slots: every answer must still be the statement's own.
	for round := range 2 {
		for i := range 3 * cacheSlots {
			sql, want := "SELECT "+strings.Repeat("x", i%50)+string(rune('a'+i%26))+" FROM t"+strings.Repeat("y", i/50), Read
			if i%2 == 1 {
				sql, want = sql+" FOR UPDATE", Write
			}
			if got := c.classify(sql, &last); got.Kind != want {
				t.Fatalf("round %d: %.80s is %v, want %v", round, sql, got.Kind, want)
			}
		}
	}
	long := "SELECT '" + strings.Repeat("x", cacheMaxText) + "'"
	c.learn(long, Classification{Pin, "test"})
	for range 2 {
		if got := c.classify(long, &last); got.Kind != Read {
			t.Errorf("a long statement was cached: %v", got.Classification)
		}
		if e := c.slot(long).Load(); e.counts(long) {
			t.Error("a long statement takes the place of others, and its memory")
		}
	}
	if got := c.classify("/* dbrouter: primary */ "+long, &last); got.hint != hintPrimary {
		t.Errorf("the hint of a long statement is %v", got.hint)
	}
	if got := c.classify("SELECT 1", &last); got.Kind != Read {
		t.Errorf("SELECT 1 is %v", got.Classification)
	}
	c.learn("SELECT 1", Classification{Write, "test"})
	for _, l := range []**cached{nil, &last, &last} {
		if got := c.classify("SELECT 1", l); got.Kind != Write || got.Reason != "test" {
			t.Errorf("what was learned is forgotten: %v", got.Classification)
		}
	}
}

// TestCacheAtAGlance: statements that look alike are told apart, whoever comes first,
// and what is learned of one of them counts from then on.
func TestCacheAtAGlance(t *testing.T) {
	c := newCache(nil)
	comment := " /* " + strings.Repeat("y", 100) + " */"
	read, write := "SELECT a FROM t WHERE b = 1 AND c = 22"+comment, "SELECT a FROM t WHERE b = 1 FOR UPDATE"+comment
	if glance(read) != glance(write) {
		t.Fatalf("they do not look alike: %d, %d bytes", len(read), len(write))
	}
	for range 3 {
		for sql, want := range map[string]Kind{read: Read, write: Write} {
			for range 2 {
				if got := c.classify(strings.Clone(sql), nil); got.Kind != want {
					t.Errorf("%s is %v, want %v", sql, got.Kind, want)
				}
			}
		}
	}
	c.classify(read, nil)
	c.learn(read, Classification{Write, "test"})
	for range 2 {
		if got := c.classify(read, nil); got.Kind != Write {
			t.Errorf("what was learned is forgotten: %v", got.Classification)
		}
	}
	for _, short := range []string{"", "x", "SELECT 1", "SELECT"} {
		if got, want := c.classify(short, nil).Classification, Classify(short); got != want {
			t.Errorf("%q is %v, want %v", short, got, want)
		}
	}
}

func FuzzClassify(f *testing.F) {
	for _, sql := range reads {
		f.Add(sql, uint64(1))
	}
	for _, c := range others {
		f.Add(c.sql, uint64(2))
	}
	f.Fuzz(func(t *testing.T, sql string, seed uint64) {
		want := Classify(sql)
		if all := lookAtAll(sql); want != all && want.Kind != Pin {
			t.Errorf("%q is %v, but %v if each token is looked at", sql, want, all)
		}
		padded := pad(sql, seed)
		// Space between tokens, which for servers means nothing or makes a
		// built-in function a stored one, must not make it less strict.
		if got := Classify(padded); got.Kind < want.Kind {
			t.Errorf("%q is %v, but %q is %v", sql, want, padded, got)
		}
		if got := Classify("\n( " + sql); want.Kind != Read && got.Kind == Read {
			t.Errorf("%q is %v, but a read after a parenthesis", sql, want)
		}
	})
}

// pad puts white space and comments between the tokens of a statement.
func pad(sql string, seed uint64) string {
	rng := rand.New(rand.NewPCG(seed, 1))
	fill := []string{"", "", " ", "\n", "\t", "/**/", "/* ' */", " -- x'\n", "# \"\n", "\r\n"}
	var out strings.Builder
	l := lexer{sql: sql}
	for {
		from := l.pos
		tok := l.next()
		if tok.kind == endToken || tok.kind == badToken {
			out.WriteString(sql[from:])
			return out.String()
		}
		out.WriteString(sql[from:tok.end])
		// Between two dashes, space would begin a comment; around a dot, it
		// would cut a number such as 1.e5 in two.
		if tok.kind != signToken || tok.sign != '-' && tok.sign != '.' {
			if l.at(0) == '.' {
				continue
			}
			out.WriteString(fill[rng.IntN(len(fill))])
		}
	}
}

// TestMatters: no word that lookWord looks for is skipped.
func TestMatters(t *testing.T) {
	for _, w := range []string{"TEMPORARY", "NEXTVAL", "CURRVAL", "INTO", "UPDATE", "LOCK", "SHARE", "DELETE", "INSERT", "REPLACE", "PROCEDURE", "VALUE"} {
		for _, w := range []string{w, strings.ToLower(w), w[:1] + strings.ToLower(w[1:])} {
			c := classifier{lex: lexer{sql: w}}
			if c.tok = c.lex.next(); !c.matters() {
				t.Errorf("%s is skipped", w)
			}
		}
	}
	for _, w := range []string{"id", "created", "notes", "users", "text", "LIKE", "LIMIT", "DESC", "in"} {
		c := classifier{lex: lexer{sql: w}}
		if c.tok = c.lex.next(); c.matters() {
			t.Errorf("%s is looked at", w)
		}
	}
}

// lookAtAll is Classify for valid UTF-8, without passing over anything.
func lookAtAll(sql string) Classification {
	c := classifier{lex: lexer{sql: sql}}
	c.tok = c.lex.next()
	for isSign(c.tok, '(') {
		c.prev, c.tok = c.tok, c.lex.next()
	}
	c.first()
	for c.tok.kind != endToken && c.tok.kind != badToken {
		next := c.lex.next()
		c.look(next)
		c.prev, c.tok = c.tok, next
	}
	if c.tok.kind == badToken {
		c.raise(Pin, c.lex.trouble)
	}
	return c.verdict
}

// TestSkimmingMissesNothing: what is passed over would not have changed anything.
func TestSkimmingMissesNothing(t *testing.T) {
	pieces := []string{"into", "x", "FOR", "update", "share", "lock", "insert", "replace", "(", ")", "@", "@@", "a.b", ".", ";", "{", "'t'", "`n`", "/**/", "/*!1*/", "-- c\n", "#c\n",
		"count", "count(", "count (", "count/**/(", "sleep", "in", "in(", "with", "recursive", "as", "next", "value", "nextval", "procedure", "found_rows(", "get_lock(", "any", "=", "-", "--", "/", "1", "1.5e3into", "0x1f", "?", ",", "*", "\\", "\x01", "über", "delete", "truncate("}
	rng := rand.New(rand.NewPCG(1, 2))
	kinds := make(map[Kind]int)
	for range 200_000 {
		var sql strings.Builder
		sql.WriteString([]string{"SELECT", "(select", "WITH", "INSERT", "CREATE"}[rng.IntN(5)])
		for range rng.IntN(8) {
			sql.WriteString([]string{" ", " ", "", "\n"}[rng.IntN(4)] + pieces[rng.IntN(len(pieces))])
		}
		got, want := Classify(sql.String()), lookAtAll(sql.String())
		if got != want {
			t.Fatalf("%q is %v, but %v if each token is looked at", sql.String(), got, want)
		}
		kinds[got.Kind]++
	}
	for _, k := range []Kind{Read, Same, Write, Pin} {
		if kinds[k] < 1000 {
			t.Errorf("%d statements are %v, want 1,000: they compare nothing", kinds[k], k)
		}
	}
}

// TestByteKinds holds the table against what it stands for.
func TestByteKinds(t *testing.T) {
	for i := range 256 {
		c := byte(i)
		word := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '$' || c >= 0x80
		if space := strings.IndexByte(" \t\n\v\f\r", c) >= 0; isWord(c) != word || isSpace(c) != space {
			t.Errorf("%q: word %v, space %v", c, isWord(c), isSpace(c))
		}
		if sign := strings.IndexByte("!%&()*+,.:;<=>?@]^{|}~", c) >= 0; sign != (byteKinds[c] == signByte) {
			t.Errorf("%q: sign %v", c, !sign)
		}
	}
}

func BenchmarkClassify(b *testing.B) {
	const short, long = "SELECT a, b FROM t WHERE id=?", "SELECT n.id, n.text, n.created, u.name FROM notes AS n JOIN users AS u ON u.id = n.user_id WHERE n.created > ? AND u.active = 1 AND n.text LIKE '%palisade%' GROUP BY n.id ORDER BY n.created DESC, n.id ASC LIMIT 100 OFFSET 200"
	for _, c := range []struct{ name, sql string }{{"29", short}, {"250", long}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				Classify(c.sql)
			}
		})
		cache := newCache(nil)
		b.Run(c.name+"/cached", func(b *testing.B) {
			for b.Loop() {
				cache.classify(c.sql, nil)
			}
		})
		b.Run(c.name+"/cached copy", func(b *testing.B) {
			var copies [64]string
			for i := range copies {
				copies[i] = strings.Clone(c.sql)
			}
			for i := 0; b.Loop(); i++ {
				cache.classify(copies[i%len(copies)], nil)
			}
		})
		b.Run(c.name+"/again", func(b *testing.B) {
			var last *cached
			for b.Loop() {
				cache.classify(c.sql, &last)
			}
		})
	}
}
