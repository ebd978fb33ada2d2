package dbrouter_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/palisade-go/palisade/dbrouter"
	"github.com/palisade-go/palisade/dbrouter/mysqltest"
)

func ExampleRouter_Check() {
	// A replica that somebody has forgotten to set read-only.
	quiet := slog.New(slog.DiscardHandler)
	primary, err := mysqltest.New(mysqltest.Config{Handler: new(counter), Logger: quiet})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer primary.Close()
	replica, err := mysqltest.New(mysqltest.Config{Handler: new(counter), Logger: quiet, Source: primary})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer replica.Close()
	router, err := dbrouter.New(dbrouter.Config{Logger: quiet, Nodes: []dbrouter.Node{
		{Name: "db1", Config: primary.Config()},
		{Name: "db2", Config: replica.Config()},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer router.Close()
	if problem, ok := errors.AsType[*dbrouter.Problem](router.Check(context.Background())); ok {
		fmt.Println(problem.What)
		fmt.Println(problem.Mend)
	}
	// Output:
	// it is writable, as are db2
	// set read_only=1 on all nodes but the primary, in their configuration files as well
}

func ExampleDigest() {
	fmt.Println(dbrouter.Digest("SELECT text FROM notes WHERE id IN (1, 2, 3) AND owner = 'ann' -- mine"))
	// Output:
	// select text from notes where id in(?) and owner = ?
}
