package firewall

import (
	"encoding/binary"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// Raw packets, put together by hand: fwtest has builders, and tests that they
// agree with the parser must not be all there is.
func ipv4(protocol byte, fragment uint16, payload string) string {
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(h[6:], fragment)
	copy(h[12:], "\xc0\x00\x02\x01\xc0\x00\x02\x50")
	return string(h) + payload
}

func ipv6(next byte, payload string) string {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], "\x20\x01\x0d\xb8")
	copy(h[24:], "\x20\x01\x0d\xb8")
	h[23], h[39] = 1, 0x80
	return string(h) + payload
}

func ether(kind, payload string) string { return strings.Repeat("m", 12) + kind + payload }

const (
	tcpSYN  = "\x30\x39\x01\xbb\x00\x00\x00\x00\x00\x00\x00\x00\x50\x02\xff\xff\x00\x00\x00\x00"
	udp53   = "\x30\x39\x00\x35\x00\x08\x00\x00"
	echo    = "\x08\x00\x00\x00\x00\x00\x00\x00"
	dest    = "\x00\x01\x00\x00\x00\x00\x00\x00" // eight bytes too short
	options = "\x00\x00\x00\x00\x00\x00\x00\x00"
)

// before returns an extension header of eight bytes with its next header.
func before(next byte, rest string) string { return string(next) + options[1:] + rest }

func fragmentHeader(next byte, offset uint16, more bool, rest string) string {
	field := offset << 3
	if more {
		field |= 1
	}
	return string([]byte{next, 0, byte(field >> 8), byte(field), 0, 0, 0, 1}) + rest
}

