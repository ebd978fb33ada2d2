package dbrouter

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
)

func TestOutcomeOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Outcome
	}{
		{nil, Committed},
		{mysql.ErrInvalidConn, Unknown},
		{context.Canceled, Unknown},
		{errors.New("?"), Unknown},
		{fmt.Errorf("x: %w", ErrNoPrimary), NotSent},
		{ErrClosed, NotSent},
		{&NodeError{Node: "a", Err: driver.ErrBadConn}, NotSent},
		{&mysql.MySQLError{Number: 1062}, RolledBack},
		{fmt.Errorf("x: %w", &mysql.MySQLError{Number: errReadOnlyServer}), RolledBack},
		{&mysql.MySQLError{Number: errShutdown}, Unknown},
		{&mysql.MySQLError{Number: errQueryKilled}, Unknown},
		{&mysql.MySQLError{Number: errKilled}, Unknown},
		{fmt.Errorf("x: %w", ErrDenied), NotSent},
		{fmt.Errorf("x: %w", ErrBusy), NotSent},
		{ErrNoNode, NotSent},
		{lostSession{}, NotSent},
	} {
		if got := OutcomeOf(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	for o := Unknown; o <= Committed; o++ {
		text, _ := o.MarshalText()
		var back Outcome
		if err := back.UnmarshalText(text); err != nil || back != o {
			t.Errorf("%s: %v, %v", text, back, err)
		}
	}
}

// TestTx: what a server rolled back is done again, what may be done is not.
func TestTx(t *testing.T) {
	p := newPair(t)
	r, _ := open(t, p.config())
	runs := 0
	do := func(tx *sql.Tx) error {
		runs++
		_, err := tx.ExecContext(t.Context(), update)
		return err
	}
	fault := func(sql string, f mysqltest.Fault) func() {
		f.Match = match(sql)
		return p.primary.Inject(f)
	}
	for _, number := range []uint16{errDeadlock, errLockTimeout, errChanged} {
		runs = 0
		before := p.data.n.Load()
		remove := fault(update, mysqltest.Fault{Err: &mysqltest.Error{Code: number, State: "40001", Message: "again"}, Times: 2})
		if err := r.Tx(t.Context(), nil, do); err != nil || runs != 3 || p.data.n.Load() != before+1 {
			t.Errorf("%d: %v after %d runs, %d done", number, err, runs, p.data.n.Load()-before)
		}
		remove()
	}
	runs = 0
	remove := fault(update, mysqltest.Fault{CutBefore: true, Times: 1})
	if err := r.Tx(t.Context(), nil, do); err != nil || runs != 2 {
		t.Errorf("lost before COMMIT: %v after %d runs", err, runs)
	}
	remove()
	for _, f := range []mysqltest.Fault{{CutBefore: true}, {CutAfter: true}} {
		runs = 0
		remove = fault("COMMIT", f)
		if err := r.Tx(t.Context(), nil, do); OutcomeOf(err) != Unknown || runs != 1 {
			t.Errorf("lost COMMIT: %v after %d runs", err, runs)
		}
		remove()
	}
	runs = 0
	remove = fault("COMMIT", mysqltest.Fault{Err: &mysqltest.Error{Code: errDeadlock, State: "40001", Message: "again"}, Times: 2})
	if err := r.Tx(t.Context(), nil, do); err != nil || runs != 3 {
		t.Errorf("COMMIT rolled back: %v after %d runs", err, runs)
	}
	remove()
	runs = 0
	mine := errors.New("mine")
	if err := r.Tx(t.Context(), nil, func(*sql.Tx) error { runs++; return mine }); !errors.Is(err, mine) || runs != 1 {
		t.Errorf("%v after %d runs", err, runs)
	}
	runs = 0
	remove = fault(update, mysqltest.Fault{Err: &mysqltest.Error{Code: errDeadlock, Message: "always"}, Times: 1000})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := r.Tx(ctx, nil, func(tx *sql.Tx) error {
		time.AfterFunc(30*time.Millisecond, cancel)
		return do(tx)
	}); serverError(err) != errDeadlock && !errors.Is(err, context.Canceled) || runs == 0 {
		t.Errorf("%v after %d runs", err, runs)
	}
	remove()
	func() {
		defer func() { recover() }()
		r.Tx(t.Context(), nil, func(*sql.Tx) error { panic("test") })
	}()
	// A transaction whose context has ended is rolled back behind its caller's back.
	until(t, "all connections are given back", func() bool { return r.nodes()[0].pool.busy() == 0 })
}

// TestTxTries: ten, with pauses that grow up to half a second.
func TestTxTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Router{done: make(chan struct{})}
		wait := txFirstWait
		for i, want := range []time.Duration{5, 10, 20, 40, 80, 160, 320, 500, 500, 500} {
			want *= time.Millisecond
			begun := time.Now()
			if !r.pause(t.Context(), &wait) {
				t.Fatal("no further try")
			}
			if took := time.Since(begun); took < want/2 || took > want {
				t.Errorf("pause %d took %v, want %v to %v", i+1, took, want/2, want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		begun := time.Now()
		if r.pause(ctx, &wait) || time.Since(begun) != 10*time.Millisecond {
			t.Errorf("a pause outlasts the context: %v", time.Since(begun))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r, err := build(Config{Nodes: []Node{{Config: mysql.NewConfig()}}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		var begins atomic.Int32
		n := r.nodes()[0]
		n.pool.open = func(context.Context) (driver.Conn, *tracker, error) { return deadlocked{begins: &begins}, nil, nil }
		r.start(n)
		defer r.Close()
		if err := r.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.Tx(t.Context(), nil, func(*sql.Tx) error { return nil }); serverError(err) != errDeadlock || begins.Load() != txTries {
			t.Errorf("%v after %d tries", err, begins.Load())
		}
	})
}

// deadlocked is a connection to a primary that begins no transaction.
type deadlocked struct {
	nothing
	begins *atomic.Int32
}

func (d deadlocked) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	d.begins.Add(1)
	return nil, &mysql.MySQLError{Number: errDeadlock}
}

// TestBuffer: an operator's switchover under load, without an error.
func TestBuffer(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.BufferWait = 10 * time.Second
	r, _ := open(t, c)
	upReplicas(t, r, 1)
	done := make(chan struct{})
	var written [8]atomic.Int64
	var wg sync.WaitGroup
	for i := range written {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				var err error
				if i%2 == 0 {
					_, err = r.DB().ExecContext(t.Context(), update)
				} else {
					err = r.Tx(t.Context(), nil, func(tx *sql.Tx) error {
						_, err := tx.ExecContext(t.Context(), update)
						return err
					})
				}
				if err != nil {
					t.Error(err)
					return
				}
				written[i].Add(1)
			}
		})
	}
	// everybody waits until all have begun and done a write. Who is still held back
	// at the next switchover but one is refused by the same server a second time,
	// which is taken to have another reason.
	everybody := func() {
		t.Helper()
		var before [len(written)]int64
		for i := range written {
			before[i] = written[i].Load()
		}
		until(t, "everybody writes", func() bool {
			for i := range written {
				if written[i].Load() < before[i]+2 {
					return t.Failed()
				}
			}
			return true
		})
	}
	servers := []*mysqltest.Server{p.primary, p.replica}
	for i := range 4 {
		servers[i%2].SetReadOnly(true)
		time.Sleep(60 * time.Millisecond) // there is no primary meanwhile
		servers[1-i%2].SetReadOnly(false)
		until(t, "the router follows", func() bool { return r.Status()[1-i%2].Role == Primary })
		everybody()
	}
	close(done)
	wg.Wait()
	if n := len(r.held); n != 0 {
		t.Errorf("%d are still held back", n)
	}
}

