package dbrouter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	defaultMaxLag        = time.Second
	defaultCheckInterval = 500 * time.Millisecond
	defaultWaitLimit     = 100 * time.Millisecond
	defaultMaxConns      = 64
	defaultBufferMax     = 1000
	defaultMaxWaiting    = 10000
	defaultEjectAfter    = 5
	defaultEjectFor      = 10 * time.Second
	defaultSlowAfter     = time.Second
	defaultSlowStart     = 10 * time.Second
	maxWeight            = 1000
	maxNodes             = 64
	// connectLimit bounds a connection's making if the node's Timeout does not.
	connectLimit = 5 * time.Second
)

// Consistency says what a read on a replica is certain to see.
type Consistency int

const (
	// Global, the zero value: a read sees every write that was acknowledged
	// before the read began, whoever wrote it and through whatever router or
	// client. The price is one small question to the primary before a read,
	// shared by all reads that wait for it at that moment.
	Global Consistency = iota
	// Eventual: a read is served by any healthy replica within MaxLag, and may
	// miss recent writes, the caller's own among them.
	Eventual
	// PrimaryOnly: replicas are not used.
	PrimaryOnly
	// PerSession: a read sees every write of its [Session], and costs nothing
	// but a wait if no replica is known to have them. A read without a Session
	// of its own sees every write that was made through this Router.
	PerSession
)

func (c Consistency) String() string {
	switch c {
	case Global:
		return "global"
	case Eventual:
		return "eventual"
	case PrimaryOnly:
		return "primary only"
	case PerSession:
		return "per session"
	}
	return fmt.Sprintf("Consistency(%d)", int(c))
}

// Config is what a [Router] routes to. The zero value of every field but Nodes
// is usable.
type Config struct {
	// Nodes are the servers, 1 to 64. Which of them is the primary is not told
	// but found out, and followed when it changes: it is the one whose read_only
	// is 0, so every other node must have read_only=1.
	Nodes []Node
	// Consistency of reads. Zero means Global.
	Consistency Consistency
	// MaxLag is how old the data of a replica may be that is still read from, when
	// it is looked at; see [NodeStatus].Lag. Zero means 1 s.
	MaxLag time.Duration
	// CheckInterval is the time between two looks at a node. Zero means 500 ms.
	CheckInterval time.Duration
	// WaitLimit is how long a read waits for its replica to catch up before it
	// goes to the primary. Zero means 100 ms.
	WaitLimit time.Duration
	// BufferWait is how long a statement for the primary, or the beginning of a
	// transaction, is held back while there is no primary, or the one there was
	// has become read-only or cannot be reached. It goes on once a look at a node
	// has found it writable. Zero means that it fails at once; one minute is the
	// most.
	BufferWait time.Duration
	// BufferMax is how many statements are held back at a time; more fail at
	// once. Zero means 1000.
	BufferMax int
	// Zone is where this program runs: a read goes to a replica of the same zone
	// if there is one that will do. Empty means that zones do not matter.
	Zone string
	// SlowStart is how long a replica that was not used takes to its full share
	// of the reads, from a tenth, so that its caches fill. A replica that is the
	// only one gets all of them. Zero means 10 s, less than zero none.
	SlowStart time.Duration
	// EjectAfter is how many reads in a row a replica may fail, by losing their
	// connections or by not taking any, before it is ejected for EjectFor, even if
	// it answers the looks at it. Zero means 5, less than zero never.
	EjectAfter int
	// EjectFor is how long an ejected replica is not read from; it comes back with
	// a slow start. Zero means 10 s.
	EjectFor time.Duration
	// Deny are statements that are not to be done, whatever values they have in
	// them: one is refused with [ErrDenied] if its [Digest] is that of one of
	// these. It keeps a costly statement away; it is no guard against who wants to
	// get around it. Nil means none.
	Deny []string
	// OutcomeTable is a table in which [Router.Tx] leaves a row for each
	// transaction that is not read-only, and which makes it exactly-once: if the
	// answer to a COMMIT is lost, the row tells whether it was done. It must be
	//
	//	CREATE TABLE outcomes (token CHAR(32) PRIMARY KEY, committed TINYINT NOT NULL,
	//		at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP) ENGINE=InnoDB
	//
	// and rows older than any transaction lasts may be deleted. The name may have
	// a database before it. Empty means none.
	OutcomeTable string
	// TokenKeys sign the tokens of a [Session], and check them: the first signs,
	// all are accepted, so that a key can be replaced. Each has 16 bytes at least.
	// Routers with a key in common accept each other's tokens. Nil means a random
	// key of this Router's own.
	TokenKeys [][]byte
	// OnStatement, if not nil, is called after each statement with the context
	// of the caller. It must not block, and may be called concurrently.
	OnStatement func(context.Context, Statement)
	// OnSlow, if not nil, is called after each statement that took SlowAfter or
	// longer, as OnStatement is, and after it.
	OnSlow func(context.Context, Statement)
	// SlowAfter is what OnSlow takes for slow. Zero means 1 s.
	SlowAfter time.Duration
	// OnStateChange, if not nil, is called when a node's role or state changes,
	// one change at a time. It must not block, and must not call Close nor what
	// changes the nodes.
	OnStateChange func(NodeChange)
	// Logger gets changes of state, never a statement. Nil means slog.Default().
	Logger *slog.Logger
}

