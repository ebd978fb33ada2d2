package dbrouter

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestAddAndRemoveNode(t *testing.T) {
	p := newPair(t)
	conf := p.config()
	second := conf.Nodes[1]
	conf.Nodes = conf.Nodes[:1]
	r, rec := open(t, conf)
	if one[int](t, r.DB(), "SELECT n FROM t"); rec.last(t).Node != "db1" {
		t.Errorf("%+v", rec.last(t))
	}
	if err := r.AddNode(Node{Name: "db3"}); err == nil || errors.Is(err, ErrNode) {
		t.Errorf("a node without Config: %v", err)
	}
	if err := r.AddNode(second); err != nil {
		t.Fatal(err)
	}
	upReplicas(t, r, 1)
	if r.nodes()[1].warmSince.Load() == 0 {
		t.Error("no slow start")
	}
	if one[int](t, r.DB(), "SELECT n FROM t"); rec.last(t).Node != "db2" {
		t.Errorf("%+v", rec.last(t))
	}
	elsewhere := fakeConf()
	for about, n := range map[string]Node{"its name alone": {Name: "db2", Config: elsewhere}, "its name": {Name: "db2", Config: p.primary.Config()}, "its address": {Name: "db3", Config: p.replica.Config()}} {
		if err := r.AddNode(n); !errors.Is(err, ErrNode) {
			t.Errorf("%s twice: %v", about, err)
		}
	}
	if err := r.RemoveNode("db3"); !errors.Is(err, ErrNode) {
		t.Errorf("a node that is not there: %v", err)
	}
	rows, err := r.DB().QueryContext(t.Context(), "SELECT n FROM t")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveNode("db2"); err != nil {
		t.Fatal(err)
	}
	if n := len(r.Status()); n != 1 {
		t.Errorf("%d nodes", n)
	}
	until(t, "all but the connection in use are closed", func() bool { return p.replica.Connections() == 1 })
	if !rows.Next() {
		t.Errorf("the rows of a removed node: %v", rows.Err())
	}
	rows.Close()
	until(t, "the last connection is closed", func() bool { return p.replica.Connections() == 0 })
	if one[int](t, r.DB(), "SELECT n FROM t"); rec.last(t).Node != "db1" {
		t.Errorf("%+v", rec.last(t))
	}
	if err := r.RemoveNode("db1"); !errors.Is(err, ErrNode) {
		t.Errorf("the last node: %v", err)
	}
	if err := r.AddNode(second); err != nil {
		t.Fatal(err)
	}
	upReplicas(t, r, 1)
	r.Close()
	for _, err := range []error{r.AddNode(second), r.RemoveNode("db2"), r.Drain("db2")} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// TestRemovePrimary: its successor takes the writes.
func TestRemovePrimary(t *testing.T) {
	p := newPair(t)
	conf := p.config()
	conf.BufferWait = 10 * time.Second
	r, rec := open(t, conf)
	upReplicas(t, r, 1)
	if err := r.RemoveNode("db1"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := r.DB().ExecContext(context.WithoutCancel(t.Context()), "UPDATE t SET n = n + 1")
		done <- err
	}()
	until(t, "the write is held back", func() bool { return len(r.held) == 1 })
	p.replica.SetReadOnly(false)
	if err := <-done; err != nil || rec.last(t).Node != "db2" {
		t.Errorf("%v, %+v", err, rec.last(t))
	}
}

func TestDrain(t *testing.T) {
	p := newPair(t)
	conf := p.config()
	conf.BufferWait = 10 * time.Second
	r, rec := open(t, conf)
	upReplicas(t, r, 1)
	rows, err := r.DB().QueryContext(t.Context(), "SELECT n FROM t")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Drain("db2"); err != nil {
		t.Fatal(err)
	}
	if s := r.Status()[1]; s.State != Draining || s.Role != Replica || s.Connections != 1 {
		t.Errorf("%+v", s)
	}
	if one[int](t, r.DB(), "SELECT n FROM t"); rec.last(t).Node != "db1" {
		t.Errorf("%+v", rec.last(t))
	}
	if !rows.Next() {
		t.Errorf("the rows of a drained node: %v", rows.Err())
	}
	rows.Close()
	if s := r.Status()[1]; s.Connections != 0 {
		t.Errorf("a connection of a drained node is kept: %+v", s)
	}
	if err := r.Resume("db2"); err != nil {
		t.Fatal(err)
	}
	if one[int](t, r.DB(), "SELECT n FROM t"); rec.last(t).Node != "db2" {
		t.Errorf("%+v", rec.last(t))
	}
	if r.nodes()[1].warmSince.Load() == 0 {
		t.Error("no slow start after Resume")
	}

	// A switchover: what comes in between is held back, reads as well.
	if err := r.Drain("db1"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() {
		_, err := r.DB().ExecContext(context.WithoutCancel(t.Context()), "UPDATE t SET n = n + 1")
		done <- err
	}()
	go func() {
		var n int
		done <- r.DB().QueryRowContext(context.WithoutCancel(t.Context()), "SELECT n FROM t").Scan(&n)
	}()
	until(t, "both are held back", func() bool { return len(r.held) == 2 })
	p.primary.SetReadOnly(true)
	p.replica.SetReadOnly(false)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := r.monitor.now.Load().primary.name; got != "db2" {
		t.Errorf("the primary is %s", got)
	}
}
