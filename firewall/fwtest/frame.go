package fwtest

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/palisade-go/palisade/firewall"
)

// Numbers of the extension headers of IPv6 that [Frame] builds.
const (
	HopByHop           uint8 = 0
	Routing            uint8 = 43
	FragmentHeader     uint8 = 44
	Authentication     uint8 = 51
	DestinationOptions uint8 = 60
)

// Frame describes an Ethernet frame with an IP packet. The zero value is one
// from 192.0.2.1 to 192.0.2.80 with protocol 0 and no payload. It is plain data.
type Frame struct {
	// Tags are the types of the VLAN tags, the outermost first. Each is tag 5.
	Tags []uint16
	// EtherType is what the frame says it carries. Zero is what it does carry.
	EtherType uint16
	// Source and Destination are of one family. A zero one is 192.0.2.1 or
	// 192.0.2.80.
	Source, Destination netip.Addr
	// Options are those of IPv4, padded to a multiple of 4 bytes; at most 40.
	Options []byte
	// Extensions are the extension headers of IPv6, in order. Each is as short
	// as it can be. FragmentHeader among them gets Offset and More.
	Extensions []uint8
	// Offset, in units of 8 bytes, and More make a fragment: over IPv4, or
	// where Extensions have a FragmentHeader.
	Offset uint16
	More   bool
	// Protocol is what is above IP. TCP, UDP, ICMP and ICMPv6 get a header,
	// unless Offset is above zero.
	Protocol uint8
	// SourcePort and DestinationPort are those of TCP and UDP.
	SourcePort, DestinationPort uint16
	// Flags are those of TCP.
	Flags firewall.TCPFlags
	// ICMPType is that of ICMP and ICMPv6.
	ICMPType uint8
	// Payload is what is above all headers.
	Payload []byte
	// BadChecksum makes all checksums wrong. They are right otherwise.
	BadChecksum bool
	// Padding is the number of bytes that the frame has after the packet.
	Padding int
	// Cut is how many bytes are cut off the end of the frame.
	Cut int
}

// Bytes builds the frame.
func (f Frame) Bytes() []byte {
	if !f.Source.IsValid() {
		f.Source = netip.AddrFrom4([4]byte{192, 0, 2, 1})
	}
	if !f.Destination.IsValid() {
		f.Destination = netip.AddrFrom4([4]byte{192, 0, 2, 80})
	}
	kind, packet := uint16(0x86dd), f.ipv6
	if f.Source.Is4() {
		kind, packet = 0x0800, f.ipv4
	}
	if f.EtherType != 0 {
		kind = f.EtherType
	}
	out := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	for _, tag := range f.Tags {
		out = binary.BigEndian.AppendUint16(out, tag)
		out = binary.BigEndian.AppendUint16(out, 5)
	}
	out = binary.BigEndian.AppendUint16(out, kind)
	out = append(out, packet()...)
	out = append(out, make([]byte, max(0, f.Padding))...)
	return out[:max(0, len(out)-max(0, f.Cut))]
}

func (f Frame) ipv4() []byte {
	options := slices.Clone(f.Options[:min(len(f.Options), 40)])
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	payload := f.transport()
	h := make([]byte, 20, 20+len(options)+len(payload))
	h = append(h, options...)
	h[0], h[8], h[9] = 0x40|byte(len(h)/4), 64, f.Protocol
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	binary.BigEndian.PutUint16(h[4:], 1)
	place := f.Offset & 0x1fff
	if f.More {
		place |= 0x2000
	}
	binary.BigEndian.PutUint16(h[6:], place)
	source, destination := f.Source.As4(), f.Destination.As4()
	copy(h[12:], source[:])
	copy(h[16:], destination[:])
	f.putChecksum(h, 10, sum(h))
	return append(h, payload...)
}

func (f Frame) ipv6() []byte {
	rest := f.transport()
	next := f.Protocol
	for _, kind := range slices.Backward(f.Extensions) {
		rest = append(f.extension(kind, next), rest...)
		next = kind
	}
	h := make([]byte, 40, 40+len(rest))
	h[0], h[6], h[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(rest)))
	source, destination := f.Source.As16(), f.Destination.As16()
	copy(h[8:], source[:])
	copy(h[24:], destination[:])
	return append(h, rest...)
}

func (f Frame) extension(kind, next uint8) []byte {
	h := []byte{next, 0, 1, 4, 0, 0, 0, 0} // PadN, which fills it
	switch kind {
	case FragmentHeader:
		place := f.Offset << 3
		if f.More {
			place |= 1
		}
		binary.BigEndian.PutUint16(h[2:], place)
		binary.BigEndian.PutUint32(h[4:], 1)
	case Authentication:
		h = make([]byte, 24) // with 12 bytes of authentication
		h[0], h[1] = next, byte(len(h)/4-2)
	case Routing:
		h[2] = 4 // no segments left: to be ignored
		h[3] = 0
	}
	return h
}

// transport builds what is above IP.
func (f Frame) transport() []byte {
	if f.Offset > 0 {
		return f.Payload
	}
	var h []byte
	at := 0
	switch f.Protocol {
	case firewall.ProtocolTCP:
		h, at = make([]byte, 20), 16
		h[12], h[13] = 0x50, byte(f.Flags)
		binary.BigEndian.PutUint16(h[14:], 65535)
	case firewall.ProtocolUDP:
		h, at = make([]byte, 8), 6
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(f.Payload)))
	case firewall.ProtocolICMP, firewall.ProtocolICMPv6:
		h, at = make([]byte, 8), 2
		h[0] = f.ICMPType
	default:
		return f.Payload
	}
	if at > 2 {
		binary.BigEndian.PutUint16(h, f.SourcePort)
		binary.BigEndian.PutUint16(h[2:], f.DestinationPort)
	}
	out := append(h, f.Payload...)
	total := sum(out)
	if f.Protocol != firewall.ProtocolICMP {
		total += sum(f.Source.AsSlice()) + sum(f.Destination.AsSlice()) + uint32(f.Protocol) + uint32(len(out))
	}
	f.putChecksum(out, at, total)
	return out
}

// sum adds up 16-bit words (RFC 1071), without the complement.
func sum(b []byte) (total uint32) {
	for i := 0; i+1 < len(b); i += 2 {
		total += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		total += uint32(b[len(b)-1]) << 8
	}
	return total
}

func (f Frame) putChecksum(b []byte, at int, total uint32) {
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	v := ^uint16(total)
	if f.BadChecksum {
		v ^= 0x5555
	}
	binary.BigEndian.PutUint16(b[at:], v)
}