// TestBufferIsBounded in number and time, and by the caller.
func TestBufferIsBounded(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.BufferWait, c.BufferMax = time.Second, 1
	r, _ := open(t, c)
	p.primary.SetReadOnly(true)
	until(t, "there is no primary", func() bool { return r.monitor.now.Load().primary == nil })
	first := make(chan error, 1)
	go func() {
		_, err := r.DB().ExecContext(t.Context(), update)
		first <- err
	}()
	until(t, "the first is held back", func() bool { return len(r.held) == 1 })
	if _, err := r.DB().ExecContext(t.Context(), update); !errors.Is(err, ErrNoPrimary) || OutcomeOf(err) != NotSent {
		t.Errorf("the second: %v", err)
	}
	if err := <-first; !errors.Is(err, ErrNoPrimary) {
		t.Errorf("the first: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.DB().ExecContext(ctx, update); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the third: %v", err)
	}
	if p.data.n.Load() != 0 {
		t.Error("something was done")
	}
	c.BufferWait = -1
	if _, err := New(c); err == nil {
		t.Error("a negative wait is accepted")
	}
}

// TestRefusedForAnotherReason: --secure-file-priv has the same number of an error
// as read_only. It is not waited for to change.
func TestRefusedForAnotherReason(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.BufferWait, c.OnStateChange = time.Minute, nil
	r, _ := open(t, c)
	const load = "LOAD DATA INFILE '/x' INTO TABLE t"
	p.primary.Inject(mysqltest.Fault{Match: match(load), Times: -1, Err: &mysqltest.Error{Code: 1290, Message: "the --secure-file-priv option"}})
	if _, err := r.DB().ExecContext(t.Context(), load); serverError(err) != 1290 {
		t.Errorf("%v", err)
	}
	n := 0
	for _, q := range p.primary.Queries() {
		if q == load {
			n++
		}
	}
	if n != 2 {
		t.Errorf("it was sent %d times, want 2", n)
	}
}

// TestQuickSwitchovers: a statement that is refused, held back, and refused again,
// because the node has become read-only once more since a look found it writable,
// is held back until the node stays writable.
func TestQuickSwitchovers(t *testing.T) {
	const switchovers = 3
	p := newPair(t)
	c := p.config()
	c.BufferWait, c.OnStateChange = time.Minute, nil
	r, _ := open(t, c)
	var arrived atomic.Int32
	p.primary.Inject(mysqltest.Fault{Times: -1, Match: func(sql string) bool {
		if sql == update && arrived.Add(1) <= switchovers {
			p.primary.SetReadOnly(true)
		}
		return false
	}})
	done := make(chan error, 1)
	go func() {
		_, err := r.DB().ExecContext(t.Context(), update)
		done <- err
	}()
	for i := range int32(switchovers) {
		until(t, "it is held back", func() bool { return arrived.Load() == i+1 && len(r.held) == 1 || len(done) > 0 })
		p.primary.SetReadOnly(false)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n, times := p.data.n.Load(), arrived.Load(); n != 1 || times != switchovers+1 {
		t.Errorf("done %d times, sent %d times, want once and %d times", n, times, switchovers+1)
	}
}

// TestReadsOfADemotedPrimary: the answer to the question for its position tells
// at once that it is none any more.
func TestReadsOfADemotedPrimary(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval, c.OnStateChange = time.Hour, nil
	r, _ := open(t, c)
	upReplicas(t, r, 1)
	p.primary.SetReadOnly(true)
	if err := r.DB().QueryRowContext(t.Context(), query).Scan(new(int)); !errors.Is(err, ErrNoPrimary) {
		t.Errorf("%v", err)
	}
}
