package mariadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
)

// stopPatience is how long a server may take for a clean end.
const stopPatience = 5 * time.Second

// Node is one server of a [Cluster]. It is safe for concurrent use.
type Node struct {
	// Name is "db1", "db2" and so on.
	Name string
	// Addr is the server's HOST:PORT; it stays the same over a restart.
	Addr string

	c   *Cluster
	id  int
	dir string

	mu      sync.Mutex // guards what follows
	running *running
}

// running is one life of a server process.
type running struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// AppConfig returns the driver configuration of the application's account,
// which owns the database, may read the state of replication, and cannot write
// to a read-only server.
func (n *Node) AppConfig() *mysql.Config { return n.config("app") }

// AdminConfig returns the driver configuration of an account that may do
// everything.
func (n *Node) AdminConfig() *mysql.Config { return n.config("admin") }

func (n *Node) config(account string) *mysql.Config {
	conf := mysql.NewConfig()
	conf.User, conf.Passwd = account, n.c.secret
	conf.Net, conf.Addr = "tcp", n.Addr
	conf.DBName = n.c.conf.Database
	return conf
}

// Running says whether the server's process lives.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.running != nil && n.running.alive()
}

func (r *running) alive() bool {
	select {
	case <-r.exited:
		return false
	default:
		return true
	}
}

// Kill ends the server at once, as kill -9 does.
func (n *Node) Kill() { n.end(func(p *os.Process) { p.Kill() }) }

// Stop ends the server cleanly, and by force if that takes over five seconds.
// Stopping a server that does not run does nothing.
func (n *Node) Stop() {
	n.end(func(p *os.Process) {
		if p.Signal(syscall.SIGTERM) != nil {
			p.Kill()
		}
	})
}

func (n *Node) end(how func(*os.Process)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running == nil {
		return
	}
	if n.running.alive() {
		how(n.running.cmd.Process)
		select {
		case <-n.running.exited:
		case <-time.After(stopPatience):
			n.running.cmd.Process.Kill()
			<-n.running.exited
		}
	}
	n.running = nil
}

// Restart starts a server that was stopped or killed. It comes back read-only,
// so that an old primary cannot take writes behind the new one's back; a node
// that still is the primary is made writable again, and a replica goes on
// replicating.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.run(ctx, "--read-only=1"); err != nil {
		return fmt.Errorf("mariadb: %w", err)
	}
	primary := n.c.Primary()
	if n == primary {
		return n.exec(ctx, "SET GLOBAL read_only=0")
	}
	return n.exec(ctx, "START SLAVE")
}

// Rejoin makes a restarted old primary a replica of the present one. It fails
// if the node holds transactions that the primary lacks.
func (n *Node) Rejoin(ctx context.Context) error {
	if err := n.follow(ctx, n.c.Primary(), ", MASTER_DEMOTE_TO_SLAVE=1"); err != nil {
		return fmt.Errorf("mariadb: %w", err)
	}
	return nil
}

// tmp is the folder for temporary tables, in which a server that starts removes
// all that it finds: in a common one those of the servers that run, too.
func (n *Node) tmp() string { return filepath.Join(n.dir, "tmp") }

