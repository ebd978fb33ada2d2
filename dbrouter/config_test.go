package dbrouter

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

func conf(addr string) *mysql.Config {
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.Passwd = "tcp", addr, "app", "hunter2"
	return c
}

func TestConfigMistakes(t *testing.T) {
	pipe := conf("x")
	pipe.Net = "pipe"
	_, err := New(Config{
		Nodes: []Node{
			{},
			{Name: "a", Config: conf("127.0.0.1:1")},
			{Name: "a", Config: conf("127.0.0.1:1")},
			{Config: pipe},
			{Config: conf("127.0.0.1:2"), MaxConns: -1},
		},
		Consistency:   7,
		MaxLag:        -time.Second,
		CheckInterval: time.Microsecond,
		WaitLimit:     2 * time.Hour,
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"Nodes[0]: Config is nil", `Nodes[2].Name is "a"`, "Nodes[2].Config.Addr is 127.0.0.1:1", `Nodes[3]: Config.Net is "pipe"`,
		"Nodes[4]: MaxConns is -1", "Consistency is 7", "MaxLag is -1s", "CheckInterval is 1µs", "WaitLimit is 2h",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error tells a password: %v", err)
	}
	for _, c := range []Config{{}, {Nodes: make([]Node, 65)}} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), "want 1 to 64") {
			t.Errorf("%d nodes: %v", len(c.Nodes), err)
		}
	}
}

