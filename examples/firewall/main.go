// Firewall puts a policy from a file in front of a website: a backend, a folder,
// or a page that says who the client is.
//
//	firewall -policy policy.fw [-listen 127.0.0.1:8080] [-trusted CIDR ...]
//	         [-backend URL | -dir DIR] [-state FILE] [-h2c]
//	firewall -policy policy.fw -check
//	firewall -policy policy.fw -explain 'GET http://host/path from 192.0.2.1'
//
// With -state the bans outlive a restart. SIGHUP reads the policy and its lists
// again. If anything is wrong with them every mistake is logged, and the old policy
// stays.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/palisade-go/palisade/firewall"
)

func main() {
	// The bans are saved at the end, also if nobody reads the log any more.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	os.Exit(run(ctx, reload, os.Args[1:], os.Stdout, os.Stderr))
}

// config is what the flags say.
type config struct {
	policy, listen, dir, state string
	trusted                    []netip.Prefix
	backend                    *url.URL
	h2c, check                 bool

	request *http.Request  // of -explain, nil without
	peer    netip.AddrPort // whose it is
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, reload <-chan os.Signal, args []string, stdout, stderr io.Writer) int {
	c, err := parseFlags(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "firewall: %v\n", err)
		return 2
	}
	if err := c.do(ctx, reload, stdout, slog.New(slog.NewTextHandler(stderr, nil))); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// parseFlags reads what is on the command line. It writes to help only if it was
// asked for help; then the error is flag.ErrHelp.
func parseFlags(args []string, help io.Writer) (*config, error) {
	c := new(config)
	var usage bytes.Buffer
	set := flag.NewFlagSet("firewall", flag.ContinueOnError)
	set.SetOutput(&usage)
	set.StringVar(&c.policy, "policy", "", "`file` of the policy")
	set.StringVar(&c.listen, "listen", "127.0.0.1:8080", "`address` to listen on")
	set.Func("trusted", "`network` of proxies whose X-Forwarded-For is believed; may be given several times", c.addTrusted)
	set.Func("backend", "`URL` to pass requests on to", c.setBackend)
	set.StringVar(&c.dir, "dir", "", "`folder` to serve")
	set.StringVar(&c.state, "state", "", "`file` that keeps bans over a restart")
	set.BoolVar(&c.h2c, "h2c", false, "speak HTTP/2 without TLS too")
	set.BoolVar(&c.check, "check", false, "check the policy and exit")
	set.Func("explain", "say what becomes of a `request`, such as 'GET http://host/path from 192.0.2.1', and exit", func(s string) (err error) {
		c.request, c.peer, err = parseRequest(s)
		return err
	})
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		io.Copy(help, &usage)
		return nil, err
	case err != nil:
		return nil, err
	case set.NArg() > 0:
		return nil, fmt.Errorf("argument %q, want flags only", set.Arg(0))
	case c.policy == "":
		return nil, errors.New("no -policy, want the name of its file")
	case c.backend != nil && c.dir != "":
		return nil, errors.New("-backend and -dir, want one of them")
	case c.check && c.request != nil:
		return nil, errors.New("-check and -explain, want one of them")
	}
	if c.dir != "" {
		if info, err := os.Stat(c.dir); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("-dir is %q, want a folder", c.dir)
		}
	}
	_, port, err := net.SplitHostPort(c.listen)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		return nil, fmt.Errorf("-listen is %q, want host:port", c.listen)
	}
	return c, nil
}

func (c *config) addTrusted(s string) error {
	p, err := netip.ParsePrefix(s)
	if err != nil || p != p.Masked() {
		return errors.New("want a network such as 10.0.0.0/8")
	}
	c.trusted = append(c.trusted, p)
	return nil
}

func (c *config) setBackend(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return errors.New("want one such as http://127.0.0.1:9000")
	}
	c.backend = u
	return nil
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
	case c.request != nil:
		return c.explainTo(stdout, fw)
	}
	// What cannot be saved is better known now than at the end.
	if err := c.save(fw); err != nil {
		return err
	}
	return c.serve(ctx, reload, stdout, logger, fw)
}

// logEach logs an error, or every one of those that were joined.
func logEach(logger *slog.Logger, message string, err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		logger.Error(message, "error", line)
	}
}
