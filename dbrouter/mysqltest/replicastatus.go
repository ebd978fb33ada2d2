package mysqltest

import (
	"net"
	"strconv"
	"strings"
	"time"
)

// replicaStatus answers SHOW SLAVE STATUS and its relatives with a row for a
// replica and with none for another server. With all, the answer has the columns
// that MariaDB adds to SHOW ALL SLAVES STATUS; renamed gives MySQL's new names.
func (s *Server) replicaStatus(all, renamed bool) Result {
	type field struct {
		name  string
		value any
		typ   Type
	}
	row := func(st replicationState) []field {
		f := []field{
			{"Slave_IO_State", st.ioState, Text}, {"Master_Host", st.host, Text}, {"Master_User", "repl", Text},
			{"Master_Port", st.port, Int}, {"Connect_Retry", 1, Int},
			{"Slave_IO_Running", st.io, Text}, {"Slave_SQL_Running", st.sql, Text},
			{"Last_Errno", st.sqlErrno, Int}, {"Last_Error", st.sqlError, Text},
			{"Seconds_Behind_Master", st.behind, Int},
			{"Last_IO_Errno", st.ioErrno, Int}, {"Last_IO_Error", st.ioError, Text},
			{"Last_SQL_Errno", st.sqlErrno, Int}, {"Last_SQL_Error", st.sqlError, Text},
			{"Master_Server_Id", st.serverID, Int},
		}
		if !s.mariaDB() {
			return append(f, field{"SQL_Delay", 0, Int}, field{"Retrieved_Gtid_Set", st.retrieved, Text},
				field{"Executed_Gtid_Set", st.executed, Text}, field{"Auto_Position", 1, Int}, field{"Channel_Name", "", Text})
		}
		f = append(f, field{"Using_Gtid", "Slave_Pos", Text}, field{"Gtid_IO_Pos", st.received.String(), Text},
			field{"SQL_Delay", 0, Int}, field{"Slave_SQL_Running_State", st.sqlState, Text})
		if all {
			f = append([]field{{"Connection_name", "", Text}, {"Slave_SQL_State", st.sqlState, Text}}, f...)
			f = append(f, field{"Gtid_Slave_Pos", st.applied.String(), Text})
		}
		return f
	}
	st, replica := s.replicationState()
	var out Result
	var values []any
	for _, f := range row(st) {
		if renamed {
			f.name = strings.NewReplacer("Slave_", "Replica_", "Master", "Source").Replace(f.name)
		}
		out.Columns = append(out.Columns, Column{Name: f.name, Type: f.typ})
		values = append(values, f.value)
	}
	if replica {
		out.Rows = [][]any{values}
	}
	return out
}

// replicationState is what SHOW SLAVE STATUS tells.
type replicationState struct {
	host, ioState, sqlState string
	port                    int
	io, sql                 string
	ioErrno, sqlErrno       int
	ioError, sqlError       string
	behind                  any // whole seconds, or nil
	serverID                uint32
	received, applied       gtid
	retrieved, executed     string // MySQL
}

func (s *Server) replicationState() (replicationState, bool) {
	r := s.repl.Load()
	if r == nil {
		return replicationState{}, false
	}
	host, port, _ := net.SplitHostPort(r.source.addr)
	_, applied := s.log.positions()
	st := replicationState{host: host, serverID: r.source.conf.ServerID, applied: applied, io: "No", sql: "No"}
	st.port, _ = strconv.Atoi(port)
	executed := s.log.executed()
	st.executed = executed.String()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.relay {
		executed[e.gtid.server]++
	}
	st.retrieved = executed.String()
	st.received = r.received
	if e := r.ioErr; e != nil {
		st.ioErrno, st.ioError = int(e.code()), e.Message
	}
	if e := r.sqlErr; e != nil {
		st.sqlErrno, st.sqlError = int(e.code()), e.Message
	}
	if r.sql {
		st.sql, st.sqlState = "Yes", "Slave has read all relay log; waiting for more updates"
	}
	switch {
	case !r.io || st.ioErrno == 1236:
	case st.ioErrno != 0:
		st.io, st.ioState = "Connecting", "Reconnecting after a failed master event read"
	default:
		st.io, st.ioState = "Yes", "Waiting for master to send event"
		if r.sql {
			st.behind = 0
			if len(r.relay) > 0 {
				st.behind = int(time.Since(r.relay[0].at) / time.Second)
			}
		}
	}
	return st, true
}
