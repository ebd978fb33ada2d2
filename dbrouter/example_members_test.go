package dbrouter_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/palisade-go/palisade/dbrouter"
)

func ExampleRouter_Drain() {
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
	if err := router.Ready(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	waitForNodes(router)
	// Before the server's maintenance.
	if err := router.Drain("db2"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(router.Status()[1].State)
	if err := router.Resume("db2"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(router.Status()[1].State)
	// Or for good.
	if err := router.RemoveNode("db2"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(router.Status()), "node")
	// Output:
	// draining
	// up
	// 1 node
}
