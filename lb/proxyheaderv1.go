package lb

import (
	"bytes"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

const (
	proxyV1Start = "PROXY "
	// maxProxyV1 is the longest line, with its end (proxy-protocol.txt, section
	// 2.1).
	maxProxyV1 = 107
)

// parseProxyV1 gets data that begins as a line does, or less.
func parseProxyV1(data []byte) (*ProxyHeader, int, error) {
	head := data[:min(len(data), maxProxyV1)]
	end := bytes.IndexByte(head, '\n')
	switch {
	case end < 0 && len(data) >= maxProxyV1:
		return nil, 0, badProxy("no end of line within %d bytes", maxProxyV1)
	case end < 0:
		return nil, 0, io.ErrUnexpectedEOF
	case bytes.IndexByte(head, '\r') != end-1:
		return nil, 0, badProxy("the line does not end in CR LF")
	case end <= len(proxyV1Start):
		return nil, 0, badProxy("the line ends too soon")
	}
	h := &ProxyHeader{Version: ProxyV1}
	line := string(head[len(proxyV1Start) : end-1])
	// Whatever comes after UNKNOWN must be ignored.
	if line == "UNKNOWN" || strings.HasPrefix(line, "UNKNOWN ") {
		return h, end + 1, nil
	}
	fields := strings.Split(line, " ")
	if len(fields) != 5 || fields[0] != "TCP4" && fields[0] != "TCP6" {
		return nil, 0, badProxy("%q is neither UNKNOWN nor TCP4 or TCP6 with two addresses and two ports", line)
	}
	source, ok1 := parseProxyV1Addr(fields[0], fields[1], fields[3])
	destination, ok2 := parseProxyV1Addr(fields[0], fields[2], fields[4])
	if !ok1 || !ok2 {
		return nil, 0, badProxy("%q has an address or a port that is none", line)
	}
	h.Source, h.Destination = source, destination
	return h, end + 1, nil
}

func parseProxyV1Addr(family, address, port string) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(address)
	if err != nil || a.Zone() != "" || a.Is4() != (family == "TCP4") {
		return netip.AddrPort{}, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	// ParseUint takes leading zeros, which are another port to those who read octal.
	if err != nil || strconv.FormatUint(n, 10) != port {
		return netip.AddrPort{}, false
	}
	return unmapped(netip.AddrPortFrom(a, uint16(n))), true
}

func (h *ProxyHeader) appendV1(dst []byte) []byte {
	dst = append(dst, proxyV1Start...)
	if !h.knows() || h.Datagram {
		return append(dst, "UNKNOWN\r\n"...)
	}
	source, destination := h.Source.Addr().WithZone(""), h.Destination.Addr().WithZone("")
	if source.Unmap().Is4() && destination.Unmap().Is4() {
		source, destination = source.Unmap(), destination.Unmap()
		dst = append(dst, "TCP4 "...)
	} else {
		source, destination = netip.AddrFrom16(source.As16()), netip.AddrFrom16(destination.As16())
		dst = append(dst, "TCP6 "...)
	}
	dst = append(source.AppendTo(dst), ' ')
	dst = append(destination.AppendTo(dst), ' ')
	dst = append(strconv.AppendUint(dst, uint64(h.Source.Port()), 10), ' ')
	dst = strconv.AppendUint(dst, uint64(h.Destination.Port()), 10)
	return append(dst, "\r\n"...)
}
