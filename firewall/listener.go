package firewall

import "net"

// Listener returns a listener that accepts from ln what the policy may accept,
// before anything is read, and so before TLS. A connection that the policy
// refuses whatever its requests will say is closed at once, by Drop and by
// Reject alike, since there is no way to answer before TLS; a TCP connection is
// reset, which leaves nothing behind in the kernel. All others are returned as
// ln made them, and it is up to Handler to decide about their requests.
//
// A connection without IP addresses, such as one of a Unix socket, is closed.
// The RemoteAddr of a connection must not block, as it does where a listener
// reads a PROXY protocol header first when it is asked.
func (f *Firewall) Listener(ln net.Listener) net.Listener { return &listener{ln, f} }

type listener struct {
	net.Listener
	f *Firewall
}

// Accept implements [net.Listener]. Errors are those of the listener within.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.f.passes(conn) {
			return conn, nil
		}
		if tcp, ok := conn.(interface{ SetLinger(seconds int) error }); ok {
			// If it fails, Close ends the connection in the ordinary way.
			_ = tcp.SetLinger(0)
		}
		// Closed, whatever it says.
		_ = conn.Close()
	}
}

func (f *Firewall) passes(conn net.Conn) bool {
	var o outcome
	p := f.program.Load()
	seen := f.decideConn(p, addrPortOf(conn.RemoteAddr()), addrPortOf(conn.LocalAddr()), &o)
	f.record(p, AcceptDepth, &seen, &o)
	return o.verdict == Accept
}