// Node is one server of a [Config].
type Node struct {
	// Name is used in errors, logs and hooks. Empty means Config.Addr.
	Name string
	// Config is the driver's configuration; nil is an error. It is copied.
	// RejectReadOnly is switched off, because the router needs the server's
	// reason, and the driver's default logger, which writes to standard error,
	// is silenced. Net must be tcp, tcp4, tcp6 or unix unless DialFunc is set.
	Config *mysql.Config
	// MaxConns bounds the connections for statements. Zero means 64. A statement
	// that finds all in use waits for one until its context ends; see MaxWaiting. A sql.Conn
	// that is checked out keeps the last one of each role. The router has up
	// to four more connections per node, for what it asks itself.
	MaxConns int
	// MaxWaiting bounds the statements that wait for a connection; more of them
	// fail at once with [ErrBusy], or, if they are reads, go to another node. Zero
	// means 10000.
	MaxWaiting int
	// Weight is the node's share of the reads, compared with other replicas that
	// are as fast. Zero means 1; 1000 is the most.
	Weight int
	// Zone is where the node is; see Config.Zone. Empty means in none.
	Zone string
	// Statements is how many statements each connection keeps prepared, so that
	// arguments cost one round trip rather than two. Zero means 32, less than zero
	// none. It does not matter with the driver's InterpolateParams.
	Statements int
}

