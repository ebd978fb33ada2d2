package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// config is the command line.
type config struct {
	role, name       string
	https, http      string
	web1, web2       string
	web1Set, web2Set bool // given, so never replaced by a fallback
	admin            string
	db               string
	dbPrimary        string
	dbReplica        string
	dbWait           time.Duration
	state            string
	domains          []string
	acmeDirectory    string
	acmeEmail        string
	acmeCA           string
	rate             rate.Limit
	burst            int
	drain            time.Duration
}

const (
	roleAll      = "all"
	roleBalancer = "balancer"
	roleWeb      = "web"

	dbAuto     = "auto"
	dbMariaDB  = "mariadb"
	dbEmbedded = "embedded"
	dbRunning  = "running" // -db-primary names servers that run already

	maxRate = 1_000_000 // of the firewall's limits
)

// errUsage is a command line that cannot be used; what is wrong was printed.
var errUsage = errors.New("usage")

// parseFlags reads the command line; every complaint is one line on stderr.
func parseFlags(args []string, stderr io.Writer) (config, error) {
	var c config
	fs := flag.NewFlagSet("threeserver", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&c.role, "role", roleAll, "what this process runs: `all`, balancer or web")
	fs.StringVar(&c.name, "name", "web1", "with -role web, which web server this is: `web1` or web2")
	fs.StringVar(&c.https, "https", "127.0.0.1:8443", "HTTPS `address` of the balancer")
	fs.StringVar(&c.http, "http", "127.0.0.1:8080", "HTTP `address` of the balancer: redirects to HTTPS, answers ACME HTTP-01; empty for none")
	fs.StringVar(&c.web1, "web1", "127.0.0.2:8444", "`address` of the first web server")
	fs.StringVar(&c.web2, "web2", "127.0.0.3:8445", "`address` of the second web server")
	fs.StringVar(&c.admin, "admin", "127.0.0.1:9090", "loopback `address` of the overview and of /metrics; empty for none")
	fs.StringVar(&c.db, "db", dbAuto, "database: `auto` (mariadb if mariadbd is on PATH, else embedded), mariadb or embedded")
	fs.StringVar(&c.dbPrimary, "db-primary", "", "`DSN` of a primary that runs already, such as user:pass@tcp(10.0.0.4:3306)/notes")
	fs.StringVar(&c.dbReplica, "db-replica", "", "`DSN` of its replica")
	fs.DurationVar(&c.dbWait, "db-wait", 10*time.Second, "`time` that the database may take to come up")
	fs.StringVar(&c.state, "state", "", "`folder` that keeps the CA and the keys; empty for a temporary one")
	domain := fs.String("domain", "", "public `name` of the service, or several with commas between: its certificate comes from ACME")
	fs.StringVar(&c.acmeDirectory, "acme-directory", "", "`URL` of the ACME directory; empty for Let's Encrypt")
	fs.StringVar(&c.acmeEmail, "acme-email", "", "contact `address` of the ACME account")
	fs.StringVar(&c.acmeCA, "acme-ca", "", "PEM `file` with the authority of the ACME server itself; empty for the system's")
	perSecond := fs.Float64("rate", 5000, "requests per `second` that one client (/32 or /64) may make")
	fs.IntVar(&c.burst, "burst", 10000, "`requests` that one client may make at once")
	fs.DurationVar(&c.drain, "drain", 10*time.Second, "`time` that requests under way get at shutdown")

	fail := func(err error) (config, error) {
		fmt.Fprintf(stderr, "threeserver: %v\n", err)
		return config{}, errUsage
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(stderr)
			fmt.Fprintln(stderr, "usage: threeserver [flags]\n\nRuns a load balancer and two web servers in front of a MySQL primary and\nreplica, in one process or in three.\n\nflags:")
			fs.PrintDefaults()
			return config{}, flag.ErrHelp
		}
		return fail(err)
	}
	if fs.NArg() > 0 {
		return fail(fmt.Errorf("unexpected argument %q: everything is a flag, see -h", fs.Arg(0)))
	}
	fs.Visit(func(f *flag.Flag) {
		c.web1Set = c.web1Set || f.Name == "web1"
		c.web2Set = c.web2Set || f.Name == "web2"
	})
	c.rate = rate.Limit(*perSecond)
	for d := range strings.SplitSeq(*domain, ",") {
		if d = strings.TrimSpace(d); d != "" {
			c.domains = append(c.domains, d)
		}
	}
	if c.dbPrimary != "" {
		c.db = dbRunning
	}
	if err := c.check(); err != nil {
		return fail(err)
	}
	return c, nil
}

