package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// told is a driver's connection that answers each statement with one row, or with
// an error; it knows no others.
type told struct {
	nothing
	rows   map[string][]string
	errors map[string]error
}

func (c told) QueryContext(_ context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	if err := c.errors[query]; err != nil {
		return nil, err
	}
	row, ok := c.rows[query]
	if !ok {
		return nil, errors.New("not asked for: " + query)
	}
	return &fixedRows{row: row}, nil
}

// TestProbe: what is not certainly so is not taken for it.
func TestProbe(t *testing.T) {
	const (
		hello   = "SELECT VERSION(), @@server_id"
		maria   = "SELECT @@global.read_only, @@global.log_bin"
		my      = "SELECT @@global.read_only, @@global.gtid_mode"
		slave   = "SHOW SLAVE STATUS"
		replica = "SHOW REPLICA STATUS"
	)
	for _, c := range []struct {
		about               string
		version             string
		readOnly, positions string
		status              error
		want                view
		trouble             string
	}{
		{about: "a primary", version: "10.11.6-MariaDB-log", readOnly: "0", positions: "1", want: view{dialect: mariaDB, writable: true, positions: true}},
		{about: "a primary without a log", version: "10.11.6-MariaDB", readOnly: "0", positions: "0", want: view{dialect: mariaDB, writable: true}},
		{about: "MariaDB 12", version: "12.0.2-MariaDB", readOnly: "OFF", positions: "1", want: view{dialect: mariaDB, writable: true, positions: true}},
		{about: "MariaDB 12, a replica", version: "12.0.2-MariaDB", readOnly: "ON", positions: "1", want: view{dialect: mariaDB, positions: true, statusKnown: true}, trouble: "replication"},
		{about: "MariaDB 12, nobody writes", version: "12.0.2-MariaDB", readOnly: "NO_LOCK_NO_ADMIN", positions: "1", want: view{dialect: mariaDB, positions: true, statusKnown: true}, trouble: "replication"},
		{about: "an answer of another kind", version: "10.11.6-MariaDB", readOnly: "2", positions: "1", want: view{dialect: mariaDB, positions: true, statusKnown: true}, trouble: "replication"},
		{about: "MySQL", version: "8.4.0", readOnly: "0", positions: "ON", want: view{dialect: mySQL, writable: true, positions: true}},
		{about: "MySQL that may write without", version: "8.4.0", readOnly: "0", positions: "ON_PERMISSIVE", want: view{dialect: mySQL, writable: true}},
		{about: "MySQL, a replica", version: "8.4.0", readOnly: "1", positions: "ON", want: view{dialect: mySQL, positions: true, statusKnown: true}, trouble: "replication"},
		{about: "not allowed to see", version: "8.4.0", readOnly: "1", positions: "ON", status: &mysql.MySQLError{Number: errNoPrivilege}, want: view{dialect: mySQL, positions: true}, trouble: "1227"},
		{about: "too old", version: "5.7.44", readOnly: "1", positions: "ON", status: &mysql.MySQLError{Number: errParse}, want: view{dialect: mySQL, positions: true}, trouble: "does not know SHOW REPLICA STATUS"},
	} {
		facts, status := my, replica
		if strings.Contains(c.version, "MariaDB") {
			facts, status = maria, slave
		}
		conn := told{
			rows:   map[string][]string{hello: {c.version, "7"}, facts: {c.readOnly, c.positions}, status: {"x"}},
			errors: map[string]error{status: c.status},
		}
		got, err := probe(t.Context(), conn)
		if err != nil || (got.trouble == "") != (c.trouble == "") || !strings.Contains(got.trouble, c.trouble) {
			t.Errorf("%s: the trouble is %q, %v", c.about, got.trouble, err)
		}
		c.want.looked, c.want.reachable, c.want.serverID = true, true, "7"
		if got.trouble = ""; got != c.want {
			t.Errorf("%s:\n\t%+v, want\n\t%+v", c.about, got, c.want)
		}
	}
	conn := told{rows: map[string][]string{hello: {"8.4.0", "7"}, my: {"1", "ON"}}, errors: map[string]error{replica: errors.New("lost")}}
	if got, err := probe(t.Context(), conn); err == nil {
		t.Errorf("a lost connection: %+v", got)
	}
}

func TestCleanPosition(t *testing.T) {
	for s, good := range map[string]bool{
		"": true, "0-1-5,1-1-7": true, uuid + ":1-5:tag_x:7,\n" + uuid + ":1": true,
		"0-1-5'": false, `0-1-5"`: false, "0-1-5\\": false, "0-1-5;": false, "0-1-5)": false, "0-1-5\x00": false, "0-1-5\t": false, "0-1-5ä": false,
		strings.Repeat("1", maxPosition): true, strings.Repeat("1", maxPosition+1): false,
	} {
		if got, err := cleanPosition(s); (err == nil) != good || good && got != strings.ReplaceAll(s, "\n", "") {
			t.Errorf("%.40q became %.40q, %v", s, got, err)
		}
	}
}

// TestPositionOf: the answer with the position tells whether it is the primary's.
func TestPositionOf(t *testing.T) {
	for readOnly, primary := range map[string]bool{"0": true, "OFF": true, "1": false, "ON": false, "NO_LOCK": false, "": false, "2": false} {
		r, _ := watched(t, Config{}, "a")
		n := r.nodes()[0]
		n.pool.open = func(context.Context) (driver.Conn, *tracker, error) {
			return told{rows: map[string][]string{mariaDB.position(): {readOnly, "0-1-7"}}}, nil, nil
		}
		r.monitor.publish(n, sawPrimary)
		got, err := question(t.Context(), r.monitor, &link{node: n}, r.monitor.now.Load())
		if primary && (err != nil || got != position{mariaDB, "0-1-7"}) || !primary && (!errors.Is(err, errDemoted) || r.monitor.now.Load().primary != nil) {
			t.Errorf("read_only is %q: %+v, %v", readOnly, got, err)
		}
	}
}

// TestQuestions: which words are asked in, as only real servers know them. A former
// replica's own writes are in gtid_binlog_pos only with log_slave_updates.
func TestQuestions(t *testing.T) {
	for got, want := range map[string]string{
		mariaDB.position():    "SELECT @@global.read_only, @@global.gtid_current_pos",
		mySQL.position():      "SELECT @@global.read_only, @@global.gtid_executed",
		mariaDB.replication(): "SHOW SLAVE STATUS",
		mySQL.replication():   "SHOW REPLICA STATUS",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestSaysReadOnly: who has refused a statement is asked, and any answer but that it
// takes writes means that it does not.
func TestSaysReadOnly(t *testing.T) {
	const question = "SELECT @@global.read_only"
	for answer, want := range map[string]bool{"0": false, "OFF": false, "1": true, "ON": true, "NO_LOCK": true} {
		p := &physical{conn: told{rows: map[string][]string{question: {answer}}}}
		if got := p.saysReadOnly(t.Context()); got != want {
			t.Errorf("%s: %v", answer, got)
		}
	}
	p := &physical{conn: told{errors: map[string]error{question: errors.New("gone")}}}
	if p.saysReadOnly(t.Context()) {
		t.Error("no answer is taken for one")
	}
}
