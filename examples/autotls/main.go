// Autotls serves a folder over HTTPS, with a certificate from any source: an
// ACME authority, files, or an authority of its own. At /whoami it shows the
// verified identity of the client.
//
//	go run ./examples/autotls -internal -dir .
//	go run ./examples/autotls -domain www.example.com -listen :443 -http :80 -dir /srv/www
//
// Of the folder, files and folders whose names begin with a dot are left out, but
// for /.well-known.
//
// Accounts, certificates and the internal authority are kept in the folder
// palisade/autotls of the user's configuration.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// It drains, also if nobody reads the log any more; and there is nothing to
	// load anew, as files are followed.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once
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
	if err := c.serve(ctx, stdout); err != nil {
		fmt.Fprintf(stderr, "autotls: %v\n", err)
		return 1
	}
	return 0
}
