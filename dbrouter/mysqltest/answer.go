package mysqltest

import (
	"slices"
	"strings"
)

// check refuses what no part of the server takes.
func (st *statement) check() error {
	switch {
	case st.broken:
		return errorf(1064, "42000", "You have an error in your SQL syntax: a string, name or comment does not end")
	case st.second:
		return errorf(1064, "42000", "You have an error in your SQL syntax: several statements in one are not supported")
	case len(st.tokens) == 0:
		return errorf(1065, "42000", "Query was empty")
	}
	return nil
}

// answer answers a statement, itself or through the handler.
func (c *conn) answer(st *statement, args []any) (Result, error) {
	if err := st.check(); err != nil {
		return Result{}, err
	}
	if items, ok := selectItems(st, args); ok {
		return c.evaluate(items)
	}
	if st.words("SET", "STATEMENT") {
		return c.setStatement(st, args)
	}
	if st.whole {
		if r, err, ok := c.builtin(st, args); ok {
			return r, err
		}
	}
	return c.data(st, args)
}

// evaluate computes the one row of a SELECT that the server knows.
func (c *conn) evaluate(items []item) (Result, error) {
	var out Result
	row := make([]any, len(items))
	for i, it := range items {
		var err error
		if row[i], err = it.v(c.query(), c); err != nil {
			return Result{}, err
		}
		out.Columns = append(out.Columns, Column{Name: it.name})
	}
	out.Rows = [][]any{row}
	return out, nil
}

// builtin answers the statements other than SELECT that the server knows; ok is
// false for the others.
func (c *conn) builtin(st *statement, args []any) (r Result, err error, ok bool) {
	switch st.word(0) {
	case "SET":
		return Result{}, c.setStatements(st, args), true
	case "BEGIN":
		return Result{}, c.startTransaction(nil), true
	case "START":
		if st.word(1) == "TRANSACTION" {
			return Result{}, c.startTransaction(accessMode(st)), true
		}
	case "COMMIT", "ROLLBACK":
		if st.word(1) == "TO" || st.word(2) == "TO" {
			return Result{}, errorf(1235, "42000", "This server does not support savepoints"), true
		}
		if st.word(0) == "COMMIT" {
			return Result{}, c.commit(), true
		}
		return Result{}, c.rollback(), true
	case "SAVEPOINT":
		return Result{}, errorf(1235, "42000", "This server does not support savepoints"), true
	case "USE":
		if len(st.tokens) == 2 && st.tokens[1].kind <= tokQuoted {
			c.database = st.tokens[1].text
			return Result{}, nil, true
		}
	case "KILL":
		return Result{}, c.killStatement(st), true
	case "SHOW":
		return c.show(st)
	}
	if verb := st.word(0); verb == "STOP" || verb == "START" || verb == "RESET" {
		err, ok = c.replicationStatement(st)
	}
	return Result{}, err, ok
}

// accessMode finds READ ONLY or READ WRITE in a statement.
func accessMode(st *statement) *bool {
	for i := range st.tokens {
		if st.word(i) != "READ" {
			continue
		}
		switch st.word(i + 1) {
		case "ONLY":
			return new(true)
		case "WRITE":
			return new(false)
		}
	}
	return nil
}

func (c *conn) show(st *statement) (r Result, err error, ok bool) {
	if st.words("SHOW", "WARNINGS") || st.words("SHOW", "ERRORS") {
		return Result{Columns: []Column{{"Level", Text}, {"Code", Int}, {"Message", Text}}}, nil, true
	}
	all := st.words("SHOW", "ALL")
	what := st.tokens[1:]
	if all {
		what = what[1:]
	}
	if len(what) < 2 || !what[1].is("STATUS") {
		return Result{}, nil, false
	}
	name := strings.ToUpper(what[0].text)
	old, renamed := name == "SLAVE" || all && name == "SLAVES", name == "REPLICA" || all && name == "REPLICAS"
	switch {
	case !old && !renamed:
		return Result{}, nil, false
	case all && !c.s.mariaDB(), all && (name == "SLAVE" || name == "REPLICA"), len(what) > 2 && !what[2].is("FOR"):
		return Result{}, errorf(1064, "42000", "You have an error in your SQL syntax near '%s'", name), true
	}
	// MariaDB keeps the old columns under the new name of the statement.
	return c.s.replicaStatus(all, renamed && !c.s.mariaDB()), nil, true
}

func (c *conn) killStatement(st *statement) error {
	r := &reader{st: st, at: 1}
	r.word("HARD", "SOFT")
	statementOnly := r.word("CONNECTION", "QUERY") == "QUERY"
	if t := r.peek(); t.kind <= tokQuoted {
		return errorf(1054, "42S22", "Unknown column '%s' in 'KILL'", clip(t.text))
	}
	v := r.value()
	if v == nil || r.more() {
		return errorf(1064, "42000", "You have an error in your SQL syntax: KILL wants [CONNECTION | QUERY] id")
	}
	id, err := v(c.query(), c)
	if err != nil {
		return err
	}
	n, ok := id.(int64)
	if !ok || n < 0 {
		return errorf(1094, "HY000", "Unknown thread id: %v", id)
	}
	return c.s.kill(uint64(n), statementOnly)
}

