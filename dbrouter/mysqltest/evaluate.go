package mysqltest

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// reader walks over the tokens of a statement.
type reader struct {
	st   *statement
	at   int
	args []any // values of the placeholders that are left
}

func (r *reader) more() bool { return r.at < len(r.st.tokens) }

func (r *reader) peek() token {
	if !r.more() {
		return token{kind: tokPunct, text: " "}
	}
	return r.st.tokens[r.at]
}

func (r *reader) next() token {
	t := r.peek()
	r.at++
	return t
}

// word passes one of the words, if it is next, and returns it in upper case.
func (r *reader) word(words ...string) string {
	for _, w := range words {
		if r.peek().is(w) {
			r.at++
			return w
		}
	}
	return ""
}

// punct passes a character, if it is next.
func (r *reader) punct(c byte) bool {
	if r.peek().punct(c) {
		r.at++
		return true
	}
	return false
}

// value is an expression that was read: it is computed only when the whole
// statement turns out to be one that the server answers.
type value func(ctx context.Context, c *conn) (any, error)

func constant(v any) value { return func(context.Context, *conn) (any, error) { return v, nil } }

// item is one column of a SELECT.
type item struct {
	name string
	v    value
}

// selectItems reads "SELECT item, …" where each item is a literal, a variable or
// a function that the server knows. It returns false for any other statement,
// which is then the handler's.
func selectItems(st *statement, args []any) ([]item, bool) {
	if !st.whole || !st.words("SELECT") {
		return nil, false
	}
	r := &reader{st: st, at: 1, args: args}
	var items []item
	for {
		first := r.at
		v := r.value()
		if v == nil || r.at > len(st.tokens) {
			return nil, false
		}
		it := item{name: st.sql[st.tokens[first].start:st.tokens[r.at-1].end], v: v}
		if t := st.tokens[first]; t.kind == tokString {
			it.name = t.text // without the quotes
		}
		as := r.word("AS") != ""
		if t := r.peek(); t.kind == tokQuoted || t.kind == tokString || t.kind == tokWord && (as || !clause(t)) {
			it.name = t.text
			r.at++
		} else if as {
			return nil, false
		}
		items = append(items, it)
		if r.punct(',') {
			continue
		}
		if r.word("LIMIT") != "" && r.next().kind != tokNumber {
			return nil, false
		}
		return items, !r.more()
	}
}

// clause says whether a word begins what follows the items.
func clause(t token) bool {
	switch strings.ToUpper(t.text) {
	case "FROM", "WHERE", "LIMIT", "INTO", "UNION", "FOR", "LOCK", "ORDER", "GROUP", "HAVING", "PROCEDURE":
		return true
	}
	return false
}

// value reads an expression, and returns nil if it is not one that the server
// knows.
func (r *reader) value() value {
	t := r.next()
	switch {
	case t.kind == tokString:
		return constant(t.text)
	case t.kind == tokNumber:
		return number(t.text)
	case t.punct('-') && r.peek().kind == tokNumber:
		return number("-" + r.next().text)
	case t.kind == tokParam && len(r.args) > 0:
		v := r.args[0]
		r.args = r.args[1:]
		return constant(v)
	case t.punct('@'):
		return r.variable()
	case t.is("NULL"):
		return constant(nil)
	case t.is("TRUE"), t.is("FALSE"):
		return constant(bit(t.is("TRUE")))
	case t.kind == tokWord && r.punct('('):
		return r.call(strings.ToUpper(t.text))
	}
	return nil
}

func number(s string) value {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return constant(n)
	}
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return constant(n)
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && !strings.ContainsAny(s, "xXpP_") {
		return constant(f)
	}
	return nil
}

// variable reads what follows an @.
func (r *reader) variable() value {
	if !r.punct('@') {
		t := r.next()
		if t.kind == tokPunct || t.kind == tokNumber || t.kind == tokParam {
			return nil
		}
		name := strings.ToLower(t.text)
		return func(_ context.Context, c *conn) (any, error) { return c.userVars[name], nil }
	}
	scope, name := r.scopedName()
	if name == "" {
		return nil
	}
	return func(_ context.Context, c *conn) (any, error) { return c.variable(scope, name) }
}

