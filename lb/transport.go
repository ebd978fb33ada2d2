package lb

import (
	"context"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
)

// transport makes the connections to one backend. Each backend has its own, so
// that its connections end with it and no lock is shared.
type transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

// newBackendTransport returns an [http1.Client], which works in the goroutine of
// the request, or an h2Client if HTTP/2 may be spoken.
func (p *Pool) newBackendTransport(u *url.URL) transport {
	if u.Scheme == schemeH2C || u.Scheme == "https" && p.speaksHTTP2() {
		return p.newH2Client(u)
	}
	if isLayer4(u) {
		return noTransport{u.Scheme}
	}
	return p.newHTTP1Client(p.conf.TLS)
}

const maxHeadBytes = math.MaxInt32

// newTransport returns a transport of net/http.
func (p *Pool) newTransport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	t := &http.Transport{
		Proxy:               nil, // a backend is never reached through a proxy that the environment names
		DialContext:         p.dial,
		TLSHandshakeTimeout: p.conf.DialTimeout,
		// An encoding is between the client and the origin.
		DisableCompression:     true,
		MaxIdleConnsPerHost:    p.conf.IdleConns,
		IdleConnTimeout:        p.conf.IdleTimeout,
		MaxResponseHeaderBytes: p.conf.HeaderBytes,
		// Zero sends the body at once: the body itself waits for the backend's
		// 100 (see attemptBody), as it must not be read before.
		ExpectContinueTimeout: 0,
		Protocols:             protocols,
	}
	if p.conf.TLS != nil {
		t.TLSClientConfig = p.conf.TLS.Clone()
		protocols.SetHTTP2(p.speaksHTTP2())
	}
	return t
}

// speaksHTTP2 says whether connections to https backends may be HTTP/2.
func (p *Pool) speaksHTTP2() bool {
	return p.conf.TLS != nil && slices.Contains(p.conf.TLS.NextProtos, "h2")
}

func (p *Pool) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.conf.DialTimeout)
	defer cancel()
	return p.conf.Dial(ctx, network, addr)
}
