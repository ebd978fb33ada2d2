package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/palisade-go/palisade/tlsx"
	"github.com/palisade-go/palisade/tlsx/acme"
)

const (
	// drain is the time that requests under way get at shutdown.
	drain = 10 * time.Second
	// stall is the time that a client may take nothing of its answer, or have the
	// rest of its request to come.
	stall = time.Minute
)

// serve runs until the context ends or a server fails.
func (c *config) serve(ctx context.Context, stdout io.Writer) error {
	root, err := os.OpenRoot(c.dir) // no link leads out of it
	if err != nil {
		return fmt.Errorf("-dir: %w", err)
	}
	defer root.Close()
	secure, plain, err := c.bind()
	if err != nil {
		return err
	}
	defer secure.Close()
	if plain != nil {
		defer plain.Close()
	}
	policy := tlsx.Policy{ID: "autotls", Profile: c.profile}
	if c.clientCA != "" {
		trust, err := tlsx.TrustFile(c.clientCA, nil)
		if err != nil {
			return fmt.Errorf("-client-ca: %w", err)
		}
		policy.Client = &tlsx.ClientAuth{Mode: c.clientMode, Roots: trust}
	}
	certs, issuer, err := c.certificates(secure, plain, stdout) // the last: it may make an authority
	if err != nil {
		return err
	}
	if issuer != nil {
		defer issuer.Close()
	}
	term, err := tlsx.New(tlsx.Config{Certs: []tlsx.CertSource{certs}, Policies: []tlsx.Policy{policy}})
	if err != nil {
		return err
	}

	handler := term.RequireSNIMatch(tlsx.Receive(tlsx.PeerMatcher{}, pages(root)))
	if issuer != nil {
		// Browsers remember it for a year: not for a host of one's own tries.
		handler = tlsx.HSTS{}.Handler(handler)
	}
	failed := make(chan error, 2)
	var servers []*http.Server
	start := func(h http.Handler, ln net.Listener) {
		srv := newServer(h)
		servers = append(servers, srv)
		go func() { failed <- srv.Serve(ln) }()
	}
	start(handler, term.Listener(secure))
	if plain != nil {
		redirect := tlsx.RedirectHTTPS(portOf(secure))
		if issuer != nil {
			redirect = issuer.HTTPHandler(redirect)
		}
		start(redirect, plain)
	}
	fmt.Fprintf(stdout, "serving %s at https://%s\n", c.dir, c.shown(secure))
	if issuer != nil {
		// Not before the servers are up: the authority connects to them.
		issuer.Start()
		go func() {
			if issuer.Obtain(ctx) == nil {
				fmt.Fprintf(stdout, "certificates for %s are there\n", strings.Join(c.domains, ", "))
			}
		}()
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	return errors.Join(err, stop(ctx, servers))
}

func newServer(h http.Handler) *http.Server {
	// What clients do wrong is no news.
	quiet := slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)
	return &http.Server{
		Handler:           steady(h),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       stall,
		WriteTimeout:      stall, // steady puts it off
		IdleTimeout:       2 * time.Minute,
		HTTP2:             &http.HTTP2Config{WriteByteTimeout: stall},
		ErrorLog:          quiet,
	}
}

// stop ends the servers at once, lest one leads clients to another that accepts
// none any more.
func stop(ctx context.Context, servers []*http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			if errs[i] = s.Shutdown(ctx); errors.Is(errs[i], context.DeadlineExceeded) {
				errs[i] = errors.Join(fmt.Errorf("requests still under way after %v are cut off", drain), s.Close())
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// bind opens both ports; plain is nil without -http.
func (c *config) bind() (secure, plain net.Listener, err error) {
	if secure, err = net.Listen("tcp", c.listen); err != nil {
		return nil, nil, fmt.Errorf("-listen: %w", err)
	}
	if c.http == "" {
		return secure, nil, nil
	}
	if plain, err = net.Listen("tcp", c.http); err != nil {
		secure.Close()
		return nil, nil, fmt.Errorf("-http: %w", err)
	}
	return secure, plain, nil
}

// certificates returns the source that the flags ask for; the issuer is nil if
// that is not ACME.
func (c *config) certificates(secure, plain net.Listener, stdout io.Writer) (tlsx.CertSource, *acme.Source, error) {
	if c.cert != "" {
		files, err := tlsx.Files(c.cert, c.key, nil)
		if err != nil {
			return nil, nil, fmt.Errorf("-cert and -key: %w", err)
		}
		return files, nil, nil
	}
	state, err := stateDir()
	if err != nil {
		return nil, nil, fmt.Errorf("no place to keep keys: %w", err)
	}
	if c.internal {
		leaf, err := c.internalLeaf(filepath.Join(state, "ca"), stdout)
		return leaf, nil, err
	}
	conf := acme.Config{
		Names:       c.domains,
		Storage:     &certmagic.FileStorage{Path: filepath.Join(state, "acme")},
		Directory:   c.acmeDirectory,
		Email:       c.email,
		TLSALPNPort: portOf(secure),
	}
	if conf.DisableHTTPChallenge = plain == nil; plain != nil {
		conf.HTTPPort = portOf(plain)
	}
	if c.acmeCA != "" {
		pem, err := os.ReadFile(c.acmeCA)
		if err != nil {
			return nil, nil, fmt.Errorf("-acme-ca: %w", err)
		}
		roots, err := tlsx.ParseRoots(pem)
		if err != nil {
			return nil, nil, fmt.Errorf("-acme-ca: %s: %w", c.acmeCA, err)
		}
		conf.RootCAs = roots.Pool()
	}
	issuer, err := acme.New(conf)
	return issuer, issuer, err
}

// stateDir is where keys and certificates are kept.
func stateDir() (string, error) {
	base, err := os.UserConfigDir()
	return filepath.Join(base, "palisade", "autotls"), err
}

func (c *config) internalLeaf(dir string, stdout io.Writer) (tlsx.CertSource, error) {
	ca, err := tlsx.OpenCA(tlsx.CAConfig{Dir: dir, Name: "autotls internal CA"})
	if err != nil {
		return nil, fmt.Errorf("-internal: %w", err)
	}
	names := c.domains
	if len(names) == 0 {
		names = []string{"localhost", "127.0.0.1", "::1"}
	}
	leaf, err := ca.Leaf(tlsx.LeafConfig{Names: names})
	if err != nil {
		return nil, fmt.Errorf("-internal: %w", err)
	}
	fmt.Fprintf(stdout, "authority to trust: %s\n", ca.RootFile())
	return leaf, nil
}

func portOf(ln net.Listener) int { return ln.Addr().(*net.TCPAddr).Port }

// shown is what to type into a browser.
func (c *config) shown(ln net.Listener) string {
	if len(c.domains) == 0 {
		return ln.Addr().String()
	}
	return net.JoinHostPort(c.domains[0], fmt.Sprint(portOf(ln)))
}