// check refuses what cannot work before anything is started.
func (c *config) check() error {
	switch c.role {
	case roleAll, roleBalancer:
	case roleWeb:
		if c.name != "web1" && c.name != "web2" {
			return fmt.Errorf("-name is %q, want web1 or web2", c.name)
		}
		if c.dbPrimary == "" {
			return errors.New("-role web needs -db-primary: two web servers share one database")
		}
	default:
		return fmt.Errorf("-role is %q, want all, balancer or web", c.role)
	}
	if c.role != roleAll && c.state == "" {
		return fmt.Errorf("-role %s needs -state: the servers trust each other through the CA in it", c.role)
	}
	switch c.db {
	case dbAuto, dbMariaDB, dbEmbedded, dbRunning:
	default:
		return fmt.Errorf("-db is %q, want auto, mariadb or embedded", c.db)
	}
	if c.dbReplica != "" && c.dbPrimary == "" {
		return errors.New("-db-replica needs -db-primary")
	}
	for _, d := range []struct{ flag, dsn string }{{"db-primary", c.dbPrimary}, {"db-replica", c.dbReplica}} {
		if d.dsn == "" {
			continue
		}
		if err := checkDSN(d.flag, d.dsn); err != nil {
			return err
		}
	}
	for _, a := range []struct {
		flag, addr string
		optional   bool
	}{{"https", c.https, false}, {"http", c.http, true}, {"web1", c.web1, false}, {"web2", c.web2, false}, {"admin", c.admin, true}} {
		if a.addr == "" && a.optional {
			continue
		}
		tcp, err := net.ResolveTCPAddr("tcp", a.addr)
		if err != nil {
			return fmt.Errorf("-%s is %q, want HOST:PORT: %v", a.flag, a.addr, err)
		}
		if tcp == nil || tcp.Port == 0 {
			return fmt.Errorf("-%s is %q, want HOST:PORT with a port that others can know", a.flag, a.addr)
		}
	}
	if c.admin != "" {
		if tcp, _ := net.ResolveTCPAddr("tcp", c.admin); !tcp.IP.IsLoopback() {
			return fmt.Errorf("-admin is %q, want a loopback address: the page asks nobody who they are", c.admin)
		}
	}
	if len(c.domains) == 0 && (c.acmeDirectory != "" || c.acmeEmail != "" || c.acmeCA != "") {
		return errors.New("-acme-directory, -acme-email and -acme-ca need -domain")
	}
	if !(c.rate > 0 && c.rate <= maxRate) || c.burst < 1 {
		return fmt.Errorf("-rate is %v and -burst is %d, want more than 0, and %v a second at most", float64(c.rate), c.burst, maxRate)
	}
	if c.dbWait <= 0 {
		return fmt.Errorf("-db-wait is %v, want more than 0", c.dbWait)
	}
	if c.drain < 0 {
		return fmt.Errorf("-drain is %v, want 0 or more", c.drain)
	}
	return nil
}

// edgeNames returns the names and addresses that the edge's own certificate
// covers when no domain is given.
func (c *config) edgeNames() []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if host, _, err := net.SplitHostPort(c.https); err == nil {
		if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() && !ip.IsLoopback() {
			names = append(names, ip.String())
		}
	}
	return names
}
