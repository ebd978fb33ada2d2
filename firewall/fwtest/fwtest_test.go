package fwtest

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/palisade-go/palisade/firewall"
)

func newFirewall(t testing.TB, p firewall.Policy) *firewall.Firewall {
	t.Helper()
	fw, err := firewall.New(firewall.Config{Policy: p, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return fw
}

// naiveDepth is a depth that reads packets with the naive parser.
func naiveDepth(fw *firewall.Firewall, state firewall.ConnState, b bug) func([]byte) firewall.Verdict {
	return func(frame []byte) firewall.Verdict {
		p, err := parseNaive(frame, b)
		switch {
		case errors.Is(err, errNotIP):
			return firewall.Accept
		case err != nil:
			return firewall.Drop
		}
		p.State = state
		return fw.DecidePacket(p).Verdict
	}
}

// TestEveryPlantedBugIsCaught is the test of all the rest: with none the naive
// parser agrees, and with any one the corpus and a few hundred policies show it.
func TestEveryPlantedBugIsCaught(t *testing.T) {
	const policies = 200
	corpus := Corpus()
	for b := range bugs {
		rng := rand.New(rand.NewPCG(1, 2))
		caught := -1
		for i := range policies {
			fw := newFirewall(t, RandomPolicy(rng))
			state := firewall.ConnState(rng.IntN(3))
			report := Compare(fw, state, naiveDepth(fw, state, b), corpus)
			if err := report.Err(); err != nil {
				if b == none {
					t.Fatal(err)
				}
				caught = i
				break
			}
			if report.Frames != len(corpus) || report.Decided == 0 {
				t.Fatalf("%d of %d frames compared, %d decided", report.Frames, len(corpus), report.Decided)
			}
		}
		if b != none && caught < 0 {
			t.Errorf("bug %d was not caught by %d policies and %d frames", b, policies, len(corpus))
		}
	}
	t.Logf("%d planted bugs, %d frames", bugs-1, len(corpus))
}

// TestCorpusMeansWhatItSays guards against frames that are all bad.
func TestCorpusMeansWhatItSays(t *testing.T) {
	names := make(map[string]bool)
	kinds := make(map[string]int)
	for _, c := range Corpus() {
		if names[c.Name] {
			t.Errorf("two frames are named %q", c.Name)
		}
		names[c.Name] = true
		p, err := firewall.ParsePacket(c.Frame)
		switch {
		case errors.Is(err, firewall.ErrNotIP):
			kinds["not IP"]++
		case err != nil:
			kinds["bad"]++
		default:
			kinds[[]string{"whole", "first", "later"}[p.Fragment]]++
		}
		if strings.HasPrefix(c.Name, "bad checksums") && err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	for kind, least := range map[string]int{"not IP": 3, "bad": 100, "whole": 40, "first": 2, "later": 8} {
		if kinds[kind] < least {
			t.Errorf("%d frames are %s, want %d", kinds[kind], kind, least)
		}
	}
}

func TestRandomFrames(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	good := 0
	for range 20000 {
		frame := RandomFrame(rng)
		compareParsers(t, frame)
		if _, err := firewall.ParsePacket(frame); err == nil {
			good++
		}
	}
	if good < 10000 {
		t.Errorf("only %d of 20000 frames are good", good)
	}
}

func compareParsers(t *testing.T, frame []byte) {
	t.Helper()
	got, err := firewall.ParsePacket(frame)
	want, wantErr := parseNaive(frame, none)
	if got != want || errors.Is(err, firewall.ErrPacket) != (wantErr == errBad) || errors.Is(err, firewall.ErrNotIP) != (wantErr == errNotIP) {
		t.Fatalf("frame %x\nis read as %+v, %v\nnaively as %+v, %v", frame, got, err, want, wantErr)
	}
}

// FuzzParsePacket has the naive parser for its oracle.
func FuzzParsePacket(f *testing.F) {
	for _, c := range Corpus() {
		f.Add(c.Frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		compareParsers(t, frame)
		if len(frame) > 14 {
			p, err := firewall.ParseIPPacket(frame[14:])
			if q, frameErr := firewall.ParsePacket(frame); frameErr == nil && (err != nil || p != q) && frame[12] != 0x81 && frame[12] != 0x88 && frame[12] != 0x91 {
				t.Fatalf("frame %x: %+v, without its header %+v, %v", frame, q, p, err)
			}
		}
	})
}

// ends is a connection that only knows its ends.
type ends struct {
	net.Conn
	src, dst netip.AddrPort
}

func (e ends) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(e.src) }
func (e ends) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(e.dst) }

// TestDepthsAreSound sends one opening packet with a request over TLS behind it
// through all four depths: none refuses what a deeper one accepts, and none that is sure
// to accept is contradicted.
func TestDepthsAreSound(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	refused, sure, unsure := 0, 0, 0
	for range 800 {
		policy := RandomPolicy(rng)
		fw := newFirewall(t, policy)
		for range 10 {
			frame := Frame{Protocol: tcp, Flags: firewall.SYN, SourcePort: pick(rng, worldPorts[:]), DestinationPort: pick(rng, worldPorts[:])}
			addrs := worldAddrs4[:]
			if rng.IntN(2) == 0 {
				addrs = worldAddrs6[:]
			}
			frame.Source, frame.Destination = pickAddr(rng, addrs), pickAddr(rng, addrs)
			src, dst := netip.AddrPortFrom(frame.Source, frame.SourcePort), netip.AddrPortFrom(frame.Destination, frame.DestinationPort)
			r := httptest.NewRequest("GET", pick(rng, worldPaths[:]), nil)
			r.RemoteAddr = src.String()
			hello := &tls.ClientHelloInfo{ServerName: pick(rng, worldNames[:]), Conn: ends{src: src, dst: dst}}
			r.TLS = &tls.ConnectionState{ServerName: hello.ServerName}
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(net.TCPAddrFromAddrPort(dst))))
			depths := []firewall.Decision{fw.DecideFrame(frame.Bytes(), firewall.ConnState(rng.IntN(2))), fw.DecideConn(src, dst), fw.DecideHello(hello), fw.DecideRequest(r)}
			for i, d := range depths {
				for _, deeper := range depths[i+1:] {
					if d.Verdict != firewall.Accept && deeper.Verdict == firewall.Accept ||
						d.Verdict == firewall.Accept && !d.Undecided && deeper.Verdict != firewall.Accept {
						t.Fatalf("%v to %v: %+v\nand deeper %+v\n%v", src, dst, d, deeper, policy)
					}
				}
			}
			switch d := depths[0]; {
			case d.Verdict != firewall.Accept:
				refused++
			case d.Undecided:
				unsure++
			default:
				sure++
			}
		}
	}
	if min(refused, sure, unsure) < 400 {
		t.Errorf("%d refused, %d accepted, %d undecided: the test asks too little", refused, sure, unsure)
	}
}

