package mysqltest

import (
	"net"
	"strconv"
	"strings"
)

func isMariaDB(version string) bool { return strings.Contains(strings.ToLower(version), "mariadb") }

// bit is how a switch reads in a SELECT.
func bit(on bool) any {
	if on {
		return int64(1)
	}
	return int64(0)
}

// variable returns the value of a system variable; the scope is as in set.
func (c *conn) variable(scope, name string) (any, error) {
	name = strings.ToLower(name)
	if scope != "global" {
		if v, ok := c.sessionVariable(name); ok {
			return v, nil
		}
	}
	if v, ok := c.s.globalVariable(name); ok {
		return v, nil
	}
	return nil, errorf(1193, "HY000", "Unknown system variable '%s'", clip(name))
}

func (c *conn) sessionVariable(name string) (any, bool) {
	switch name {
	case "autocommit":
		return bit(!c.manual), true
	case "tx_read_only", "transaction_read_only":
		return bit(c.readOnly), true
	case "sql_log_bin":
		return bit(!c.noLog), true
	case "pseudo_thread_id":
		return int64(c.id), true
	case "last_insert_id", "identity":
		return c.lastInsertID, true
	case "last_gtid":
		if c.s.mariaDB() {
			return c.lastGTID.String(), true
		}
	}
	v, ok := c.vars[name]
	return v, ok
}

func (s *Server) globalVariable(name string) (any, bool) {
	switch name {
	case "read_only":
		return bit(s.readOnly.Load()), true
	case "version":
		return s.conf.Version, true
	case "server_id":
		return int64(s.conf.ServerID), true
	case "max_connections":
		return int64(s.conf.MaxConnections), true
	case "hostname", "report_host":
		host, _, _ := net.SplitHostPort(s.addr)
		return host, true
	case "port":
		_, port, _ := net.SplitHostPort(s.addr)
		n, _ := strconv.ParseInt(port, 10, 64)
		return n, true
	}
	s.mu.Lock()
	v, ok := s.globals[name]
	s.mu.Unlock()
	if ok {
		return v, true
	}
	if v, ok := s.ofDialect(name); ok {
		return v, true
	}
	v, ok = usual[name]
	return v, ok
}

// ofDialect returns the variables that only one of the two servers has.
func (s *Server) ofDialect(name string) (any, bool) {
	if !s.mariaDB() {
		switch name {
		case "super_read_only":
			return int64(0), true
		case "gtid_mode":
			return "ON", true
		case "gtid_executed":
			return s.log.executed().String(), true
		case "gtid_purged":
			return "", true
		case "session_track_gtids":
			return "OFF", true
		case "server_uuid":
			return uuid(s.conf.ServerID), true
		}
		return nil, false
	}
	last, applied := s.log.positions()
	switch name {
	case "gtid_current_pos", "gtid_binlog_pos", "gtid_binlog_state":
		return last.String(), true
	case "gtid_slave_pos":
		return applied.String(), true
	case "gtid_domain_id":
		return int64(0), true
	case "gtid_strict_mode":
		return int64(1), true
	case "session_track_system_variables":
		return "last_gtid,autocommit,character_set_client,character_set_connection,character_set_results,time_zone", true
	}
	return nil, false
}

// usual are variables that clients read when they connect, with the values of a
// server that nobody configured. It is never changed.
var usual = map[string]any{
	"version_comment":                "mysqltest",
	"max_allowed_packet":             int64(maxPayload),
	"wait_timeout":                   int64(28800),
	"interactive_timeout":            int64(28800),
	"lower_case_table_names":         int64(0),
	"autocommit":                     int64(1),
	"log_bin":                        int64(1),
	"sql_mode":                       "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION",
	"time_zone":                      "SYSTEM",
	"system_time_zone":               "UTC",
	"tx_isolation":                   "REPEATABLE-READ",
	"transaction_isolation":          "REPEATABLE-READ",
	"tx_read_only":                   int64(0),
	"transaction_read_only":          int64(0),
	"character_set_client":           "utf8mb4",
	"character_set_connection":       "utf8mb4",
	"character_set_results":          "utf8mb4",
	"character_set_server":           "utf8mb4",
	"collation_connection":           "utf8mb4_general_ci",
	"collation_server":               "utf8mb4_general_ci",
	"auto_increment_increment":       int64(1),
	"session_track_system_variables": "time_zone,autocommit,character_set_client,character_set_results,character_set_connection",
	"wsrep_on":                       int64(0),
	"rpl_semi_sync_master_enabled":   int64(0),
	"rpl_semi_sync_slave_enabled":    int64(0),
}
