package dbrouter

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// dialect is how a kind of server is asked.
type dialect int

const (
	unknownDialect dialect = iota
	mariaDB
	mySQL
)

// facts asks whether the server takes no writes and whether it records
// positions that prove what a replica has applied.
func (d dialect) facts() string {
	if d == mariaDB {
		return "SELECT @@global.read_only, @@global.log_bin"
	}
	return "SELECT @@global.read_only, @@global.gtid_mode"
}

// takesWrites says whether an answer about read_only tells that it is off. MariaDB
// has names for its values since 12.0.1 (MDEV-36425): OFF, ON, NO_LOCK and
// NO_LOCK_NO_ADMIN.
func takesWrites(readOnly string) bool { return readOnly == "0" || readOnly == "OFF" }

// replication asks a replica how it fares. MySQL 8.4 and later know the second
// wording only.
func (d dialect) replication() string {
	if d == mariaDB {
		return "SHOW SLAVE STATUS"
	}
	return "SHOW REPLICA STATUS"
}

// position asks a primary for all it has written, and whether it still is one.
//
// For MariaDB gtid_current_pos, not gtid_binlog_pos: the latter lacks what a
// former replica applied if it runs without log_slave_updates.
func (d dialect) position() string {
	if d == mariaDB {
		return "SELECT @@global.read_only, @@global.gtid_current_pos"
	}
	return "SELECT @@global.read_only, @@global.gtid_executed"
}

// applied asks a replica for what it has applied.
func (d dialect) applied() string {
	if d == mariaDB {
		return "SELECT @@global.gtid_slave_pos"
	}
	return "SELECT @@global.gtid_executed"
}

// wait is the question whether a replica applies a position within the limit.
// Its answer is "0" if so.
func (d dialect) wait(position string, limit time.Duration) string {
	seconds := strconv.FormatFloat(limit.Seconds(), 'f', 3, 64)
	if d == mariaDB {
		return "SELECT MASTER_GTID_WAIT('" + position + "', " + seconds + ")"
	}
	return "SELECT WAIT_FOR_EXECUTED_GTID_SET('" + position + "', " + seconds + ")"
}

// maxPosition bounds a position: a server with thousands of former primaries
// is not what this is for.
const maxPosition = 1 << 16

// cleanPosition removes the newlines that MySQL writes into long positions. It
// refuses what is no position, since the text becomes part of a statement.
func cleanPosition(s string) (string, error) {
	s = strings.ReplaceAll(s, "\n", "")
	if len(s) > maxPosition {
		return "", fmt.Errorf("dbrouter: a position of %d bytes, want %d at most", len(s), maxPosition)
	}
	for _, c := range []byte(s) {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', c == ',', c == ':', c == '_', c == ' ':
		default:
			return "", fmt.Errorf("dbrouter: not a position: %.40q", s)
		}
	}
	return s, nil
}

// probe is what one look at a node tells.
func probe(ctx context.Context, conn driver.Conn) (view, error) {
	hello, err := askOne(ctx, conn, "SELECT VERSION(), @@server_id", 2)
	if err != nil {
		return view{}, err
	}
	v := view{looked: true, reachable: true, dialect: mySQL, serverID: hello[1]}
	if strings.Contains(hello[0], "MariaDB") {
		v.dialect = mariaDB
	}
	facts, err := askOne(ctx, conn, v.dialect.facts(), 2)
	if err != nil {
		return view{}, err
	}
	v.writable = takesWrites(facts[0])
	// gtid_mode is ON, or ON_PERMISSIVE while transactions without a GTID are
	// still possible.
	v.positions = facts[1] == "1" || facts[1] == "ON"
	if v.writable {
		return v, nil
	}
	rows, err := ask(ctx, conn, v.dialect.replication())
	switch serverError(err) {
	case errNoPrivilege:
		v.trouble = "the account may not read the state of replication (error 1227)"
		return v, nil
	case errParse:
		v.trouble = "the server does not know " + v.dialect.replication() + " (error 1064)"
		return v, nil
	}
	if err != nil {
		return view{}, err
	}
	v.readReplication(rows)
	return v, nil
}

// readReplication takes in the answer of SHOW REPLICA STATUS. There may be
// several rows, one for each source; all of them count.
func (v *view) readReplication(rows []row) {
	v.statusKnown = true
	if len(rows) == 0 {
		v.trouble = "it does not replicate"
		return
	}
	v.replicating, v.lagKnown = true, true
	for _, r := range rows {
		io, _ := r.get("Slave_IO_Running", "Replica_IO_Running")
		sql, _ := r.get("Slave_SQL_Running", "Replica_SQL_Running")
		if io != "Yes" || sql != "Yes" {
			v.replicating = false
			v.trouble = fmt.Sprintf("replication: IO thread %q, SQL thread %q", io, sql)
			for _, column := range []string{"Last_IO_Errno", "Last_SQL_Errno"} {
				if n, _ := r.get(column); n != "" && n != "0" {
					v.trouble += ", " + column + " " + n
				}
			}
		}
		// NULL while a thread is stopped; never a reason to read from it.
		behind, ok := r.get("Seconds_Behind_Master", "Seconds_Behind_Source")
		seconds, err := strconv.ParseUint(behind, 10, 31)
		if !ok || err != nil {
			v.lagKnown = false
		}
		v.lag = max(v.lag, time.Duration(seconds)*time.Second)
		v.sourceID, _ = r.get("Master_Server_Id", "Source_Server_Id")
	}
}
