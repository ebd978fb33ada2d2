package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter"
	"github.com/palisade-go/palisade/dbrouter/mysqltest"
	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

// database says where the primary and the replica are. Which is which is not
// told to the router: it finds out, and follows when it changes.
type database struct {
	about string // for the map
	nodes []dbrouter.Node
	wait  time.Duration // that it may take to answer
	key   []byte        // signs the cookies in which sessions go between the web servers
}

// startDatabase starts the database that the flags ask for, or names the one
// that runs already.
func (c *config) startDatabase(ctx context.Context, s *stack) (database, error) {
	d, err := c.chooseDatabase(ctx, s)
	if err != nil {
		return d, err
	}
	d.wait = c.dbWait
	if d.key, err = sessionKey(filepath.Join(c.state, "session.key")); err != nil {
		err = fmt.Errorf("-state: %w", err)
	}
	return d, err
}

// sessionKey reads the key from a file, which it makes if there is none.
func sessionKey(name string) ([]byte, error) {
	key, err := os.ReadFile(name)
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	// Another process may be about to do the same: whoever has its own under the
	// name first has made it.
	own, err := os.CreateTemp(filepath.Dir(name), "session.key.")
	if err != nil {
		return nil, err
	}
	defer os.Remove(own.Name())
	key = make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, errors.Join(err, own.Close())
	}
	_, err = own.Write(key)
	if err := errors.Join(err, own.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(own.Name(), name); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return os.ReadFile(name)
}

func (c *config) chooseDatabase(ctx context.Context, s *stack) (database, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.dbWait, fmt.Errorf("the database is not up after %v", c.dbWait))
	defer cancel()
	switch c.db {
	case dbRunning:
		return c.runningDatabase()
	case dbMariaDB:
		return startMariaDB(ctx, s)
	case dbEmbedded:
		return startEmbedded(s, "in-process server of dbrouter/mysqltest (-db embedded)")
	}
	if err := mariadb.Available(); err != nil {
		return startEmbedded(s, "in-process server of dbrouter/mysqltest (embedded, as mariadbd is not on PATH)")
	}
	return startMariaDB(ctx, s)
}

func (c *config) runningDatabase() (database, error) {
	d := database{about: "servers that run already"}
	for i, dsn := range []string{c.dbPrimary, c.dbReplica} {
		if dsn == "" {
			continue
		}
		conf, err := mysql.ParseDSN(dsn)
		if err != nil {
			return database{}, err // check has seen to it that there is none
		}
		d.nodes = append(d.nodes, dbrouter.Node{Name: fmt.Sprintf("db%d", i+1), Config: conf})
	}
	return d, nil
}

// startMariaDB starts a primary and a replica in a temporary folder.
func startMariaDB(ctx context.Context, s *stack) (database, error) {
	cluster, err := mariadb.Start(ctx, mariadb.Config{Database: "notes", Replicas: 1})
	if err != nil {
		return database{}, fmt.Errorf("-db %s: %w", dbMariaDB, err)
	}
	s.onStop("database", func(context.Context) error { return cluster.Close() })
	d := database{about: "MariaDB " + cluster.Version() + " in a temporary folder"}
	for _, n := range cluster.Nodes() {
		d.nodes = append(d.nodes, dbrouter.Node{Name: n.Name, Config: n.AppConfig()})
	}
	return d, nil
}

// startEmbedded starts a primary and a replica inside this process. They keep
// the notes in memory.
func startEmbedded(s *stack, about string) (database, error) {
	d := database{about: about}
	var primary *mysqltest.Server
	for i := range 2 {
		server, err := mysqltest.New(mysqltest.Config{Handler: new(embedded), Source: primary, ReadOnly: primary != nil})
		if err != nil {
			return database{}, fmt.Errorf("-db %s: %w", dbEmbedded, err)
		}
		s.onStop("database", func(context.Context) error { return server.Close() })
		if primary == nil {
			primary = server
		}
		d.nodes = append(d.nodes, dbrouter.Node{Name: fmt.Sprintf("db%d", i+1), Config: server.Config()})
	}
	return d, nil
}

// openDatabase returns a router to the database that is ready to use. It says
// what is wrong with each node if none can take writes in time.
func openDatabase(ctx context.Context, s *stack, conf dbrouter.Config, wait time.Duration) (*dbrouter.Router, error) {
	router, err := dbrouter.New(conf)
	if err != nil {
		return nil, err
	}
	s.onStop("database router", func(context.Context) error { return router.Close() })
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if err := router.Ready(ctx); err != nil {
		return nil, err
	}
	return router, nil
}

// checkDSN refuses what is no address of a database, without repeating it: it
// has a password in it.
func checkDSN(flag, dsn string) error {
	conf, err := mysql.ParseDSN(dsn)
	if err == nil && conf.DBName == "" {
		err = errors.New("it names no database")
	}
	if err != nil {
		return fmt.Errorf("-%s is not user:password@tcp(host:port)/database: %v", flag, err)
	}
	return nil
}
