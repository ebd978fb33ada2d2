package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/palisade-go/palisade/dbrouter"
	"github.com/palisade-go/palisade/lb"
	"github.com/palisade-go/palisade/qps"
	"github.com/palisade-go/palisade/tlsx"
)

const (
	// webName is what the balancer asks for in the TLS handshake, whatever the
	// address of the web server is.
	webName = "web.palisade.internal"

	// identities, as paths below the trust domain of the CA
	balancerID = "balancer"
	monitorID  = "monitor"

	// What is inside is for the monitor only: the firewall of each web server
	// keeps everybody else away from innerPath, and so does the balancer's.
	innerPath    = "/-/"
	snapshotPath = innerPath + "snapshot" // of the meter
	databasePath = innerPath + "database" // the router's view of its nodes
)

// webServer is one of the two servers behind the balancer: a firewall, a
// monitor, the app, and a router to the database.
type webServer struct {
	name   string
	ca     *tlsx.CA
	meter  *qps.Meter
	router *dbrouter.Router
}

// startWeb starts a web server on ln, which it closes if it cannot.
func startWeb(ctx context.Context, s *stack, name string, ln net.Listener, ca *tlsx.CA, db database) error {
	w := &webServer{name: name, ca: ca}
	handler, conf, err := w.build(ctx, s, db)
	if err != nil {
		ln.Close()
		return fmt.Errorf("%s: %w", name, err)
	}
	fw, err := w.firewall()
	if err != nil {
		ln.Close()
		return fmt.Errorf("%s: %w", name, err)
	}
	srv := newServer(fw.Handler(handler))
	s.serve(name, srv, func() error { return srv.Serve(tls.NewListener(fw.Listener(ln), conf)) })
	return nil
}

// build returns the handler behind the firewall and the configuration of TLS.
func (w *webServer) build(ctx context.Context, s *stack, db database) (http.Handler, *tls.Config, error) {
	leaf, err := w.ca.Leaf(tlsx.LeafConfig{ID: w.name, Names: []string{webName}})
	if err != nil {
		return nil, nil, err
	}
	peers := tlsx.PeerMatcher{URIs: []string{w.ca.Identity(balancerID), w.ca.Identity(monitorID)}}
	term, err := tlsx.New(tlsx.Config{
		Certs: []tlsx.CertSource{leaf},
		Policies: []tlsx.Policy{{
			Names:   []string{webName},
			Profile: tlsx.Modern,
			Client: &tlsx.ClientAuth{Mode: tlsx.Required, Roots: w.ca, Authorize: func(_ context.Context, id *tlsx.Identity) error {
				if !peers.Match(id.Certificate) {
					return errors.New("neither the balancer nor the monitor")
				}
				return nil
			}},
		}},
	})
	if err != nil {
		return nil, nil, err
	}
	if w.meter, err = qps.New(qps.Config{Server: w.name}); err != nil {
		return nil, nil, err
	}
	w.router, err = openDatabase(ctx, s, dbrouter.Config{
		Nodes: db.nodes, Consistency: dbrouter.PerSession, TokenKeys: [][]byte{db.key}, OnStatement: w.onStatement}, db.wait)
	if err != nil {
		return nil, nil, err
	}
	notes := noteStore{w.router.DB()}
	if err := notes.create(ctx); err != nil {
		return nil, nil, err
	}
	a := &app{server: w.name, notes: notes, identity: clientName, node: nodeOf}
	// The app does not take a form that some other site sent.
	guarded := http.NewCrossOriginProtection().Handler(a.routes())
	balancer := tlsx.PeerMatcher{URIs: []string{w.ca.Identity(balancerID)}}
	served := tlsx.Receive(balancer, rememberNode(w.meter.Middleware(w.router.Middleware(guarded))))
	return w.withInner(served), term.ServerConfig(), nil
}

// withInner answers the monitor before anything is counted: looking at the
// numbers must not change them.
func (w *webServer) withInner(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+snapshotPath, w.meter.SnapshotHandler())
	mux.HandleFunc("GET "+databasePath, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		json.NewEncoder(rw).Encode(w.router.Status())
	})
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, innerPath) {
			mux.ServeHTTP(rw, r)
			return
		}
		next.ServeHTTP(rw, r)
	})
}

// onStatement counts every statement under the node that answered it, and
// remembers the node for the page.
func (w *webServer) onStatement(ctx context.Context, st dbrouter.Statement) {
	if st.Node == "" {
		return
	}
	w.meter.Upstream(st.Node).Observe(st.Duration, st.Err != nil)
	if last, ok := ctx.Value(nodeKey{}).(*atomic.Pointer[string]); ok {
		last.Store(&st.Node)
	}
}

type nodeKey struct{}

// rememberNode gives each request a place where onStatement leaves the name of
// the database node.
func rememberNode(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), nodeKey{}, new(atomic.Pointer[string]))))
	})
}

func nodeOf(ctx context.Context) string {
	if last, ok := ctx.Value(nodeKey{}).(*atomic.Pointer[string]); ok {
		if node := last.Load(); node != nil {
			return *node
		}
	}
	return ""
}

// clientName is how the page calls a client that proved who it is.
func clientName(ctx context.Context) string {
	id, ok := tlsx.IdentityFrom(ctx)
	switch {
	case !ok:
		return ""
	case len(id.URIs) > 0:
		return fmt.Sprintf("%s (%s)", id.Subject, id.URIs[0])
	}
	return id.Subject
}

// newServer is a server that a slow client cannot hold for ever.
func newServer(h http.Handler) *lb.Server {
	return &lb.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		MinBodyRate:       500,
	}
}
