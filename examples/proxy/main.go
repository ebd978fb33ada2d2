// Proxy is a reverse proxy and load balancer for the command line.
//
//	go run ./examples/proxy -listen 127.0.0.1:8080 -backend http://127.0.0.1:9001 -backend 'https://127.0.0.1:9002;weight=2'
//
// Run it with -h for its flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/palisade-go/palisade/lb"
)

// drain is how long requests in flight may take after a signal to stop.
const drain = 30 * time.Second

func main() {
	// It drains, also if nobody reads the log any more.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parseFlags(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "proxy: %v\n", oneLine(err))
		return 2
	}
	log, err := openAccessLog(c.accessLog, stdout)
	if err != nil {
		fmt.Fprintf(stderr, "proxy: -access-log: %v\n", err)
		return 2
	}
	defer log.Close()
	if err := c.serve(ctx, log, stderr); err != nil {
		fmt.Fprintf(stderr, "proxy: %v\n", oneLine(err))
		return 1
	}
	return 0
}

// serve runs until ctx ends, and then until the requests in flight have.
func (c *config) serve(ctx context.Context, log *accessLog, stderr io.Writer) error {
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	c.pool.Logger, c.proxy.Logger = logger, logger
	pool, err := lb.NewPool(c.pool)
	if err != nil {
		return err
	}
	defer pool.Close()
	c.proxy.Pool, c.proxy.OnDone = pool, log.done()
	proxy, err := lb.NewProxy(c.proxy)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", c.listen)
	if err != nil {
		return err
	}
	server := c.newServer(proxy, logger)
	failed := make(chan error, 1)
	go func() {
		if c.tls != nil {
			failed <- server.ServeTLS(ln, c.tls)
		} else {
			failed <- server.Serve(ln)
		}
	}()
	logger.Info("proxy: listening", "addr", ln.Addr().String(), "front", c.front, "tls", c.tls != nil, "backends", len(c.pool.Backends))
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	logger.Info("proxy: draining", "limit", drain)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err = server.Shutdown(ctx)
	if err != nil {
		server.Close()
	}
	<-failed
	return err
}
