// Tlsfront is the TLS servers that the suite tlsx compares and that are not
// programs of their own: crypto/tls with net/http, and the same behind a
// tlsx.Terminator with everything that a policy can have. With -backend it is a
// reverse proxy.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/palisade-go/palisade/lb"
	"github.com/palisade-go/palisade/tlsx"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "tlsfront:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	listen, stack, name string
	http                string
	cert, key, clientCA string
	dir                 string
	proxy, backend      string
	backendCA           string
}

func run() error {
	var o options
	flag.StringVar(&o.listen, "listen", "", "the `address` to listen at")
	flag.StringVar(&o.stack, "stack", "palisade", "what accepts TLS: palisade or bare")
	flag.StringVar(&o.http, "server", "nethttp", "what reads requests, without -backend: nethttp, or lb with the stack palisade")
	flag.StringVar(&o.name, "name", "", "the server's `name`")
	flag.StringVar(&o.cert, "cert", "", "the `file` of the certificate chain; also shown to backends")
	flag.StringVar(&o.key, "key", "", "the `file` of its key")
	flag.StringVar(&o.clientCA, "client-ca", "", "the `file` of the authority of clients; none need a certificate if empty")
	flag.StringVar(&o.dir, "dir", "", "the `folder` for shared ticket keys; not shared if empty")
	flag.StringVar(&o.proxy, "proxy", "palisade", "whose proxy, with -backend: palisade or httputil")
	flag.StringVar(&o.backend, "backend", "", "the backend's `URL`; answers by itself if empty")
	flag.StringVar(&o.backendCA, "backend-ca", "", "the `file` of the authority of an https backend")
	flag.Parse()
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	srv, tlsListener, err := o.server(ln)
	if err != nil {
		return err
	}
	return srv.Serve(tlsListener)
}

// server is what serves: lb.Server or http.Server.
type server interface {
	Serve(net.Listener) error
}

// answer is what the server answers without a backend.
const answer = "hello, whoever you are"

func hello(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) }

const headTimeout, idleTimeout = 10 * time.Second, 5 * time.Minute

// server returns what serves on ln, over TLS.
func (o *options) server(ln net.Listener) (server, net.Listener, error) {
	switch {
	case o.stack == "bare" && o.backend == "":
		conf, err := o.bare()
		if err != nil {
			return nil, nil, err
		}
		return &http.Server{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: headTimeout}, tls.NewListener(ln, conf), nil
	case o.stack == "palisade":
		term, err := o.terminator()
		if err != nil {
			return nil, nil, err
		}
		srv, err := o.whose(term)
		return srv, term.Listener(ln), err
	}
	return nil, nil, fmt.Errorf("-stack is %q, want palisade, or bare without a backend", o.stack)
}

// whose returns the server of a Terminator: one that answers by itself, or a
// proxy.
func (o *options) whose(term *tlsx.Terminator) (server, error) {
	if o.backend != "" {
		return o.reverse()
	}
	app := term.RequireSNIMatch(tlsx.HSTS{}.Handler(tlsx.Receiver{}.Handler(http.HandlerFunc(hello))))
	switch o.http {
	case "nethttp":
		return &http.Server{Handler: app, ReadHeaderTimeout: headTimeout}, nil
	case "lb":
		return &lb.Server{Handler: app, ReadHeaderTimeout: headTimeout}, nil
	}
	return nil, fmt.Errorf("-server is %q, want nethttp or lb", o.http)
}

// bare is what a program without tlsx would have.
func (o *options) bare() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	if o.clientCA != "" {
		text, err := os.ReadFile(o.clientCA)
		if err != nil {
			return nil, err
		}
		conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if !conf.ClientCAs.AppendCertsFromPEM(text) {
			return nil, errors.New("-client-ca has no certificate")
		}
	}
	return conf, nil
}

// terminator has all that a policy can have: several policies, a certificate in
// files that are watched, limits for unknown names, ticket keys that a cluster
// shares, and, for clients with certificates, a decision about each.
func (o *options) terminator() (*tlsx.Terminator, error) {
	cert, err := tlsx.Files(o.cert, o.key, nil)
	if err != nil {
		return nil, err
	}
	main := tlsx.Policy{Names: []string{o.name}}
	if o.clientCA != "" {
		trust, err := tlsx.TrustFile(o.clientCA, nil)
		if err != nil {
			return nil, err
		}
		main.Client = &tlsx.ClientAuth{Mode: tlsx.Required, Roots: trust, Authorize: mayCome}
	}
	conf := tlsx.Config{
		Certs:    []tlsx.CertSource{cert},
		Policies: []tlsx.Policy{main, {Names: []string{"*.other.example"}, Profile: tlsx.Modern}, {ID: "rest"}},
		Unknown:  &tlsx.UnknownNames{},
		OnReject: func(name string, remote net.Addr, err error) {
			slog.Info("refused", "name", name, "remote", remote, "err", err)
		},
	}
	if o.dir != "" {
		conf.Tickets = &tlsx.SharedTickets{Storage: tlsx.DirStorage{Path: o.dir}, Key: bytes.Repeat([]byte{7}, 32)}
	}
	return tlsx.New(conf)
}

func mayCome(_ context.Context, id *tlsx.Identity) error {
	if id.CommonName == "" {
		return errors.New("nobody in particular")
	}
	return nil
}
