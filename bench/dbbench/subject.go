package dbbench

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	driver "github.com/go-sql-driver/mysql"
	"gorm.io/driver/mysql"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
	"gorm.io/plugin/dbresolver"

	"github.com/palisade-go/palisade/bench/internal/proc"
	"github.com/palisade-go/palisade/bench/internal/report"
	"github.com/palisade-go/palisade/dbrouter"
	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

const (
	selectSQL = "SELECT v FROM t WHERE id = ?"
	insertSQL = "INSERT INTO t (v) VALUES (?)"
)

// bench has everything that is measured, connected.
type bench struct {
	primary, replica          *sql.DB // the driver alone
	hopPrimary, hopReplica    *sql.DB // nil without HAProxy
	eventual, session, global *dbrouter.Router
	onPrimary                 [3]atomic.Int64 // the reads of each that the primary has done
	plain, resolver           *gorm.DB
	closers                   []func()
}

func newBench(ctx context.Context, c *mariadb.Cluster, out *report.Section) (b *bench, err error) {
	b = new(bench)
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	confs := make([]*driver.Config, 2)
	for i, n := range c.Nodes() {
		confs[i] = n.AppConfig()
		confs[i].InterpolateParams = true
	}
	if b.primary, err = b.open(confs[0]); err != nil {
		return nil, err
	}
	if b.replica, err = b.open(confs[1]); err != nil {
		return nil, err
	}
	if err := fill(ctx, b.primary); err != nil {
		return nil, err
	}
	for i, r := range []struct {
		into        **dbrouter.Router
		consistency dbrouter.Consistency
	}{{&b.eventual, dbrouter.Eventual}, {&b.session, dbrouter.PerSession}, {&b.global, dbrouter.Global}} {
		if *r.into, err = b.route(ctx, confs, r.consistency, &b.onPrimary[i]); err != nil {
			return nil, err
		}
	}
	if err := b.openGorm(confs); err != nil {
		return nil, err
	}
	return b, b.openHop(ctx, confs, out)
}

func (b *bench) close() {
	for _, f := range b.closers {
		f()
	}
}

func (b *bench) open(conf *driver.Config) (*sql.DB, error) {
	connector, err := driver.NewConnector(conf)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	b.closers = append(b.closers, func() { db.Close() })
	return db, nil
}

func fill(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, "CREATE TABLE t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v BIGINT NOT NULL)"); err != nil {
		return err
	}
	values := make([]string, rows) // in one statement: each waits for the disk
	for i := range values {
		values[i] = fmt.Sprintf("(%d)", i+1)
	}
	_, err := db.ExecContext(ctx, "INSERT INTO t (v) VALUES "+strings.Join(values, ","))
	return err
}

