package fwtest

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"github.com/palisade-go/palisade/firewall"
)

// bug is a mistake that packet filters make, planted in the naive parser.
type bug int

const (
	none bug = iota
	oneTag
	anyTags
	versionNotChecked
	optionsNotSkipped
	paddingCounts
	truncatedPasses
	fragmentsAreWhole
	offsetOnePasses
	tinyFirstPasses
	firstIsWhole
	extensionsNotWalked
	espWalked
	nineExtensionsPass
	authenticationLength
	lateHopByHop
	twoFragmentHeaders
	offsetNotShifted
	laterProtocolTrusted
	portsSwapped
	portsLittleEndian
	flagsOfWrongByte
	tcpLengthNotChecked
	icmpOfAnyVersion
	arpDropped
	bugs // their number
)

var (
	errBad   = errors.New("bad")
	errNotIP = errors.New("not IP")
)

// naive is a second parser, written from the steps in the documentation of
// ParsePacket rather than from its code: a reader that is cut piece by piece, and
// that panics with an error when it has no more.
type naive struct {
	rest []byte
	bug  bug
	p    firewall.Packet
}

func parseNaive(frame []byte, b bug) (p firewall.Packet, err error) {
	n := &naive{rest: frame, bug: b}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(error)
			if !ok || e != errBad && e != errNotIP {
				panic(r)
			}
			p, err = firewall.Packet{}, e
		}
	}()
	n.link()
	return n.p, nil
}

func (n *naive) is(b bug) bool { return n.bug == b }

// check gives up on a packet that is bad.
func (n *naive) check(good bool) {
	if !good {
		panic(errBad)
	}
}

func (n *naive) take(count int) []byte {
	if count > len(n.rest) && n.is(truncatedPasses) {
		n.rest = append(slices.Clone(n.rest), make([]byte, count-len(n.rest))...)
	}
	n.check(count >= 0 && count <= len(n.rest))
	b := n.rest[:count]
	n.rest = n.rest[count:]
	return b
}

func (n *naive) u16() int { return int(binary.BigEndian.Uint16(n.take(2))) }

func (n *naive) link() {
	n.take(12)
	kind := n.u16()
	for tags := 0; slices.Contains([]int{0x8100, 0x88a8, 0x9100}, kind); tags++ {
		if n.is(oneTag) && tags == 1 {
			break
		}
		n.check(tags < 2 || n.is(anyTags))
		n.take(2)
		kind = n.u16()
	}
	want := map[int]byte{0x0800: 4, 0x86dd: 6}[kind]
	if want == 0 {
		if n.is(arpDropped) {
			panic(errBad)
		}
		panic(errNotIP)
	}
	n.check(len(n.rest) > 0)
	version := n.rest[0] >> 4
	if n.is(versionNotChecked) {
		want = version
	}
	n.check(version == want)
	switch version {
	case 4:
		n.ipv4()
	case 6:
		n.ipv6()
	default:
		n.check(false)
	}
}

func (n *naive) ipv4() {
	whole := n.rest
	h := n.take(20)
	header := int(h[0]&15) * 4
	total := int(binary.BigEndian.Uint16(h[2:]))
	n.check(header >= 20 && total >= header)
	if n.is(paddingCounts) {
		total = max(total, len(whole))
	}
	n.rest = whole
	n.rest = n.take(total)
	if n.is(optionsNotSkipped) {
		header = 20
	}
	n.take(header)
	n.p.Version, n.p.Protocol = 4, h[9]
	n.p.Source, n.p.Destination = netip.AddrFrom4([4]byte(h[12:16])), netip.AddrFrom4([4]byte(h[16:20]))
	place := int(binary.BigEndian.Uint16(h[6:]))
	n.piece(place%0x2000, place/0x2000%2 == 1)
	n.above()
}

