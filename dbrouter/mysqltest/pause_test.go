package mysqltest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

func TestPause(t *testing.T) {
	data := newStore()
	s := start(t, Config{Handler: data})
	old := pinned(t, s)
	s.Pause()
	s.Pause()
	silent := func(f func(context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := f(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a silent server answered: %v", err)
		}
	}
	silent(open(t, s).PingContext)
	silent(old.PingContext)
	waiting := make(chan error)
	db := open(t, s)
	go func() {
		_, err := db.ExecContext(t.Context(), insert, "a", "1")
		waiting <- err
	}()
	silent(open(t, s).PingContext)
	if len(data.state()) != 0 {
		t.Error("a statement ran during the pause")
	}
	s.Resume()
	s.Resume()
	if err := <-waiting; err != nil || data.state()["a"] != "1" {
		t.Errorf("after the pause: %v, rows %v", err, data.state())
	}

	// An answer that was on its way is kept back, and its effect stands.
	ready, wait := make(chan struct{}), make(chan struct{})
	held := start(t, Config{Handler: HandlerFunc(func(context.Context, Query) (Result, error) {
		close(ready)
		<-wait
		return Result{}, nil
	})})
	db = open(t, held)
	go func() {
		_, err := db.ExecContext(t.Context(), "DELETE FROM t")
		waiting <- err
	}()
	<-ready
	held.Pause()
	close(wait)
	eventually(t, "the write", func() bool { return held.Position() != "" })
	select {
	case err := <-waiting:
		t.Errorf("answered during the pause: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	held.Kill()
	if err := <-waiting; !errors.Is(err, mysql.ErrInvalidConn) {
		t.Errorf("after the kill: %v", err)
	}
	if err := held.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := db.PingContext(t.Context()); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}