func (b *bench) route(ctx context.Context, confs []*driver.Config, consistency dbrouter.Consistency, onPrimary *atomic.Int64) (*dbrouter.Router, error) {
	r, err := dbrouter.New(dbrouter.Config{
		Nodes: []dbrouter.Node{{Config: confs[0]}, {Config: confs[1]}}, Consistency: consistency, Logger: slog.New(slog.DiscardHandler),
		OnStatement: func(_ context.Context, s dbrouter.Statement) {
			if s.Role == dbrouter.Primary && s.SQL == selectSQL {
				onPrimary.Add(1)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, func() { r.Close() })
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for r.Status()[1].State != dbrouter.Up {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the replica is %v: %w", r.Status()[1].State, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return r, r.Ready(ctx)
}

func (b *bench) openGorm(confs []*driver.Config) error {
	open := func() (*gorm.DB, error) {
		db, err := gorm.Open(mysql.Open(confs[0].FormatDSN()), &gorm.Config{Logger: logger.Discard, SkipDefaultTransaction: true})
		if err != nil {
			return nil, err
		}
		pool, err := db.DB()
		if err != nil {
			return nil, err
		}
		b.closers = append(b.closers, func() { pool.Close() })
		return db, nil
	}
	var err error
	if b.plain, err = open(); err != nil {
		return err
	}
	if b.resolver, err = open(); err != nil {
		return err
	}
	replica, err := b.open(confs[1])
	if err != nil {
		return err
	}
	return b.resolver.Use(dbresolver.Register(dbresolver.Config{Replicas: []gorm.Dialector{mysql.New(mysql.Config{Conn: replica})}}))
}

// openHop starts an HAProxy that passes connections on to both servers.
func (b *bench) openHop(ctx context.Context, confs []*driver.Config, out *report.Section) error {
	path, err := exec.LookPath("haproxy")
	if err != nil {
		out.Programs = append(out.Programs, report.Program{Name: "haproxy", Absent: err.Error()})
		return nil
	}
	dir, err := os.MkdirTemp("", "dbbench-")
	if err != nil {
		return err
	}
	b.closers = append(b.closers, func() { os.RemoveAll(dir) })
	var text strings.Builder
	text.WriteString("defaults\n\tmode tcp\n\ttimeout connect 5s\n\ttimeout client 1h\n\ttimeout server 1h\n")
	through := make([]*driver.Config, len(confs))
	for i, conf := range confs {
		addr, err := proc.FreeAddr()
		if err != nil {
			return err
		}
		through[i] = conf.Clone()
		through[i].Addr = addr
		text.WriteString(fmt.Sprintf("listen s%d\n\tbind %s\n\tserver s %s\n", i, addr, conf.Addr))
	}
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte("global\n\tnbthread 1\n"+text.String()), 0o600); err != nil {
		return err
	}
	cores, err := proc.Split()
	if err != nil {
		return err
	}
	p, err := proc.Start(ctx, cores.All, through[0].Addr, nil, path, "-db", "-f", file)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, p.Stop)
	version, err := exec.CommandContext(ctx, path, "-v").Output()
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(version), "\n")
	out.Programs = append(out.Programs, report.Program{Name: "haproxy", Version: line})
	if b.hopPrimary, err = b.open(through[0]); err != nil {
		return err
	}
	b.hopReplica, err = b.open(through[1])
	return err
}

// selects are the subjects of the point select.
func (b *bench) selects() []subject {
	id := 0
	point := func(name string, db *sql.DB) subject {
		return subject{name: name, operation: func(ctx context.Context) (bool, error) {
			id = id%rows + 1
			var v int
			err := db.QueryRowContext(ctx, selectSQL, id).Scan(&v)
			return v == id, err
		}}
	}
	byGorm := func(name string, db *gorm.DB) subject {
		return subject{name: name, operation: func(ctx context.Context) (bool, error) {
			id = id%rows + 1
			var v int
			err := db.WithContext(ctx).Raw(selectSQL, id).Scan(&v).Error
			return v == id, err
		}}
	}
	out := []subject{point(direct, b.replica), point(oursEvent, b.eventual.DB()), point(oursSession, b.session.DB()), point(oursGlobal, b.global.DB()),
		byGorm(gormName, b.plain), byGorm(resolver, b.resolver)}
	if b.hopReplica != nil {
		out = append(out, point(hop, b.hopReplica))
	}
	return out
}

// pairs are the subjects of a write and a read.
func (b *bench) pairs() []subject {
	pair := func(name string, write, read *sql.DB, begin func(context.Context) context.Context) subject {
		return subject{name: name, operation: func(ctx context.Context) (bool, error) {
			if begin != nil {
				ctx = begin(ctx)
			}
			res, err := write.ExecContext(ctx, insertSQL, 7)
			if err != nil {
				return false, err
			}
			id, err := res.LastInsertId()
			if err != nil {
				return false, err
			}
			var v int
			err = read.QueryRowContext(ctx, selectSQL, id).Scan(&v)
			if errors.Is(err, sql.ErrNoRows) {
				return false, nil
			}
			return v == 7, err
		}}
	}
	session := func(ctx context.Context) context.Context {
		ctx, _ = b.session.NewSession(ctx)
		return ctx
	}
	out := []subject{
		pair(direct, b.primary, b.primary, nil), pair(oursSession, b.session.DB(), b.session.DB(), session), pair(oursGlobal, b.global.DB(), b.global.DB(), nil),
		{name: byHand, operation: b.handPair}, {name: resolver, operation: b.gormPair},
	}
	out[1].primary, out[2].primary = &b.onPrimary[1], &b.onPrimary[2]
	if b.hopPrimary != nil {
		out = append(out, pair(hop, b.hopPrimary, b.hopPrimary, nil))
	}
	return out
}

// handPair is what a careful program does without a router.
func (b *bench) handPair(ctx context.Context) (bool, error) {
	conn, err := b.primary.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	res, err := conn.ExecContext(ctx, insertSQL, 7)
	if err != nil {
		return false, err
	}
	id, err := res.LastInsertId()
	if err != nil {
		return false, err
	}
	var gtid string
	if err := conn.QueryRowContext(ctx, "SELECT @@last_gtid").Scan(&gtid); err != nil {
		return false, err
	}
	var late, v int
	if err := b.replica.QueryRowContext(ctx, "SELECT MASTER_GTID_WAIT(?, 1)", gtid).Scan(&late); err != nil || late != 0 {
		return false, err
	}
	err = b.replica.QueryRowContext(ctx, selectSQL, id).Scan(&v)
	return v == 7, err
}

// note is the table as gorm sees it.
type note struct {
	ID int64 `gorm:"primaryKey"`
	V  int
}

func (note) TableName() string { return "t" }

func (b *bench) gormPair(ctx context.Context) (bool, error) {
	n := note{V: 7}
	if err := b.resolver.WithContext(ctx).Create(&n).Error; err != nil {
		return false, err
	}
	var v int
	err := b.resolver.WithContext(ctx).Raw(selectSQL, n.ID).Scan(&v).Error
	return v == 7, err
}
