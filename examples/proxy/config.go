package main

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/palisade-go/palisade/lb"
)

// strategies are the names that -strategy takes. Those that hash take the
// client's address for the key.
var strategies = map[string]func() lb.Strategy{
	"least-request":          func() lb.Strategy { return lb.LeastRequest{} },
	"round-robin":            func() lb.Strategy { return lb.RoundRobin{} },
	"weighted":               func() lb.Strategy { return lb.WeightedRoundRobin{} },
	"random":                 func() lb.Strategy { return lb.Random{} },
	"power-of-two":           func() lb.Strategy { return lb.PowerOfTwoChoices{} },
	"peak-ewma":              func() lb.Strategy { return lb.PeakEWMA{} },
	"hot-cold-lexicographic": func() lb.Strategy { return lb.HotColdLexicographic{} },
	"ring-hash":              func() lb.Strategy { return lb.RingHash{Key: lb.KeyClientIP} },
	"maglev":                 func() lb.Strategy { return lb.Maglev{Key: lb.KeyClientIP} },
	"rendezvous":             func() lb.Strategy { return lb.Rendezvous{Key: lb.KeyClientIP} },
	"bounded-load":           func() lb.Strategy { return lb.BoundedLoad{} },
	"first":                  func() lb.Strategy { return lb.First{} },
}

// config is what the flags say.
type config struct {
	listen, accessLog string
	front             string // a name of fronts
	h2c               bool
	tls               *tls.Config // nil: plain text
	pool              lb.PoolConfig
	proxy             lb.ProxyConfig
}

// list is a flag that can be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// parseFlags reads what is on the command line. It writes to help only if it was
// asked for help; then the error is flag.ErrHelp.
func parseFlags(args []string, help io.Writer) (*config, error) {
	var c config
	var backends, trusted list
	var strategy, health, affinity, cert, key, ca string
	var retries int
	names := slices.Sorted(maps.Keys(strategies))
	var usage bytes.Buffer
	f := flag.NewFlagSet("proxy", flag.ContinueOnError)
	f.SetOutput(&usage)
	f.StringVar(&c.listen, "listen", "127.0.0.1:8080", "the `address` to listen at")
	f.Var(&backends, "backend", "a backend's `URL`, http:// or https:// or h2c://, perhaps with ;weight=N; once for each")
	f.StringVar(&strategy, "strategy", "least-request", "the `name` of the way to choose: "+strings.Join(names, ", "))
	f.StringVar(&health, "health", "", "the `path` of health checks; none if empty")
	f.IntVar(&retries, "retries", 2, "how `often` a request that is safe to repeat is sent again")
	f.StringVar(&affinity, "affinity", "", "`how` clients keep their backend: cookie, or not at all if empty")
	f.DurationVar(&c.proxy.Timeout, "timeout", time.Minute, "how long to wait for the `head` of a response; then it is 504")
	f.StringVar(&c.front, "front", "palisade", "the `server` in front of the proxy: palisade, which is lb.Server, or nethttp")
	f.BoolVar(&c.h2c, "h2c", false, "accept HTTP/2 without TLS, too")
	f.StringVar(&cert, "tls-cert", "", "the `file` of the certificate chain to serve HTTPS with")
	f.StringVar(&key, "tls-key", "", "the `file` of its key")
	f.StringVar(&ca, "backend-ca", "", "the `file` of the authorities that https backends are verified by; the system's if empty")
	f.Var(&trusted, "trusted", "a `prefix` of proxies whose forwarding fields are believed; once for each")
	f.StringVar(&c.accessLog, "access-log", "", "the `file` for a line for each request, - for stdout; none if empty. Those that a server refuses are in it with -front palisade only")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		io.Copy(help, &usage)
		return nil, err
	case err != nil:
		return nil, err
	case f.NArg() > 0:
		return nil, fmt.Errorf("argument %q, want flags only", f.Arg(0))
	case retries < 0:
		return nil, fmt.Errorf("-retries is %d, want 0 or more", retries)
	case c.proxy.Timeout <= 0:
		return nil, fmt.Errorf("-timeout is %v, want more than 0", c.proxy.Timeout)
	case len(backends) == 0:
		return nil, errors.New("no -backend, want one at least")
	}
	if _, ok := fronts[c.front]; !ok {
		return nil, fmt.Errorf("-front is %q, want palisade or nethttp", c.front)
	}
	build, ok := strategies[strategy]
	if !ok {
		return nil, fmt.Errorf("-strategy is %q, want one of %s", strategy, strings.Join(names, ", "))
	}
	c.pool.Strategy = build()
	if c.proxy.Retries = retries; retries == 0 {
		c.proxy.Retries = -1
	}
	if health != "" {
		c.pool.Health = &lb.HealthCheck{Path: health}
	}
	return &c, errors.Join(checkListen(c.listen), c.setBackends(backends), c.setAffinity(affinity), c.setTLS(cert, key, ca), c.setTrusted(trusted), c.check())
}

// checkListen wants a host, which may be empty, and a port.
func checkListen(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		return fmt.Errorf("-listen is %q, want host:port", s)
	}
	return nil
}

// check has the library find what is wrong before anything is opened.
func (c *config) check() error {
	pool, err := lb.NewPool(lb.PoolConfig{Backends: c.pool.Backends})
	if err != nil {
		return err
	}
	defer pool.Close()
	conf := c.proxy
	conf.Pool = pool
	_, err = lb.NewProxy(conf)
	if h := c.pool.Health; err == nil && h != nil && !strings.HasPrefix(h.Path, "/") {
		err = fmt.Errorf("-health is %q, want a path that starts with /", h.Path)
	}
	return err
}

func (c *config) setBackends(backends []string) error {
	for _, s := range backends {
		b := lb.BackendConfig{URL: s}
		if u, option, ok := strings.Cut(s, ";"); ok {
			weight, isWeight := strings.CutPrefix(option, "weight=")
			n, err := strconv.Atoi(weight)
			if !isWeight || err != nil || n < 1 {
				return fmt.Errorf("-backend %q has the option %q, want weight=N", s, option)
			}
			b.URL, b.Weight = u, n
		}
		c.pool.Backends = append(c.pool.Backends, b)
	}
	return nil
}

func (c *config) setAffinity(how string) error {
	switch how {
	case "":
		return nil
	case "cookie":
		// The key lives as long as the process: a restart moves the clients.
		key := make([]byte, 32)
		rand.Read(key)
		c.proxy.Affinity = &lb.Affinity{Keys: [][]byte{key}}
		return nil
	}
	return fmt.Errorf("-affinity is %q, want cookie", how)
}

func (c *config) setTLS(cert, key, ca string) error {
	if (cert == "") != (key == "") {
		return errors.New("-tls-cert and -tls-key go together")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("-tls-cert and -tls-key: %w", err)
		}
		c.tls = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return fmt.Errorf("-backend-ca: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("-backend-ca: no certificate in %s", ca)
		}
		c.pool.TLS = &tls.Config{RootCAs: roots}
	}
	return nil
}

func (c *config) setTrusted(prefixes []string) error {
	for _, s := range prefixes {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("-trusted is %q, want a prefix such as 10.0.0.0/8", s)
		}
		c.proxy.TrustedProxies = append(c.proxy.TrustedProxies, p)
	}
	return nil
}

// oneLine is an error's text as one line, as errors that were joined have more.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
