package dbrouter

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// cutConn loses its connection between the head of the next result of query and
// its first row, once it is armed; or it has the server refuse the rows there.
type cutConn struct {
	net.Conn
	armed  *atomic.Bool
	refuse *atomic.Bool
	asked  bool // what was sent last is query, and not what the router asks for itself
	cut    bool
}

func (c *cutConn) Write(b []byte) (int, error) {
	c.asked = bytes.HasSuffix(b, []byte(query)) && !bytes.Contains(b, []byte("_WAIT(")) || len(b) > 4 && b[4] == comExecute
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	switch {
	case c.cut && c.refuse.Load():
		c.cut = false
		return copy(b, "\x0d\x00\x00\x03\xff\x00\x07#25006test"), nil // error 1792
	case c.cut:
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Conn.Read(b)
	if err != nil || !c.asked || n < 9 || b[0] != 1 || b[1]|b[2] != 0 || b[4] != 1 {
		return n, err
	}
	// The head of a result with one column: a packet with the number 1, and
	// then one about the column.
	head := 5 + 4 + int(b[5])
	if b[6]|b[7] == 0 && head < n && c.armed.CompareAndSwap(true, false) {
		c.cut = true
		return head, nil
	}
	return n, nil
}

// TestReadIsRepeatedBeforeTheFirstRow: the head of the result has arrived, and
// the caller has the rows in hand, but has seen none.
func TestReadIsRepeatedBeforeTheFirstRow(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval = time.Hour
	var armed, refuse atomic.Bool
	c.Nodes[1].MaxConns = 1 // the broken connection must not be in the way of the next
	c.Nodes[1].Config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &cutConn{Conn: nc, armed: &armed, refuse: &refuse}, err
	}
	r, rec := open(t, c)
	upReplicas(t, r, 1)
	mustExec(t, r.DB(), update)
	for _, prepared := range []bool{false, true} {
		one[int](t, r.DB(), query) // the position is known now: no question of the router's own comes between
		armed.Store(true)
		var n int
		var err error
		if prepared {
			st, prepareErr := r.DB().PrepareContext(t.Context(), query)
			if prepareErr != nil {
				t.Fatal(prepareErr)
			}
			err = st.QueryRowContext(t.Context()).Scan(&n)
			st.Close()
		} else {
			err = r.DB().QueryRowContext(t.Context(), query).Scan(&n)
		}
		if err != nil || n != 1 {
			t.Errorf("prepared %v: %d, %v", prepared, n, err)
		}
		if armed.Load() {
			t.Errorf("prepared %v: no connection was cut", prepared)
		}
		if s := rec.last(t); s.Err != nil {
			t.Errorf("%+v", s)
		}
		upReplicas(t, r, 1)
	}
	// A refusal is no loss: it sends the statement to the primary, for good.
	one[int](t, r.DB(), query)
	refuse.Store(true)
	armed.Store(true)
	for range 2 {
		if n := one[int](t, r.DB(), query); n != 1 || rec.last(t).Reason != refusedByNet || rec.last(t).Role != Primary {
			t.Errorf("refused: %d, %+v", n, rec.last(t))
		}
	}
	if armed.Load() {
		t.Error("nothing was refused")
	}
	if n := r.nodes()[0].pool.busy() + r.nodes()[1].pool.busy(); n != 0 {
		t.Errorf("%d connections were not given back", n)
	}
}

// TestPreparedStatements uses a statement on both roles and in a transaction.
func TestPreparedStatements(t *testing.T) {
	p := newPair(t)
	r, rec := open(t, p.config())
	upReplicas(t, r, 1)
	write, err := r.DB().PrepareContext(t.Context(), update+" WHERE n >= ?")
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	read, err := r.DB().PrepareContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	var n int
	for i := range 5 {
		if _, err := write.ExecContext(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if s := rec.last(t); s.Role != Primary {
			t.Errorf("%+v", s)
		}
		if err := read.QueryRowContext(t.Context()).Scan(&n); err != nil || n != i+1 {
			t.Errorf("%d, %v", n, err)
		}
		if s := rec.last(t); s.Role != Replica {
			t.Errorf("%+v", s)
		}
	}
	tx, err := r.DB().BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.StmtContext(t.Context(), read).QueryRowContext(t.Context()).Scan(&n); err != nil || n != 5 {
		t.Errorf("%d, %v", n, err)
	}
	if s := rec.last(t); s.Role != Primary || s.Reason != "transaction" {
		t.Errorf("%+v", s)
	}
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
}