// TestConfigBounds: what is out of its bounds is refused, with the value found.
func TestConfigBounds(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*Config)
	}{
		{"", func(*Config) {}},
		{"MaxLag is 1h0m1s, want 0s to 1h", func(c *Config) { c.MaxLag = time.Hour + time.Second }},
		{"EjectFor is 1µs", func(c *Config) { c.EjectFor = time.Microsecond }},
		{"SlowAfter is -1s", func(c *Config) { c.SlowAfter = -time.Second }},
		{"BufferWait is 1m1s", func(c *Config) { c.BufferWait = time.Minute + time.Second }},
		{"", func(c *Config) { c.BufferWait = time.Minute }},
		{"BufferMax is -1", func(c *Config) { c.BufferMax = -1 }},
		{"BufferMax is 1048577", func(c *Config) { c.BufferMax = 1<<20 + 1 }},
		{"SlowStart is 1h0m1s", func(c *Config) { c.SlowStart = time.Hour + time.Second }},
		{"", func(c *Config) { c.SlowStart = -1 }},
		{`Config.Net is "udp"`, func(c *Config) { c.Nodes[0].Config.Net = "udp" }},
		{"Nodes[1].Config.Addr is 127.0.0.1:1, which another node has", func(c *Config) { c.Nodes = append(c.Nodes, Node{Name: "b", Config: conf("127.0.0.1:1")}) }},
		{"", func(c *Config) { // it may lead elsewhere
			c.Nodes = append(c.Nodes, Node{Name: "b", Config: conf("127.0.0.1:1")})
			c.Nodes[1].Config.DialFunc = func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
		}},
		{"Weight is -1", func(c *Config) { c.Nodes[0].Weight = -1 }},
		{"Weight is 1001", func(c *Config) { c.Nodes[0].Weight = 1001 }},
		{"MaxConns is 65537", func(c *Config) { c.Nodes[0].MaxConns = 1<<16 + 1 }},
		{"MaxWaiting is -1", func(c *Config) { c.Nodes[0].MaxWaiting = -1 }},
		{"MaxWaiting is 1048577", func(c *Config) { c.Nodes[0].MaxWaiting = 1<<20 + 1 }},
		{"Statements is 16385", func(c *Config) { c.Nodes[0].Statements = 1<<14 + 1 }},
		{"", func(c *Config) { c.Nodes[0].Statements = -1 }},
		{`OutcomeTable is "a b"`, func(c *Config) { c.OutcomeTable = "a b" }},
		{`Deny[1] is ""`, func(c *Config) { c.Deny = []string{"SELECT 1", ""} }},
	} {
		conf := Config{Nodes: []Node{{Config: conf("127.0.0.1:1")}}}
		c.change(&conf)
		_, err := conf.check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// TestConfigDefaults are those that the fields document.
func TestConfigDefaults(t *testing.T) {
	c, err := Config{Nodes: []Node{{Config: conf("db")}, {Config: conf("db2")}}}.check()
	if err != nil {
		t.Fatal(err)
	}
	if c.MaxLag != time.Second || c.CheckInterval != 500*time.Millisecond || c.WaitLimit != 100*time.Millisecond || c.BufferWait != 0 || c.BufferMax != 1000 ||
		c.SlowStart != 10*time.Second || c.EjectAfter != 5 || c.EjectFor != 10*time.Second || c.SlowAfter != time.Second || len(c.TokenKeys) != 1 || len(c.TokenKeys[0]) < minKey {
		t.Errorf("%+v", c)
	}
	n := c.Nodes[0]
	if n.MaxConns != 64 || n.MaxWaiting != 10000 || n.Weight != 1 || n.Statements != 32 || n.Config.Addr != "db:3306" || n.Config.Timeout != 5*time.Second {
		t.Errorf("%+v, %+v", n, n.Config)
	}
	if again, err := (Config{Nodes: c.Nodes[:1]}).check(); err != nil || string(again.TokenKeys[0]) == string(c.TokenKeys[0]) {
		t.Errorf("two routers have the same random key, %v", err)
	}
	// Less than zero means none of it, not the default.
	none, err := Config{Nodes: []Node{{Config: conf("db"), Statements: -1}}, SlowStart: -1, EjectAfter: -1}.check()
	if err != nil || none.SlowStart >= 0 || none.EjectAfter >= 0 || none.Nodes[0].Statements >= 0 {
		t.Errorf("%+v, %v", none, err)
	}
	// What the caller changes afterwards changes nothing.
	mine := Config{Nodes: []Node{{Config: conf("db")}}, Deny: []string{"SELECT 1"}}
	if c, err = mine.check(); err != nil {
		t.Fatal(err)
	}
	mine.Deny[0], mine.Nodes[0].Config.Addr = "", "elsewhere"
	if c.Deny[0] != "SELECT 1" || c.Nodes[0].Config.Addr != "db:3306" {
		t.Errorf("%+v", c)
	}
}

func TestWithPort(t *testing.T) {
	for addr, want := range map[string]string{"db": "db:3306", "db:1": "db:1", "::1": "[::1]:3306", "[::1]": "[::1]:3306", "[::1]:1": "[::1]:1"} {
		if got := withPort(addr); got != want {
			t.Errorf("%s became %s, want %s", addr, got, want)
		}
	}
}

func fakeConf() *mysql.Config { return conf("127.0.0.1:3306") }

func TestConfigIsCopied(t *testing.T) {
	mine := conf("")
	mine.RejectReadOnly = true
	c, err := Config{Nodes: []Node{{Config: mine}}}.check()
	if err != nil {
		t.Fatal(err)
	}
	n := c.Nodes[0]
	if _, silent := n.Config.Logger.(*mysql.NopLogger); !silent {
		t.Errorf("the driver logs by %T", n.Config.Logger)
	}
	if n.Name != "127.0.0.1:3306" || n.MaxConns != 64 || c.MaxLag != time.Second || c.CheckInterval != 500*time.Millisecond || c.WaitLimit != 100*time.Millisecond || c.Logger == nil {
		t.Errorf("defaults: %+v", c)
	}
	if n.Config.RejectReadOnly || !mine.RejectReadOnly || mine.DialFunc != nil || n.Config == mine {
		t.Error("the caller's configuration is not left alone")
	}
}

func TestNothingAnswers(t *testing.T) {
	dialed := errors.New("no route")
	c := conf("db:1")
	c.Net = "mine"
	c.DialFunc = func(context.Context, string, string) (net.Conn, error) { return nil, dialed }
	r, _ := newRouter(t, Config{Nodes: []Node{{Name: "a", Config: c}}})
	until(t, "it is down", func() bool { return r.Status()[0].State == Down })
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errors.New("impatient"))
	defer cancel()
	err := r.Ready(ctx)
	if !errors.Is(err, ErrNoPrimary) || !strings.Contains(err.Error(), "node a: down: no route") || !strings.Contains(err.Error(), "impatient") {
		t.Errorf("%v", err)
	}
	if e, ok := errors.AsType[*NodeError](err); !ok || e.Node != "a" {
		t.Errorf("%v", err)
	}
	if _, err := r.DB().ExecContext(t.Context(), "DELETE FROM t"); !errors.Is(err, ErrNoPrimary) {
		t.Errorf("%v", err)
	}
	if err := r.DB().PingContext(t.Context()); !errors.Is(err, ErrNoPrimary) {
		t.Errorf("%v", err)
	}
	text, err := json.Marshal(r.Status())
	if err != nil || string(text) != `[{"name":"a","addr":"db:1","role":"unknown","state":"down","lag":0,"lag_known":false,"last_error":"no route","connections":0}]` {
		t.Errorf("%s, %v", text, err)
	}
	r.Close()
	if err := r.Ready(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Ready after Close: %v", err)
	}
	if _, err := r.Driver().Open("x"); err == nil {
		t.Error("the driver opens something")
	}
}

func TestStrings(t *testing.T) {
	for want, got := range map[string]string{
		"global": Global.String(), "eventual": Eventual.String(), "primary only": PrimaryOnly.String(), "Consistency(9)": Consistency(9).String(),
		"primary": Primary.String(), "replica": Replica.String(), "unknown": RoleUnknown.String(),
		"up": Up.String(), "lagging": Lagging.String(), "stopped": Stopped.String(), "conflict": Conflict.String(), "down": Down.String(),
		"read": Read.String(), "same": Same.String(), "write": Write.String(), "pin": Pin.String(),
		"a: unknown down → primary up":      NodeChange{Node: "a", OldState: Down, Role: Primary, State: Up}.String(),
		"a: primary up → unknown down: why": NodeChange{Node: "a", OldRole: Primary, OldState: Up, State: Down, Reason: "why"}.String(),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
