package dbrouter

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// TestExplainModes: what is said in each mode, and of what is denied.
func TestExplainModes(t *testing.T) {
	for consistency, want := range map[Consistency]string{
		Global:      "read → replica b: SELECT; sees every write acknowledged before it",
		Eventual:    "read → replica b: SELECT; sees what is older than 1s",
		PrimaryOnly: "read → primary a: replicas are not used; sees everything",
	} {
		r, _ := watched(t, Config{Consistency: consistency, Deny: []string{"DELETE FROM t"}}, "a", "b")
		r.monitor.publish(r.nodes()[0], sawPrimary)
		r.monitor.publish(r.nodes()[1], sawReplica)
		if got := r.Explain(t.Context(), query).String(); got != want {
			t.Errorf("%v: %s\nwant %s", consistency, got, want)
		}
		if got, want := r.Explain(t.Context(), "delete from t").String(), "write → primary (there is none): Config.Deny forbids it"; got != want {
			t.Errorf("%v: %s\nwant %s", consistency, got, want)
		}
		r.nodes()[1].latency.observe(5 * time.Millisecond)
		if s := r.Status(); s[0].Latency != 0 || s[1].Latency != 5*time.Millisecond {
			t.Errorf("%+v", s)
		}
	}
}

// TestNodeIndexes: no two nodes have the same, there are no more than 64, and what
// one has left another gets.
func TestNodeIndexes(t *testing.T) {
	nobody := func(name string) Node {
		c := conf("nobody:1")
		c.Net = "mine"
		c.DialFunc = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody") }
		return Node{Name: name, Config: c}
	}
	r, _ := newRouter(t, Config{Nodes: []Node{nobody("first")}, CheckInterval: time.Hour})
	for i := 1; i < maxNodes; i++ {
		if err := r.AddNode(nobody(fmt.Sprint(i))); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := r.AddNode(nobody("one more")); !errors.Is(err, ErrNode) {
		t.Errorf("one more than there may be: %v", err)
	}
	for _, name := range []string{"7", "first"} {
		if err := r.RemoveNode(name); err != nil {
			t.Error(err)
		}
		if err := r.AddNode(nobody("again " + name)); err != nil {
			t.Error(err)
		}
	}
	var all []int
	for _, n := range r.nodes() {
		all = append(all, n.index)
	}
	slices.Sort(all)
	if all = slices.Compact(all); len(all) != maxNodes || all[maxNodes-1] != maxNodes-1 {
		t.Errorf("the indexes are %v", all)
	}
}

// TestCloseCutsWhatIsLeftOfANode: the connections of a removed one in use, too.
func TestCloseCutsWhatIsLeftOfANode(t *testing.T) {
	p := newPair(t)
	r, _ := open(t, p.config())
	upReplicas(t, r, 1)
	conn, err := r.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rows, err := conn.(driver.QueryerContext).QueryContext(t.Context(), query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveNode("db2"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // more nodes that come and go
		if err := errors.Join(r.AddNode(Node{Name: "db3", Config: conf("127.0.0.1:1")}), r.RemoveNode("db3")); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "one is left", func() bool { return p.replica.Connections() == 1 })
	r.Close()
	until(t, "none is left", func() bool { return p.replica.Connections() == 0 })
	rows.Close()
	conn.Close()
}

// TestBuilt: what the configuration says gets to where it counts.
func TestBuilt(t *testing.T) {
	r, err := build(Config{Nodes: []Node{{Config: fakeConf(), Zone: "east"}}, Zone: "east", BufferMax: 7})
	if err != nil {
		t.Fatal(err)
	}
	if s := r.Status()[0]; s.Zone != "east" || s.LastError != "not looked at yet" || s.State != StateUnknown {
		t.Errorf("%+v", s)
	}
	if r.balance.zone != "east" || r.nodes()[0].zone != "east" || cap(r.held) != 7 {
		t.Errorf("zones %q and %q, %d are held back", r.balance.zone, r.nodes()[0].zone, cap(r.held))
	}
	var conns []*sql.Conn
	for range 5 {
		c, err := r.DB().Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for _, c := range conns {
		c.Close()
	}
	if n := r.DB().Stats().Idle; n != len(conns) {
		t.Errorf("%d of %d driver connections are kept", n, len(conns))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Connect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context: %v", err)
	}
	r.Close()
	if _, err := r.Connect(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestOnSlowAlone: it is told without OnStatement, too.
func TestOnSlowAlone(t *testing.T) {
	p := newPair(t)
	var told atomic.Int32
	conf := p.config()
	conf.SlowAfter, conf.OnSlow = 1, func(_ context.Context, s Statement) {
		if s.SQL == query && s.Duration > 0 {
			told.Add(1)
		}
	}
	conf.OnStateChange = nil
	conf.Logger = slog.New(slog.DiscardHandler)
	r, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	one[int](t, r.DB(), query)
	if told.Load() != 1 {
		t.Errorf("told %d times", told.Load())
	}
}

// TestCloseWaits: nothing that the Router began goes on after Close.
func TestCloseWaits(t *testing.T) {
	dialing := make(chan struct{})
	var ended atomic.Bool
	c := conf("nobody:1")
	c.Net = "mine"
	var once sync.Once
	c.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		once.Do(func() { close(dialing) })
		<-ctx.Done()
		time.Sleep(20 * time.Millisecond)
		ended.Store(true)
		return nil, ctx.Err()
	}
	r, _ := newRouter(t, Config{Nodes: []Node{{Name: "a", Config: c}}})
	<-dialing
	if r.Close(); !ended.Load() {
		t.Error("a look at a node goes on after Close")
	}
}

// TestStatementsAreClosed: what is not kept prepared, after its rows.
func TestStatementsAreClosed(t *testing.T) {
	r, _ := watched(t, Config{Consistency: PrimaryOnly}, "a")
	n := r.nodes()[0]
	server := &preparing{full: 100, open: make(map[string]int)}
	n.pool.stmts = -1
	n.pool.open = func(context.Context) (driver.Conn, *tracker, error) { return server, nil, nil }
	r.monitor.publish(n, sawPrimary)
	for range 3 {
		rows, err := r.DB().QueryContext(t.Context(), "SELECT ?", 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(server.open) != 1 {
			t.Errorf("%d statements during the rows", len(server.open))
		}
		rows.Close()
		mustExec(t, r.DB(), "UPDATE t SET a = ?", 1)
		if len(server.open) != 0 {
			t.Errorf("left prepared: %v", server.open)
		}
	}
}

// TestLink: the router's own connection is made anew once if it turns out to be
// broken, and kept after an error of the server's.
func TestLink(t *testing.T) {
	var open atomic.Int32
	l := &link{node: &node{pool: &pool{open: countedOpen(&open)}}}
	defer l.close()
	fail := func(errs ...error) (calls int, err error) {
		err = l.do(t.Context(), time.Minute, func(context.Context, driver.Conn) error {
			calls++
			return errs[min(calls, len(errs))-1]
		})
		return calls, err
	}
	broken, refused := errors.New("broken"), &mysql.MySQLError{Number: 1227}
	for _, c := range []struct {
		about string
		errs  []error
		calls int
		is    error
		open  int32
	}{
		{"broken at once", []error{broken}, 1, broken, 0},
		{"sound", []error{nil}, 1, nil, 1},
		{"refused", []error{refused}, 1, refused, 1},
		{"broken since", []error{broken, nil}, 2, nil, 1},
		{"broken for good", []error{broken}, 2, broken, 0},
	} {
		if calls, err := fail(c.errs...); calls != c.calls || err != c.is || open.Load() != c.open {
			t.Errorf("%s: asked %d times, %v, %d open", c.about, calls, err, open.Load())
		}
	}
}
