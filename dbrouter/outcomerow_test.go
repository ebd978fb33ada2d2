package dbrouter

import (
	"context"
	"database/sql"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
)

// ledger is a database with a sum and a table of outcomes, which undoes what is
// not committed.
type ledger struct {
	mu     sync.Mutex
	sum    int
	tokens map[string]string
	open   map[uint32]*pending
}

type pending struct {
	sum    int
	tokens map[string]string
}

func (l *ledger) Handle(_ context.Context, q mysqltest.Query) (mysqltest.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tx := l.open[q.ConnID]
	switch {
	case q.SQL == "START TRANSACTION":
		l.open[q.ConnID] = &pending{tokens: make(map[string]string)}
	case q.SQL == "COMMIT" && tx != nil:
		l.sum += tx.sum
		maps.Copy(l.tokens, tx.tokens)
		delete(l.open, q.ConnID)
	case q.SQL == "ROLLBACK":
		delete(l.open, q.ConnID)
	case strings.HasPrefix(q.SQL, "UPDATE"):
		tx.sum++
	case strings.HasPrefix(q.SQL, "INSERT INTO app.outcomes"):
		_, values, _ := strings.Cut(q.SQL, "VALUES ('")
		token, rest, _ := strings.Cut(values, "', ")
		if _, taken := l.tokens[token]; taken {
			return mysqltest.Result{}, &mysqltest.Error{Code: 1062, State: "23000", Message: "Duplicate entry"}
		}
		into := l.tokens
		if tx != nil {
			into = tx.tokens
		}
		into[token] = strings.TrimSuffix(rest, ")")
	case strings.HasPrefix(q.SQL, "SELECT committed"):
		_, where, _ := strings.Cut(q.SQL, "token = '")
		return mysqltest.Result{Columns: mysqltest.Columns("committed"), Rows: [][]any{{l.tokens[strings.TrimSuffix(where, "'")]}}}, nil
	}
	return mysqltest.Result{AffectedRows: 1}, nil
}

// TestExactlyOnce: whatever happens to the COMMIT and to the questions about it,
// Tx has done f's work once when it returns nil, and knows it.
func TestExactlyOnce(t *testing.T) {
	commit, look := match("COMMIT"), func(s string) bool { return strings.HasPrefix(s, "SELECT committed") }
	inserts := 0
	insert := func(s string) bool { // but the first, which is the transaction's own
		if strings.HasPrefix(s, "INSERT") {
			inserts++
			return inserts > 1
		}
		return false
	}
	for about, faults := range map[string][]mysqltest.Fault{
		"no fault":                          nil,
		"done, not answered":                {{Match: commit, CutAfter: true}},
		"not done":                          {{Match: commit, CutBefore: true}},
		"done, and the question lost":       {{Match: commit, CutAfter: true}, {Match: insert, CutBefore: true}, {Match: look, CutBefore: true}},
		"not done, the answer lost":         {{Match: commit, CutBefore: true}, {Match: insert, CutAfter: true}},
		"not done, and then not answered":   {{Match: commit, CutBefore: true}, {Match: commit, CutAfter: true}},
		"not done, a lock wait in between":  {{Match: commit, CutBefore: true}, {Match: insert, Err: &mysqltest.Error{Code: errLockTimeout, Message: "Lock wait timeout"}}},
		"done, nobody can be asked at once": {{Match: commit, CutAfter: true}, {Match: insert, Times: 3, CutBefore: true}},
		"done, nobody can be asked":         {{Match: commit, CutAfter: true}, {Match: func(s string) bool { return strings.HasSuffix(s, ", 0)") }, Times: -1, CutBefore: true}},
	} {
		l := &ledger{tokens: make(map[string]string), open: make(map[uint32]*pending)}
		s, err := mysqltest.New(mysqltest.Config{Handler: l, Transactions: true, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r, _ := open(t, Config{Nodes: []Node{{Name: "db1", Config: s.Config()}}, OutcomeTable: "app.outcomes"})
		inserts = 0
		for _, f := range faults {
			s.Inject(f)
		}
		err = r.Tx(t.Context(), nil, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), "UPDATE t SET n = n + 1")
			return err
		})
		l.mu.Lock()
		want := Committed
		if about == "done, nobody can be asked" {
			want = Unknown
		}
		if OutcomeOf(err) != want || l.sum != 1 {
			t.Errorf("%s: done %d times, %v", about, l.sum, err)
		}
		l.mu.Unlock()
		r.Close()
	}
}

// TestOutcomeIsAskedOfThePrimary: a replica may not have the row yet.
func TestOutcomeIsAskedOfThePrimary(t *testing.T) {
	l := &ledger{tokens: make(map[string]string), open: make(map[uint32]*pending)}
	primary, err := mysqltest.New(mysqltest.Config{Handler: l, Transactions: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer primary.Close()
	replica, err := mysqltest.New(mysqltest.Config{Handler: new(number), Source: primary, ReadOnly: true, Lag: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	r, rec := open(t, Config{Nodes: []Node{{Name: "db1", Config: primary.Config()}, {Name: "db2", Config: replica.Config()}},
		Consistency: Eventual, CheckInterval: time.Hour, OutcomeTable: "app.outcomes"})
	upReplicas(t, r, 1)
	primary.Inject(mysqltest.Fault{Match: match("COMMIT"), CutAfter: true})
	err = r.Tx(t.Context(), nil, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), "UPDATE t SET n = n + 1")
		return err
	})
	if s := rec.last(t); err != nil || s.Role != Primary || !strings.HasPrefix(s.SQL, "SELECT committed") {
		t.Errorf("%v, %+v", err, s)
	}
	// A transaction that writes nothing leaves no row, and a replica takes it.
	err = r.Tx(t.Context(), &sql.TxOptions{ReadOnly: true}, func(tx *sql.Tx) error {
		return tx.QueryRowContext(t.Context(), query).Scan(new(int))
	})
	if s := rec.last(t); err != nil || s.Role != Replica {
		t.Errorf("read-only: %v, %+v", err, s)
	}
}

func TestOutcomeTable(t *testing.T) {
	for name, good := range map[string]bool{"outcomes": true, "app.outcomes": true, "a b": false, "a.b.c": false, "a.": false, "`a`": false, "a;": false} {
		if err := tableName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := New(Config{Nodes: newPair(t).config().Nodes, OutcomeTable: "x y"}); err == nil || !strings.Contains(err.Error(), "OutcomeTable") {
		t.Errorf("%v", err)
	}
}