// scopedName reads a name that may have a scope and a dot before it.
func (r *reader) scopedName() (scope, name string) {
	t := r.next()
	if s := strings.ToLower(t.text); t.kind == tokWord && (s == "global" || s == "session" || s == "local") && r.punct('.') {
		scope, t = s, r.next()
	}
	if t.kind != tokWord && t.kind != tokQuoted {
		return "", ""
	}
	return scope, t.text
}

// call reads the arguments of a function and returns what it computes.
func (r *reader) call(name string) value {
	var args []value
	for !r.punct(')') {
		if len(args) > 0 && !r.punct(',') {
			return nil
		}
		v := r.value()
		if v == nil {
			return nil
		}
		args = append(args, v)
	}
	f, least, most := function(name)
	if f == nil || len(args) < least || len(args) > most {
		return nil
	}
	return func(ctx context.Context, c *conn) (any, error) {
		values := make([]any, len(args))
		for i, a := range args {
			var err error
			if values[i], err = a(ctx, c); err != nil {
				return nil, err
			}
		}
		return f(ctx, c, values)
	}
}

// function returns a function and how many arguments it takes.
func function(name string) (f func(context.Context, *conn, []any) (any, error), least, most int) {
	switch name {
	case "VERSION":
		return func(_ context.Context, c *conn, _ []any) (any, error) { return c.s.conf.Version, nil }, 0, 0
	case "CONNECTION_ID":
		return func(_ context.Context, c *conn, _ []any) (any, error) { return int64(c.id), nil }, 0, 0
	case "DATABASE", "SCHEMA":
		return func(_ context.Context, c *conn, _ []any) (any, error) {
			if c.database == "" {
				return nil, nil
			}
			return c.database, nil
		}, 0, 0
	case "USER", "CURRENT_USER", "SESSION_USER", "SYSTEM_USER":
		return func(_ context.Context, c *conn, _ []any) (any, error) { return c.user + "@127.0.0.1", nil }, 0, 0
	case "LAST_INSERT_ID":
		return func(_ context.Context, c *conn, _ []any) (any, error) { return c.lastInsertID, nil }, 0, 0
	case "SLEEP":
		return sleep, 1, 1
	case "MASTER_GTID_WAIT":
		return gtidWait, 1, 2
	case "WAIT_FOR_EXECUTED_GTID_SET":
		return setWait, 1, 2
	}
	return nil, 0, 0
}

// seconds reads a time span; whatever is no number is none, and none at all if
// it is too long to express.
func seconds(v any) (d time.Duration, forever bool) {
	f, err := strconv.ParseFloat(fmt.Sprint(v), 64)
	switch {
	case err != nil || f != f:
		return 0, false
	case f > 1e9:
		return 0, true
	}
	return time.Duration(f * float64(time.Second)), false
}

func sleep(ctx context.Context, _ *conn, args []any) (any, error) {
	d, forever := seconds(args[0])
	if forever {
		d = 1e9 * time.Second
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return int64(0), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// gtidWait is MASTER_GTID_WAIT: 0 once the position is applied, -1 on a timeout.
// On a server that never was a replica nothing is ever applied, and it times out
// as on a real one. No timeout, or a negative one, waits for ever.
func gtidWait(ctx context.Context, c *conn, args []any) (any, error) {
	if !c.s.mariaDB() {
		return nil, errorf(1305, "42000", "FUNCTION MASTER_GTID_WAIT does not exist")
	}
	if args[0] == nil {
		return nil, nil
	}
	text, ok := args[0].(string)
	if !ok {
		text = fmt.Sprint(args[0])
	}
	g, reachable, err := parsePosition(text)
	if err != nil {
		return nil, err
	}
	if !reachable {
		g.seq = 1<<64 - 1
	}
	wait, cancel := ctx, func() {}
	if len(args) == 2 {
		if d, forever := seconds(args[1]); !forever && d >= 0 {
			wait, cancel = context.WithTimeout(ctx, d)
		}
	}
	defer cancel()
	switch {
	case c.s.log.wait(wait, g, false):
		return int64(0), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return int64(-1), nil
}
