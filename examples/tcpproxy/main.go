// Tcpproxy forwards TCP connections, or datagrams, for the command line. It sends
// TLS connections by the server name that they ask for, without ending TLS, and
// speaks the PROXY protocol on both sides.
//
//	go run ./examples/tcpproxy -listen 127.0.0.1:8443 -sni a.example=127.0.0.1:9001 -sni '*.b.example=127.0.0.1:9002' -proxy-out v2
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
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/palisade-go/palisade/lb"
)

// drain is how long connections may take to end after a signal to stop, and
// drainUDP how long sessions still get replies: they have no end to wait for.
const (
	drain    = 30 * time.Second
	drainUDP = 5 * time.Second
)

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
		fmt.Fprintf(stderr, "tcpproxy: %v\n", oneLine(err))
		return 2
	}
	if err := c.serve(ctx, slog.New(slog.NewTextHandler(stderr, nil))); err != nil {
		fmt.Fprintf(stderr, "tcpproxy: %v\n", oneLine(err))
		return 1
	}
	return 0
}

// program is what the flags make: either of the proxies, and its pools.
type program struct {
	tcp   *lb.TCPProxy
	udp   *lb.UDPProxy
	pools []*lb.Pool
}

// build makes the program. Without a logger, it is only to see that it can be made.
func (c *config) build(logger *slog.Logger) (p *program, err error) {
	p = new(program)
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	scheme := "tcp://"
	if c.udp {
		scheme = "udp://"
	}
	pool := func(addrs []string) (*lb.Pool, error) {
		conf := lb.PoolConfig{Strategy: c.strategy, Logger: logger}
		if c.health > 0 && logger != nil {
			conf.Health = &lb.HealthCheck{Interval: c.health}
		}
		for _, a := range addrs {
			conf.Backends = append(conf.Backends, lb.BackendConfig{URL: scheme + a})
		}
		made, err := lb.NewPool(conf)
		if err == nil {
			p.pools = append(p.pools, made)
		}
		return made, err
	}
	var rest *lb.Pool
	if len(c.backends) > 0 {
		if rest, err = pool(c.backends); err != nil {
			return p, err
		}
	}
	if c.udp {
		p.udp, err = lb.NewUDPProxy(lb.UDPProxyConfig{Pool: rest, IdleTimeout: c.idle, Logger: logger})
		return p, err
	}
	conf := lb.TCPProxyConfig{ProxyOut: c.proxyOut, IdleTimeout: c.idle, Logger: logger}
	if len(c.names) == 0 {
		conf.Pool = rest
	} else {
		conf.Default, conf.Plain = rest, rest
	}
	for _, name := range c.names {
		made, err := pool(c.sni[name])
		if err != nil {
			return p, err
		}
		conf.Routes = append(conf.Routes, lb.TCPRoute{ServerNames: []string{name}, Pool: made})
	}
	p.tcp, err = lb.NewTCPProxy(conf)
	return p, err
}

func (p *program) close() {
	if p.tcp != nil {
		p.tcp.Close()
	}
	if p.udp != nil {
		p.udp.Close()
	}
	for _, pool := range p.pools {
		pool.Close()
	}
}

// open opens what the program serves.
func (c *config) open(p *program) (addr net.Addr, serve func() error, err error) {
	if c.udp {
		conn, err := net.ListenPacket("udp", c.listen)
		if err != nil {
			return nil, nil, err
		}
		return conn.LocalAddr(), func() error { return p.udp.Serve(conn) }, nil
	}
	ln, err := net.Listen("tcp", c.listen)
	if err != nil {
		return nil, nil, err
	}
	if c.proxyIn != nil {
		within := ln
		if ln, err = lb.ProxyProtocolListener(within, *c.proxyIn); err != nil {
			within.Close()
			return nil, nil, err
		}
	}
	return ln.Addr(), func() error { return p.tcp.Serve(ln) }, nil
}

// serve runs until ctx ends, and then until the connections have.
func (c *config) serve(ctx context.Context, logger *slog.Logger) error {
	p, err := c.build(logger)
	if err != nil {
		return err
	}
	defer p.close()
	addr, serve, err := c.open(p)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- serve() }()
	logger.Info("tcpproxy: listening", "addr", addr.String(), "network", addr.Network(), "names", len(c.names), "backends", len(c.backends))
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	err = c.drain(context.WithoutCancel(ctx), p, logger)
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// drain ends p as gently as time allows.
func (c *config) drain(ctx context.Context, p *program, logger *slog.Logger) error {
	limit := drain
	if c.udp {
		limit = drainUDP
	}
	logger.Info("tcpproxy: draining", "limit", limit)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if !c.udp {
		return p.tcp.Shutdown(ctx)
	}
	if err := p.udp.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
