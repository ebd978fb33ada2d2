package lb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// DNS is a [Resolver] that makes a backend of each address of a name (A and
// AAAA). An answer is good for its TTL. No address at all is an error, so that
// the pool keeps those it has.
//
// The backends' URLs have addresses for hosts; so https needs the name in
// PoolConfig.TLS.ServerName.
type DNS struct {
	// URL is what the backends' URLs are, but for the host, which is the name to
	// look up, as in "http://web.internal:8080".
	URL string
	// Server is the name server, as "host:port". Empty means the system's.
	Server string
}

// Resolve implements [Resolver].
func (d DNS) Resolve(ctx context.Context) (Resolution, error) {
	u, err := parseBackendURL(d.URL)
	if err != nil {
		return Resolution{}, fmt.Errorf("lb: DNS: %w", err)
	}
	l := lookup{server: d.Server}
	addrs, err := l.resolver().LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return Resolution{}, fmt.Errorf("lb: %w", err)
	}
	out := Resolution{TTL: l.ttl()}
	for _, addr := range addrs {
		host := addr.Unmap().String()
		if port := u.Port(); port != "" {
			host = net.JoinHostPort(host, port)
		} else if addr.Unmap().Is6() {
			host = "[" + host + "]"
		}
		out.Backends = append(out.Backends, BackendConfig{URL: (&url.URL{Scheme: u.Scheme, Host: host}).String()})
	}
	return out.inOrder(), nil
}

// SRV is a [Resolver] that makes a backend of each target of a service (RFC
// 2782). Their weights and the order of their priorities are the backends'; a
// weight of 0 becomes 1. An answer is good for its TTL. No target, or a service
// that is decidedly not there, is an error, so that the pool keeps those it has.
type SRV struct {
	// Name is the name of the service, such as "_http._tcp.web.internal".
	Name string
	// Scheme is that of the backends' URLs, as in BackendConfig. Empty means "http".
	Scheme string
	// Server is the name server, as "host:port". Empty means the system's.
	Server string
}

// Resolve implements [Resolver].
func (s SRV) Resolve(ctx context.Context) (Resolution, error) {
	setDefault(&s.Scheme, "http")
	l := lookup{server: s.Server}
	_, targets, err := l.resolver().LookupSRV(ctx, "", "", s.Name)
	if err != nil {
		return Resolution{}, fmt.Errorf("lb: %w", err)
	}
	var priorities []uint16
	for _, t := range targets {
		if t.Target == "." {
			return Resolution{}, fmt.Errorf("lb: %s is said not to be there", s.Name)
		}
		priorities = append(priorities, t.Priority)
	}
	slices.Sort(priorities)
	priorities = slices.Compact(priorities)
	if len(targets) == 0 {
		return Resolution{}, fmt.Errorf("lb: %s has no targets", s.Name)
	}
	out := Resolution{TTL: l.ttl()}
	for _, t := range targets {
		host := net.JoinHostPort(strings.TrimSuffix(t.Target, "."), strconv.Itoa(int(t.Port)))
		rank, _ := slices.BinarySearch(priorities, t.Priority)
		out.Backends = append(out.Backends, BackendConfig{URL: s.Scheme + "://" + host, Weight: max(1, int(t.Weight)), Priority: min(rank, maxPriority)})
	}
	return out.inOrder(), nil
}

// inOrder sorts the backends, as name servers shuffle them, and removes those
// that are there twice.
func (r Resolution) inOrder() Resolution {
	slices.SortFunc(r.Backends, func(a, b BackendConfig) int {
		return cmp.Or(cmp.Compare(a.URL, b.URL), cmp.Compare(a.Priority, b.Priority), cmp.Compare(b.Weight, a.Weight))
	})
	r.Backends = slices.CompactFunc(r.Backends, func(a, b BackendConfig) bool { return a.URL == b.URL })
	return r
}

// lookup is one look-up that notes the TTL, which a net.Resolver keeps to
// itself: it is read from the messages on their way.
type lookup struct {
	server string

	mu    sync.Mutex // guards least
	least time.Duration
	noted bool
}

func (l *lookup) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if l.server != "" {
			addr = l.server
		}
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if udp, ok := c.(*net.UDPConn); ok && err == nil {
			return &notingConn{udp, l}, nil
		}
		return c, err
	}}
}

// ttl is the least TTL that was seen, in the bounds of 1 s and 1 h. It is
// resolveInterval if none was, as with answers that came by TCP or from a file.
func (l *lookup) ttl() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.noted {
		return resolveInterval
	}
	return min(max(l.least, time.Second), time.Hour)
}

func (l *lookup) note(seconds uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ttl := time.Duration(seconds) * time.Second; !l.noted || ttl < l.least {
		l.noted, l.least = true, ttl
	}
}

// notingConn is a connection to a name server.
type notingConn struct {
	*net.UDPConn
	lookup *lookup
}

// NetConn returns the connection itself.
func (c *notingConn) NetConn() net.Conn { return c.UDPConn }

// Read implements net.Conn.
func (c *notingConn) Read(p []byte) (int, error) {
	n, err := c.UDPConn.Read(p)
	if err == nil {
		if ttl, err := answerTTL(p[:n]); err == nil {
			c.lookup.note(ttl)
		}
	}
	return n, err
}

var errNoAnswer = errors.New("lb: a message without an answer")

// answerTTL returns the least TTL of the answers in a DNS message.
func answerTTL(msg []byte) (uint32, error) {
	var parser dnsmessage.Parser
	if _, err := parser.Start(msg); err != nil {
		return 0, err
	}
	if err := parser.SkipAllQuestions(); err != nil {
		return 0, err
	}
	least, seen := uint32(0), false
	for {
		h, err := parser.AnswerHeader()
		switch {
		case err == dnsmessage.ErrSectionDone && seen:
			return least, nil
		case err == dnsmessage.ErrSectionDone:
			return 0, errNoAnswer
		case err != nil:
			return 0, err
		}
		if !seen || h.TTL < least {
			least, seen = h.TTL, true
		}
		if err := parser.SkipAnswer(); err != nil {
			return 0, err
		}
	}
}
