package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"strings"
	"unicode"

	"github.com/palisade-go/palisade/tlsx"
)

// config is the command line.
type config struct {
	domains       []string
	listen, http  string
	acmeDirectory string
	acmeCA        string
	email         string
	cert, key     string
	internal      bool
	clientCA      string
	clientMode    tlsx.Mode
	profile       tlsx.Profile
	dir           string
}

// errUsage is a command line that cannot be used; what is wrong was printed.
var errUsage = errors.New("usage")

// parseFlags reads the command line; every complaint is one line on stderr.
func parseFlags(args []string, stderr io.Writer) (config, error) {
	var c config
	var mode string
	fs := flag.NewFlagSet("autotls", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Func("domain", "`name` to serve; give it again, or commas between, for more", func(s string) error {
		for name := range strings.SplitSeq(s, ",") {
			if name = strings.TrimSpace(name); name == "" {
				return errors.New("want a name")
			}
			c.domains = append(c.domains, name)
		}
		return nil
	})
	fs.StringVar(&c.listen, "listen", "127.0.0.1:8443", "HTTPS `address`; an ACME authority connects to port 443")
	fs.StringVar(&c.http, "http", "127.0.0.1:8080", "HTTP `address`: redirects to HTTPS and answers ACME, whose authority connects to port 80; empty for none")
	fs.StringVar(&c.acmeDirectory, "acme-directory", "", "`URL` of the ACME directory; empty for Let's Encrypt")
	fs.StringVar(&c.acmeCA, "acme-ca", "", "PEM `file` with the authority of the ACME server itself; empty for the system's")
	fs.StringVar(&c.email, "email", "", "contact `address` of the ACME account")
	fs.StringVar(&c.cert, "cert", "", "PEM `file` with the certificate chain, instead of ACME; followed when it changes")
	fs.StringVar(&c.key, "key", "", "PEM `file` with its key")
	fs.BoolVar(&c.internal, "internal", false, "use an internal authority instead of ACME, and name the file of its certificate, which clients are to trust; without -domain for localhost")
	fs.StringVar(&c.clientCA, "client-ca", "", "PEM `file` with the authorities of clients; followed when it changes; empty asks for no certificate")
	fs.StringVar(&mode, "client-mode", "", "`whether` clients of -client-ca must show a certificate: optional, as without this flag, or required")
	fs.Func("profile", "TLS `versions`: intermediate (1.2 and 1.3), as without this flag, or modern (1.3)", func(s string) (err error) {
		c.profile, err = tlsx.ParseProfile(s)
		return err
	})
	fs.StringVar(&c.dir, "dir", "", "`folder` to serve; names that begin with a dot are left out, but for .well-known")

	fail := func(err error) (config, error) {
		fmt.Fprintf(stderr, "autotls: %v\n", err)
		return config{}, errUsage
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(stderr)
			fmt.Fprintln(stderr, "usage: autotls -dir DIR (-domain NAME | -cert FILE -key FILE | -internal) [flags]\n\nServes a folder over HTTPS, and shows at /whoami who the client is. It ends at\nSIGINT or SIGTERM once what is under way is done, at a second one at once.\n\nflags:")
			fs.PrintDefaults()
			if dir, err := stateDir(); err == nil {
				fmt.Fprintf(stderr, "\nAccounts, certificates and the internal authority are kept in %s.\n", dir)
			}
			return config{}, flag.ErrHelp
		}
		return fail(err)
	}
	if fs.NArg() > 0 {
		return fail(fmt.Errorf("unexpected argument %q: everything is a flag, see -h", fs.Arg(0)))
	}
	if err := c.check(mode); err != nil {
		return fail(err)
	}
	return c, nil
}

// check refuses what cannot work before anything is started.
func (c *config) check(mode string) error {
	files := c.cert != "" || c.key != ""
	switch {
	case c.dir == "":
		return errors.New("-dir is empty, want the folder to serve")
	case (c.cert == "") != (c.key == ""):
		return errors.New("-cert and -key come together")
	case files && c.internal:
		return errors.New("-internal and -cert are two sources, want one")
	case files && len(c.domains) > 0:
		return errors.New("-domain is for ACME and -internal: with -cert the certificate says its names")
	case !files && !c.internal && len(c.domains) == 0:
		return errors.New("no certificate: want -domain for ACME, -cert and -key, or -internal")
	case (files || c.internal) && (c.acmeDirectory != "" || c.acmeCA != "" || c.email != ""):
		return errors.New("-acme-directory, -acme-ca and -email are for ACME: want neither -cert nor -internal with them")
	case mode != "" && c.clientCA == "":
		return errors.New("-client-mode needs -client-ca")
	}
	switch mode {
	case "", "optional":
	case "required":
		c.clientMode = tlsx.Required
	default:
		return fmt.Errorf("-client-mode is %q, want optional or required", mode)
	}
	for _, a := range []struct{ flag, addr string }{{"listen", c.listen}, {"http", c.http}} {
		if a.addr == "" && a.flag == "http" {
			continue
		}
		// Without the first, no address would be any port of every one.
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			return fmt.Errorf("-%s is %q, want HOST:PORT: %v", a.flag, a.addr, err)
		}
		if _, err := net.ResolveTCPAddr("tcp", a.addr); err != nil {
			return fmt.Errorf("-%s is %q, want HOST:PORT: %v", a.flag, a.addr, err)
		}
	}
	return c.checkNames()
}

// checkNames refuses what no certificate can be for, and what cannot be said to an
// ACME authority.
func (c *config) checkNames() error {
	for _, name := range c.domains {
		bare, wild := strings.CutPrefix(name, "*.")
		if wild && !c.internal {
			return fmt.Errorf("-domain is %q, want no wildcard: an authority certifies one by the DNS only, which this program does not change", name)
		}
		if strings.ContainsFunc(bare, func(r rune) bool { return r > unicode.MaxASCII }) {
			return fmt.Errorf("-domain is %q, want its ASCII form, whose labels begin with xn--", name)
		}
		if _, err := netip.ParseAddr(bare); !isHost(bare) || wild && err == nil {
			return fmt.Errorf("-domain is %q, want a DNS name or an IP address", name)
		}
	}
	if u, err := url.Parse(c.acmeDirectory); c.acmeDirectory != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		return fmt.Errorf("-acme-directory is %q, want an https URL", c.acmeDirectory)
	}
	if a, err := mail.ParseAddress(c.email); c.email != "" && (err != nil || a.Address != c.email) {
		return fmt.Errorf("-email is %q, want an address such as admin@example.com", c.email)
	}
	return nil
}

// isHost says whether a name can be an address, or one of the DNS that a host can
// have. One whose last label is a number cannot be: it would pass for an address
// (RFC 1123, section 2.1).
func isHost(name string) bool {
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.Zone() == ""
	}
	name = strings.TrimSuffix(name, ".")
	last := ""
	for label := range strings.SplitSeq(strings.ToLower(name), ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		last = label
	}
	return len(name) <= 253 && strings.Trim(last, "0123456789") != ""
}
