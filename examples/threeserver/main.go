// Threeserver runs the whole stack of Palisade: a load balancer and two web
// servers in front of a MySQL primary and replica, with a firewall and a
// monitor on each, HTTPS at the edge and mutual TLS behind it.
//
// Run it with -h for its flags; README.md beside it shows how to spread it
// over three hosts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	// What was started is stopped, also if nobody reads the log any more.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parseFlags(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	s := newStack()
	err = c.start(ctx, s)
	if err == nil {
		s.shown.print(stdout)
		select {
		case <-ctx.Done():
		case err = <-s.failed:
		}
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.drain)
	defer cancel()
	s.stop(drain)
	if err != nil {
		fmt.Fprintf(stderr, "threeserver: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return 1
	}
	return 0
}