// run starts the process and waits until it answers.
func (n *Node) run(ctx context.Context, flags ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running != nil && n.running.alive() {
		return fmt.Errorf("%s is running", n.Name)
	}
	host, port, err := net.SplitHostPort(n.Addr)
	if err != nil {
		return err
	}
	data := filepath.Join(n.dir, "data")
	errorLog := filepath.Join(n.dir, "error.log")
	args := append([]string{
		"--no-defaults", "--user=" + n.c.owner, "--datadir=" + data, "--tmpdir=" + n.tmp(), "--bind-address=" + host, "--port=" + port,
		// Relative to the data folder: an absolute path soon exceeds the limit
		// of about 100 bytes that sockets have.
		"--socket=s.sock",
		"--pid-file=" + filepath.Join(n.dir, "pid"), "--log-error=" + errorLog,
		fmt.Sprintf("--server-id=%d", n.id), "--skip-name-resolve", "--performance-schema=0",
		"--innodb-buffer-pool-size=32M", "--innodb-log-file-size=4M", "--innodb-autoextend-increment=1",
		"--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0", "--innodb-doublewrite=0", "--innodb-use-native-aio=0",
		"--innodb-buffer-pool-dump-at-shutdown=0", "--innodb-buffer-pool-load-at-startup=0",
		"--key-buffer-size=1M", "--aria-pagecache-buffer-size=1M", "--max-connections=300",
		"--skip-slave-start", "--slave-net-timeout=5", "--master-retry-count=0",
		"--log-bin=bin", "--gtid-strict-mode=1", "--log-slave-updates=1", "--binlog-format=ROW",
		"--session-track-system-variables=last_gtid,autocommit,character_set_client,character_set_connection,character_set_results,time_zone",
	}, flags...)
	cmd := exec.Command(n.c.server, append(args, n.c.conf.Flags...)...)
	cmd.SysProcAttr = dieWithParent()
	r := &running{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the parent's death signal when the thread ends that
		// started the child, so this one stays with it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(r.exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	n.running = r
	if err := n.waitUntilUp(ctx, r); err != nil {
		text, _ := os.ReadFile(errorLog)
		return fmt.Errorf("%s does not come up: %w: %s", n.Name, err, lastLines(text))
	}
	return nil
}

func (n *Node) waitUntilUp(ctx context.Context, r *running) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := n.exec(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case <-r.exited:
			return errors.New("the process ended")
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// open returns a pool for the administrator's account.
func (n *Node) open() (*sql.DB, error) {
	conf := n.AdminConfig()
	conf.Logger = &mysql.NopLogger{} // failures while waiting are expected
	conf.DBName = ""
	conf.Timeout = time.Second
	connector, err := mysql.NewConnector(conf)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// exec runs statements in order, on one connection.
func (n *Node) exec(ctx context.Context, statements ...string) error {
	db, err := n.open()
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, s := range statements {
		if _, err := db.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return nil
}

// Exec runs statements in order as the administrator, on one connection.
func (n *Node) Exec(ctx context.Context, statements ...string) error {
	if err := n.exec(ctx, statements...); err != nil {
		return fmt.Errorf("mariadb: %w", err)
	}
	return nil
}

// follow makes the node a replica of p and waits until it replicates.
func (n *Node) follow(ctx context.Context, p *Node, more string) error {
	_, port, err := net.SplitHostPort(p.Addr)
	if err != nil {
		return err
	}
	err = n.exec(ctx, "STOP SLAVE", "SET GLOBAL read_only=1",
		fmt.Sprintf("CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=%s, MASTER_USER='repl', MASTER_PASSWORD='%s', "+
			"MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=0.5%s", port, n.c.secret, more),
		"START SLAVE")
	if err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := n.status(ctx)
		if err != nil {
			return err
		}
		if s["Slave_IO_Running"] == "Yes" && s["Slave_SQL_Running"] == "Yes" {
			return nil
		}
		if e := s["Last_IO_Error"] + s["Last_SQL_Error"]; e != "" && s["Slave_IO_Running"] == "No" {
			return fmt.Errorf("%s does not replicate: %s", n.Name, e)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s does not replicate: %w", n.Name, context.Cause(ctx))
		}
	}
}

// status returns the row of SHOW SLAVE STATUS by column, empty on a primary.
func (n *Node) status(ctx context.Context) (map[string]string, error) {
	db, err := n.open()
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, "SHOW SLAVE STATUS")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	out := make(map[string]string)
	if rows.Next() {
		values := make([]sql.NullString, len(names))
		into := make([]any, len(names))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		for i, name := range names {
			out[name] = values[i].String
		}
	}
	return out, rows.Err()
}

// catchUp waits until the node has applied everything that p has written.
func (n *Node) catchUp(ctx context.Context, p *Node) error {
	position, err := p.value(ctx, "SELECT @@gtid_binlog_pos")
	if err != nil || position == "" {
		return err
	}
	return n.apply(ctx, position)
}

// apply waits until the node has applied a position.
func (n *Node) apply(ctx context.Context, position string) error {
	result, err := n.value(ctx, fmt.Sprintf("SELECT MASTER_GTID_WAIT('%s', 10)", position))
	if err == nil && result != "0" {
		err = fmt.Errorf("%s has not applied %s within 10 s", n.Name, position)
	}
	return err
}

// lead applies what was received and makes the node a writable primary.
func (n *Node) lead(ctx context.Context) error {
	s, err := n.status(ctx)
	if err != nil {
		return err
	}
	if err := n.exec(ctx, "STOP SLAVE IO_THREAD"); err != nil {
		return err
	}
	if position := s["Gtid_IO_Pos"]; position != "" {
		if err := n.apply(ctx, position); err != nil {
			return err
		}
	}
	return n.exec(ctx, "STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only=0")
}

func (n *Node) value(ctx context.Context, query string) (string, error) {
	db, err := n.open()
	if err != nil {
		return "", err
	}
	defer db.Close()
	var v sql.NullString
	if err := db.QueryRowContext(ctx, query).Scan(&v); err != nil {
		return "", fmt.Errorf("%s: %w", n.Name, err)
	}
	return v.String, nil
}
