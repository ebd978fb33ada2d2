package lb

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer answers from records, by name and type. What it does not know, it
// says is not there.
type nameServer map[dnsmessage.Type]map[string][]dnsmessage.Resource

func (n nameServer) add(name string, ttl uint32, body dnsmessage.ResourceBody) {
	var kind dnsmessage.Type
	switch body.(type) {
	case *dnsmessage.AResource:
		kind = dnsmessage.TypeA
	case *dnsmessage.AAAAResource:
		kind = dnsmessage.TypeAAAA
	case *dnsmessage.SRVResource:
		kind = dnsmessage.TypeSRV
	}
	if n[kind] == nil {
		n[kind] = make(map[string][]dnsmessage.Resource)
	}
	h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET, TTL: ttl}
	n[kind][name] = append(n[kind][name], dnsmessage.Resource{Header: h, Body: body})
}

func (n nameServer) serve(t *testing.T) string {
	t.Helper()
	conn, ln := sameAddr(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if packed := n.answer(buf[:size], maxAnswer); packed != nil {
				conn.WriteTo(packed, from)
			}
		}
	})
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(10 * time.Second))
			var size [2]byte
			io.ReadFull(c, size[:])
			query := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(c, query); err == nil {
				packed := n.answer(query, math.MaxUint16)
				c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...))
			}
			c.Close()
		}
	})
	t.Cleanup(func() { conn.Close(); ln.Close(); wg.Wait() })
	return conn.LocalAddr().String()
}

// maxAnswer is what resolvers take by UDP; for more they ask again by TCP.
const maxAnswer = 1232

// sameAddr returns sockets of UDP and TCP with the same port.
func sameAddr(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 100 {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", conn.LocalAddr().String())
		if err == nil {
			return conn, ln
		}
		conn.Close() // somebody else has the other one
	}
	t.Fatal("no port is free")
	return nil, nil
}

func (n nameServer) answer(query []byte, limit int) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	// A copy, since packing notes lengths in it.
	if m.Answers = slices.Clone(n[q.Type][strings.ToLower(q.Name.String())]); m.Answers == nil {
		m.RCode = dnsmessage.RCodeNameError
		for _, records := range n {
			if records[q.Name.String()] != nil {
				m.RCode = dnsmessage.RCodeSuccess
			}
		}
	}
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	if len(packed) > limit {
		m.Answers, m.Truncated = nil, true
		packed, _ = m.Pack()
	}
	return packed
}

func TestDNS(t *testing.T) {
	n := make(nameServer)
	for i, addr := range []string{"192.0.2.9", "192.0.2.7"} {
		n.add("web.test.", uint32(90-30*i), &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()})
	}
	n.add("web.test.", 120, &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8::7").As16()})
	server := n.serve(t)
	for _, c := range []struct {
		url  string
		want []BackendConfig
	}{
		{"http://web.test:8080", []BackendConfig{{URL: "http://192.0.2.7:8080"}, {URL: "http://192.0.2.9:8080"}, {URL: "http://[2001:db8::7]:8080"}}},
		{"https://web.test.", []BackendConfig{{URL: "https://192.0.2.7"}, {URL: "https://192.0.2.9"}, {URL: "https://[2001:db8::7]"}}},
	} {
		r, err := DNS{URL: c.url, Server: server}.Resolve(t.Context())
		if err != nil || !reflect.DeepEqual(r.Backends, c.want) || r.TTL != time.Minute {
			t.Errorf("%s: %+v, %v, want %+v for 1m0s", c.url, r, err, c.want)
		}
		if _, err := parseBackends(r.Backends); err != nil {
			t.Errorf("%s: %v", c.url, err)
		}
	}
	for _, bad := range []string{"http://nobody.test.", "web.test", "http://web.test/x"} {
		if r, err := (DNS{URL: bad, Server: server}).Resolve(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "lb: ") {
			t.Errorf("%s: %+v, %v", bad, r, err)
		}
	}
}

