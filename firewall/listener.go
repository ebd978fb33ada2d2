package firewall

import (
	"net"
	"net/netip"
	"time"
)

// Listener returns a listener that accepts from ln what the policy may accept,
// before anything is read, and so before TLS. A connection that the policy
// refuses whatever its requests will say is closed at once, by Drop and by
// Reject alike, since there is no way to answer before TLS, and so is one over a
// [Limit] with a Unit of connections; a TCP connection is reset, which leaves
// nothing behind in the kernel. It is up to Handler to decide about the requests
// of the others.
//
// A connection is closed when its client is banned while it is open, if it does
// not send the head of its first request within Config.HeaderTimeout, and if it
// takes nothing in of what the server writes for Config.StallTimeout. What Accept
// returns has a method NetConn for the connection within, and keeps ReadFrom,
// WriteTo and CloseWrite; it has to be closed itself, rather than the one within.
//
// A connection without IP addresses, such as one of a Unix socket, is closed.
// Accept never waits for a client. For that, the RemoteAddr of a connection must
// not block, as it does where a listener reads a PROXY protocol header first when
// it is asked; put that one around this one then.
func (f *Firewall) Listener(ln net.Listener) net.Listener { return &listener{ln, f} }

type listener struct {
	net.Listener
	f *Firewall
}

// Accept implements [net.Listener]. Errors are those of the listener within.
func (l *listener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.f.admitConn(inner); c != nil {
			return c, nil
		}
		reset(inner)
	}
}

// admitConn decides about a connection, and returns nil to refuse it.
func (f *Firewall) admitConn(inner net.Conn) *conn {
	c := &conn{Conn: inner, f: f, remote: addrPortOf(inner.RemoteAddr()), local: addrPortOf(inner.LocalAddr())}
	c.proxied = c.remote.IsValid() && f.trusted.Contains(c.remote.Addr())
	// It is known before it is decided about, so that a ban that comes meanwhile
	// either is seen here or sees it there.
	f.conns.add(c)
	var o outcome
	p, now := f.program.Load(), f.now()
	seen := f.decideConn(p, c.remote, c.local, &o)
	var holds []hold
	if o.verdict == Accept {
		holds = p.limitConn(&seen, &o, now, true)
	}
	f.record(p, AcceptDepth, &seen, &o)
	if !c.begin(holds) || o.verdict != Accept {
		c.release()
		return nil
	}
	return c
}

// begin gives a connection where it counts, and the deadline of its first head.
// It returns false if it was closed meanwhile, by a ban.
func (c *conn) begin(holds []hold) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		leaveAll(holds)
		return false
	}
	c.holds = holds
	if c.head.done = c.f.headerTimeout <= 0; !c.head.done {
		c.opening = time.Now().Add(c.f.headerTimeout)
		// A connection that refuses has ended, which its user will see.
		_ = c.Conn.SetReadDeadline(c.opening)
	}
	return true
}

// limitConn applies the limits on connections to one that the rules let pass,
// and returns where it counts from now on. With take false it only looks.
func (p *program) limitConn(f *facts, o *outcome, now int64, take bool) (holds []hold) {
	if !p.limitsConns || !f.client.IsValid() { // a proxy's: many clients in one
		return nil
	}
	for _, pass := range []bool{false, true} {
		if pass && !take {
			break
		}
		o.monitoredLimits = nil
		for i := range p.limits {
			l := &p.limits[i]
			if l.Unit == Requests || l.match != nil && l.match.eval(f) == no {
				continue
			}
			wait, over := time.Duration(0), false
			if l.Unit == Concurrent {
				client := l.open.client(f.client)
				if over = !l.open.enter(client, l.Burst, pass); !over && pass {
					holds = append(holds, hold{l.open, client})
				}
			} else if wait = l.limiter.ask(l.limiter.key(f.client), now, pass); wait > 0 {
				over = true
			}
			if o.explain {
				o.explainLimit(l, over, wait)
			}
			switch {
			case !over:
			case l.Mode == Monitor:
				o.monitoredLimits = append(o.monitoredLimits, i)
			default:
				o.verdict, o.reason, o.limit, o.wait, o.undecided = Reject, ByLimit, i, wait, false
				return leaveAll(holds)
			}
		}
	}
	return holds
}

func leaveAll(holds []hold) []hold {
	for _, h := range holds {
		h.in.leave(h.client)
	}
	return nil
}

// closeWithin closes the connections of clients in the prefix.
func (f *Firewall) closeWithin(p netip.Prefix) {
	for _, c := range f.conns.within(p) {
		c.reset()
	}
}
