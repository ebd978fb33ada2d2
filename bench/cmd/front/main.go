// Front is the reverse proxies that the suite lb compares and that are not
// programs of their own: Palisade's and httputil's, each alone, behind three
// middlewares or behind metrics.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/palisade-go/palisade/lb"
	"github.com/palisade-go/palisade/qps"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "front:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "", "the `address` to listen at")
	backend := flag.String("backend", "", "the backend's `URL`")
	proxy := flag.String("proxy", "palisade", "whose proxy: palisade or httputil")
	front := flag.String("front", "nethttp", "whose server: palisade or nethttp")
	chain := flag.Bool("chain", false, "put three middlewares before the proxy")
	meter := flag.Bool("meter", false, "put the metrics of package qps before the proxy")
	cert := flag.String("tls-cert", "", "the `file` of the certificate chain; plain text if empty")
	key := flag.String("tls-key", "", "the `file` of its key")
	flag.Parse()
	handler, err := newProxy(*proxy, *backend)
	if err != nil {
		return err
	}
	if *chain {
		handler = requestID(accessCheck(statusCount(handler)))
	}
	if *meter {
		m, err := qps.New(qps.Config{})
		if err != nil {
			return err
		}
		handler = m.Middleware(handler)
	}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	var conf *tls.Config
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			return err
		}
		conf = &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	return serve(*front, ln, conf, handler)
}

func newProxy(whose, backend string) (http.Handler, error) {
	switch whose {
	case "palisade":
		pool, err := lb.NewPool(lb.PoolConfig{Backends: []lb.BackendConfig{{URL: backend}}})
		if err != nil {
			return nil, err
		}
		return lb.NewProxy(lb.ProxyConfig{Pool: pool})
	case "httputil":
		return tuned(backend)
	}
	return nil, fmt.Errorf("-proxy is %q, want palisade or httputil", whose)
}

// tuned is httputil.ReverseProxy as those set it up who have read about it:
// enough idle connections, no compression, buffers that are reused.
func tuned(backend string) (http.Handler, error) {
	u, err := url.Parse(backend)
	if err != nil {
		return nil, err
	}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			MaxIdleConns: 128, MaxIdleConnsPerHost: 128, IdleConnTimeout: 5 * time.Minute,
			DisableCompression: true, ForceAttemptHTTP2: false,
		},
		BufferPool: new(buffers),
	}, nil
}

// buffers is a pool for httputil.ReverseProxy.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

// server is what serves: lb.Server or http.Server.
type server interface {
	Serve(net.Listener) error
}

func serve(whose string, ln net.Listener, conf *tls.Config, h http.Handler) error {
	const header, idle = 10 * time.Second, 5 * time.Minute
	var s server
	switch whose {
	case "palisade":
		s = &lb.Server{Handler: h, ReadHeaderTimeout: header, IdleTimeout: idle}
	case "nethttp":
		s = &http.Server{Handler: h, ReadHeaderTimeout: header, IdleTimeout: idle}
	default:
		return fmt.Errorf("-front is %q, want palisade or nethttp", whose)
	}
	if conf != nil {
		ln = tls.NewListener(ln, conf)
	}
	return s.Serve(ln)
}
