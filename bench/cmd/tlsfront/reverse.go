package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/palisade-go/palisade/lb"
	"github.com/palisade-go/palisade/tlsx"
)

// reverse returns a proxy to the backend, over mutual TLS to an https one. Both
// ways it passes on who the client is.
func (o *options) reverse() (server, error) {
	conf, err := o.backendTLS()
	if err != nil {
		return nil, err
	}
	forward := tlsx.Forward{}
	switch o.proxy {
	case "palisade":
		pool, err := lb.NewPool(lb.PoolConfig{Backends: []lb.BackendConfig{{URL: o.backend}}, TLS: conf})
		if err != nil {
			return nil, err
		}
		proxy, err := lb.NewProxy(lb.ProxyConfig{Pool: pool, Rewrite: forward.Rewrite, ModifyResponse: forward.ModifyResponse})
		if err != nil {
			return nil, err
		}
		return &lb.Server{Handler: proxy, ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout}, nil
	case "httputil":
		u, err := url.Parse(o.backend)
		if err != nil {
			return nil, err
		}
		return &http.Server{ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout, Handler: &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(u)
				r.Out.Host = r.In.Host
				r.SetXForwarded()
				forward.Rewrite(r)
			},
			ModifyResponse: forward.ModifyResponse,
			Transport: &http.Transport{
				TLSClientConfig: conf, MaxIdleConns: 128, MaxIdleConnsPerHost: 128,
				IdleConnTimeout: 5 * time.Minute, DisableCompression: true,
			},
		}}, nil
	}
	return nil, fmt.Errorf("-proxy is %q, want palisade or httputil", o.proxy)
}

// backendTLS is nil for a backend in plain text.
func (o *options) backendTLS() (*tls.Config, error) {
	if o.backendCA == "" {
		return nil, nil
	}
	trust, err := tlsx.TrustFile(o.backendCA, nil)
	if err != nil {
		return nil, err
	}
	cert, err := tlsx.Files(o.cert, o.key, nil)
	if err != nil {
		return nil, err
	}
	return tlsx.BackendTLS(tlsx.Backend{Roots: trust, Cert: cert, Peer: tlsx.PeerMatcher{Names: []string{o.name}}, ServerName: o.name})
}
