package dbrouter_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/palisade-go/palisade/dbrouter"
	"github.com/palisade-go/palisade/dbrouter/mysqltest"
)

// counter is the storage of the examples' servers: one number.
type counter struct{ n atomic.Int64 }

func (c *counter) Handle(_ context.Context, q mysqltest.Query) (mysqltest.Result, error) {
	if strings.HasPrefix(q.SQL, "UPDATE") {
		c.n.Add(1)
		return mysqltest.Result{AffectedRows: 1}, nil
	}
	return mysqltest.Result{Columns: mysqltest.Columns("n"), Rows: [][]any{{c.n.Load()}}}, nil
}

// servers starts a primary and a replica that is 20 ms behind.
func servers() (nodes []dbrouter.Node, stop func(), err error) {
	quiet := slog.New(slog.DiscardHandler)
	primary, err := mysqltest.New(mysqltest.Config{Handler: new(counter), Logger: quiet})
	if err != nil {
		return nil, nil, err
	}
	replica, err := mysqltest.New(mysqltest.Config{Handler: new(counter), Logger: quiet, Source: primary, ReadOnly: true, Lag: 20 * time.Millisecond})
	if err != nil {
		primary.Close()
		return nil, nil, err
	}
	nodes = []dbrouter.Node{
		{Name: "db1", Config: primary.Config()},
		{Name: "db2", Config: replica.Config()},
	}
	return nodes, func() { replica.Close(); primary.Close() }, nil
}

// waitForNodes waits until the primary and the replica are known, so that what
// the examples print does not depend on which was looked at first.
func waitForNodes(r *dbrouter.Router) {
	for up := 0; up < 2; {
		time.Sleep(time.Millisecond)
		up = 0
		for _, n := range r.Status() {
			if n.State == dbrouter.Up {
				up++
			}
		}
	}
}

func Example() {
	nodes, stop, err := servers()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	router, err := dbrouter.New(dbrouter.Config{
		Nodes:     nodes,
		WaitLimit: 10 * time.Second,
		Logger:    slog.New(slog.DiscardHandler),
		OnStatement: func(_ context.Context, s dbrouter.Statement) {
			fmt.Printf("%s on the %v %s: %s\n", s.SQL, s.Role, s.Node, s.Reason)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer router.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := router.Ready(ctx); err != nil {
		fmt.Println(err)
		return
	}
	waitForNodes(router)

	db := router.DB()
	if _, err := db.ExecContext(ctx, "UPDATE counter SET n = n + 1"); err != nil {
		fmt.Println(err)
		return
	}
	// The replica is behind, and yet the read sees the write.
	var n int
	if err := db.QueryRowContext(ctx, "SELECT n FROM counter").Scan(&n); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("n =", n)
	// Output:
	// UPDATE counter SET n = n + 1 on the primary db1: changes data
	// SELECT n FROM counter on the replica db2: read
	// n = 1
}

func ExampleClassify() {
	for _, query := range []string{
		"SELECT text FROM notes WHERE id = ?",
		"SELECT text FROM notes WHERE id = ? FOR UPDATE",
		"SELECT GET_LOCK('job', 10)",
		"SELECT FOUND_ROWS()",
		"SELECT archive_note(id) FROM notes",
	} {
		fmt.Println(dbrouter.Classify(query))
	}
	// Output:
	// read: SELECT
	// write: locks rows
	// pin: named lock
	// same: about the previous statement
	// write: call of a function that is not known to only read
}

func ExampleWithPrimary() {
	nodes, stop, err := servers()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	router, err := dbrouter.New(dbrouter.Config{Nodes: nodes, Consistency: dbrouter.Eventual, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The Router is a driver.Connector. Closing such a DB closes the Router.
	db := sql.OpenDB(router)
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := router.Ready(ctx); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := db.ExecContext(ctx, "UPDATE counter SET n = n + 1"); err != nil {
		fmt.Println(err)
		return
	}
	// With Eventual a replica might not know of the write yet.
	var n int
	if err := db.QueryRowContext(dbrouter.WithPrimary(ctx), "SELECT n FROM counter").Scan(&n); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("n =", n)
	// Output:
	// n = 1
}

func ExampleRouter_Status() {
	nodes, stop, err := servers()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	router, err := dbrouter.New(dbrouter.Config{Nodes: nodes, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer router.Close()
	waitForNodes(router)
	if err := router.Ready(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	for _, n := range router.Status() {
		fmt.Println(n.Name, n.Role, n.State)
	}
	// Output:
	// db1 primary up
	// db2 replica up
}
