package dbrouter

import (
	"context"
	"database/sql/driver"
	"time"
)

// Statement is what OnStatement is told of a statement that was done, or that
// failed. The beginning and the end of a transaction are statements too.
type Statement struct {
	// Node is the name of the node that did it, the last one if it was
	// repeated; empty if none could be reached.
	Node string
	// Role is the role in which the node did it.
	Role Role
	// Reason says in a few words why it was sent there.
	Reason string
	// SQL is the text as the caller gave it. It may hold the caller's secrets:
	// the router never logs it.
	SQL string
	// Duration is the time until the result, or the head of the rows; it
	// includes waiting for a connection and for a replica.
	Duration time.Duration
	Err      error
	// Retried: it was sent to more than one node or connection, because of a
	// lost connection or a replica's refusal.
	Retried bool
}

// primaryKey is the context key of WithPrimary.
type primaryKey struct{}

// WithPrimary returns a context whose statements all go to the primary. One use
// is Eventual with a read that has to see the caller's own write.
func WithPrimary(ctx context.Context) context.Context {
	return context.WithValue(ctx, primaryKey{}, true)
}

func wantsPrimary(ctx context.Context) bool { return ctx.Value(primaryKey{}) != nil }

// call is one statement on its way.
type call struct {
	ctx   context.Context
	sql   string
	class Classification
	begun time.Time
	report

	// What it takes to repeat a query.
	args    []driver.NamedValue
	prepare bool

	// do runs the statement on a connection.
	do func(*physical) error
}

// report is what will be told about a call.
type report struct {
	node    string
	role    Role
	reason  string
	retried bool
	tries   int
}

// run does the statement on a connection and notes where.
func (k *call) run(p *physical, reason string) error {
	k.node, k.role, k.reason = p.pool.node.name, Primary, reason
	if p.readOnly {
		k.role = Replica
	}
	k.retried = k.tries > 0
	k.tries++
	return k.do(p)
}

// tell calls OnStatement.
func (r *Router) tell(k *call, err error) {
	if r.conf.OnStatement == nil {
		return
	}
	r.conf.OnStatement(k.ctx, Statement{Node: k.node, Role: k.role, Reason: k.reason, SQL: k.sql,
		Duration: time.Since(k.begun), Err: err, Retried: k.retried})
}

// convert makes the arguments what the driver takes.
func convert(conn driver.Conn, args []driver.NamedValue) error {
	checker, ok := conn.(driver.NamedValueChecker)
	if !ok {
		return nil
	}
	for i := range args {
		if err := checker.CheckNamedValue(&args[i]); err != nil {
			return err
		}
	}
	return nil
}
