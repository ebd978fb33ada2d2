package lb

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// udpSocket receives from clients. If it has many addresses, it finds out which of
// them a client has sent to, since clients ignore a reply from another one.
type udpSocket struct {
	conn net.PacketConn
	udp  *net.UDPConn // nil if conn is something else
	six  bool         // the socket is one of IPv6, IPv4 mapped into it perhaps
	many bool         // the socket has many addresses, and the system says which
}

// udpPeer is a client as a socket sees it.
type udpPeer struct {
	addr  netip.AddrPort
	local netip.Addr // not valid if the socket has one only
	other net.Addr   // addr, if the socket is none of the kernel's
}

// controlBytes is room for what the system says of a datagram.
const controlBytes = 128

func newUDPSocket(conn net.PacketConn) *udpSocket {
	s := &udpSocket{conn: conn}
	s.udp, _ = conn.(*net.UDPConn)
	local := addrPortOf(conn.LocalAddr()).Addr()
	if s.udp == nil || !local.IsUnspecified() {
		return s
	}
	s.six = local.Is6()
	if s.six {
		s.many = ipv6.NewPacketConn(s.udp).SetControlMessage(ipv6.FlagDst, true) == nil
	} else {
		s.many = ipv4.NewPacketConn(s.udp).SetControlMessage(ipv4.FlagDst, true) == nil
	}
	return s
}

func (s *udpSocket) read(buf []byte) (int, udpPeer, error) {
	if s.udp == nil {
		n, from, err := s.conn.ReadFrom(buf)
		return n, udpPeer{addr: addrPortOf(from), other: from}, err
	}
	var control [controlBytes]byte
	n, m, _, from, err := s.udp.ReadMsgUDPAddrPort(buf, control[:])
	peer := udpPeer{addr: from}
	if s.many && err == nil {
		peer.local = s.destination(control[:m])
	}
	return n, peer, err
}

// destination is not valid if the system has not said it.
func (s *udpSocket) destination(control []byte) netip.Addr {
	var dst net.IP
	if s.six {
		var m ipv6.ControlMessage
		if m.Parse(control) == nil {
			dst = m.Dst
		}
	} else {
		var m ipv4.ControlMessage
		if m.Parse(control) == nil {
			dst = m.Dst
		}
	}
	a, _ := netip.AddrFromSlice(dst)
	return a
}

func (s *udpSocket) write(data []byte, to udpPeer) error {
	if s.udp == nil {
		_, err := s.conn.WriteTo(data, to.other)
		return err
	}
	var control []byte
	// To a client of IPv4, a socket of IPv6 sends as one of IPv4 does.
	switch local := to.local.Unmap(); {
	case local.Is4():
		control = (&ipv4.ControlMessage{Src: local.AsSlice()}).Marshal()
	case local.Is6():
		control = (&ipv6.ControlMessage{Src: local.AsSlice()}).Marshal()
	}
	_, _, err := s.udp.WriteMsgUDPAddrPort(data, control, to.addr)
	return err
}

// local is what the client has sent to.
func (s *udpSocket) local(to udpPeer) netip.AddrPort {
	here := addrPortOf(s.conn.LocalAddr())
	if to.local.IsValid() {
		return netip.AddrPortFrom(to.local.Unmap(), here.Port())
	}
	return here
}
