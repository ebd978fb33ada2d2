package dbrouter

import (
	"container/list"
	"database/sql/driver"
)

// defaultStatements is how many statements a connection keeps prepared. Servers
// allow 16382 of all connections by default (max_prepared_stmt_count).
const defaultStatements = 32

// maxPrepared is the longest text, in bytes, that is kept prepared.
const maxPrepared = 4096

// prepared keeps the statements that a connection has prepared, the latest
// used, because to prepare one takes a round trip each time. It belongs to the
// connection's goroutine.
type prepared struct {
	max    int
	byText map[string]*list.Element
	order  list.List // of *preparedStmt, the latest used first
	// stale: what they mean may have changed with the session, such as with its
	// database or its sql_mode.
	stale bool
}

type preparedStmt struct {
	text string
	driver.Stmt
}

// find returns the statement of that text, nil if there is none.
func (c *prepared) find(text string) driver.Stmt {
	if c.stale {
		// Not before: the rows of the statement that made them stale come first.
		c.stale = false
		c.clear()
	}
	e := c.byText[text]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*preparedStmt).Stmt
}

// add keeps a statement, and says whether it does; the one that was not used for
// the longest time may be closed for it.
func (c *prepared) add(text string, s driver.Stmt) bool {
	if c.max <= 0 || len(text) > maxPrepared {
		return false
	}
	if c.byText == nil {
		c.byText = make(map[string]*list.Element)
	}
	c.byText[text] = c.order.PushFront(&preparedStmt{text, s})
	if c.order.Len() > c.max {
		c.remove(c.order.Back())
	}
	return true
}

// forget closes the statement of that text.
func (c *prepared) forget(text string) {
	if e := c.byText[text]; e != nil {
		c.remove(e)
	}
}

// clear closes all.
func (c *prepared) clear() {
	for e := c.order.Back(); e != nil; e = c.order.Back() {
		c.remove(e)
	}
}

func (c *prepared) remove(e *list.Element) {
	s := c.order.Remove(e).(*preparedStmt)
	delete(c.byText, s.text)
	s.Close() // a broken connection is found out by its next statement
}
