// Firewall puts a policy from a file in front of a website: a backend, a folder,
// or a page that says who the client is.
//
//	firewall -policy policy.fw [-listen 127.0.0.1:8080] [-trusted CIDR ...]
//	         [-backend URL | -dir DIR] [-state FILE] [-h2c]
//	firewall -policy policy.fw -check
//	firewall -policy policy.fw -explain 'GET http://host/path from 192.0.2.1'
//
// With -state the bans outlive a restart. SIGHUP reads the policy and its lists again. If anything is wrong with them
// every mistake is logged, and the old policy stays.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/palisade-go/palisade/firewall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	os.Exit(run(ctx, reload, os.Args[1:], os.Stdout, os.Stderr))
}

// config is what the flags say.
type config struct {
	policy, listen, dir, state, explain string
	trusted                             []netip.Prefix
	backend                             *url.URL
	h2c, check                          bool
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, reload <-chan os.Signal, args []string, stdout, stderr io.Writer) int {
	c, err := parseFlags(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if err := c.do(ctx, reload, stdout, slog.New(slog.NewTextHandler(stderr, nil))); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func parseFlags(args []string, stderr io.Writer) (*config, error) {
	c := new(config)
	set := flag.NewFlagSet("firewall", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.StringVar(&c.policy, "policy", "", "`file` of the policy")
	set.StringVar(&c.listen, "listen", "127.0.0.1:8080", "`address` to listen on")
	set.Func("trusted", "`network` of proxies whose X-Forwarded-For is believed; may be given several times", func(s string) error {
		p, err := netip.ParsePrefix(s)
		c.trusted = append(c.trusted, p)
		return err
	})
	set.Func("backend", "`URL` to pass requests on to", func(s string) error {
		u, err := url.Parse(s)
		if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			err = errors.New("want one such as http://127.0.0.1:9000")
		}
		c.backend = u
		return err
	})
	set.StringVar(&c.dir, "dir", "", "`folder` to serve")
	set.StringVar(&c.state, "state", "", "`file` that keeps bans over a restart")
	set.BoolVar(&c.h2c, "h2c", false, "speak HTTP/2 without TLS too")
	set.BoolVar(&c.check, "check", false, "check the policy and exit")
	set.StringVar(&c.explain, "explain", "", "say what becomes of a `request`, such as 'GET http://host/path from 192.0.2.1', and exit")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	var err error
	switch {
	case set.NArg() > 0:
		err = fmt.Errorf("firewall: argument %q, want flags only", set.Arg(0))
	case c.policy == "":
		err = errors.New("firewall: no -policy, want the name of its file")
	case c.backend != nil && c.dir != "":
		err = errors.New("firewall: -backend and -dir, want one of them")
	case c.check && c.explain != "":
		err = errors.New("firewall: -check and -explain, want one of them")
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return nil, err
	}
	return c, nil
}

// do makes the firewall, and then what the flags ask for.
func (c *config) do(ctx context.Context, reload <-chan os.Signal, stdout io.Writer, logger *slog.Logger) error {
	policy, err := firewall.ReadPolicy(c.policy)
	if err != nil {
		return err
	}
	fw, err := firewall.New(firewall.Config{
		Policy:         policy,
		TrustedProxies: c.trusted,
		RetryJitter:    retryJitter,
		Logger:         logger,
		OnDecision: func(e firewall.Event) {
			// One of the IDs at most is there.
			id := e.RuleID + e.LimitID + e.SizeID + e.EscalationID
			logger.Info("decision", "depth", e.Depth, "verdict", e.Verdict, "mode", e.Mode, "reason", e.Reason,
				"id", id, "client", e.Client, "generation", e.Generation)
		},
	})
	if err != nil {
		return err
	}
	if c.state != "" {
		if err := fw.LoadBans(c.state); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	switch {
	case c.check:
		fmt.Fprintf(stdout, "%s: %d sets, %d rules, %d size limits, %d limits, %d escalations\n",
			c.policy, len(policy.Sets), len(policy.Rules), len(policy.Sizes), len(policy.Limits), len(policy.Escalations))
		return nil
	case c.explain != "":
		return c.explainTo(stdout, fw)
	}
	return c.serve(ctx, reload, stdout, logger, fw)
}

// logEach logs an error, or every one of those that were joined.
func logEach(logger *slog.Logger, message string, err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		logger.Error(message, "error", line)
	}
}