func TestSRV(t *testing.T) {
	n := make(nameServer)
	add := func(name, target string, priority, weight, port uint16) {
		n.add(name, 30, &dnsmessage.SRVResource{Priority: priority, Weight: weight, Port: port, Target: dnsmessage.MustNewName(target)})
	}
	add("_http._tcp.test.", "b.test.", 10, 0, 80)
	add("_http._tcp.test.", "a.test.", 10, 7, 8080)
	add("_http._tcp.test.", "spare.test.", 6000, 3, 80)
	add("_http._tcp.test.", "spare.test.", 6000, 3, 80)
	add("_none._tcp.test.", ".", 0, 0, 0)
	server := n.serve(t)
	r, err := SRV{Name: "_http._tcp.test.", Server: server}.Resolve(t.Context())
	want := []BackendConfig{{URL: "http://a.test:8080", Weight: 7}, {URL: "http://b.test:80", Weight: 1}, {URL: "http://spare.test:80", Weight: 3, Priority: 1}}
	if err != nil || !reflect.DeepEqual(r.Backends, want) || r.TTL != 30*time.Second {
		t.Errorf("%+v, %v, want %+v for 30s", r, err, want)
	}
	for _, scheme := range []string{"https", "h2c", "tcp", "udp"} {
		r, err := SRV{Name: "_http._tcp.test.", Scheme: scheme, Server: server}.Resolve(t.Context())
		if _, urlErr := parseBackends(r.Backends); err != nil || urlErr != nil || len(r.Backends) != 3 || r.Backends[0].URL != scheme+"://a.test:8080" {
			t.Errorf("%s: %+v, %v, %v", scheme, r, err, urlErr)
		}
	}
	for _, bad := range []string{"_none._tcp.test.", "_other._tcp.test."} {
		if r, err := (SRV{Name: bad, Server: server}).Resolve(t.Context()); err == nil {
			t.Errorf("%s: %+v", bad, r)
		}
	}
}

// TestDNSMapped: an address of IPv4 is the same backend in whatever form it comes.
func TestDNSMapped(t *testing.T) {
	n := make(nameServer)
	n.add("web.test.", 60, &dnsmessage.AResource{A: netip.MustParseAddr("192.0.2.7").As4()})
	for _, addr := range []string{"::ffff:192.0.2.7", "::ffff:192.0.2.8"} {
		n.add("web.test.", 60, &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(addr).As16()})
	}
	server := n.serve(t)
	for url, want := range map[string][]BackendConfig{
		"http://web.test.:8080": {{URL: "http://192.0.2.7:8080"}, {URL: "http://192.0.2.8:8080"}},
		"http://web.test.":      {{URL: "http://192.0.2.7"}, {URL: "http://192.0.2.8"}},
	} {
		if r, err := (DNS{URL: url, Server: server}).Resolve(t.Context()); err != nil || !reflect.DeepEqual(r.Backends, want) {
			t.Errorf("%s: %+v, %v, want %+v", url, r, err, want)
		}
	}
}

// TestSRVOfManyPriorities: there are more priorities in DNS than a pool has; the
// last ones are one. So many targets come by TCP, of which the TTL is not known.
func TestSRVOfManyPriorities(t *testing.T) {
	n := make(nameServer)
	const more = 3
	for i := range maxPriority + 1 + more {
		target := dnsmessage.MustNewName(fmt.Sprintf("t%03d.test.", i))
		n.add("_http._tcp.test.", 5, &dnsmessage.SRVResource{Priority: uint16(500 * i), Weight: 1, Port: 80, Target: target})
	}
	r, err := SRV{Name: "_http._tcp.test.", Server: n.serve(t)}.Resolve(t.Context())
	if err != nil || len(r.Backends) != maxPriority+1+more || r.TTL != resolveInterval {
		t.Fatalf("%d backends for %v, %v", len(r.Backends), r.TTL, err)
	}
	for i, b := range r.Backends {
		if want := min(i, maxPriority); b.Priority != want {
			t.Errorf("backend %d has the priority %d, want %d", i, b.Priority, want)
		}
	}
	if _, err := parseBackends(r.Backends); err != nil {
		t.Error(err)
	}
}

// The TTL is kept in bounds, so that a name server can neither be run down nor
// make the pool deaf.
func TestLookupTTL(t *testing.T) {
	for _, c := range []struct {
		seconds []uint32
		want    time.Duration
	}{{nil, resolveInterval}, {[]uint32{0, 60}, time.Second}, {[]uint32{60, 20}, 20 * time.Second}, {[]uint32{1 << 30}, time.Hour}} {
		var l lookup
		for _, s := range c.seconds {
			l.note(s)
		}
		if got := l.ttl(); got != c.want {
			t.Errorf("%v: %v, want %v", c.seconds, got, c.want)
		}
	}
}

// FuzzAnswerTTL: the TTL is the least that a whole parse finds. That one takes
// some messages that are cut off; so it is asked again about what it understood.
func FuzzAnswerTTL(f *testing.F) {
	m := dnsmessage.Message{
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("a."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		Answers: []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("a."), Class: dnsmessage.ClassINET, TTL: 7},
			Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}},
		}},
	}
	packed, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Add(packed[:len(packed)-3])
	f.Fuzz(func(t *testing.T, msg []byte) {
		answerTTL(msg)
		var m dnsmessage.Message
		if m.Unpack(msg) != nil || len(m.Answers) == 0 {
			return
		}
		packed, err := m.Pack()
		if err != nil {
			return
		}
		got, err := answerTTL(packed)
		least := m.Answers[0].Header.TTL
		for _, a := range m.Answers {
			least = min(least, a.Header.TTL)
		}
		if err != nil || got != least {
			t.Fatalf("%v, %v, want %d", got, err, least)
		}
	})
}
