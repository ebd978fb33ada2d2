package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Packet is what a packet filter sees of one packet, as [ParsePacket] reads it.
// It is a plain value.
type Packet struct {
	// Version is that of the IP header, 4 or 6.
	Version uint8
	// Source and Destination are the addresses, IPv4-mapped ones as IPv4.
	Source, Destination netip.Addr
	// Fragment says whether the packet is a piece of a larger one. A later
	// fragment has no ports, flags and types, and over IPv6 no protocol: those
	// are in the first, and the fields below are zero.
	Fragment Fragmentation
	// Protocol is the number of the protocol above IP and its extension
	// headers, 6 for TCP.
	Protocol uint8
	// SourcePort and DestinationPort are those of TCP and UDP, else zero.
	SourcePort, DestinationPort uint16
	// Flags are those of TCP, else zero.
	Flags TCPFlags
	// ICMPType is the type of an ICMP or ICMPv6 message, else zero.
	ICMPType uint8
	// State says whether the packet belongs to a connection that exists, which
	// is not in the packet: whoever tracks connections fills it in.
	State ConnState
}

// Fragmentation says which piece of a packet a packet is.
type Fragmentation uint8

const (
	// Whole, the zero value, is a packet in one piece. That includes an IPv6
	// packet whose fragment header says that it is the only one (RFC 6946).
	Whole Fragmentation = iota
	// FirstFragment is the piece with the ports.
	FirstFragment
	// LaterFragment is any other piece.
	LaterFragment
)

// ConnState says whether a packet belongs to a connection that exists.
type ConnState uint8

const (
	// UnknownState, the zero value: nobody tracks connections.
	UnknownState ConnState = iota
	// NewState: it does not belong to one.
	NewState
	// EstablishedState: it belongs to one, in either direction.
	EstablishedState
)

// TCPFlags are the flags of a TCP header, in the order of RFC 9293 section 3.1.
type TCPFlags uint8

// The flags of TCP.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

const flagLetters = "FSRPAUEW"

// String returns a letter for each flag that is set, as pf writes them: F, S, R,
// P, A, U, E, and W for CWR.
func (f TCPFlags) String() string {
	var out []byte
	for i := range len(flagLetters) {
		if f&(1<<i) != 0 {
			out = append(out, flagLetters[i])
		}
	}
	return string(out)
}

// Numbers of protocols, as IANA assigns them.
const (
	ProtocolICMP   uint8 = 1
	ProtocolTCP    uint8 = 6
	ProtocolUDP    uint8 = 17
	ProtocolICMPv6 uint8 = 58
)

const (
	protoHopByHop   = 0
	protoRouting    = 43
	protoFragment   = 44
	protoAH         = 51
	protoDestOpts   = 60
	maxVLANTags     = 2
	maxExtensions   = 8
	etherIPv4       = 0x0800
	etherIPv6       = 0x86dd
	etherVLAN       = 0x8100
	etherQinQ       = 0x88a8
	etherQinQLegacy = 0x9100
)

var (
	// ErrNotIP is what [ParsePacket] returns for a frame that carries neither
	// IPv4 nor IPv6, such as ARP. A policy has nothing to say about those.
	ErrNotIP = errors.New("firewall: not an IP packet")
	// ErrPacket is what ParsePacket returns, wrapped, for a packet that cannot
	// be read. It is to be dropped.
	ErrPacket = errors.New("firewall: bad packet")

	errTruncated  = fmt.Errorf("%w: truncated", ErrPacket)
	errVersion    = fmt.Errorf("%w: version of IP and type of frame differ", ErrPacket)
	errLengths    = fmt.Errorf("%w: impossible length in a header", ErrPacket)
	errTags       = fmt.Errorf("%w: more than %d VLAN tags", ErrPacket, maxVLANTags)
	errExtensions = fmt.Errorf("%w: more than %d extension headers, or one where it must not be", ErrPacket, maxExtensions)
	errFragment   = fmt.Errorf("%w: fragment that would overlap a header", ErrPacket)
)

// ParsePacket reads an Ethernet frame. Every depth that sees packets reads them
// by these steps, and no other way:
//
//  1. At most two VLAN tags are skipped (types 8100, 88a8, 9100); with a third
//     the packet is bad. A type that is neither IPv4 nor IPv6 is [ErrNotIP].
//  2. The version must fit the type. The packet ends where its IP header says;
//     what the frame has beyond is padding, and a frame that is shorter is
//     truncated. Options of IPv4 are skipped. Checksums are not verified.
//  3. Extension headers of IPv6 are walked if they are hop-by-hop options, which
//     must come first, destination options, routing, authentication or
//     fragment; at most eight of them, and one fragment header. Anything else
//     ends the walk and is the protocol, also over IPv4.
//  4. A fragment at offset 1 (eight bytes) is bad: it could overlap a header
//     that was read from the first (RFC 1858). Of other later fragments nothing
//     more is read.
//  5. TCP, UDP, ICMP over IPv4 and ICMPv6 over IPv6 must have their fixed header
//     (20, 8, 8 and 8 bytes) in the packet or the first fragment, and that of
//     TCP at least the length it says.
//
// It never allocates and may be used concurrently. Errors wrap [ErrPacket] or
// are [ErrNotIP]; the packet is then the zero value.
func ParsePacket(frame []byte) (Packet, error) {
	const typeAt = 12
	rest := frame
	if len(rest) < typeAt+2 {
		return Packet{}, errTruncated
	}
	rest = rest[typeAt:]
	for tags := 0; ; tags++ {
		kind := binary.BigEndian.Uint16(rest)
		switch kind {
		case etherIPv4, etherIPv6:
			if len(rest) > 2 && (rest[2]>>4 == 4) != (kind == etherIPv4) {
				return Packet{}, errVersion
			}
			return ParseIPPacket(rest[2:])
		case etherVLAN, etherQinQ, etherQinQLegacy:
			if tags == maxVLANTags {
				return Packet{}, errTags
			}
			if len(rest) < 6 {
				return Packet{}, errTruncated
			}
			rest = rest[4:]
		default:
			return Packet{}, ErrNotIP
		}
	}
}

