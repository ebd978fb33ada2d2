package fwtest

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/palisade-go/palisade/firewall"
)

// Case is a frame with a name.
type Case struct {
	Name  string
	Frame []byte
}

const (
	tcp    = firewall.ProtocolTCP
	udp    = firewall.ProtocolUDP
	icmp   = firewall.ProtocolICMP
	icmpv6 = firewall.ProtocolICMPv6

	vlan = 0x8100
	qinq = 0x88a8
)

// Corpus returns the frames on which packet filters have gone wrong: fragments,
// extension headers, VLAN tags, options, checksums, and all of a few frames cut
// off at every length. It is the same every time, and the caller may change it.
func Corpus() []Case {
	out := slices.Concat(plainCases(), fragmentCases(), extensionCases(), linkCases())
	for _, c := range []Case{
		{"tcp", syn4().Bytes()},
		{"tcp over ipv6 with options", with(syn6(), func(f *Frame) { f.Extensions = []uint8{HopByHop, FragmentHeader, Authentication} }).Bytes()},
		{"tagged udp", with(query4(), func(f *Frame) { f.Tags = []uint16{qinq, vlan} }).Bytes()},
	} {
		for n := range c.Frame {
			out = append(out, Case{fmt.Sprintf("%s, cut to %d bytes", c.Name, n), slices.Clone(c.Frame[:n])})
		}
	}
	return out
}

func syn4() Frame {
	return Frame{Protocol: tcp, SourcePort: 40000, DestinationPort: 443, Flags: firewall.SYN}
}

func query4() Frame {
	return Frame{Protocol: udp, SourcePort: 40000, DestinationPort: 53, Payload: []byte("query")}
}

func syn6() Frame { return to6(syn4()) }

func to6(f Frame) Frame {
	f.Source, f.Destination = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::80")
	return f
}

func with(f Frame, change func(*Frame)) Frame {
	change(&f)
	return f
}

// built makes a case of a frame with a change.
func built(name string, f Frame, change func(*Frame)) Case {
	return Case{name, with(f, change).Bytes()}
}

func plainCases() []Case {
	none := func(*Frame) {}
	ping := Frame{Protocol: icmp, ICMPType: 8}
	return []Case{
		built("tcp syn", syn4(), none),
		built("tcp syn over ipv6", syn6(), none),
		built("tcp ack", syn4(), func(f *Frame) { f.Flags = firewall.ACK }),
		built("tcp syn ack", syn4(), func(f *Frame) { f.Flags = firewall.SYN | firewall.ACK }),
		built("tcp with every flag", syn4(), func(f *Frame) { f.Flags = 0xff }),
		built("tcp from port 443", syn4(), func(f *Frame) { f.SourcePort, f.DestinationPort = 443, 40000 }),
		built("udp", query4(), none),
		built("udp over ipv6", to6(query4()), none),
		built("udp from port 53", query4(), func(f *Frame) { f.SourcePort, f.DestinationPort = 53, 443 }),
		built("echo request", ping, none),
		built("echo reply", ping, func(f *Frame) { f.ICMPType = 0 }),
		built("icmpv6 echo request", to6(ping), func(f *Frame) { f.Protocol, f.ICMPType = icmpv6, 128 }),
		built("icmp over ipv6", to6(ping), none),
		built("icmpv6 over ipv4", ping, func(f *Frame) { f.Protocol, f.ICMPType = icmpv6, 128 }),
		built("gre", Frame{Protocol: 47}, func(f *Frame) { f.Payload = syn4().transport() }),
		built("esp over ipv6", to6(Frame{Protocol: 50}), func(f *Frame) { f.Payload = syn4().transport() }),
		built("no next header", to6(Frame{Protocol: 59}), none),
		built("bad checksums", syn4(), func(f *Frame) { f.BadChecksum = true }),
		built("bad checksums over ipv6", syn6(), func(f *Frame) { f.BadChecksum = true }),
		built("options of ipv4", syn4(), func(f *Frame) { f.Options = []byte{1, 1, 1, 1} }),
		built("40 bytes of options", syn4(), func(f *Frame) { f.Options = slices.Repeat([]byte{1}, 40) }),
		built("options that look like tcp", syn4(), func(f *Frame) { f.Options, f.DestinationPort = syn4().transport(), 22 }),
		built("mapped source", syn6(), func(f *Frame) { f.Source = netip.MustParseAddr("::ffff:192.0.2.1") }),
		patched("tcp header of 16 bytes", syn4(), 14+20+12, 0x40),
		patched("tcp header longer than the packet", syn4(), 14+20+12, 0xf0),
		patched("ipv4 header of 16 bytes", syn4(), 14, 0x44),
		patched("ipv4 header longer than the packet", syn4(), 14, 0x4f),
		patched("ipv4 length of 0", syn4(), 14+3, 0),
		patched("ipv4 length of 24", syn4(), 14+3, 24),
		patched("ipv6 length of 0", syn6(), 14+5, 0),
		patched("ipv6 length too long", syn6(), 14+5, 200),
		patched("version 5", syn4(), 14, 0x55),
	}
}

// patched makes a case of a frame with one byte changed.
func patched(name string, f Frame, at int, to byte) Case {
	b := f.Bytes()
	b[at] = to
	return Case{name, b}
}

