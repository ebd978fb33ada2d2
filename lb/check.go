package lb

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
)

// Probe is what a [HealthCheck] does to see whether a backend is well.
type Probe int

const (
	// ProbeHTTP is a GET request, which must be answered as is expected. For
	// tcp:// backends it is ProbeTCP.
	ProbeHTTP Probe = iota
	// ProbeTCP is a connection, and a TLS handshake if the backend is https.
	// Nothing is sent over it. For udp:// backends, either is an empty datagram,
	// and what is bad is only that it is refused.
	ProbeTCP
	// ProbeGRPC is a call of grpc.health.v1.Health/Check over HTTP/2, without TLS
	// if the backend is not https, which must be answered with SERVING.
	ProbeGRPC
)

// maxProbeBody bounds what is read of a response for ExpectBody.
const maxProbeBody = 64 << 10

// check makes one check of b.
func (p *Pool) check(ctx context.Context, b *Backend) error {
	h := p.conf.Health
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	var err error
	switch {
	case h.Func != nil:
		err = h.Func(ctx, b)
	case b.url.Scheme == schemeUDP:
		err = p.checkUDP(ctx, b)
	case h.Probe == ProbeGRPC:
		err = p.checkGRPC(ctx, b)
	case h.Probe == ProbeTCP || b.url.Scheme == schemeTCP:
		err = p.checkTCP(ctx, b)
	default:
		err = p.checkHTTP(ctx, b)
	}
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	return nil
}

func (p *Pool) checkTCP(ctx context.Context, b *Backend) error {
	conn, err := p.dial(ctx, "tcp", dialAddr(b.url))
	if err != nil {
		return err
	}
	defer conn.Close()
	if b.url.Scheme != "https" {
		return nil
	}
	conf := new(tls.Config)
	if p.conf.TLS != nil {
		conf = p.conf.TLS.Clone()
	}
	if conf.ServerName == "" {
		conf.ServerName = b.url.Hostname()
	}
	return tls.Client(conn, conf).HandshakeContext(ctx)
}

func (p *Pool) checkHTTP(ctx context.Context, b *Backend) error {
	h := p.conf.Health
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url.String()+h.Path, nil)
	if err != nil {
		return err
	}
	req.Host = h.Host
	req.Header.Set("User-Agent", "palisade-health-check")
	var rt http.RoundTripper = p.checks
	if b.url.Scheme == schemeH2C {
		rt = b.transport // as p.checks speaks another protocol
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if !h.ExpectStatus(res.StatusCode) {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	if h.ExpectBody == "" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxProbeBody))
	switch {
	case bytes.Contains(body, []byte(h.ExpectBody)):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%q is not in the first %d bytes of the body", h.ExpectBody, maxProbeBody)
}
