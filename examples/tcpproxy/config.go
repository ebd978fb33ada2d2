package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/palisade-go/palisade/lb"
)

// strategies are the names that -strategy takes. Those that hash take the
// client's address for the key.
var strategies = map[string]lb.Strategy{
	"least-request": lb.LeastRequest{},
	"round-robin":   lb.RoundRobin{},
	"random":        lb.Random{},
	"power-of-two":  lb.PowerOfTwoChoices{},
	"ring-hash":     lb.RingHash{},
	"maglev":        lb.Maglev{},
	"rendezvous":    lb.Rendezvous{},
	"bounded-load":  lb.BoundedLoad{},
	"first":         lb.First{},
}

var (
	versionsIn  = map[string]lb.ProxyVersion{"v1": lb.ProxyV1, "v2": lb.ProxyV2, "any": 0}
	versionsOut = map[string]lb.ProxyVersion{"none": 0, "v1": lb.ProxyV1, "v2": lb.ProxyV2}
)

// config is what the flags say.
type config struct {
	listen   string
	udp      bool
	backends []string            // of -backend
	sni      map[string][]string // backends by server name
	names    []string            // of sni, in the order in which they came
	strategy lb.Strategy
	health   time.Duration
	idle     time.Duration
	proxyIn  *lb.ProxyProtocolConfig // nil: none
	proxyOut lb.ProxyVersion
}

// list is a flag that can be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// parseFlags reads what is on the command line. It writes to help only if it was
// asked for help; then the error is flag.ErrHelp.
func parseFlags(args []string, help io.Writer) (*config, error) {
	c := config{sni: make(map[string][]string)}
	var backends, sni, from list
	var strategy, in, out string
	names := slices.Sorted(maps.Keys(strategies))
	var usage bytes.Buffer
	f := flag.NewFlagSet("tcpproxy", flag.ContinueOnError)
	f.SetOutput(&usage)
	f.StringVar(&c.listen, "listen", "127.0.0.1:8443", "the `address` to listen at")
	f.Var(&backends, "backend", "a backend's `host:port`; once for each. With -sni it gets what no -sni is for, and without -backend that is refused")
	f.Var(&sni, "sni", "`name=host:port`: the backend of the TLS clients that ask for a name, *.example.com for those with one label more, * for any; once for each")
	f.StringVar(&strategy, "strategy", "least-request", "the `name` of the way to choose: "+strings.Join(names, ", "))
	f.DurationVar(&c.health, "health", 0, "the `time` between checks that backends accept connections; 0 for none")
	f.DurationVar(&c.idle, "idle", 0, "how `long` a connection may carry nothing; 0 for an hour, or a minute with -udp")
	f.StringVar(&in, "proxy-in", "none", "the `version` of the PROXY protocol header that the peers of -proxy-from send first: none, v1, v2 or any; the bytes of others are data")
	f.Var(&from, "proxy-from", "a `prefix` of those peers, such as 10.0.0.0/8; once for each")
	f.StringVar(&out, "proxy-out", "none", "the `version` of the header that backends get first: none, v1 or v2")
	f.BoolVar(&c.udp, "udp", false, "forward datagrams, with a backend for each client address")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		io.Copy(help, &usage)
		return nil, err
	case err != nil:
		return nil, err
	case f.NArg() > 0:
		return nil, fmt.Errorf("argument %q, want flags only", f.Arg(0))
	case c.health < 0 || c.idle < 0:
		return nil, errors.New("-health or -idle is negative, want 0 or more")
	case len(backends) == 0 && len(sni) == 0:
		return nil, errors.New("no -backend and no -sni, want one at least")
	case c.udp && (len(sni) > 0 || in != "none" || out != "none"):
		return nil, errors.New("-udp goes with none of -sni, -proxy-in and -proxy-out")
	}
	var ok bool
	if c.strategy, ok = strategies[strategy]; !ok {
		return nil, fmt.Errorf("-strategy is %q, want one of %s", strategy, strings.Join(names, ", "))
	}
	if c.proxyOut, ok = versionsOut[out]; !ok {
		return nil, fmt.Errorf("-proxy-out is %q, want none, v1 or v2", out)
	}
	c.backends = backends
	if err := errors.Join(checkAddr("-listen", c.listen), c.setSNI(sni), c.setProxyIn(in, from)); err != nil {
		return nil, err
	}
	return &c, c.check()
}

// checkAddr wants a host, which may be empty, and a port.
func checkAddr(what, s string) error {
	_, port, err := net.SplitHostPort(s)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		return fmt.Errorf("%s is %q, want host:port", what, s)
	}
	return nil
}

func (c *config) setSNI(sni []string) error {
	var errs []error
	for _, b := range c.backends {
		errs = append(errs, checkAddr("-backend", b))
	}
	for _, s := range sni {
		name, backend, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			errs = append(errs, fmt.Errorf("-sni is %q, want name=host:port", s))
			continue
		}
		errs = append(errs, checkAddr("-sni "+name, backend))
		name = strings.ToLower(name)
		if c.sni[name] == nil {
			c.names = append(c.names, name)
		}
		c.sni[name] = append(c.sni[name], backend)
	}
	return errors.Join(errs...)
}

func (c *config) setProxyIn(in string, from []string) error {
	if in == "none" {
		if len(from) > 0 {
			return errors.New("-proxy-from is for -proxy-in, want v1, v2 or any for that")
		}
		return nil
	}
	version, ok := versionsIn[in]
	if !ok {
		return fmt.Errorf("-proxy-in is %q, want none, v1, v2 or any", in)
	}
	if len(from) == 0 {
		return errors.New("-proxy-in without -proxy-from, want the prefixes of the peers that send a header")
	}
	c.proxyIn = &lb.ProxyProtocolConfig{Version: version}
	for _, s := range from {
		p, err := netip.ParsePrefix(s)
		if a, addrErr := netip.ParseAddr(s); err != nil && addrErr == nil {
			p, err = a.Prefix(a.BitLen())
		}
		if err != nil {
			return fmt.Errorf("-proxy-from is %q, want a prefix such as 10.0.0.0/8", s)
		}
		c.proxyIn.Trusted = append(c.proxyIn.Trusted, p)
	}
	return nil
}

// check has the library find what is wrong before anything is opened.
func (c *config) check() error {
	p, err := c.build(nil)
	if err != nil {
		return err
	}
	p.close()
	return nil
}

// oneLine is an error's text as one line, as errors that were joined have more.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