func fragmentCases() []Case {
	later := func(offset uint16, more bool) func(*Frame) {
		return func(f *Frame) { f.Offset, f.More, f.Payload = offset, more, syn4().transport() }
	}
	fragment6 := func(f Frame, change func(*Frame)) Frame {
		f = to6(f)
		f.Extensions = []uint8{FragmentHeader}
		return with(f, change)
	}
	first := func(f *Frame) { f.More = true }
	tiny := Frame{Protocol: tcp, More: true}.Bytes()
	tiny[14+3] = 20 + 8
	return []Case{
		built("first fragment", syn4(), first),
		{"tiny first fragment", tiny[:14+28]},
		built("fragment at offset 1", syn4(), later(1, true)),
		built("last fragment at offset 1", query4(), later(1, false)),
		built("later fragment that looks like a syn", syn4(), later(2, true)),
		built("last fragment", syn4(), later(185, false)),
		built("later fragment of udp", query4(), later(185, false)),
		built("later fragment of icmp", Frame{Protocol: icmp}, later(185, false)),
		built("later fragment of gre", Frame{Protocol: 47}, later(185, false)),
		built("empty last fragment", syn4(), func(f *Frame) { f.Offset = 185 }),
		built("fragment at the largest offset", syn4(), later(0x1fff, false)),
		{"first fragment over ipv6", fragment6(syn4(), first).Bytes()},
		{"atomic fragment over ipv6", fragment6(syn4(), func(*Frame) {}).Bytes()},
		{"later fragment over ipv6", fragment6(syn4(), later(2, true)).Bytes()},
		{"later fragment over ipv6 that says udp", fragment6(query4(), later(185, false)).Bytes()},
		{"fragment over ipv6 at offset 1", fragment6(syn4(), later(1, true)).Bytes()},
		{"later fragment before more headers", with(fragment6(syn4(), later(2, false)), func(f *Frame) {
			f.Extensions = []uint8{FragmentHeader, DestinationOptions}
		}).Bytes()},
		{"later fragment after options", with(fragment6(syn4(), later(2, false)), func(f *Frame) {
			f.Extensions = []uint8{DestinationOptions, FragmentHeader}
		}).Bytes()},
		{"two fragment headers", with(fragment6(syn4(), first), func(f *Frame) {
			f.Extensions = []uint8{FragmentHeader, FragmentHeader}
		}).Bytes()},
	}
}

func extensionCases() []Case {
	var out []Case
	for name, chain := range map[string][]uint8{
		"hop-by-hop options":               {HopByHop},
		"hop-by-hop options that are last": {DestinationOptions, HopByHop},
		"destination options":              {DestinationOptions},
		"routing":                          {Routing},
		"authentication":                   {Authentication},
		"authentication before options":    {Authentication, DestinationOptions},
		"every header":                     {HopByHop, DestinationOptions, Routing, FragmentHeader, Authentication, DestinationOptions},
		"eight headers":                    slices.Repeat([]uint8{DestinationOptions}, 8),
		"nine headers":                     slices.Repeat([]uint8{DestinationOptions}, 9),
	} {
		for _, f := range []Frame{syn6(), to6(query4())} {
			f.Extensions = chain
			out = append(out, Case{fmt.Sprintf("%s before protocol %d", name, f.Protocol), f.Bytes()})
		}
	}
	long := with(syn6(), func(f *Frame) { f.Extensions = []uint8{DestinationOptions} })
	slices.SortFunc(out, func(a, b Case) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
	return append(out,
		patched("options longer than the packet", long, 14+40+1, 255),
		patched("options that swallow the ports", long, 14+40+1, 1))
}

func linkCases() []Case {
	tagged := func(name string, tags ...uint16) []Case {
		return []Case{
			built(name+" before ipv4", syn4(), func(f *Frame) { f.Tags = tags }),
			built(name+" before ipv6", syn6(), func(f *Frame) { f.Tags = tags }),
		}
	}
	return slices.Concat(
		tagged("a tag", vlan), tagged("a service tag", qinq), tagged("two tags", qinq, vlan), tagged("an old double tag", 0x9100, vlan),
		tagged("three tags", qinq, vlan, vlan),
		[]Case{
			built("padding", query4(), func(f *Frame) { f.Padding = 20 }),
			built("padding over ipv6", to6(query4()), func(f *Frame) { f.Padding = 20 }),
			{"padding that would make a tcp header whole", paddedShort()},
			built("arp", Frame{}, func(f *Frame) { f.EtherType = 0x0806 }),
			built("tagged arp", Frame{}, func(f *Frame) { f.EtherType, f.Tags = 0x0806, []uint16{vlan} }),
			built("a length instead of a type", Frame{}, func(f *Frame) { f.EtherType = 46 }),
			built("ipv6 in a frame that says ipv4", syn6(), func(f *Frame) { f.EtherType = 0x0800 }),
			built("ipv4 in a frame that says ipv6", syn4(), func(f *Frame) { f.EtherType = 0x86dd }),
		})
}

// paddedShort is a packet whose length ends in the middle of its TCP header, in
// a frame that goes on.
func paddedShort() []byte {
	b := syn4().Bytes()
	b[14+3] = 20 + 12
	return b
}