// replicationStatement answers STOP, START and RESET SLAVE (or REPLICA). RESET
// SLAVE ALL makes the server a primary.
func (c *conn) replicationStatement(st *statement) (err error, ok bool) {
	r := &reader{st: st, at: 1}
	all := r.word("ALL") != ""
	switch r.word("SLAVE", "REPLICA", "SLAVES", "REPLICAS") {
	case "":
		return nil, false
	case "SLAVES", "REPLICAS":
		if !all {
			return nil, false
		}
	}
	half := r.word("IO_THREAD", "SQL_THREAD")
	on := st.word(0) == "START"
	io, sql := &on, &on
	switch half {
	case "IO_THREAD":
		sql = nil
	case "SQL_THREAD":
		io = nil
	}
	switch {
	case st.word(0) == "RESET":
		if r.word("ALL") == "" {
			return nil, false
		}
		return c.s.Follow(nil), true
	case on && c.s.repl.Load() == nil:
		return errorf(1200, "HY000", "Misconfigured slave: MASTER_HOST was not set; Fix in config file or with CHANGE MASTER TO"), true
	}
	c.s.setReplication(io, sql)
	return nil, true
}

// maxNested bounds SET STATEMENT within SET STATEMENT.
const maxNested = 8

// setStatement answers SET STATEMENT … FOR: the variables are ignored, the
// statement counts.
func (c *conn) setStatement(st *statement, args []any) (Result, error) {
	for range maxNested {
		i := slices.IndexFunc(st.tokens, func(t token) bool { return t.is("FOR") })
		if i < 0 {
			break
		}
		st = parse(st.sql[st.tokens[i].end:])
		if !st.words("SET", "STATEMENT") {
			return c.answer(st, args)
		}
	}
	return Result{}, errorf(1064, "42000", "You have an error in your SQL syntax: SET STATEMENT wants FOR and a statement")
}

// setStatements answers SET.
func (c *conn) setStatements(st *statement, args []any) error {
	r := &reader{st: st, at: 1, args: args}
	switch {
	case st.words("SET", "NAMES"), st.words("SET", "CHARACTER"), st.words("SET", "CHARSET"):
		return c.setNames(st)
	case st.words("SET", "TRANSACTION"), st.words("SET", "SESSION", "TRANSACTION"), st.words("SET", "LOCAL", "TRANSACTION"), st.words("SET", "GLOBAL", "TRANSACTION"):
		return c.setTransaction(st)
	case st.words("SET", "PASSWORD"), st.words("SET", "ROLE"), st.words("SET", "DEFAULT"):
		return nil
	}
	for {
		if err := c.assignment(r); err != nil {
			return err
		}
		if !r.more() {
			return nil
		}
		if !r.punct(',') {
			return errorf(1064, "42000", "You have an error in your SQL syntax near '%s'", clip(st.sql[r.peek().start:]))
		}
	}
}

// assignment reads and does one of SET's assignments.
func (c *conn) assignment(r *reader) error {
	syntax := errorf(1064, "42000", "You have an error in your SQL syntax: SET wants name = value")
	scope := strings.ToLower(r.word("GLOBAL", "SESSION", "LOCAL"))
	user, name := false, ""
	switch {
	case r.punct('@') && !r.punct('@'):
		t := r.next()
		user, name = true, strings.ToLower(t.text)
		if t.kind == tokPunct || t.kind == tokNumber || t.kind == tokParam {
			return syntax
		}
	default:
		var s string
		if s, name = r.scopedName(); s != "" {
			scope = s
		}
	}
	r.punct(':')
	if name == "" || !r.punct('=') {
		return syntax
	}
	v, err := c.assigned(r)
	if err != nil {
		return err
	}
	if user {
		return put(c.userVars, maxVariables, name, v)
	}
	return c.set(scope, name, v)
}

// assigned computes a value in SET: an expression that the server knows, or else
// the text up to the next comma, as in SET sql_mode=ANSI.
func (c *conn) assigned(r *reader) (any, error) {
	first := r.at
	if v := r.value(); v != nil && (!r.more() || r.peek().punct(',')) {
		return v(c.query(), c)
	}
	r.at = first
	depth := 0
	for r.more() && (depth > 0 || !r.peek().punct(',')) {
		switch t := r.next(); {
		case t.punct('('):
			depth++
		case t.punct(')'):
			depth--
		}
	}
	if r.at == first {
		return nil, errorf(1064, "42000", "You have an error in your SQL syntax: SET wants name = value")
	}
	return r.st.sql[r.st.tokens[first].start:r.st.tokens[r.at-1].end], nil
}

func (c *conn) setNames(st *statement) error {
	i := 2
	if st.words("SET", "CHARACTER", "SET") {
		i = 3
	}
	if i >= len(st.tokens) || st.tokens[i].kind > tokString {
		return errorf(1064, "42000", "You have an error in your SQL syntax: SET NAMES wants a character set")
	}
	for _, name := range []string{"character_set_client", "character_set_connection", "character_set_results"} {
		if err := put(c.vars, maxVariables, name, st.tokens[i].text); err != nil {
			return err
		}
	}
	return nil
}

// setTransaction answers SET [SESSION] TRANSACTION. Without SESSION it is about
// the next transaction only, and must not come within one.
func (c *conn) setTransaction(st *statement) error {
	mode := accessMode(st)
	switch st.word(1) {
	case "GLOBAL":
	case "TRANSACTION":
		if c.inTx {
			return errorf(1568, "25001", "Transaction characteristics can't be changed while a transaction is in progress")
		}
		if mode != nil {
			c.nextReadOnly = mode
		}
	default:
		if mode != nil {
			c.readOnly, c.nextReadOnly = *mode, nil
		}
		for i := range st.tokens {
			if st.word(i) != "LEVEL" || i+1 >= len(st.tokens) {
				continue
			}
			level := st.word(i + 1)
			if next := st.word(i + 2); next == "READ" || next == "COMMITTED" || next == "UNCOMMITTED" {
				level += "-" + next
			}
			c.vars["tx_isolation"], c.vars["transaction_isolation"] = level, level
		}
	}
	return nil
}