func TestParsePacket(t *testing.T) {
	const ip4, ip6, vlan, qinq = "\x08\x00", "\x86\xdd", "\x81\x00\x00\x05", "\x88\xa8\x00\x05"
	tcp := Packet{Version: 4, Protocol: 6, SourcePort: 12345, DestinationPort: 443, Flags: SYN}
	tcp6 := tcp
	tcp6.Version = 6
	with := func(p Packet, f Fragmentation) Packet { p.Fragment = f; return p }
	udp := Packet{Version: 4, Protocol: 17, SourcePort: 12345, DestinationPort: 53}
	for name, c := range map[string]struct {
		frame string
		want  Packet
		err   error
	}{
		"tcp":                     {ether(ip4, ipv4(6, 0, tcpSYN)), tcp, nil},
		"padding":                 {ether(ip4, ipv4(6, 0, tcpSYN)+"padding"), tcp, nil},
		"one tag":                 {ether(vlan+ip4, ipv4(6, 0, tcpSYN)), tcp, nil},
		"two tags":                {ether(qinq+vlan+ip4, ipv4(6, 0, tcpSYN)), tcp, nil},
		"three tags":              {ether(qinq+vlan+vlan+ip4, ipv4(6, 0, tcpSYN)), Packet{}, ErrPacket},
		"tag at the end":          {ether(vlan, ""), Packet{}, ErrPacket},
		"arp":                     {ether("\x08\x06", "\x00\x01"), Packet{}, ErrNotIP},
		"tagged arp":              {ether(vlan+"\x08\x06", ""), Packet{}, ErrNotIP},
		"802.3 length":            {ether("\x00\x26", "\x42\x42\x03"), Packet{}, ErrNotIP},
		"empty":                   {"", Packet{}, ErrPacket},
		"short frame":             {"mmmmmmmmmmmm\x08", Packet{}, ErrPacket},
		"no ip header":            {ether(ip4, ""), Packet{}, ErrPacket},
		"ipv6 as ipv4":            {ether(ip4, ipv6(6, tcpSYN)), Packet{}, ErrPacket},
		"ipv4 as ipv6":            {ether(ip6, ipv4(6, 0, tcpSYN)), Packet{}, ErrPacket},
		"version 5":               {ether(ip4, "\x55"+ipv4(6, 0, tcpSYN)[1:]), Packet{}, ErrPacket},
		"truncated ipv4":          {ether(ip4, ipv4(6, 0, tcpSYN)[:30]), Packet{}, ErrPacket},
		"header of 16":            {ether(ip4, "\x44"+ipv4(6, 0, tcpSYN)[1:]), Packet{}, ErrPacket},
		"options":                 {ether(ip4, "\x46\x00\x00\x2c"+ipv4(6, 0, "")[4:]+"\x01\x01\x01\x01"+tcpSYN), tcp, nil},
		"options beyond":          {ether(ip4, "\x4f"+ipv4(6, 0, tcpSYN)[1:]), Packet{}, ErrPacket},
		"short tcp":               {ether(ip4, ipv4(6, 0, tcpSYN[:19])), Packet{}, ErrPacket},
		"tcp of 16":               {ether(ip4, ipv4(6, 0, tcpSYN[:12]+"\x40"+tcpSYN[13:])), Packet{}, ErrPacket},
		"tcp options beyond":      {ether(ip4, ipv4(6, 0, tcpSYN[:12]+"\x60"+tcpSYN[13:])), Packet{}, ErrPacket},
		"udp":                     {ether(ip4, ipv4(17, 0, udp53)), udp, nil},
		"short udp":               {ether(ip4, ipv4(17, 0, udp53[:7])), Packet{}, ErrPacket},
		"echo":                    {ether(ip4, ipv4(1, 0, echo)), Packet{Version: 4, Protocol: 1, ICMPType: 8}, nil},
		"short echo":              {ether(ip4, ipv4(1, 0, echo[:7])), Packet{}, ErrPacket},
		"icmpv6 over ipv4":        {ether(ip4, ipv4(58, 0, echo)), Packet{Version: 4, Protocol: 58}, nil},
		"gre":                     {ether(ip4, ipv4(47, 0, "")), Packet{Version: 4, Protocol: 47}, nil},
		"don't fragment":          {ether(ip4, ipv4(6, 0x4000, tcpSYN)), tcp, nil},
		"first fragment":          {ether(ip4, ipv4(6, 0x2000, tcpSYN)), with(tcp, FirstFragment), nil},
		"tiny first fragment":     {ether(ip4, ipv4(6, 0x2000, tcpSYN[:8])), Packet{}, ErrPacket},
		"offset 1":                {ether(ip4, ipv4(6, 0x2001, tcpSYN)), Packet{}, ErrPacket},
		"last at offset 1":        {ether(ip4, ipv4(17, 1, udp53)), Packet{}, ErrPacket},
		"later fragment":          {ether(ip4, ipv4(6, 0x2002, tcpSYN)), Packet{Version: 4, Protocol: 6, Fragment: LaterFragment}, nil},
		"last fragment":           {ether(ip4, ipv4(6, 100, "x")), Packet{Version: 4, Protocol: 6, Fragment: LaterFragment}, nil},
		"tcp over ipv6":           {ether(ip6, ipv6(6, tcpSYN)), tcp6, nil},
		"truncated ipv6":          {ether(ip6, ipv6(6, tcpSYN)[:59]), Packet{}, ErrPacket},
		"ipv6 header only":        {ether(ip6, ipv6(6, tcpSYN)[:39]), Packet{}, ErrPacket},
		"icmpv6":                  {ether(ip6, ipv6(58, "\x87"+echo[1:])), Packet{Version: 6, Protocol: 58, ICMPType: 135}, nil},
		"icmp over ipv6":          {ether(ip6, ipv6(1, echo)), Packet{Version: 6, Protocol: 1}, nil},
		"no next header":          {ether(ip6, ipv6(59, "")), Packet{Version: 6, Protocol: 59}, nil},
		"esp":                     {ether(ip6, ipv6(50, tcpSYN)), Packet{Version: 6, Protocol: 50}, nil},
		"hop by hop":              {ether(ip6, ipv6(0, before(60, before(43, before(6, tcpSYN))))), tcp6, nil},
		"hop by hop second":       {ether(ip6, ipv6(60, before(0, before(6, tcpSYN)))), Packet{}, ErrPacket},
		"long options":            {ether(ip6, ipv6(60, "\x06\x01"+strings.Repeat("\x00", 14)+tcpSYN)), tcp6, nil},
		"options beyond the end":  {ether(ip6, ipv6(60, dest)), Packet{}, ErrPacket},
		"extension cut off":       {ether(ip6, ipv6(60, "\x06\x00")), Packet{}, ErrPacket},
		"ah":                      {ether(ip6, ipv6(51, "\x06\x04"+strings.Repeat("\x00", 22)+tcpSYN)), tcp6, nil},
		"ah of 8":                 {ether(ip6, ipv6(51, before(6, tcpSYN))), tcp6, nil},
		"atomic fragment":         {ether(ip6, ipv6(44, fragmentHeader(6, 0, false, tcpSYN))), tcp6, nil},
		"first fragment 6":        {ether(ip6, ipv6(44, fragmentHeader(6, 0, true, tcpSYN))), with(tcp6, FirstFragment), nil},
		"first without tcp":       {ether(ip6, ipv6(44, fragmentHeader(60, 0, true, before(6, "")))), Packet{}, ErrPacket},
		"offset 1 in ipv6":        {ether(ip6, ipv6(44, fragmentHeader(6, 1, true, tcpSYN))), Packet{}, ErrPacket},
		"later fragment 6":        {ether(ip6, ipv6(44, fragmentHeader(6, 2, true, tcpSYN))), Packet{Version: 6, Fragment: LaterFragment}, nil},
		"later after options":     {ether(ip6, ipv6(60, before(44, fragmentHeader(60, 2, false, "x")))), Packet{Version: 6, Fragment: LaterFragment}, nil},
		"options after fragment":  {ether(ip6, ipv6(44, fragmentHeader(60, 0, true, before(6, tcpSYN)))), with(tcp6, FirstFragment), nil},
		"two fragment headers":    {ether(ip6, ipv6(44, fragmentHeader(44, 0, true, fragmentHeader(6, 0, false, tcpSYN)))), Packet{}, ErrPacket},
		"fragment header cut off": {ether(ip6, ipv6(44, "\x06\x00\x00\x00")), Packet{}, ErrPacket},
		"payload of length 0":     {ether(ip6, ipv6(6, "")+tcpSYN), Packet{}, ErrPacket},
	} {
		switch {
		case c.err != nil:
		case c.want.Version == 4:
			c.want.Source, c.want.Destination = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.80")
		default:
			c.want.Source, c.want.Destination = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::80")
		}
		got, err := ParsePacket([]byte(c.frame))
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %+v, %v\nwant %+v, %v", name, got, err, c.want, c.err)
		}
	}
	for n, want := range map[int]error{maxExtensions: nil, maxExtensions + 1: ErrPacket} {
		chain := tcpSYN
		next := byte(6)
		for range n {
			chain, next = before(next, chain), 60
		}
		if got, err := ParsePacket([]byte(ether("\x86\xdd", ipv6(60, chain)))); !errors.Is(err, want) || err == nil && got.DestinationPort != 443 {
			t.Errorf("%d extension headers: %+v, %v", n, got, err)
		}
	}
	mapped := []byte(ipv6(6, tcpSYN))
	copy(mapped[8:], "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01")
	if got, err := ParseIPPacket(mapped); err != nil || got.Source != netip.MustParseAddr("192.0.2.1") || got.Version != 6 {
		t.Errorf("a mapped address: %+v, %v", got, err)
	}
}

