package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/palisade-go/palisade/firewall"
	"github.com/palisade-go/palisade/lb"
	"github.com/palisade-go/palisade/qps"
	"github.com/palisade-go/palisade/tlsx"
	"github.com/palisade-go/palisade/tlsx/acme"
)

// acmePatience bounds how long the first certificate may take.
const acmePatience = 90 * time.Second

// balancer is server 1: HTTPS at the edge, and mutual TLS to the web servers.
type balancer struct {
	conf  *config
	ca    *tlsx.CA
	meter *qps.Meter
	pool  *lb.Pool
	fw    *firewall.Firewall
}

// startBalancer starts the balancer in front of the two web servers.
func (c *config) startBalancer(ctx context.Context, s *stack, ca *tlsx.CA, web1, web2 string) (*balancer, error) {
	b := &balancer{conf: c, ca: ca}
	var err error
	if b.meter, err = qps.New(qps.Config{Server: balancerID}); err != nil {
		return nil, err
	}
	if b.fw, err = c.edgeFirewall(s); err != nil {
		return nil, err
	}
	proxy, err := b.proxy(s, web1, web2)
	if err != nil {
		return nil, err
	}
	if err := b.serve(ctx, s, proxy); err != nil {
		return nil, err
	}
	return b, nil
}

// backendTLS is how this server connects to the web servers: it proves to be
// id, and the other side must prove to be one of peers.
func backendTLS(ca *tlsx.CA, id string, peers ...string) (*tls.Config, error) {
	leaf, err := ca.Leaf(tlsx.LeafConfig{ID: id})
	if err != nil {
		return nil, err
	}
	pinned := tlsx.PeerMatcher{}
	for _, p := range peers {
		pinned.URIs = append(pinned.URIs, ca.Identity(p))
	}
	return tlsx.BackendTLS(tlsx.Backend{Roots: ca, Cert: leaf, Peer: pinned, ServerName: webName, Profile: tlsx.Modern})
}

func (b *balancer) proxy(s *stack, web1, web2 string) (http.Handler, error) {
	conf, err := backendTLS(b.ca, balancerID, "web1", "web2")
	if err != nil {
		return nil, err
	}
	b.pool, err = lb.NewPool(lb.PoolConfig{
		Backends: []lb.BackendConfig{{ID: "web1", URL: "https://" + web1}, {ID: "web2", URL: "https://" + web2}},
		// In turn, so that everybody sees both servers answer. The default would
		// keep to the one that happens to be faster while nothing is in flight.
		Strategy: lb.RoundRobin{},
		Health:   &lb.HealthCheck{Path: "/healthz", Interval: time.Second, Timeout: time.Second},
		TLS:      conf,
	})
	if err != nil {
		return nil, err
	}
	s.onStop("backends", func(context.Context) error { return b.pool.Close() })
	forward := tlsx.Forward{}
	return lb.NewProxy(lb.ProxyConfig{
		Pool:           b.pool,
		Rewrite:        forward.Rewrite,
		ModifyResponse: forward.ModifyResponse,
		OnDone: func(e lb.Event) {
			if e.Backend != "" {
				b.meter.Upstream(e.Backend).Observe(e.Duration, e.Status >= 500)
			}
		},
	})
}

// serve opens the two doors of the edge.
func (b *balancer) serve(ctx context.Context, s *stack, proxy http.Handler) error {
	certs, issuer, err := b.certificates(s)
	if err != nil {
		return err
	}
	term, err := tlsx.New(tlsx.Config{
		Certs:    certs,
		Policies: []tlsx.Policy{{Client: &tlsx.ClientAuth{Mode: tlsx.Optional, Roots: b.ca}}},
	})
	if err != nil {
		return err
	}
	named := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		qps.SetRoute(w, "notes")
		proxy.ServeHTTP(w, r)
	})
	handler := tlsx.HSTS{}.Handler(b.meter.Middleware(b.fw.Handler(term.RequireSNIMatch(named))))
	ln, err := listen("https", b.conf.https)
	if err != nil {
		return err
	}
	srv := newServer(handler)
	s.serve("HTTPS", srv, func() error { return srv.Serve(tls.NewListener(b.fw.Listener(ln), term.ServerConfig())) })
	if b.conf.http != "" {
		if err := b.serveHTTP(s, issuer); err != nil {
			return err
		}
	}
	if issuer == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, acmePatience, fmt.Errorf("no certificate after %v", acmePatience))
	defer cancel()
	if err := issuer.Obtain(ctx); err != nil {
		return fmt.Errorf("-domain: %w", err)
	}
	return nil
}

// serveHTTP leads browsers to HTTPS and answers the authority's questions.
func (b *balancer) serveHTTP(s *stack, issuer *acme.Source) error {
	ln, err := listen("http", b.conf.http)
	if err != nil {
		return err
	}
	handler := tlsx.RedirectHTTPS(portOf(b.conf.https))
	if issuer != nil {
		handler = issuer.HTTPHandler(handler)
	}
	srv := newServer(b.fw.Handler(handler))
	s.serve("HTTP", srv, func() error { return srv.Serve(b.fw.Listener(ln)) })
	return nil
}

// portOf is the number in an address that was checked; zero in an empty one.
func portOf(addr string) int {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return 0
	}
	return tcp.Port
}

// certificates returns where the edge has its certificate from: the CA of this
// stack or, with -domain, a public authority.
func (b *balancer) certificates(s *stack) ([]tlsx.CertSource, *acme.Source, error) {
	if len(b.conf.domains) == 0 {
		leaf, err := b.ca.Leaf(tlsx.LeafConfig{ID: balancerID, Names: b.conf.edgeNames()})
		return []tlsx.CertSource{leaf}, nil, err
	}
	conf := acme.Config{
		Names:     b.conf.domains,
		Storage:   &certmagic.FileStorage{Path: filepath.Join(b.conf.state, "acme")},
		Directory: b.conf.acmeDirectory,
		Email:     b.conf.acmeEmail,
		// Both doors are open already, wherever they are; without an HTTP door
		// there is one challenge less.
		HTTPPort:             portOf(b.conf.http),
		TLSALPNPort:          portOf(b.conf.https),
		DisableHTTPChallenge: b.conf.http == "",
	}
	if b.conf.acmeCA != "" {
		pem, err := os.ReadFile(b.conf.acmeCA)
		if err != nil {
			return nil, nil, fmt.Errorf("-acme-ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, nil, fmt.Errorf("-acme-ca: no certificate in %s", b.conf.acmeCA)
		}
	}
	issuer, err := acme.New(conf)
	if err != nil {
		return nil, nil, err
	}
	s.onStop("ACME", func(context.Context) error { return issuer.Close() })
	return []tlsx.CertSource{issuer}, issuer, nil
}
