package firewall

import (
	"net/netip"
	"sync"
)

// connTable knows the connections that are open, to close those of a client that
// is banned.
type connTable struct {
	mu     sync.Mutex // guards what follows
	open   map[*conn]struct{}
	hellos map[helloKey]string // JA4 fingerprints
}

// helloKey is how a request says which connection it came over.
type helloKey struct{ remote, local netip.AddrPort }

func (t *connTable) add(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[*conn]struct{})
	}
	t.open[c] = struct{}{}
}

// remove forgets a connection and counts it no more. The caller holds its mu.
func (t *connTable) remove(c *conn) {
	t.mu.Lock()
	delete(t.open, c)
	if c.hello != (helloKey{}) {
		delete(t.hellos, c.hello)
	}
	t.mu.Unlock()
	for _, h := range c.holds {
		h.in.leave(h.client)
	}
	c.holds = nil
}

// setHello notes the fingerprint of a connection until it is closed.
func (t *connTable) setHello(c *conn, ja4 string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hellos == nil {
		t.hellos = make(map[helloKey]string)
	}
	c.hello = helloKey{c.remote, c.local}
	t.hellos[c.hello] = ja4
}

// hello returns the fingerprint of the connection, if it is known.
func (t *connTable) hello(k helloKey) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ja4, ok := t.hellos[k]
	return ja4, ok
}

// within returns the open connections whose client is in the prefix.
func (t *connTable) within(p netip.Prefix) []*conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*conn
	for c := range t.open {
		if !c.proxied && p.Contains(c.remote.Addr()) {
			out = append(out, c)
		}
	}
	return out
}

// openConns counts the open connections of each client for a Concurrent limit.
// It keeps nothing of clients that have none.
type openConns struct {
	ipv4, ipv6 int // bits of an address that make a client

	mu sync.Mutex // guards of
	of map[netip.Prefix]int
}

func newOpenConns(ipv4, ipv6 int) *openConns {
	return &openConns{ipv4: ipv4, ipv6: ipv6, of: make(map[netip.Prefix]int)}
}

// client returns the network that counts as one client. The address is valid.
func (o *openConns) client(addr netip.Addr) netip.Prefix {
	length := o.ipv6
	if addr.Is4() {
		length = o.ipv4
	}
	// It cannot fail: the address has no zone and the limit was checked.
	p, _ := addr.Prefix(length)
	return p
}

// enter counts one more connection if there are fewer than most; with take false
// it only says whether it would.
func (o *openConns) enter(client netip.Prefix, most int, take bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of[client] >= most {
		return false
	}
	if take {
		o.of[client]++
	}
	return true
}

func (o *openConns) leave(client netip.Prefix) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of[client]--; o.of[client] <= 0 {
		delete(o.of, client)
	}
}