func TestPacketPredicates(t *testing.T) {
	tcp := Packet{Version: 4, Protocol: 6, SourcePort: 5, DestinationPort: 443, Flags: SYN | ECE}
	udp := Packet{Version: 6, Protocol: 17, SourcePort: 5, DestinationPort: 53, State: EstablishedState}
	ping := Packet{Version: 4, Protocol: 1, ICMPType: 8, State: NewState}
	ping6 := Packet{Version: 6, Protocol: 58, ICMPType: 128}
	later := Packet{Version: 4, Protocol: 6, Fragment: LaterFragment}
	later6 := Packet{Version: 6, Fragment: LaterFragment}
	conn := facts{peer: parseAddrPort("192.0.2.1:5"), local: parseAddrPort("192.0.2.80:443")}
	http3 := conn
	http3.request = &http.Request{ProtoMajor: 3}
	of := func(p Packet) *facts { return &facts{isPacket: true, packet: p} }
	for _, c := range []struct {
		m    Match
		want [8]truth // of the seven above, and of the connection as HTTP/3
	}{
		{DestinationPort(443), [8]truth{yes, no, no, no, unknown, unknown, yes, yes}},
		{DestinationPortRange(50, 60), [8]truth{no, yes, no, no, unknown, unknown, no, no}},
		{SourcePort(5), [8]truth{yes, yes, no, no, unknown, unknown, yes, yes}},
		{SourcePortRange(6, 9), [8]truth{no, no, no, no, unknown, unknown, no, no}},
		{Protocol(6), [8]truth{yes, no, no, no, yes, unknown, yes, no}},
		{Protocol(17, 58), [8]truth{no, yes, no, yes, no, unknown, no, yes}},
		{Flags(SYN, SYN|ACK), [8]truth{yes, no, no, no, unknown, unknown, yes, no}},
		{Flags(SYN|ACK, SYN|ACK), [8]truth{no, no, no, no, unknown, unknown, no, no}},
		{Flags(0, SYN), [8]truth{no, no, no, no, unknown, unknown, no, no}},
		{Flags(0, RST), [8]truth{yes, no, no, no, unknown, unknown, yes, no}},
		{Flags(ECE, ECE), [8]truth{yes, no, no, no, unknown, unknown, unknown, no}},
		{Flags(PSH, PSH|FIN), [8]truth{no, no, no, no, unknown, unknown, unknown, no}},
		{Flags(PSH|FIN, PSH|FIN), [8]truth{no, no, no, no, unknown, unknown, no, no}},
		{ICMPType(8), [8]truth{no, no, yes, no, no, no, no, no}},
		{ICMPv6Type(128), [8]truth{no, no, no, yes, no, unknown, no, no}},
		{Fragment(), [8]truth{no, no, no, no, yes, yes, no, no}},
		{Established(), [8]truth{unknown, yes, no, unknown, unknown, unknown, no, no}},
		{Path("/"), [8]truth{unknown, unknown, no, no, unknown, unknown, unknown, yes}},
	} {
		http3.request.URL = request("GET", "/", "192.0.2.1:1").URL
		for i, f := range []*facts{of(tcp), of(udp), of(ping), of(ping6), of(later), of(later6), &conn, &http3} {
			if got := c.m.n.eval(f); got != c.want[i] {
				t.Errorf("%v of %d: %d, want %d", c.m, i, got, c.want[i])
			}
		}
	}
}

