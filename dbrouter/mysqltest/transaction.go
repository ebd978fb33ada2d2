package mysqltest

import (
	"context"
)

// startTransaction answers BEGIN and START TRANSACTION, which commit the
// transaction before.
func (c *conn) startTransaction(readOnly *bool) error {
	if err := c.commit(); err != nil {
		return err
	}
	c.begin(readOnly)
	return c.tellBegin()
}

// tellBegin tells the handler of a transaction, once.
func (c *conn) tellBegin() error {
	if !c.s.conf.Transactions || c.told {
		return nil
	}
	if err := c.tell(c.query(), "START TRANSACTION"); err != nil {
		c.end()
		return err
	}
	c.told = true
	return nil
}

// tell hands the handler a statement about a transaction.
func (c *conn) tell(ctx context.Context, sql string) error {
	if c.s.conf.Handler == nil {
		return nil
	}
	_, err := c.s.conf.Handler.Handle(ctx, Query{SQL: sql, Database: c.database, User: c.user, ConnID: c.id})
	return err
}

// commit ends the transaction, if there is one, and logs what it changed. One
// that would change a read-only server is rolled back.
func (c *conn) commit() error {
	if !c.inTx {
		return nil
	}
	if len(c.pending) > 0 {
		if err := c.s.lockWrites(c.query()); err != nil {
			return err
		}
		defer c.s.unlockWrites()
		if c.s.readOnly.Load() {
			c.rollback()
			return c.s.readOnlyError()
		}
	}
	if c.told {
		if err := c.tell(c.query(), "COMMIT"); err != nil {
			c.end()
			return err
		}
	}
	if len(c.pending) > 0 {
		c.logged(c.pending)
	}
	c.end()
	return nil
}

// rollback drops what the transaction would have logged. It is told to the
// handler even after a kill.
func (c *conn) rollback() error {
	told := c.told
	c.end()
	if !told {
		return nil
	}
	return c.tell(context.WithoutCancel(c.query()), "ROLLBACK")
}

// logged puts changes into the log.
func (c *conn) logged(changes []change) {
	if c.noLog {
		return
	}
	c.lastGTID, c.lastNumber = c.s.log.write(changes)
	c.gtidChanged = true
}

func (s *Server) readOnlyError() *Error {
	name := "MySQL"
	if s.mariaDB() {
		name = "MariaDB"
	}
	return errorf(1290, "HY000", "The %s server is running with the --read-only option so it cannot execute this statement", name)
}

// data answers a statement through the handler, within the rules of
// transactions and of read-only modes.
func (c *conn) data(st *statement, args []any) (Result, error) {
	k := st.kind()
	writes := k >= writing
	if k == defining {
		// It commits the transaction before it, even a read-only one.
		if err := c.commit(); err != nil {
			return Result{}, err
		}
	}
	if !c.inTx && c.manual && k != defining {
		c.begin(nil)
	}
	if k != reading && k != temporary && c.s.readOnly.Load() {
		return Result{}, c.s.readOnlyError()
	}
	if k != reading && c.inReadOnly() {
		return Result{}, errorf(1792, "25006", "Cannot execute statement in a READ ONLY transaction")
	}
	if !c.inTx {
		c.nextReadOnly = nil // the statement is the next transaction, if it runs
	}
	if c.s.conf.Handler == nil {
		return Result{}, errorf(1235, "42000", "This server has no handler for '%s'", clip(st.sql))
	}
	if c.inTx {
		if err := c.tellBegin(); err != nil {
			return Result{}, err
		}
	}
	if !writes {
		return c.handle(st, args)
	}
	if err := c.s.lockWrites(c.query()); err != nil {
		return Result{}, err
	}
	defer c.s.unlockWrites()
	if k != temporary && c.s.readOnly.Load() {
		return Result{}, c.s.readOnlyError()
	}
	r, err := c.handle(st, args)
	if err != nil || k == temporary || c.noLog {
		return r, err
	}
	done := change{sql: st.sql, args: args, database: c.database, user: c.user, insertID: r.LastInsertID}
	if c.inTx {
		return r, c.hold(done)
	}
	c.logged([]change{done})
	return r, nil
}

// inReadOnly says whether the next statement runs in a read-only transaction,
// which without BEGIN is the statement itself.
func (c *conn) inReadOnly() bool {
	switch {
	case c.inTx:
		return c.txReadOnly
	case c.nextReadOnly != nil:
		return *c.nextReadOnly
	}
	return c.readOnly
}

func (c *conn) handle(st *statement, args []any) (Result, error) {
	r, err := c.s.conf.Handler.Handle(c.query(), Query{SQL: st.sql, Args: args, Database: c.database, User: c.user, ConnID: c.id})
	if err == nil && r.LastInsertID != 0 {
		c.lastInsertID = r.LastInsertID
	}
	return r, err
}
