package fwtest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/palisade-go/palisade/firewall"
)

// Few values, so that random rules often match random frames.
var (
	worldPrefixes = [...]string{"192.0.2.0/24", "192.0.2.1/32", "198.51.100.0/24", "0.0.0.0/0", "2001:db8::/64", "2001:db8::1/128", "::/0"}
	worldAddrs4   = [...]string{"192.0.2.1", "192.0.2.80", "198.51.100.7", "203.0.113.9"}
	worldAddrs6   = [...]string{"2001:db8::1", "2001:db8::80", "2001:db8:1::1", "fd00::1"}
	worldPorts    = [...]uint16{22, 53, 80, 443, 40000}
	worldTypes    = [...]uint8{0, 3, 8, 128, 135}
	worldFlags    = [...]firewall.TCPFlags{firewall.SYN, firewall.ACK, firewall.SYN | firewall.ACK, firewall.RST, firewall.FIN | firewall.ACK}
	worldNames    = [...]string{"a.example", "b.example"}
	worldPaths    = [...]string{"/a", "/a/b", "/b"}
	worldProtos   = [...]uint8{tcp, tcp, udp, udp, icmp, icmpv6, 47, 59}
	worldHeaders  = [...]uint8{HopByHop, DestinationOptions, Routing, FragmentHeader, Authentication}
)

// RandomFrame returns a frame, most often a good one.
func RandomFrame(rng *rand.Rand) []byte {
	f := Frame{
		Source:          pickAddr(rng, worldAddrs4[:]),
		Destination:     pickAddr(rng, worldAddrs4[:]),
		Protocol:        pick(rng, worldProtos[:]),
		SourcePort:      pick(rng, worldPorts[:]),
		DestinationPort: pick(rng, worldPorts[:]),
		Flags:           pick(rng, worldFlags[:]),
		ICMPType:        pick(rng, worldTypes[:]),
		Payload:         make([]byte, rng.IntN(40)),
	}
	if rng.IntN(2) == 0 {
		f.Source, f.Destination = pickAddr(rng, worldAddrs6[:]), pickAddr(rng, worldAddrs6[:])
		for rng.IntN(3) > 0 && len(f.Extensions) < 10 {
			f.Extensions = append(f.Extensions, pick(rng, worldHeaders[:]))
		}
	}
	for rng.IntN(4) == 0 {
		f.Tags = append(f.Tags, pick(rng, []uint16{vlan, qinq}))
	}
	if rng.IntN(4) == 0 {
		f.Offset, f.More = uint16(rng.IntN(4)), rng.IntN(2) == 0
	}
	if rng.IntN(8) == 0 {
		f.Options = make([]byte, 4*(1+rng.IntN(10)))
	}
	if rng.IntN(8) == 0 {
		f.Cut = rng.IntN(60)
	}
	b := f.Bytes()
	if rng.IntN(8) == 0 && len(b) > 12 {
		b[12+rng.IntN(len(b)-12)] = byte(rng.Uint32())
	}
	return b
}

// RandomPolicy returns a policy that [firewall.New] takes, of up to six rules
// over what frames have, and now and then over what only requests have.
func RandomPolicy(rng *rand.Rand) firewall.Policy {
	p := firewall.Policy{Default: randomVerdict(rng)}
	for i := range rng.IntN(7) {
		r := firewall.Rule{ID: fmt.Sprint("rule-", i), Match: RandomMatch(rng, 2), Verdict: randomVerdict(rng)}
		if rng.IntN(8) == 0 {
			r.Mode = firewall.Monitor
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

func randomVerdict(rng *rand.Rand) firewall.Verdict {
	return pick(rng, []firewall.Verdict{firewall.Drop, firewall.Accept, firewall.Accept, firewall.Reject})
}

// RandomMatch returns a match of at most that many levels of All, Any and Not.
func RandomMatch(rng *rand.Rand, levels int) firewall.Match {
	if levels > 0 && rng.IntN(2) == 0 {
		var ms []firewall.Match
		for range 1 + rng.IntN(3) {
			ms = append(ms, RandomMatch(rng, levels-1))
		}
		switch rng.IntN(3) {
		case 0:
			return firewall.Any(ms...)
		case 1:
			return firewall.Not(ms[0])
		}
		return firewall.All(ms...)
	}
	switch rng.IntN(13) {
	case 0, 1:
		return firewall.Source(netip.MustParsePrefix(pick(rng, worldPrefixes[:])))
	case 2:
		return firewall.Destination(netip.MustParsePrefix(pick(rng, worldPrefixes[:])))
	case 3, 4:
		return firewall.DestinationPort(pick(rng, worldPorts[:]), pick(rng, worldPorts[:]))
	case 5:
		return firewall.SourcePort(pick(rng, worldPorts[:]))
	case 6:
		return firewall.Protocol(pick(rng, worldProtos[:]))
	case 7:
		// Flags that a connection knows of its opening packet.
		return firewall.Flags(pick(rng, worldFlags[:3]), firewall.SYN|firewall.ACK)
	case 8:
		return firewall.ICMPType(pick(rng, worldTypes[:]))
	case 9:
		return firewall.ICMPv6Type(pick(rng, worldTypes[:]))
	case 10:
		return pick(rng, []firewall.Match{firewall.Fragment(), firewall.Established()})
	case 11:
		return firewall.SNI(pick(rng, worldNames[:]))
	}
	return firewall.PathPrefix(pick(rng, worldPaths[:]))
}

func pick[T any](rng *rand.Rand, of []T) T { return of[rng.IntN(len(of))] }

func pickAddr(rng *rand.Rand, of []string) netip.Addr { return netip.MustParseAddr(pick(rng, of)) }