// ParseIPPacket is [ParsePacket] for a packet without an Ethernet header.
func ParseIPPacket(b []byte) (Packet, error) {
	if len(b) == 0 {
		return Packet{}, errTruncated
	}
	var p Packet
	var err error
	switch b[0] >> 4 {
	case 4:
		err = p.parseIPv4(b)
	case 6:
		err = p.parseIPv6(b)
	default:
		err = errVersion
	}
	if err != nil {
		return Packet{}, err
	}
	return p, nil
}

func (p *Packet) parseIPv4(b []byte) error {
	if len(b) < 20 {
		return errTruncated
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < 20 || total < header {
		return errLengths
	}
	if total > len(b) {
		return errTruncated
	}
	p.Version = 4
	p.Source = netip.AddrFrom4([4]byte(b[12:16]))
	p.Destination = netip.AddrFrom4([4]byte(b[16:20]))
	p.Protocol = b[9]
	fragment := binary.BigEndian.Uint16(b[6:])
	if err := p.fragment(fragment&0x1fff, fragment&0x2000 != 0); err != nil {
		return err
	}
	return p.parseTransport(b[header:total], ProtocolICMP)
}

func (p *Packet) parseIPv6(b []byte) error {
	const header = 40
	if len(b) < header {
		return errTruncated
	}
	next, length := b[6], int(binary.BigEndian.Uint16(b[4:]))
	if length > len(b)-header {
		return errTruncated
	}
	p.Version = 6
	p.Source = netip.AddrFrom16([16]byte(b[8:24])).Unmap()
	p.Destination = netip.AddrFrom16([16]byte(b[24:40])).Unmap()
	b = b[header : header+length]
	fragmented := false
	for count := 0; isExtension(next); count++ {
		if count == maxExtensions || next == protoHopByHop && count > 0 || next == protoFragment && fragmented {
			return errExtensions
		}
		size := 8
		if len(b) < size {
			return errTruncated
		}
		switch next {
		case protoFragment:
			fragmented = true
			field := binary.BigEndian.Uint16(b[2:])
			if err := p.fragment(field>>3, field&1 != 0); err != nil {
				return err
			}
			if p.Fragment == LaterFragment {
				return nil // its next header is not what decides
			}
		case protoAH:
			size = (int(b[1]) + 2) * 4 // RFC 4302 section 2.2
		default:
			size = (int(b[1]) + 1) * 8 // RFC 8200 section 4
		}
		if size < 8 || len(b) < size {
			return errTruncated
		}
		next, b = b[0], b[size:]
	}
	p.Protocol = next
	return p.parseTransport(b, ProtocolICMPv6)
}

func isExtension(next uint8) bool {
	switch next {
	case protoHopByHop, protoRouting, protoFragment, protoAH, protoDestOpts:
		return true
	}
	return false
}

// fragment notes the place of a fragment; offset is in units of eight bytes.
func (p *Packet) fragment(offset uint16, more bool) error {
	switch {
	case offset == 1:
		return errFragment
	case offset > 1:
		p.Fragment = LaterFragment
	case more:
		p.Fragment = FirstFragment
	}
	return nil
}

// parseTransport reads the header above IP. icmp is the one of the two ICMPs
// that belongs to this version of IP; the other is a protocol like any other.
func (p *Packet) parseTransport(b []byte, icmp uint8) error {
	if p.Fragment == LaterFragment {
		return nil
	}
	switch p.Protocol {
	case ProtocolTCP:
		if len(b) < 20 {
			return errTruncated
		}
		if header := int(b[12]>>4) * 4; header < 20 {
			return errLengths
		} else if header > len(b) {
			return errTruncated
		}
		p.Flags = TCPFlags(b[13])
		p.ports(b)
	case ProtocolUDP:
		if len(b) < 8 {
			return errTruncated
		}
		p.ports(b)
	case icmp:
		if len(b) < 8 {
			return errTruncated
		}
		p.ICMPType = b[0]
	}
	return nil
}

func (p *Packet) ports(b []byte) {
	p.SourcePort, p.DestinationPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
}
