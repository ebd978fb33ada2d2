package firewall

// The predicates of this file are about packets. A connection, and so a request,
// is judged as its opening packet would be: whole, and not established.

// SourcePort matches the port of the peer, for TCP and UDP.
func SourcePort(ports ...uint16) Match { return portMatch(opSourcePort, spansOf(ports)) }

// SourcePortRange matches the ports of the peer from first to last, both
// included.
func SourcePortRange(first, last uint16) Match {
	return portMatch(opSourcePort, []span{{first, last}})
}

// Protocol matches the protocol above IP: a request over HTTP/3 is UDP, and any
// other request and every connection is TCP.
func Protocol(numbers ...uint8) Match { return byteMatch(opProtocol, spansOf(numbers)) }

// Flags matches TCP packets of whose flags in mask exactly those in set are set:
// Flags(SYN, SYN|ACK) is S/SA, the packet that opens a connection.
func Flags(set, mask TCPFlags) Match {
	n := &node{op: opFlags, flags: [2]TCPFlags{set, mask}}
	if mask == 0 || set&^mask != 0 {
		n.fail("tcp-flags %v/%v, want flags, and a mask that has them", set, mask)
	}
	return Match{n}
}

// ICMPType matches ICMP messages over IPv4 by their type.
func ICMPType(types ...uint8) Match { return byteMatch(opICMPType, spansOf(types)) }

// ICMPv6Type matches ICMPv6 messages over IPv6 by their type.
func ICMPv6Type(types ...uint8) Match { return byteMatch(opICMPv6Type, spansOf(types)) }

// Fragment matches packets that are a piece of a larger one. A connection is
// never one: who accepts it sees what was put together again.
func Fragment() Match { return Match{&node{op: opFragment}} }

// Established matches packets of connections that exist. A connection as it is
// accepted does not exist yet, and a request is judged like its connection.
func Established() Match { return Match{&node{op: opEstablished}} }

// byteMatch makes a predicate over numbers up to 255.
func byteMatch(o op, spans []span) Match {
	n := &node{op: o, spans: spans}
	if len(spans) == 0 {
		n.fail("%v without numbers, want at least one", o)
	}
	for _, s := range spans {
		if s.first > s.last {
			n.fail("%v %v, want the lower number first", o, s)
		}
	}
	return Match{n}
}

func protocolName(s span) string {
	if s.first == s.last {
		switch uint8(s.first) {
		case ProtocolICMP:
			return "icmp"
		case ProtocolTCP:
			return "tcp"
		case ProtocolUDP:
			return "udp"
		case ProtocolICMPv6:
			return "icmpv6"
		}
	}
	return s.String()
}

func namedProtocol(name string) (span, bool) {
	for _, number := range []uint8{ProtocolICMP, ProtocolTCP, ProtocolUDP, ProtocolICMPv6} {
		s := span{uint16(number), uint16(number)}
		if protocolName(s) == name {
			return s, true
		}
	}
	return span{}, false
}

// protocolSeen says whether the protocol field means anything.
func (p *Packet) protocolSeen() bool { return p.Version == 4 || p.Fragment != LaterFragment }

// mayCarryRequests says whether a request may come of the packet: over TCP, or
// over UDP for HTTP/3.
func (p *Packet) mayCarryRequests() bool {
	return !p.protocolSeen() || p.Protocol == ProtocolTCP || p.Protocol == ProtocolUDP
}

// evalPacket evaluates the predicates over what a packet has. A field that only
// the first fragment has is unknown in the others, unless the protocol, where it
// is seen, does not have it at all.
func (n *node) evalPacket(p *Packet) truth {
	switch n.op {
	case opFragment:
		return truthOf(p.Fragment != Whole)
	case opEstablished:
		if p.State == UnknownState {
			return unknown
		}
		return truthOf(p.State == EstablishedState)
	case opProtocol:
		if !p.protocolSeen() {
			return unknown
		}
		return within(n.spans, uint16(p.Protocol))
	}
	if p.protocolSeen() && !n.belongsTo(p) {
		return no
	}
	if p.Fragment == LaterFragment {
		if n.op == opICMPType && p.Version == 6 {
			return no
		}
		return unknown
	}
	switch n.op {
	case opSourcePort:
		return within(n.spans, p.SourcePort)
	case opDestinationPort:
		return within(n.spans, p.DestinationPort)
	case opFlags:
		return truthOf(p.Flags&n.flags[1] == n.flags[0])
	}
	return within(n.spans, uint16(p.ICMPType))
}

// belongsTo says whether the protocol of the packet has the field that the
// predicate is about.
func (n *node) belongsTo(p *Packet) bool {
	switch n.op {
	case opFlags:
		return p.Protocol == ProtocolTCP
	case opICMPType:
		return p.Version == 4 && p.Protocol == ProtocolICMP
	case opICMPv6Type:
		return p.Version == 6 && p.Protocol == ProtocolICMPv6
	}
	return p.Protocol == ProtocolTCP || p.Protocol == ProtocolUDP
}

// evalOpening evaluates the predicates over packets for the one that opened a
// connection.
func (n *node) evalOpening(f *facts) truth {
	udp := f.request != nil && f.request.ProtoMajor == 3
	switch n.op {
	case opDestinationPort:
		if local := f.localAddr(); local.IsValid() {
			return within(n.spans, local.Port())
		}
		return unknown
	case opSourcePort:
		if f.peer.Port() == 0 {
			return unknown
		}
		return within(n.spans, f.peer.Port())
	case opProtocol:
		if udp {
			return within(n.spans, uint16(ProtocolUDP))
		}
		return within(n.spans, uint16(ProtocolTCP))
	case opFlags:
		if udp {
			return no
		}
		return evalOpeningFlags(n.flags[0], n.flags[1])
	}
	return no // neither ICMP, nor a fragment, nor established
}

// evalOpeningFlags knows that SYN was set and ACK, FIN and RST were not. It does
// not know about the others: ECE and CWR, say, are set to ask for ECN (RFC 3168
// section 6.1.1).
func evalOpeningFlags(set, mask TCPFlags) truth {
	const seen = SYN | ACK | FIN | RST
	switch {
	case set&seen != SYN&mask:
		return no
	case mask&^seen != 0:
		return unknown
	}
	return yes
}