func (n *naive) ipv6() {
	h := n.take(40)
	length := int(binary.BigEndian.Uint16(h[4:]))
	if n.is(paddingCounts) {
		length = max(length, len(n.rest))
	}
	n.rest = n.take(length)
	n.p.Version = 6
	n.p.Source, n.p.Destination = netip.AddrFrom16([16]byte(h[8:24])).Unmap(), netip.AddrFrom16([16]byte(h[24:40])).Unmap()
	n.p.Protocol = n.extensions(h[6], 0, false)
	n.above()
}

// extensions returns what comes after them.
func (n *naive) extensions(kind byte, count int, fragmented bool) byte {
	known := []byte{HopByHop, Routing, FragmentHeader, Authentication, DestinationOptions}
	if n.is(espWalked) {
		known = append(known, 50)
	}
	if !slices.Contains(known, kind) || n.is(extensionsNotWalked) {
		return kind
	}
	n.check(count < 8 || n.is(nineExtensionsPass))
	h := n.take(8)
	switch kind {
	case HopByHop:
		n.check(count == 0 || n.is(lateHopByHop))
		n.take(int(h[1]) * 8)
	case FragmentHeader:
		n.check(!fragmented || n.is(twoFragmentHeaders))
		fragmented = true
		place := int(binary.BigEndian.Uint16(h[2:]))
		offset := place / 8
		if n.is(offsetNotShifted) {
			offset = place
		}
		n.piece(offset, place%2 == 1)
		if n.p.Fragment == firewall.LaterFragment {
			if n.is(laterProtocolTrusted) {
				n.p.Version = 4 // whose fragments all say the protocol
				return h[0]
			}
			return 0
		}
	case Authentication:
		if n.is(authenticationLength) {
			n.take(int(h[1]) * 8)
		} else {
			n.take(int(h[1])*4 + 8 - 8)
		}
	default:
		n.take(int(h[1]) * 8)
	}
	return n.extensions(h[0], count+1, fragmented)
}

func (n *naive) piece(offset int, more bool) {
	switch {
	case n.is(fragmentsAreWhole):
	case offset == 1:
		n.check(n.is(offsetOnePasses))
		n.p.Fragment = firewall.LaterFragment
	case offset > 1:
		n.p.Fragment = firewall.LaterFragment
	case more && !n.is(firstIsWhole):
		n.p.Fragment = firewall.FirstFragment
	}
}

func (n *naive) above() {
	if n.p.Fragment == firewall.LaterFragment {
		return
	}
	if n.is(tinyFirstPasses) && n.p.Fragment == firewall.FirstFragment && len(n.rest) < 20 {
		n.rest = append(slices.Clone(n.rest), make([]byte, 12)...)
		if n.p.Protocol == tcp {
			n.rest = append(n.rest[:12:12], 0x50, 0, 0, 0, 0, 0, 0, 0)
		}
	}
	all := n.rest
	switch {
	case n.p.Protocol == tcp:
		n.ports()
		h := n.take(16)
		words := int(h[8] / 16)
		n.check(n.is(tcpLengthNotChecked) || words >= 5 && words*4 <= len(all))
		n.p.Flags = firewall.TCPFlags(h[9])
		if n.is(flagsOfWrongByte) {
			n.p.Flags = firewall.TCPFlags(h[8])
		}
	case n.p.Protocol == udp:
		n.ports()
		n.take(4)
	case n.p.Protocol == icmp && n.p.Version == 4, n.p.Protocol == icmpv6 && n.p.Version == 6:
		n.p.ICMPType = n.take(8)[0]
	case n.is(icmpOfAnyVersion) && (n.p.Protocol == icmp || n.p.Protocol == icmpv6):
		n.p.ICMPType = n.take(8)[0]
		n.p.Version = map[uint8]uint8{icmp: 4, icmpv6: 6}[n.p.Protocol]
	}
}

func (n *naive) ports() {
	a, b := uint16(n.u16()), uint16(n.u16())
	switch {
	case n.is(portsSwapped):
		a, b = b, a
	case n.is(portsLittleEndian):
		a, b = a<<8|a>>8, b<<8|b>>8
	}
	n.p.SourcePort, n.p.DestinationPort = a, b
}
