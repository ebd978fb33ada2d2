package firewall

import (
	"crypto/tls"
	"errors"
	"net"
)

// ErrRefused is what a handshake fails with at the server when the policy refuses
// it.
var ErrRefused = errors.New("firewall: refused by policy")

// helloFacts are what a client says first in TLS.
type helloFacts struct{ serverName, ja4 string }

// TLSConfig returns a copy of a configuration that asks the policy about every
// client before the handshake, with the predicates [SNI] and [JA4], and lets
// Handler see the fingerprint of connections that came through Listener. Like
// Listener it refuses only what the policy refuses whatever the requests will
// say; the handshake then fails, and a Reject cannot be told from a Drop.
//
// The fingerprint is not in [tls.ConnectionState]: only the server that has this
// configuration can tell it. It is not asked about a resumed session in another
// way than about a new one.
func (f *Firewall) TLSConfig(c *tls.Config) *tls.Config {
	if c == nil {
		c = new(tls.Config)
	}
	out, next := c.Clone(), c.GetConfigForClient
	out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if err := f.admitHello(hello); err != nil {
			return nil, err
		}
		if next != nil {
			return next(hello)
		}
		return nil, nil // this configuration, as the standard library has it
	}
	return out
}

func (f *Firewall) admitHello(hello *tls.ClientHelloInfo) error {
	var o outcome
	p := f.program.Load()
	said := helloFacts{serverName: hello.ServerName, ja4: JA4Of(hello)}
	seen := f.decideHello(p, hello.Conn, &said, &o)
	f.record(p, TLSDepth, &seen, &o)
	if o.verdict != Accept {
		return ErrRefused
	}
	if c := f.ours(hello.Conn); c != nil {
		f.conns.setHello(c, said.ja4)
	}
	return nil
}

// DecideHello says what the handshake that TLSConfig is asked about would come
// to. It counts nothing and reports nothing.
func (f *Firewall) DecideHello(hello *tls.ClientHelloInfo) Decision {
	var o outcome
	return f.peekHello(hello, &o)
}

func (f *Firewall) peekHello(hello *tls.ClientHelloInfo, o *outcome) Decision {
	p := f.program.Load()
	seen := f.decideHello(p, hello.Conn, &helloFacts{serverName: hello.ServerName, ja4: JA4Of(hello)}, o)
	return p.decision(&seen, o)
}

// ExplainHello is [Firewall.DecideHello] with an explanation.
func (f *Firewall) ExplainHello(hello *tls.ClientHelloInfo) Explanation {
	o := outcome{explain: true}
	d := f.peekHello(hello, &o)
	return Explanation{d, TLSDepth, o.steps}
}

func (f *Firewall) decideHello(p *program, c net.Conn, said *helloFacts, o *outcome) facts {
	seen := facts{known: &f.known, hello: said}
	if c != nil {
		src := addrPortOf(c.RemoteAddr())
		seen.client, seen.peer, seen.local = src.Addr(), src, addrPortOf(c.LocalAddr())
	}
	if !seen.client.IsValid() {
		o.reason = ByClient
		return seen
	}
	f.decidePartly(p, &seen, o, true)
	return seen
}

// ours returns the connection that Listener made of what a TLS server sees, which
// may have others around it.
func (f *Firewall) ours(c net.Conn) *conn {
	const most = 16 // wrappers
	for range most {
		if own, ok := c.(*conn); ok && own.f == f {
			return own
		}
		wrapper, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = wrapper.NetConn()
	}
	return nil
}
