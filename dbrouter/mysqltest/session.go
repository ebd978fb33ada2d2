package mysqltest

import (
	"fmt"
	"strings"
)

const (
	// maxVariables bounds the variables that one connection may set, and
	// maxVariableBytes their values.
	maxVariables     = 256
	maxVariableBytes = 4 << 10
)

// session is the state of a connection that COM_RESET_CONNECTION clears. Only
// the connection's goroutine uses it.
type session struct {
	vars     map[string]any // what SET changed, by lower-case name
	userVars map[string]any // variables with one @
	prepared map[uint32]*prepared
	lastStmt uint32

	manual       bool // autocommit=0
	readOnly     bool // transactions are read only unless they say otherwise
	nextReadOnly *bool
	noLog        bool // sql_log_bin=0

	inTx       bool
	txReadOnly bool
	told       bool // the handler was told of the transaction
	pending    []change
	bytes      int

	lastGTID     gtid
	lastNumber   uint64 // of it among the server's own
	gtidChanged  bool
	lastInsertID uint64
}

func newSession() session {
	return session{vars: make(map[string]any), userVars: make(map[string]any), prepared: make(map[uint32]*prepared)}
}

// status is the state that OK and EOF packets tell.
func (s *session) status() uint16 {
	var f uint16
	if !s.manual {
		f |= statusAutocommit
	}
	if s.inTx {
		f |= statusInTrans
		if s.txReadOnly {
			f |= statusInTransReadOnly
		}
	}
	return f
}

// begin opens a transaction; readOnly nil means the session's mode.
func (s *session) begin(readOnly *bool) {
	s.inTx = true
	switch {
	case readOnly != nil:
		s.txReadOnly = *readOnly
	case s.nextReadOnly != nil:
		s.txReadOnly = *s.nextReadOnly
	default:
		s.txReadOnly = s.readOnly
	}
	s.nextReadOnly = nil
}

// end closes the transaction and forgets what it would have logged.
func (s *session) end() {
	s.inTx, s.txReadOnly, s.told = false, false, false
	s.pending, s.bytes = nil, 0
}

// hold keeps a change for the COMMIT.
func (s *session) hold(c change) error {
	if len(s.pending) >= maxTransaction || s.bytes+c.size() > maxTransactionBytes {
		return errorf(1197, "HY000", "Multi-statement transaction required more than 'max_binlog_cache_size' bytes of storage")
	}
	s.pending, s.bytes = append(s.pending, c), s.bytes+c.size()
	return nil
}

// tracks says whether the client asked to be told of changes of a variable.
func (c *conn) tracks(name string) bool {
	v, err := c.variable("", "session_track_system_variables")
	list, ok := v.(string)
	if err != nil || !ok {
		return false
	}
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "*" || strings.EqualFold(item, name) {
			return true
		}
	}
	return false
}

// set assigns to a system variable. The scope is "", "global", "session" or
// "local".
func (c *conn) set(scope, name string, value any) error {
	name = strings.ToLower(name)
	if scope == "global" {
		return c.s.setGlobal(c, name, value)
	}
	switch name {
	case "autocommit":
		on, err := truth(name, value)
		if err != nil {
			return err
		}
		if on && c.manual {
			// Switching it on commits, as it ends the implied transaction.
			if err := c.commit(); err != nil {
				return err
			}
		}
		c.manual = !on
	case "tx_read_only", "transaction_read_only":
		on, err := truth(name, value)
		if err != nil {
			return err
		}
		c.readOnly, c.nextReadOnly = on, nil
	case "sql_log_bin":
		on, err := truth(name, value)
		if err != nil {
			return err
		}
		c.noLog = !on
	case "read_only", "super_read_only":
		return errorf(1229, "HY000", "Variable '%s' is a GLOBAL variable and should be set with SET GLOBAL", name)
	default:
		return put(c.vars, maxVariables, name, value)
	}
	return nil
}

// put assigns a variable in a bounded map.
func put(m map[string]any, limit int, name string, value any) error {
	if s, ok := value.(string); ok && len(s) > maxVariableBytes {
		return errorf(1231, "42000", "Variable '%s' can't be set to a value of more than %d bytes", clip(name), maxVariableBytes)
	}
	if _, ok := m[name]; !ok && len(m) >= limit || len(name) > 64 {
		return errorf(1193, "HY000", "Unknown system variable '%s'", clip(name))
	}
	m[name] = value
	return nil
}

func clip(s string) string { return s[:min(len(s), 64)] }

// truth reads a switch: ON, OFF, TRUE, FALSE, 1 or 0.
func truth(name string, value any) (bool, error) {
	switch strings.ToUpper(fmt.Sprint(value)) {
	case "1", "ON", "TRUE":
		return true, nil
	case "0", "OFF", "FALSE":
		return false, nil
	}
	return false, errorf(1231, "42000", "Variable '%s' can't be set to the value of '%s'", name, clip(fmt.Sprint(value)))
}

// setGlobal assigns to a global variable. Setting read_only waits for the write
// that is taking effect, so that none follows the answer.
func (s *Server) setGlobal(c *conn, name string, value any) error {
	switch {
	case name == "read_only", name == "super_read_only" && !s.mariaDB():
		on, err := truth(name, value)
		if err != nil {
			return err
		}
		if err := s.lockWrites(c.query()); err != nil {
			return err
		}
		defer s.unlockWrites()
		if name == "read_only" || on {
			s.readOnly.Store(on)
		}
		if s.mariaDB() {
			return nil
		}
		// As on MySQL: super_read_only implies read_only, and falls with it.
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case name == "super_read_only" && on:
			s.globals[name] = int64(1)
		case name == "super_read_only" || !on:
			s.globals["super_read_only"] = int64(0)
		}
		return nil
	case name == "gtid_mode" && !s.mariaDB():
	case name == "server_id", name == "version", name == "hostname", name == "port", strings.HasPrefix(name, "gtid_"), name == "last_gtid":
		return errorf(1238, "HY000", "Variable '%s' is a read only variable", name)
	case name == "super_read_only":
		return errorf(1193, "HY000", "Unknown system variable '%s'", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return put(s.globals, maxGlobals, name, value)
}
