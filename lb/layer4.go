package lb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// The schemes of backends that get connections or datagrams rather than requests.
const (
	schemeTCP = "tcp"
	schemeUDP = "udp"
)

func isLayer4(u *url.URL) bool { return u.Scheme == schemeTCP || u.Scheme == schemeUDP }

// dialAddr is where a backend is.
func dialAddr(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	service := u.Scheme
	if service == schemeH2C {
		service = "http"
	}
	return net.JoinHostPort(u.Hostname(), service)
}

// noTransport is that of a backend that gets no requests; its value is the scheme.
type noTransport struct{ scheme string }

// RoundTrip implements [http.RoundTripper].
func (t noTransport) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("a backend whose URL is %s:// gets no HTTP requests", t.scheme)
}

func (noTransport) CloseIdleConnections() {}

// udpRefusal is how long a datagram may take to be refused.
const udpRefusal = 500 * time.Millisecond

// checkUDP finds out no more than that nobody listens, as servers need not answer
// what they do not understand.
func (p *Pool) checkUDP(ctx context.Context, b *Backend) error {
	conn, err := p.dial(ctx, "udp", b.url.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	until := time.Now().Add(udpRefusal)
	if limit, ok := ctx.Deadline(); ok && limit.Before(until) {
		until = limit
	}
	if err := conn.SetDeadline(until); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write(nil); err != nil {
		return err
	}
	var buf [1]byte
	if _, err := conn.Read(buf[:]); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}