// TestLaterFragmentsAreSound compares a later fragment with the packet that it
// is part of: it is refused only if that is, whatever its ports are.
func TestLaterFragmentsAreSound(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	refused := 0
	for range 4000 {
		policy := RandomPolicy(rng)
		if strings.Contains(policy.String(), "fragment") {
			continue // says itself that they differ
		}
		fw := newFirewall(t, policy)
		whole, err := firewall.ParsePacket(RandomFrame(rng))
		if err != nil || whole.Fragment != firewall.Whole {
			continue
		}
		later := firewall.Packet{Version: whole.Version, Source: whole.Source, Destination: whole.Destination, Fragment: firewall.LaterFragment}
		if later.Version == 4 {
			later.Protocol = whole.Protocol
		}
		if d := fw.DecidePacket(later); d.Verdict != firewall.Accept {
			refused++
			if all := fw.DecidePacket(whole); all.Verdict == firewall.Accept {
				t.Fatalf("%+v: %+v\nbut whole %+v\n%v", later, d, all, policy)
			}
		}
	}
	if refused < 200 {
		t.Errorf("only %d fragments were refused", refused)
	}
}

func TestCompareReports(t *testing.T) {
	policy, err := firewall.ParsePolicy("reject web if destination-port 443\naccept rest if path /\ndefault accept")
	if err != nil {
		t.Fatal(err)
	}
	fw := newFirewall(t, policy)
	constant := func(v firewall.Verdict) func([]byte) firewall.Verdict {
		return func([]byte) firewall.Verdict { return v }
	}
	syn := syn4()
	web, ssh := Case{"web", syn.Bytes()}, Case{"ssh", with(syn, func(f *Frame) { f.DestinationPort = 22 }).Bytes()}
	bad := Case{"bad", web.Frame[:20]}
	for i, c := range []struct {
		depth            firewall.Verdict
		unsound, unequal int
	}{{firewall.Drop, 1, 1}, {firewall.Accept, 0, 2}, {firewall.Reject, 1, 0}} {
		r := Compare(fw, firewall.NewState, constant(c.depth), []Case{web, ssh, bad})
		if len(r.Unsound) != c.unsound || len(r.Unequal) != c.unequal || r.Frames != 3 || r.Decided != 2 || r.Err() == nil {
			t.Errorf("depth %d: %+v", i, r)
		}
	}
	var many []Case
	for range 3 * maxDifferences {
		many = append(many, ssh)
	}
	if r := Compare(fw, firewall.NewState, constant(firewall.Drop), many); r.More != 2*maxDifferences || !strings.Contains(r.Err().Error(), "on 30 of 30") {
		t.Errorf("report %+v", r)
	}
}
