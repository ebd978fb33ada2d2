package dbrouter

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestCommentHint(t *testing.T) {
	for sql, want := range map[string]hintKind{
		"SELECT 1":                         noHint,
		"/* dbrouter: primary */ SELECT 1": hintPrimary,
		"/*dbrouter:primary*/SELECT 1":     hintPrimary,
		" \n/* traceparent=1 */ /*dbrouter: replica*/ SELECT 1": hintReplica,
		"/* dbrouter: other */ SELECT 1":                        noHint,
		"/* my dbrouter: primary */ SELECT 1":                   noHint,
		"SELECT 1 /* dbrouter: primary */":                      noHint,
		"SELECT '/* dbrouter: primary */'":                      noHint,
		"/* dbrouter: primary":                                  noHint,
		strings.Repeat("/**/", 9) + "/*dbrouter:primary*/":      noHint,
	} {
		if got := commentHint(sql); got != want {
			t.Errorf("%q: %v, want %v", sql, got, want)
		}
	}
	primary, replica := WithPrimary(t.Context()), WithReplica(t.Context(), time.Second)
	if h := asks(primary).hinted(hintReplica); h.kind != hintPrimary {
		t.Errorf("%+v", h)
	}
	if h := asks(replica).hinted(hintPrimary); h.kind != hintPrimary {
		t.Errorf("%+v", h)
	}
	if h := asks(replica).hinted(noHint); h != (hint{hintReplica, time.Second}) {
		t.Errorf("%+v", h)
	}
	if h := asks(WithReplica(t.Context(), -time.Second)).hinted(noHint); h != (hint{kind: hintReplica}) {
		t.Errorf("a negative limit: %+v", h)
	}
}

// TestHints: a hint changes how fresh a read is, never where a write goes.
func TestHints(t *testing.T) {
	p := newPair(t)
	c := p.config()
	c.CheckInterval, c.WaitLimit = time.Hour, 10*time.Millisecond
	r, rec := open(t, c)
	upReplicas(t, r, 1)
	p.replica.SetLag(time.Hour)
	mustExec(t, r.DB(), update)
	if n := one[int](t, r.DB(), query); n != 1 || rec.last(t).Role != Primary {
		t.Errorf("%d, %+v", n, rec.last(t))
	}
	if n := oneIn[int](t, WithReplica(t.Context(), 0), r.DB(), query); n != 0 || rec.last(t).Role != Replica {
		t.Errorf("WithReplica: %d, %+v", n, rec.last(t))
	}
	if n := one[int](t, r.DB(), "/* dbrouter: replica */ "+query); n != 0 || rec.last(t).Role != Replica {
		t.Errorf("comment: %d, %+v", n, rec.last(t))
	}
	if n := one[int](t, r.DB(), "/* dbrouter: primary */ "+query); n != 1 || rec.last(t).Reason != "WithPrimary" {
		t.Errorf("comment: %d, %+v", n, rec.last(t))
	}
	mustExecIn(t, WithReplica(t.Context(), 0), r.DB(), update)
	if rec.last(t).Role != Primary {
		t.Errorf("%+v", rec.last(t))
	}
}

// TestWishesAdd: one wish of a context is no end to another.
func TestWishesAdd(t *testing.T) {
	r := new(Router)
	begin, s := r.NewSession(t.Context())
	for about, ctx := range map[string]context.Context{"WithPrimary": WithPrimary(begin), "WithReplica": WithReplica(begin, 0)} {
		if r.session(asks(ctx)) != s {
			t.Errorf("%s ends the session", about)
		}
	}
	ctx, s := r.NewSession(WithPrimary(t.Context()))
	if h := asks(ctx).hinted(noHint); h.kind != hintPrimary || r.session(asks(ctx)) != s {
		t.Errorf("NewSession ends WithPrimary: %+v", h)
	}
	if asks(begin).hint.kind != noHint {
		t.Error("a wish is in the context that it was added to")
	}
}

func TestWithin(t *testing.T) {
	a, b, c := &node{index: 0}, &node{index: 1}, &node{index: 2}
	s := &snapshot{replicas: []*node{a, b, c}, nodes: []*node{a, b, c}, statuses: []NodeStatus{
		{LagKnown: true}, {LagKnown: true, Lag: 2 * time.Second}, {}}}
	for _, c := range []struct {
		h    hint
		want int
	}{{hint{}, 3}, {hint{kind: hintReplica}, 3}, {hint{hintReplica, time.Second}, 1}, {hint{hintReplica, 2 * time.Second}, 2}} {
		if got := s.within(c.h); len(got) != c.want {
			t.Errorf("%+v: %d replicas, want %d", c.h, len(got), c.want)
		}
	}
}

func TestExplain(t *testing.T) {
	p := newPair(t)
	c := p.perSession()
	r, _ := newRouter(t, c)
	if got := r.Explain(t.Context(), update).String(); !strings.Contains(got, "primary (there is none): changes data") && !strings.Contains(got, "primary db1") {
		t.Error(got)
	}
	until(t, "all is known", func() bool { return r.monitor.now.Load().primary != nil && len(r.monitor.now.Load().replicas) == 1 })
	mine, _ := r.NewSession(t.Context())
	for _, c := range []struct{ got, want string }{
		{r.Explain(t.Context(), update).String(), "write → primary db1: changes data"},
		{r.Explain(t.Context(), query).String(), "read → replica db2: SELECT; sees every write made through this router"},
		{r.Explain(mine, query).String(), "read → replica db2: SELECT; sees every write of its session"},
		{r.Explain(WithReplica(mine, 0), query).String(), "read → replica db2: SELECT; sees what is older than 1s"},
		{r.Explain(WithReplica(mine, time.Hour), query).String(), "read → replica db2: SELECT; sees what is older than 1s"},
		{r.Explain(WithReplica(mine, 900*time.Millisecond), query).See, "what is older than 900ms"},
		{r.Explain(WithPrimary(mine), query).String(), "read → primary db1: asked for; sees everything"},
		{r.Explain(mine, "SELECT FOUND_ROWS()").String(), "same → primary db1: about the previous statement, so on the connection of that one"},
		{r.Explain(mine, "SET @a = 1").String(), "pin → primary db1: may change the session"},
	} {
		if c.got != c.want {
			t.Errorf("%s\nwant %s", c.got, c.want)
		}
	}
	p.replica.StopIO()
	r.nodes()[1].lookNow()
	upReplicas(t, r, 0)
	if got, want := r.Explain(mine, query).String(), "read → primary db1: SELECT, but no replica is usable; sees every write of its session"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
