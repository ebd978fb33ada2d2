package dbrouter

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

// journal writes rows in several ways, and remembers what it was told of each,
// to be compared with the data in the end.
type journal struct {
	r    *Router
	next atomic.Int64 // the number of the latest row
	good atomic.Int64 // writes that were acknowledged

	mu     sync.Mutex // guards what follows
	told   map[int64]Outcome
	errors map[int64]error
	last   time.Time // of the latest acknowledgement
	// first is the first acknowledgement after a moment that the test has set.
	since, first time.Time
}

const journalTable = "CREATE TABLE journal (id BIGINT NOT NULL, KEY (id)) ENGINE=InnoDB"

func newJournal(t *testing.T, r *Router) *journal {
	t.Helper()
	mustExec(t, r.DB(), journalTable)
	return &journal{r: r, told: make(map[int64]Outcome), errors: make(map[int64]error)}
}

// ways of writing a row.
const (
	byStatement = iota
	byArguments
	byTx
	byTransaction // of database/sql, which nobody repeats
	journalWays
)

// write writes a row, and returns its number and what it was told.
func (j *journal) write(ctx context.Context, way int) (int64, error) {
	id := j.next.Add(1)
	const insert = "INSERT INTO journal (id) VALUES (?)"
	var err error
	outcome := Unknown
	switch way {
	case byStatement:
		_, err = j.r.DB().ExecContext(ctx, fmt.Sprintf("INSERT INTO journal (id) VALUES (%d)", id))
		outcome = OutcomeOf(err)
	case byArguments:
		_, err = j.r.DB().ExecContext(ctx, insert, id)
		outcome = OutcomeOf(err)
	case byTx:
		err = j.r.Tx(ctx, nil, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, insert, id)
			return err
		})
		outcome = OutcomeOf(err)
	case byTransaction:
		outcome, err = j.transaction(ctx, insert, id)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.told[id] = outcome
	if err != nil {
		j.errors[id] = err
		return id, err
	}
	j.good.Add(1)
	j.last = time.Now()
	if j.first.IsZero() && !j.since.IsZero() {
		j.first = j.last
	}
	return id, nil
}

func (j *journal) transaction(ctx context.Context, insert string, id int64) (Outcome, error) {
	tx, err := j.r.DB().BeginTx(ctx, nil)
	if err != nil {
		return RolledBack, err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, insert, id); err != nil {
		return RolledBack, err // no COMMIT was sent
	}
	err = tx.Commit()
	return OutcomeOf(err), err
}

// mark begins to look for the next acknowledgement.
func (j *journal) mark() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.since, j.first = time.Now(), time.Time{}
}

func (j *journal) firstSince() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.first
}

// rows reads from a node how often each row is there.
func (j *journal) rows(t *testing.T, n *mariadb.Node) map[int64]int {
	t.Helper()
	connector, err := mysql.NewConnector(n.AdminConfig())
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), "SELECT id FROM journal")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	out := make(map[int64]int)
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		out[id]++
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// compare checks what was told of each row against the data of a node.
func (j *journal) compare(t *testing.T, n *mariadb.Node) {
	t.Helper()
	there := j.rows(t, n)
	j.mu.Lock()
	defer j.mu.Unlock()
	told := make(map[Outcome]int)
	unknown := make(map[bool]int)
	for id, outcome := range j.told {
		told[outcome]++
		times := there[id]
		switch {
		case times > 1:
			t.Errorf("row %d was written %d times (%v, %v)", id, times, outcome, j.errors[id])
		case outcome == Committed && times != 1:
			t.Errorf("row %d was acknowledged and is lost", id)
		case (outcome == NotSent || outcome == RolledBack) && times != 0:
			t.Errorf("row %d is there, although it was said to be %v: %v", id, outcome, j.errors[id])
		case outcome == Unknown:
			unknown[times == 1]++
		}
	}
	for id := range maps.Keys(there) {
		if _, ok := j.told[id]; !ok {
			t.Errorf("row %d was never written", id)
		}
	}
	t.Logf("%d committed, %d rolled back, %d not sent, %d unknown (%d done, %d not)",
		told[Committed], told[RolledBack], told[NotSent], told[Unknown], unknown[true], unknown[false])
}