// check fills in the defaults and copies what it keeps.
func (c Config) check() (Config, error) {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("dbrouter: "+format, args...))
	}
	if len(c.Nodes) == 0 || len(c.Nodes) > maxNodes {
		bad("Config.Nodes has %d nodes, want 1 to %d", len(c.Nodes), maxNodes)
		return c, errors.Join(errs...)
	}
	if c.Consistency < Global || c.Consistency > PerSession {
		bad("Config.Consistency is %d, want Global, Eventual, PrimaryOnly or PerSession", int(c.Consistency))
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
		least    time.Duration
	}{
		{"MaxLag", &c.MaxLag, defaultMaxLag, 0},
		{"CheckInterval", &c.CheckInterval, defaultCheckInterval, time.Millisecond},
		{"WaitLimit", &c.WaitLimit, defaultWaitLimit, time.Millisecond},
		{"EjectFor", &c.EjectFor, defaultEjectFor, time.Millisecond},
		{"SlowAfter", &c.SlowAfter, defaultSlowAfter, 0},
	} {
		switch {
		case *d.value == 0:
			*d.value = d.standard
		case *d.value < d.least || *d.value > time.Hour:
			bad("Config.%s is %v, want %v to 1h", d.name, *d.value, d.least)
		}
	}
	if c.BufferWait < 0 || c.BufferWait > time.Minute {
		bad("Config.BufferWait is %v, want 0 to 1m", c.BufferWait)
	}
	switch {
	case c.SlowStart == 0:
		c.SlowStart = defaultSlowStart
	case c.SlowStart > time.Hour:
		bad("Config.SlowStart is %v, want 1h at most", c.SlowStart)
	}
	if c.BufferMax == 0 {
		c.BufferMax = defaultBufferMax
	}
	if c.BufferMax < 0 || c.BufferMax > 1<<20 {
		bad("Config.BufferMax is %d, want 0 to 1048576", c.BufferMax)
		c.BufferMax = 0
	}
	if c.OutcomeTable != "" {
		if err := tableName(c.OutcomeTable); err != nil {
			errs = append(errs, err)
		}
	}
	if c.EjectAfter == 0 {
		c.EjectAfter = defaultEjectAfter
	}
	c.Deny = slices.Clone(c.Deny)
	for i, d := range c.Deny {
		if digest := Digest(d); digest == "" || strings.HasSuffix(digest, "…") {
			bad("Config.Deny[%d] is %q, want a statement that can be read without a server", i, d)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	keys, err := tokenKeys(c.TokenKeys)
	if err != nil {
		errs = append(errs, err)
	}
	c.TokenKeys = keys
	nodes := make([]Node, len(c.Nodes))
	names := make(map[string]bool)
	addrs := make(map[string]bool)
	for i, n := range c.Nodes {
		checked, err := n.check()
		if err != nil {
			bad("Config.Nodes[%d]: %w", i, err)
			continue
		}
		if names[checked.Name] {
			bad("Config.Nodes[%d].Name is %q, which another node has", i, checked.Name)
		}
		if addrs[checked.Config.Net+" "+checked.Config.Addr] && n.Config.DialFunc == nil {
			bad("Config.Nodes[%d].Config.Addr is %s, which another node has", i, checked.Config.Addr)
		}
		names[checked.Name], addrs[checked.Config.Net+" "+checked.Config.Addr] = true, true
		nodes[i] = checked
	}
	c.Nodes = nodes
	return c, errors.Join(errs...)
}

func (n Node) check() (Node, error) {
	if n.Config == nil {
		return n, errors.New("Config is nil, want the driver's configuration")
	}
	if n.MaxConns < 0 || n.MaxConns > 1<<16 {
		return n, fmt.Errorf("MaxConns is %d, want 0 to 65536", n.MaxConns)
	}
	if n.MaxConns == 0 {
		n.MaxConns = defaultMaxConns
	}
	if n.MaxWaiting < 0 || n.MaxWaiting > 1<<20 {
		return n, fmt.Errorf("field MaxWaiting is %d, want 0 to 1048576", n.MaxWaiting)
	}
	if n.MaxWaiting == 0 {
		n.MaxWaiting = defaultMaxWaiting
	}
	if n.Weight < 0 || n.Weight > maxWeight {
		return n, fmt.Errorf("field Weight is %d, want 0 to %d", n.Weight, maxWeight)
	}
	if n.Weight == 0 {
		n.Weight = 1
	}
	if n.Statements > 1<<14 {
		return n, fmt.Errorf("field Statements is %d, want 16384 at most", n.Statements)
	}
	if n.Statements == 0 {
		n.Statements = defaultStatements
	}
	conf := n.Config.Clone()
	if conf.Net == "" {
		conf.Net = "tcp"
	}
	conf.RejectReadOnly = false
	if conf.Logger == nil || conf.Logger == mysql.NewConfig().Logger {
		conf.Logger = &mysql.NopLogger{}
	}
	if conf.Timeout <= 0 {
		conf.Timeout = connectLimit
	}
	if conf.DialFunc == nil {
		switch conf.Net {
		case "tcp", "tcp4", "tcp6", "unix":
		default:
			return n, fmt.Errorf("Config.Net is %q, want tcp, tcp4, tcp6 or unix, or a DialFunc", conf.Net)
		}
	}
	// NewConnector checks and completes its own copy; the address shown is the
	// completed one.
	if conf.Addr == "" {
		switch conf.Net {
		case "unix":
			conf.Addr = "/tmp/mysql.sock"
		default:
			conf.Addr = "127.0.0.1:3306"
		}
	}
	if n.Name == "" {
		n.Name = conf.Addr
	}
	if conf.Net == "tcp" {
		conf.Addr = withPort(conf.Addr)
	}
	n.Config = conf
	if _, err := mysql.NewConnector(conf); err != nil {
		return n, fmt.Errorf("Config: %w", err)
	}
	own, err := ownTLS(conf)
	if err != nil {
		return n, fmt.Errorf("Config: %w", err)
	}
	conf.DialFunc = trackedDial(conf.DialFunc, conf.Net, own)
	if own != nil {
		// The driver must not encrypt a second time, and take the connection for
		// one that is safe for a password.
		conf.TLS, conf.TLSConfig, conf.Net = nil, "", "unix"
	}
	return n, nil
}

// withPort completes an address the way the driver does.
func withPort(addr string) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	return net.JoinHostPort(strings.Trim(addr, "[]"), "3306")
}
