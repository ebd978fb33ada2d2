// Package mariadb starts real MariaDB servers, a primary and its replicas, as
// child processes on loopback: for tests that need a real server and for
// programs that want to show one. It takes about a second.
//
//	cluster, err := mariadb.Start(ctx, mariadb.Config{Database: "notes", Replicas: 1})
//	if err != nil { … }
//	defer cluster.Close()
//	db, err := sql.Open("mysql", cluster.Nodes()[0].AppConfig().FormatDSN())
//
// The programs mariadbd and mariadb-install-db must be on PATH or in /usr/sbin;
// [Available] says whether they are. MariaDB 10.6 and later are expected.
//
// Replication is asynchronous, by GTID, in row format. Durability is off: the
// servers survive the end of their process, not a power cut, and are not meant
// to hold anything that matters.
package mariadb

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
)

// Config says what to start. Its zero value starts a single primary.
type Config struct {
	// Dir is an existing folder for the data. Empty means a temporary one, which
	// Close removes.
	Dir string
	// Replicas is the number of replicas beside the primary; zero means none,
	// seven at most.
	Replicas int
	// Database is created on every node. Empty means "app".
	Database string
	// Flags are appended to the command line of every mariadbd.
	Flags []string
}

// ErrUnavailable is wrapped by the error of [Available].
var ErrUnavailable = errors.New("mariadb: not installed")

// Available returns nil if the programs of MariaDB are installed, and otherwise
// an error that wraps [ErrUnavailable].
func Available() error {
	_, _, err := programs()
	return err
}

func programs() (server, installer string, err error) {
	for _, p := range []struct {
		out  *string
		name string
	}{{&server, "mariadbd"}, {&installer, "mariadb-install-db"}} {
		if *p.out, err = exec.LookPath(p.name); err == nil {
			continue
		}
		// An ordinary user's PATH lacks the folder where Debian puts it. An
		// empty PATH is taken to say that nothing is to be found.
		*p.out = "/usr/sbin/" + p.name
		if _, statErr := os.Stat(*p.out); statErr != nil || os.Getenv("PATH") == "" {
			return "", "", fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return server, installer, nil
}

// Cluster is a primary and its replicas. Create it with [Start]. It is safe for
// concurrent use.
type Cluster struct {
	conf      Config
	dir       string
	temporary bool
	server    string // path of mariadbd
	version   string
	owner     string // --user of the servers
	secret    string // password of all accounts
	nodes     []*Node

	mu      sync.Mutex // guards primary
	primary *Node

	closing sync.Once
	err     error
}

// Start starts the servers and waits until the replicas replicate. The context
// bounds the start only. If anything fails, everything is stopped and removed,
// and the error tells the end of the server's log.
func Start(ctx context.Context, conf Config) (*Cluster, error) {
	if conf.Replicas < 0 || conf.Replicas > 7 {
		return nil, fmt.Errorf("mariadb: Config.Replicas is %d, want 0 to 7", conf.Replicas)
	}
	if conf.Database == "" {
		conf.Database = "app"
	}
	if strings.ContainsFunc(conf.Database, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' }) {
		return nil, fmt.Errorf("mariadb: Config.Database is %q, want a-z, 0-9 and _", conf.Database)
	}
	server, installer, err := programs()
	if err != nil {
		return nil, err
	}
	c := &Cluster{conf: conf, dir: conf.Dir, server: server, secret: rand.Text()}
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "mariadb-"); err != nil {
			return nil, fmt.Errorf("mariadb: %w", err)
		}
		c.temporary = true
	}
	if err := c.start(ctx, installer); err != nil {
		c.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		return nil, fmt.Errorf("mariadb: %w", err)
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, installer string) error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	c.owner = me.Username
	template, tmp := filepath.Join(c.dir, "template"), filepath.Join(c.dir, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	install := exec.CommandContext(ctx, installer, "--no-defaults", "--user="+c.owner, "--auth-root-authentication-method=normal",
		"--skip-test-db", "--datadir="+template, "--tmpdir="+tmp, "--innodb-log-file-size=4M", "--innodb-autoextend-increment=1", "--innodb-buffer-pool-size=16M")
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("mariadb-install-db: %w: %s", err, lastLines(errorLines(out)))
	}
	if out, err := exec.CommandContext(ctx, c.server, "--no-defaults", "--version").Output(); err == nil {
		_, v, _ := strings.Cut(string(out), "Ver ")
		c.version, _, _ = strings.Cut(v, " ")
	}
	initFile := filepath.Join(c.dir, "init.sql")
	if err := os.WriteFile(initFile, []byte(c.initSQL()), 0o600); err != nil {
		return err
	}
	for i := range c.conf.Replicas + 1 {
		n := &Node{c: c, id: i + 1, Name: fmt.Sprintf("db%d", i+1), dir: filepath.Join(c.dir, fmt.Sprintf("n%d", i+1))}
		if err := os.CopyFS(filepath.Join(n.dir, "data"), os.DirFS(template)); err != nil {
			return err
		}
		if err := os.Mkdir(n.tmp(), 0o700); err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
	}
	if err := errors.Join(os.RemoveAll(template), os.RemoveAll(tmp)); err != nil {
		return err
	}
	if err := c.startNodes(ctx, initFile); err != nil {
		return err
	}
	c.primary = c.nodes[0]
	for _, n := range c.nodes[1:] {
		if err := n.follow(ctx, c.primary, ""); err != nil {
			return err
		}
	}
	return nil
}

