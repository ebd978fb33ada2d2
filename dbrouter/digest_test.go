package dbrouter

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestDigest(t *testing.T) {
	for sql, want := range map[string]string{
		"":                                     "",
		"SELECT  a\n FROM T -- x\n where id=7": "select a from t where id = ?",
		"SELECT a FROM t WHERE id = ?":         "select a from t where id = ?",
		"select 'it''s', 1.5, 0x1F, \"x\"":     "select ?",
		"SELECT * FROM t WHERE a IN (1, 'b', ?) AND `B` = 2;": "select * from t where a in(?) and `B` = ?",
		"INSERT INTO t (a, b) VALUES (1, 2), (3, 4),(5,6)":    "insert into t(a, b) values(?)",
		"SELECT /* c */ t.a, COUNT(*) FROM db.t":              "select t.a, count(*) from db.t",
		"SELECT @@global.read_only":                           "select @@global.read_only",
		"SELECT 1 /*!50000 + 1 */":                            "select ?…",
		"SELECT 'a\\'' , 2":                                   "select…",
	} {
		if got := Digest(sql); got != want {
			t.Errorf("%q:\n\t%q, want\n\t%q", sql, got, want)
		}
	}
}

// FuzzDigest: a digest has no values in it, is stable, and hides nothing else.
func FuzzDigest(f *testing.F) {
	f.Add("SELECT a FROM t WHERE id = 7 AND b = 'x'")
	f.Add("INSERT INTO t VALUES (1, 2), (3, 4)")
	f.Add("SELECT 1.5e3, ((1)), (2), (3) -- x")
	f.Fuzz(func(t *testing.T, sql string) {
		got := Digest(sql)
		if utf8.ValidString(sql) && !utf8.ValidString(got) {
			t.Errorf("%q: not UTF-8: %q", sql, got)
		}
		if whole, cut := strings.CutSuffix(got, "…"); !cut {
			if strings.Contains(whole, "'") && !strings.Contains(whole, "`") {
				t.Errorf("%q: a value in %q", sql, got)
			}
		}
		if a, b := Digest("SELECT a FROM t WHERE x = 1 AND "+sql), Digest("select a from t where x=?\tand "+sql); a != b {
			t.Errorf("%q and %q", a, b)
		}
	})
}

func TestDeny(t *testing.T) {
	p := newPair(t)
	conf := p.config()
	conf.Deny = []string{"SELECT n FROM t WHERE id IN (?)", "DELETE FROM t"}
	r, rec := open(t, conf)
	for _, sql := range []string{"SELECT n FROM t WHERE id IN (1, 2)", "select n from t  where id in (7)", "DELETE FROM t", "DELETE FROM t;", "delete from t -- " + strings.Repeat("x", cacheMaxText)} {
		for range 2 { // also from the cache
			_, err := r.DB().ExecContext(t.Context(), sql)
			if !errors.Is(err, ErrDenied) || OutcomeOf(err) != NotSent || rec.last(t).Node != "" {
				t.Errorf("%.40s: %v, %+v", sql, err, rec.last(t))
			}
		}
	}
	tx, err := r.DB().BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(t.Context(), "DELETE FROM t"); !errors.Is(err, ErrDenied) {
		t.Errorf("in a transaction: %v", err)
	}
	one[int](t, r.DB(), "SELECT n FROM t WHERE id = 1")
	conf.Deny = []string{"SELECT 1 /*! 2 */"}
	if _, err := New(conf); err == nil || !strings.Contains(err.Error(), "Deny[0]") {
		t.Errorf("a statement that cannot be read: %v", err)
	}
}

func TestSlow(t *testing.T) {
	p := newPair(t)
	conf := p.config()
	slow := make(chan Statement, 10)
	conf.SlowAfter = 50 * time.Millisecond
	conf.OnSlow = func(_ context.Context, s Statement) { slow <- s }
	r, _ := open(t, conf)
	one[int](t, r.DB(), "SELECT SLEEP(0.1)")
	if s := <-slow; s.SQL != "SELECT SLEEP(0.1)" || s.Duration < 50*time.Millisecond || s.Digest() != "select sleep(?)" {
		t.Errorf("%+v", s)
	}
}

// TestMaxWaiting: those that wait for a connection are bounded, too.
func TestMaxWaiting(t *testing.T) {
	p := newPair(t)
	conf := p.config()
	conf.Nodes[0].MaxConns, conf.Nodes[0].MaxWaiting = 1, 1
	conf.Nodes = conf.Nodes[:1]
	r, _ := open(t, conf)
	rows, err := r.DB().QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := r.DB().ExecContext(context.WithoutCancel(t.Context()), update)
		done <- err
	}()
	until(t, "one waits", func() bool { return queued(r.nodes()[0].pool) == 1 })
	if _, err := r.DB().ExecContext(t.Context(), update); !errors.Is(err, ErrBusy) || OutcomeOf(err) != NotSent {
		t.Errorf("the second: %v", err)
	}
	rows.Close()
	if err := <-done; err != nil {
		t.Errorf("the first: %v", err)
	}
	mustExec(t, r.DB(), update)
}

// queued counts those that wait for a connection.
func queued(l *pool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting.Len()
}
