package acme

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/miekg/dns"

	"github.com/palisade-go/palisade/internal/pebbletest"
)

// zone answers with the CAA records it has, over UDP and TCP.
func zone(t *testing.T, records ...string) (addr string) {
	t.Helper()
	byName := make(map[string][]dns.RR)
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			t.Fatal(err)
		}
		byName[rr.Header().Name] = append(byName[rr.Header().Name], rr)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Compress, m.RecursionAvailable = true, true
		if strings.HasPrefix(q.Question[0].Name, "broken.") {
			m.Rcode = dns.RcodeServerFailure
		}
		m.Answer = byName[q.Question[0].Name]
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
			m.Truncate(dnsMessage)
		}
		w.WriteMsg(m)
	})
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, srv := range []*dns.Server{{PacketConn: conn, Handler: handler}, {Listener: ln, Handler: handler}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go srv.ActivateAndServe()
		<-started
		t.Cleanup(func() { srv.Shutdown() })
	}
	return conn.LocalAddr().String()
}

// TestCheckCAA asks for the records of several names, and sets the one that it
// is told to.
func TestCheckCAA(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{CAAIdentities: []string{"pebble.test"}})
	records := []string{
		`none.test. 60 IN A 192.0.2.1`,
		`other.test. 60 IN CAA 0 issue "ca.example"`,
		`ours.test. 60 IN CAA 0 issue "pebble.test"`,
		`wild.test. 60 IN CAA 0 issue "pebble.test"`,
		`wild.test. 60 IN CAA 0 issuewild ";"`,
	}
	for i := range 40 { // more than fits a UDP answer
		records = append(records, fmt.Sprintf(`long.test. 60 IN CAA 0 issue "ca%d.example; accounturi=https://ca.example/%d"`, i, i))
	}
	records = append(records, `long.test. 60 IN CAA 0 issue "pebble.test"`)
	names := []string{"www.none.test", "www.other.test", "a.b.ours.test", "*.wild.test", "long.test", "192.0.2.1"}
	s, _ := newSource(t, p, Config{Names: slices.DeleteFunc(slices.Clone(names), func(n string) bool { return strings.HasPrefix(n, "*") }), Storage: &certmagic.FileStorage{Path: t.TempDir()}, DisableTLSALPNChallenge: true})
	s.conf.Names = names
	checks, err := s.CheckCAA(t.Context(), zone(t, records...))
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		name, domain string
		permitted    bool
	}
	var got []result
	for _, c := range checks {
		got = append(got, result{c.Name, c.Domain, c.Permitted})
	}
	want := []result{{"www.none.test", "", true}, {"www.other.test", "other.test", false}, {"a.b.ours.test", "ours.test", true}, {"*.wild.test", "wild.test", false}, {"long.test", "long.test", true}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if checks[1].Records[0] != `0 issue "ca.example"` || len(checks[4].Records) != 41 {
		t.Errorf("records %q", checks[1].Records)
	}
	// The record that it proposes is one that it accepts, and that a zone can hold.
	if rr, err := dns.NewRR(checks[1].Record); err != nil || rr.Header().Name != "www.other.test." || !strings.Contains(rr.(*dns.CAA).Value, "validationmethods=http-01") {
		t.Errorf("record %q: %v", checks[1].Record, err)
	}
	checks, err = s.CheckCAA(t.Context(), zone(t, append(records, checks[1].Record, checks[3].Record)...))
	if err != nil || !checks[1].Permitted || checks[1].Domain != "www.other.test" || !checks[3].Permitted {
		t.Errorf("with the records set: %+v, %v", checks, err)
	}
	s.conf.Names = []string{"broken.test"}
	if _, err := s.CheckCAA(t.Context(), zone(t)); err == nil {
		t.Error("a server that failed counts as no records")
	}
}

func TestCAAPermits(t *testing.T) {
	account, methods := "https://ca.test/1", []string{"http-01"}
	for _, c := range []struct {
		records []caaRR
		wild    bool
		want    bool
	}{
		{nil, false, true},
		{[]caaRR{{0, "iodef", "mailto:a@a.test"}}, false, true},
		{[]caaRR{{0, "issue", ";"}}, false, false},
		{[]caaRR{{0, "issue", " CA.test. "}}, false, true},
		{[]caaRR{{0, "issue", "ca.test"}}, true, true},
		{[]caaRR{{0, "issue", "ca.test"}, {0, "issuewild", ";"}}, true, false},
		{[]caaRR{{0, "issue", ";"}, {0, "issuewild", "ca.test"}}, true, true},
		{[]caaRR{{0, "issuewild", "other.test"}}, false, true},
		{[]caaRR{{0, "issue", "ca.test; accounturi=https://ca.test/1"}}, false, true},
		{[]caaRR{{0, "issue", "ca.test; accounturi=https://ca.test/2"}}, false, false},
		{[]caaRR{{0, "issue", "ca.test; validationmethods=dns-01,http-01"}}, false, true},
		{[]caaRR{{0, "issue", "ca.test; validationmethods=dns-01"}}, false, false},
		{[]caaRR{{caaCritical, "future", "x"}, {0, "issue", "ca.test"}}, false, false},
		{[]caaRR{{0, "future", "x"}, {0, "issue", "ca.test"}}, false, true},
	} {
		if got := caaPermits(c.records, c.wild, []string{"ca.test"}, account, methods); got != c.want {
			t.Errorf("%v, wildcard %v: %v", c.records, c.wild, got)
		}
	}
}

// FuzzParseCAA compares with another implementation wherever that reads the
// message as an answer to our question.
func FuzzParseCAA(f *testing.F) {
	query := dnsQuery(1, "a.test")
	for _, records := range [][]string{nil, {`a.test. 1 IN CAA 0 issue "x"`, `a.test. 1 IN CAA 128 iodef ""`}, {`a.test. 1 IN CNAME b.test.`, `b.test. 1 IN CAA 0 issue "y"`}} {
		q := new(dns.Msg)
		if err := q.Unpack(query); err != nil {
			f.Fatal(err)
		}
		m := new(dns.Msg).SetReply(q)
		m.Compress = true
		for _, r := range records {
			rr, err := dns.NewRR(r)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		data, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[:len(data)-1])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, truncated, err := parseCAA(bytes.Clone(data), query)
		var m dns.Msg
		if err != nil || truncated || m.Unpack(data) != nil || m.Rcode == dns.RcodeNameError || len(m.Answer) > dnsAnswers {
			return
		}
		var want []caaRR
		for _, rr := range m.Answer {
			if caa, ok := rr.(*dns.CAA); ok {
				want = append(want, caaRR{caa.Flag, strings.ToLower(caa.Tag), caa.Value})
			}
		}
		if len(want) != len(got) {
			t.Errorf("%x: %d records, want %d", data, len(got), len(want))
		}
	})
}

// TestDNSServerIsSilent: whoever asks can stop waiting for it.
func TestDNSServerIsSilent(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn.ReadFrom(make([]byte, dnsMessage))
		cancel()
	}()
	start := time.Now()
	if _, err := caaRRs(ctx, conn.LocalAddr().String(), "a.test"); err == nil || time.Since(start) > 4*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}