// startNodes starts all nodes side by side.
func (c *Cluster) startNodes(ctx context.Context, initFile string) error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		port, err := freePort()
		if err != nil {
			return err
		}
		n.Addr = fmt.Sprintf("127.0.0.1:%d", port)
		wg.Go(func() { errs[i] = n.run(ctx, "--init-file="+initFile) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// initSQL makes the accounts and the database on each node, without a GTID, so
// that the nodes agree although nothing was replicated. The accounts that the
// installer makes have no password: one is locked, the others go.
func (c *Cluster) initSQL() string {
	return strings.Join([]string{
		"SET sql_log_bin=0;",
		"CREATE USER repl@'127.0.0.1' IDENTIFIED BY '" + c.secret + "';",
		"GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1';",
		"CREATE USER admin@'127.0.0.1' IDENTIFIED BY '" + c.secret + "';",
		"GRANT ALL ON *.* TO admin@'127.0.0.1' WITH GRANT OPTION;",
		"CREATE USER app@'127.0.0.1' IDENTIFIED BY '" + c.secret + "';",
		"GRANT SLAVE MONITOR, BINLOG MONITOR ON *.* TO app@'127.0.0.1';",
		"GRANT ALL ON `" + c.conf.Database + "`.* TO app@'127.0.0.1';",
		"CREATE DATABASE `" + c.conf.Database + "` CHARACTER SET utf8mb4;",
		"DROP USER IF EXISTS root@'127.0.0.1', root@'::1', ''@'localhost';",
		"ALTER USER root@localhost ACCOUNT LOCK;",
		"",
	}, "\n")
}

// Nodes returns all nodes; the first one started as the primary.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Primary returns the node that takes writes.
func (c *Cluster) Primary() *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.primary
}

// Version returns the version of the server, such as "10.11.19-MariaDB".
func (c *Cluster) Version() string { return c.version }

// Promote makes n, a replica, the primary: it applies what it has received,
// takes writes, and every other running node follows it. The old primary, if it
// still runs, stops taking writes first. It is an operator's switchover, or, if
// the old primary is dead, a failover that keeps what n has received.
func (c *Cluster) Promote(ctx context.Context, n *Node) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.primary
	if n == old {
		return nil
	}
	if old.Running() {
		if err := old.exec(ctx, "SET GLOBAL read_only=1"); err != nil {
			return fmt.Errorf("mariadb: %w", err)
		}
		if err := n.catchUp(ctx, old); err != nil {
			return fmt.Errorf("mariadb: %w", err)
		}
	}
	if err := n.lead(ctx); err != nil {
		return fmt.Errorf("mariadb: %w", err)
	}
	c.primary = n
	for _, other := range c.nodes {
		if other == n || !other.Running() {
			continue
		}
		demote := ""
		if other == old {
			demote = ", MASTER_DEMOTE_TO_SLAVE=1"
		}
		if err := other.follow(ctx, n, demote); err != nil {
			return fmt.Errorf("mariadb: %w", err)
		}
	}
	return nil
}

// Close stops all servers and removes what Start made. It is idempotent.
func (c *Cluster) Close() error {
	c.closing.Do(func() {
		var wg sync.WaitGroup
		for _, n := range c.nodes {
			wg.Go(n.Stop)
		}
		wg.Wait()
		if c.temporary {
			c.err = os.RemoveAll(c.dir)
			return
		}
		for _, n := range c.nodes {
			c.err = errors.Join(c.err, os.RemoveAll(n.dir))
		}
		c.err = errors.Join(c.err, os.RemoveAll(filepath.Join(c.dir, "template")), os.RemoveAll(filepath.Join(c.dir, "init.sql")))
	})
	return c.err
}

// freePort finds a port below the ephemeral range: the kernel may give one from
// within it to an outgoing connection between this look and the server's bind.
func freePort() (int, error) {
	var b [2]byte
	for range 200 {
		rand.Read(b[:])
		port := 15000 + (int(b[0])<<8|int(b[1]))%17000
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			ln.Close()
			return port, nil
		}
	}
	return 0, errors.New("no free port between 15000 and 32000")
}

// errorLines returns the lines that say what is wrong, or all of them.
func errorLines(out []byte) []byte {
	var found []byte
	for line := range bytes.Lines(out) {
		if bytes.Contains(line, []byte("ERROR")) {
			found = append(found, line...)
		}
	}
	if found == nil {
		return out
	}
	return found
}

func lastLines(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