func TestDecideFrame(t *testing.T) {
	f := newFirewall(t, Config{
		TrustedProxies: prefixes("192.0.2.0/24"),
		Policy: Policy{Rules: []Rule{
			{ID: "ping", Match: ICMPType(8), Verdict: Accept},
			{ID: "old", Match: Established(), Verdict: Accept},
			{ID: "client", Match: Source(prefixes("198.51.100.0/24")...), Verdict: Accept},
		}},
	})
	const ip4 = "\x08\x00"
	for _, c := range []struct {
		name, frame string
		state       ConnState
		verdict     Verdict
		reason      Reason
		undecided   bool
	}{
		{"arp", ether("\x08\x06", ""), 0, Accept, ByPacket, false},
		{"truncated", ether(ip4, ""), 0, Drop, ByPacket, false},
		{"ping", ether(ip4, ipv4(1, 0, echo)), 0, Accept, ByRule, false},
		{"established", ether(ip4, ipv4(47, 0, "")), EstablishedState, Accept, ByRule, false},
		{"maybe established", ether(ip4, ipv4(47, 0, "")), UnknownState, Accept, ByRule, true},
		{"new", ether(ip4, ipv4(47, 0, "")), NewState, Drop, ByDefault, false},
		{"from a proxy, for somebody", ether(ip4, ipv4(6, 0, tcpSYN)), NewState, Accept, ByRule, true},
	} {
		if d := f.DecideFrame([]byte(c.frame), c.state); d.Verdict != c.verdict || d.Reason != c.reason || d.Undecided != c.undecided || d.Generation != 1 {
			t.Errorf("%s: %+v", c.name, d)
		}
	}
	if d := f.DecidePacket(Packet{}); d.Verdict != Drop || d.Reason != ByClient {
		t.Errorf("without an address: %+v", d)
	}
	if err := f.Ban(netip.MustParsePrefix("192.0.2.0/24"), 1e9, ""); err != nil {
		t.Fatal(err)
	}
	if d := f.DecideFrame([]byte(ether(ip4, ipv4(1, 0, echo))), NewState); d.Verdict != Drop || d.Reason != ByBan {
		t.Errorf("a banned ping: %+v", d)
	}
	if d := f.DecideFrame([]byte(ether(ip4, ipv4(6, 0, tcpSYN))), NewState); d.Verdict != Accept {
		t.Errorf("a banned proxy, which may speak for others: %+v", d)
	}
}

func TestPacketsDoNotAllocate(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Rules: []Rule{{ID: "x", Match: All(Protocol(6), DestinationPort(443)), Verdict: Accept}}}})
	frame := []byte(ether("\x08\x00", ipv4(6, 0, tcpSYN)))
	if n := testing.AllocsPerRun(100, func() {
		if d := f.DecideFrame(frame, NewState); d.RuleID != "x" {
			t.Fatalf("decision %+v", d)
		}
	}); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}
