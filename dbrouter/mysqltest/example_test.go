package mysqltest_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
)

// notes is a handler that keeps a list of notes.
type notes struct {
	mu    sync.Mutex
	texts []string
}

func (n *notes) Handle(_ context.Context, q mysqltest.Query) (mysqltest.Result, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch q.SQL {
	case "INSERT INTO notes (text) VALUES (?)":
		n.texts = append(n.texts, q.Args[0].(string))
		return mysqltest.Result{AffectedRows: 1, LastInsertID: uint64(len(n.texts))}, nil
	case "SELECT id, text FROM notes":
		r := mysqltest.Result{Columns: mysqltest.Columns("id", "text")}
		for i, text := range n.texts {
			r.Rows = append(r.Rows, []any{i + 1, text})
		}
		return r, nil
	}
	return mysqltest.Result{}, &mysqltest.Error{Code: 1064, State: "42000", Message: "what?"}
}

func Example() {
	server, err := mysqltest.New(mysqltest.Config{Handler: new(notes)})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	db, err := sql.Open("mysql", server.DSN())
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	if _, err := db.Exec("INSERT INTO notes (text) VALUES (?)", "buy milk"); err != nil {
		log.Fatal(err)
	}
	var id int
	var text string
	if err := db.QueryRow("SELECT id, text FROM notes").Scan(&id, &text); err != nil {
		log.Fatal(err)
	}
	fmt.Println(id, text)
	_, err = db.Exec("DROP TABLE notes")
	fmt.Println(err)
	// Output:
	// 1 buy milk
	// Error 1064 (42000): what?
}

func ExampleHandlerFunc() {
	server, err := mysqltest.New(mysqltest.Config{Handler: mysqltest.HandlerFunc(
		func(_ context.Context, q mysqltest.Query) (mysqltest.Result, error) {
			return mysqltest.Result{
				Columns: []mysqltest.Column{{Name: "price", Type: mysqltest.Decimal}},
				Rows:    [][]any{{"9.90"}},
			}, nil
		})})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	db := sql.OpenDB(connector(server))
	defer db.Close()
	var price string
	if err := db.QueryRow("SELECT price FROM goods").Scan(&price); err != nil {
		log.Fatal(err)
	}
	fmt.Println(price)
	// Output: 9.90
}

func connector(s *mysqltest.Server) driver.Connector {
	c, err := mysql.NewConnector(s.Config())
	if err != nil {
		log.Fatal(err)
	}
	return c
}

// A replica applies what its source wrote, when its lag is over.
func ExampleServer_SetLag() {
	primary, err := mysqltest.New(mysqltest.Config{Handler: new(notes), ServerID: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer primary.Close()
	replica, err := mysqltest.New(mysqltest.Config{Handler: new(notes), ServerID: 2, Source: primary, ReadOnly: true, Lag: time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	defer replica.Close()
	writer, reader := sql.OpenDB(connector(primary)), sql.OpenDB(connector(replica))
	defer writer.Close()
	defer reader.Close()

	if _, err := writer.Exec("INSERT INTO notes (text) VALUES (?)", "buy milk"); err != nil {
		log.Fatal(err)
	}
	var id int
	var text string
	err = reader.QueryRow("SELECT id, text FROM notes").Scan(&id, &text)
	fmt.Println(errors.Is(err, sql.ErrNoRows))

	replica.SetLag(0)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := replica.WaitPosition(ctx, primary.Position()); err != nil {
		log.Fatal(err)
	}
	err = reader.QueryRow("SELECT id, text FROM notes").Scan(&id, &text)
	fmt.Println(text, err, replica.Position())

	_, err = reader.Exec("INSERT INTO notes (text) VALUES (?)", "no")
	fmt.Println(err)
	// Output:
	// true
	// buy milk <nil> 0-1-1
	// Error 1290 (HY000): The MariaDB server is running with the --read-only option so it cannot execute this statement
}

// The write takes effect, and the client does not learn of it.
func ExampleFault() {
	server, err := mysqltest.New(mysqltest.Config{Handler: new(notes)})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	db := sql.OpenDB(connector(server))
	defer db.Close()
	server.Inject(mysqltest.Fault{
		Match:    func(sql string) bool { return sql == "INSERT INTO notes (text) VALUES (?)" },
		CutAfter: true,
	})
	_, err = db.Exec("INSERT INTO notes (text) VALUES (?)", "buy milk")
	fmt.Println(errors.Is(err, mysql.ErrInvalidConn))
	var id int
	var text string
	err = db.QueryRow("SELECT id, text FROM notes").Scan(&id, &text)
	fmt.Println(text, err)
	// Output:
	// true
	// buy milk <nil>
}

func ExampleServer_FailNext() {
	server, err := mysqltest.New(mysqltest.Config{Handler: new(notes)})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	db := sql.OpenDB(connector(server))
	defer db.Close()
	deadlock := &mysqltest.Error{Code: 1213, State: "40001", Message: "Deadlock found when trying to get lock; try restarting transaction"}
	server.FailNext(1, deadlock, func(sql string) bool { return sql == "SELECT id, text FROM notes" })
	for range 2 {
		rows, err := db.Query("SELECT id, text FROM notes")
		fmt.Println(err)
		if err == nil {
			rows.Close()
		}
	}
	// Output:
	// Error 1213 (40001): Deadlock found when trying to get lock; try restarting transaction
	// <nil>
}

// The primary dies and a replica takes over.
func ExampleServer_Follow() {
	old, err := mysqltest.New(mysqltest.Config{Handler: new(notes), ServerID: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer old.Close()
	survivor, err := mysqltest.New(mysqltest.Config{Handler: new(notes), ServerID: 2, Source: old, ReadOnly: true})
	if err != nil {
		log.Fatal(err)
	}
	defer survivor.Close()

	old.Kill()
	if err := survivor.Follow(nil); err != nil {
		log.Fatal(err)
	}
	survivor.SetReadOnly(false)
	db := sql.OpenDB(connector(survivor))
	defer db.Close()
	if _, err := db.Exec("INSERT INTO notes (text) VALUES (?)", "buy milk"); err != nil {
		log.Fatal(err)
	}
	if err := errors.Join(old.Restart(), old.Follow(survivor)); err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(old.WaitPosition(ctx, survivor.Position()), old.Position())
	// Output: <nil> 0-2-1
}
