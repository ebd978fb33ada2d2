package lb

import (
	"net"
	"net/netip"
	"reflect"
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
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:size]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			if m.Answers = n[q.Type][strings.ToLower(q.Name.String())]; m.Answers == nil {
				m.RCode = dnsmessage.RCodeNameError
				for _, records := range n {
					if records[q.Name.String()] != nil {
						m.RCode = dnsmessage.RCodeSuccess
					}
				}
			}
			if packed, err := m.Pack(); err == nil {
				conn.WriteTo(packed, from)
			}
		}
	})
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	return conn.LocalAddr().String()
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
	for _, bad := range []string{"_none._tcp.test.", "_other._tcp.test."} {
		if r, err := (SRV{Name: bad, Server: server}).Resolve(t.Context()); err == nil {
			t.Errorf("%s: %+v", bad, r)
		}
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
