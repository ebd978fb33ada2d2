package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/palisade-go/palisade/tlsx"
)

// trustDomain is the authority part of every identity in this stack.
const trustDomain = "threeserver.example"

// start starts what the role asks for, the back of the stack first. Whatever
// it has started when it fails, the caller stops.
func (c *config) start(ctx context.Context, s *stack) error {
	if c.state == "" {
		dir, err := os.MkdirTemp("", "threeserver-")
		if err != nil {
			return err
		}
		s.onStop("state", func(context.Context) error { return os.RemoveAll(dir) })
		c.state = dir
	}
	ca, err := tlsx.OpenCA(tlsx.CAConfig{Dir: filepath.Join(c.state, "ca"), Name: "Palisade three-server CA", TrustDomain: trustDomain})
	if err != nil {
		return fmt.Errorf("-state: %w", err)
	}
	m := &serviceMap{role: c.role, ca: ca.RootFile()}
	s.shown = m
	switch c.role {
	case roleWeb:
		return c.startOneWeb(ctx, s, ca, m)
	case roleBalancer:
		return c.startEdge(ctx, s, ca, m, c.web1, c.web2)
	}
	return c.startAll(ctx, s, ca, m)
}

// startAll runs all three servers in this process, on addresses of their own.
func (c *config) startAll(ctx context.Context, s *stack, ca *tlsx.CA, m *serviceMap) error {
	lns, err := c.listenWebs(m)
	if err != nil {
		return err
	}
	db, err := c.startDatabase(ctx, s)
	if err != nil {
		return errors.Join(err, closeAll(lns))
	}
	m.addDatabase(db)
	for i, name := range []string{"web1", "web2"} {
		if err := startWeb(ctx, s, name, lns[i], ca, db); err != nil {
			return errors.Join(err, closeAll(lns[i+1:]))
		}
	}
	return c.startEdge(ctx, s, ca, m, lns[0].Addr().String(), lns[1].Addr().String())
}

// listenWebs binds both web servers' addresses. Some systems have no
// 127.0.0.2 unless somebody adds it: there the defaults move to 127.0.0.1.
func (c *config) listenWebs(m *serviceMap) ([]net.Listener, error) {
	var lns []net.Listener
	for _, w := range []struct {
		flag, addr string
		given      bool
	}{{"web1", c.web1, c.web1Set}, {"web2", c.web2, c.web2Set}} {
		ln, err := listen(w.flag, w.addr)
		if err != nil && !w.given && notAvailable(err) {
			_, port, _ := net.SplitHostPort(w.addr)
			m.notes = append(m.notes, fmt.Sprintf("%s cannot be bound here, so %s is on 127.0.0.1.", w.addr, w.flag))
			ln, err = listen(w.flag, net.JoinHostPort("127.0.0.1", port))
		}
		if err != nil {
			return nil, errors.Join(err, closeAll(lns))
		}
		lns = append(lns, ln)
	}
	m.add("web1", lns[0].Addr().String(), "mutual TLS, the balancer only")
	m.add("web2", lns[1].Addr().String(), "mutual TLS, the balancer only")
	return lns, nil
}

// notAvailable says that the address belongs to no interface of this machine.
func notAvailable(err error) bool {
	if runtime.GOOS == "windows" {
		return true // its error numbers are its own; every 127.x is there anyway
	}
	return errors.Is(err, syscall.EADDRNOTAVAIL)
}

func closeAll(lns []net.Listener) error {
	var errs []error
	for _, ln := range lns {
		errs = append(errs, ln.Close())
	}
	return errors.Join(errs...)
}

// startOneWeb runs server 2 or 3 of a stack that is spread over hosts.
func (c *config) startOneWeb(ctx context.Context, s *stack, ca *tlsx.CA, m *serviceMap) error {
	addr := c.web1
	if c.name == "web2" {
		addr = c.web2
	}
	ln, err := listen(c.name, addr)
	if err != nil {
		return err
	}
	db, err := c.startDatabase(ctx, s)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	m.add(c.name, ln.Addr().String(), "mutual TLS, the balancer only")
	m.addDatabase(db)
	return startWeb(ctx, s, c.name, ln, ca, db)
}

// startEdge runs server 1, and the page that watches all three.
func (c *config) startEdge(ctx context.Context, s *stack, ca *tlsx.CA, m *serviceMap, web1, web2 string) error {
	b, err := c.startBalancer(ctx, s, ca, web1, web2)
	if err != nil {
		return err
	}
	if c.admin != "" {
		if err := startAdmin(s, c.admin, b, ca, web1, web2); err != nil {
			return err
		}
	}
	visitor := tlsx.LeafConfig{ID: "visitor", CommonName: "visitor"}
	m.cert, m.key = filepath.Join(c.state, "visitor.pem"), filepath.Join(c.state, "visitor.key")
	if err := ca.IssueFiles(visitor, m.cert, m.key); err != nil {
		return fmt.Errorf("-state: %w", err)
	}
	m.addEdge(c)
	return nil
}
