// Monitor is a web server with a few demo routes whose traffic is measured by
// package qps, and an admin address that shows it:
//
//	go run ./examples/monitor -listen 127.0.0.1:8080 -admin 127.0.0.1:9090
//
// The routes are /fast, /slow, /fail, /stream and /file; the admin address has
// a page of tables at /, Prometheus metrics at /metrics, and JSON at
// /api/v1/snapshot and /api/v1/fleet. A second one with -peer
// http://127.0.0.1:9090 shows both, and with -state FILE the counters go on
// after a restart.
//
// The admin address is for whoever may see the numbers. This program leaves that
// to the address it listens on; a real one asks for a client certificate.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/palisade-go/palisade/qps"
)

func main() {
	// The counters are kept, also if nobody reads the log any more.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stderr)
	switch _, isUsage := errors.AsType[usageError](err); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case isUsage:
		fmt.Fprintln(os.Stderr, "monitor:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "monitor:", err)
		os.Exit(1)
	}
}

// usageError is a command line that cannot be used.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

type config struct {
	listen, admin, state string
	peers                []qps.Peer
}

func parse(args []string, help io.Writer) (config, error) {
	var c config
	flags := flag.NewFlagSet("monitor", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.listen, "listen", "127.0.0.1:8080", "`address` of the demo routes")
	flags.StringVar(&c.admin, "admin", "127.0.0.1:9090", "`address` of metrics, snapshot and page")
	flags.StringVar(&c.state, "state", "", "`file` that keeps the counters over a restart")
	flags.Func("peer", "admin `URL` of another monitor, may be given several times", func(s string) error {
		u, err := url.Parse(s)
		if err != nil {
			return err
		}
		if strings.Trim(u.Path, "/") == "" {
			u.Path = "/api/v1/snapshot"
		}
		c.peers = append(c.peers, qps.Peer{Name: u.Host, URL: u.String()})
		return nil
	})
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(help)
			flags.Usage()
		}
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return c, nil
}

// run serves until ctx ends, and then lets requests end.
func run(ctx context.Context, args []string, out io.Writer) (err error) {
	c, err := parse(args, out)
	if err != nil {
		return usageError{err}
	}
	logger := slog.New(slog.NewTextHandler(out, nil))
	app, err := net.Listen("tcp", c.listen)
	if err != nil {
		return err
	}
	defer app.Close()
	admin, err := net.Listen("tcp", c.admin)
	if err != nil {
		return err
	}
	defer admin.Close()
	meter, err := qps.New(qps.Config{
		Server: c.listen, StateFile: c.state, TopK: 10, TraceID: qps.TraceParent, Logger: logger,
		SLOs: []qps.SLO{
			{Name: "available", Target: 0.999},
			{Name: "fast", Target: 0.99, Routes: []string{"GET /fast", "GET /file"}, Latency: 50 * time.Millisecond},
		},
		OnAlert: func(a qps.Alert) { logger.Info("alert", "slo", a.SLO, "firing", a.Firing) },
	})
	if err != nil {
		return err
	}
	// Last of all, so that the state holds every request.
	defer func() { err = errors.Join(err, meter.Close()) }()
	transport := &http.Transport{IdleConnTimeout: time.Minute}
	defer transport.CloseIdleConnections()
	fleet, err := qps.NewFleet(qps.FleetConfig{
		Local: meter, Peers: c.peers, Logger: logger,
		Client: &http.Client{Transport: meter.RoundTripper("peers", transport)},
	})
	if err != nil {
		return err
	}
	defer fleet.Close()

	// Streams end with base; requests of other kinds end by themselves.
	base, end := context.WithCancel(context.Background())
	defer end()
	servers := []*http.Server{
		{Handler: meter.Middleware(routes())},
		{Handler: adminRoutes(meter, fleet)},
	}
	listeners := []net.Listener{meter.Listener("app", app), meter.Listener("admin", admin)}
	failed := make(chan error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		s.ReadHeaderTimeout, s.IdleTimeout, s.MaxHeaderBytes = 10*time.Second, time.Minute, 32<<10
		s.BaseContext = func(net.Listener) context.Context { return base }
		s.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelWarn)
		wg.Go(func() { failed <- s.Serve(listeners[i]) })
	}
	meter.Event("start", "listening on "+app.Addr().String())
	logger.Info("monitor", "app", "http://"+app.Addr().String(), "admin", "http://"+admin.Addr().String())
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	end()
	patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, s := range servers {
		err = errors.Join(err, s.Shutdown(patience))
		s.Close()
	}
	wg.Wait()
	return err
}
