package firewall

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// banned lists the bans in force, with how long they last.
func banned(f *Firewall) string {
	var out []string
	for _, b := range f.Bans() {
		out = append(out, fmt.Sprintf("%v %v", b.Prefix, time.Until(b.Until)))
	}
	return strings.Join(out, ", ")
}

func TestEscalation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []Event
		f := newFirewall(t, Config{
			OnDecision: func(e Event) {
				if e.Reason == ByEscalation {
					events = append(events, e)
				}
			},
			Policy: Policy{
				Default: Accept,
				Rules: []Rule{
					{ID: "inner", Match: PathPrefix("/-/"), Verdict: Reject},
					{ID: "other", Match: Path("/other"), Verdict: Reject},
				},
				Limits:      []Limit{{ID: "slow", Rate: 1e-6, Burst: 1, Match: Path("/slow")}},
				Sizes:       []SizeLimit{{ID: "big", URL: 20}},
				Escalations: []Escalation{{ID: "scan", On: []string{"inner", "slow", "big"}, Offences: 4, Window: time.Minute, Ban: 10 * time.Minute, MaxBan: 35 * time.Minute}},
			},
		})
		status := func(path string) int { return get(f, request("GET", path, "192.0.2.1:1")).Code }
		for _, path := range []string{"/-/a", "/slow", "/slow", "/other", "/other", "/other", "/-/b"} {
			status(path)
		}
		if got := banned(f); got != "" || status("/") != 200 {
			t.Fatalf("banned after three offences: %s", got)
		}
		status("/" + strings.Repeat("x", 30))
		if got := banned(f); got != "192.0.2.1/32 10m0s" || status("/") != 403 {
			t.Fatalf("after the fourth: %s", got)
		}
		if b := f.Bans()[0]; b.Reason != "scan: offences, the last by big" {
			t.Errorf("reason %q", b.Reason)
		}
		if len(events) != 1 || events[0].EscalationID != "scan" || events[0].Banned.String() != "192.0.2.1/32" || events[0].RetryAfter != 10*time.Minute ||
			events[0].Client.String() != "192.0.2.1" || events[0].Mode != Enforce {
			t.Errorf("events %+v", events)
		}
		if got := get(f, request("GET", "/", "192.0.2.2:1")).Code; got != 200 {
			t.Errorf("a neighbour: status %d", got)
		}
		// Each further ban is twice as long, up to the most; then all is forgotten.
		for _, want := range []string{"20m0s", "35m0s", "35m0s"} {
			time.Sleep(time.Until(f.Bans()[0].Until))
			for range 4 {
				status("/-/")
			}
			if got := banned(f); got != "192.0.2.1/32 "+want {
				t.Fatalf("again: %s, want %s", got, want)
			}
		}
		time.Sleep(35*time.Minute + 35*time.Minute + 1)
		for range 4 {
			status("/-/")
		}
		if got := banned(f); got != "192.0.2.1/32 10m0s" {
			t.Errorf("after a long peace: %s", got)
		}
	})
}

func TestEscalationForgetsOffences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{Policy: Policy{
			Rules:       []Rule{{ID: "all", Match: All(), Verdict: Reject}},
			Escalations: []Escalation{{ID: "e", Offences: 3, Window: time.Minute, Ban: time.Hour}},
		}})
		for range 20 {
			get(f, request("GET", "/", "192.0.2.1:1"))
			time.Sleep(37 * time.Second) // never three within a window and a part
		}
		if got := banned(f); got != "" {
			t.Errorf("banned: %s", got)
		}
	})
}

// TestEscalationWidens comes from a new address each time.
func TestEscalationWidens(t *testing.T) {
	f := newFirewall(t, Config{
		TrustedProxies: prefixes("2001:db8:ffff::1/128", "10.0.0.1/32"),
		Policy: Policy{
			Rules:       []Rule{{ID: "all", Match: All(), Verdict: Reject}},
			Escalations: []Escalation{{ID: "e", Offences: 5, Window: time.Hour, Ban: time.Hour}},
		},
	})
	prefixesOf := func() string {
		var out []string
		for _, b := range f.Bans() {
			out = append(out, b.Prefix.String())
		}
		return strings.Join(out, " ")
	}
	from := func(addr string) { get(f, request("GET", "/", "["+addr+"]:1")) }
	for i := range 9 {
		from(fmt.Sprintf("2001:db8:1:1::%x", i))
	}
	if got := prefixesOf(); got != "" {
		t.Fatalf("after 9 addresses: %s", got)
	}
	from("2001:db8:1:1::ffff")
	if got := prefixesOf(); got != "2001:db8:1:1::/64" {
		t.Fatalf("after 10 addresses: %s", got)
	}
	for i := range 10 { // one from each of ten networks, of which 20 make the wider one
		from(fmt.Sprintf("2001:db8:1:%x::1", 0x100+i))
	}
	if got := prefixesOf(); got != "2001:db8:1::/48 2001:db8:1:1::/64" {
		t.Fatalf("after 20 in all: %s", got)
	}
	for i := range 100 {
		from(fmt.Sprintf("2001:db8:ffff::%x", 2+i)) // next to a proxy of ours
	}
	if got := prefixesOf(); strings.Contains(got, "ffff") {
		t.Errorf("a network with a trusted proxy is banned: %s", got)
	}
	f.Offence(netip.MustParseAddr("10.0.0.1"), "x")
	for range 100 {
		f.Offence(netip.MustParseAddr("10.0.0.1"), "x")
		f.Offence(netip.Addr{}, "x")
	}
	if got := prefixesOf(); strings.Contains(got, "10.0.0.1") {
		t.Errorf("a trusted proxy is banned: %s", got)
	}
}

func TestOffence(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept, Escalations: []Escalation{
		{ID: "logins", On: []string{"app:login"}, Offences: 3, Window: time.Minute, Ban: time.Hour, IPv4Bits: []int{24}},
		{ID: "shadow", Offences: 1, Window: time.Minute, Ban: time.Hour, Mode: Monitor},
		{ID: "ours", Offences: 1, Window: time.Minute, Ban: time.Hour, Match: Source(prefixes("10.0.0.0/8")...)},
	}}})
	f.Offence(netip.MustParseAddr("192.0.2.1"), "search")
	f.Offence(netip.MustParseAddr("192.0.2.1"), "login")
	f.Offence(netip.MustParseAddr("::ffff:192.0.2.2"), "login")
	if got := banned(f); got != "" {
		t.Errorf("banned: %s", got)
	}
	f.Offence(netip.MustParseAddr("192.0.2.3"), "login")
	if b := f.Bans(); len(b) != 1 || b[0].Prefix.String() != "192.0.2.0/24" {
		t.Errorf("banned: %v", b)
	}
}

// TestEscalationAtAccept has a scanner of ports that are closed by policy, whose
// other connection is then closed as well.
func TestEscalationAtAccept(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{
		Rules:       []Rule{{ID: "web", Match: DestinationPort(80), Verdict: Accept}, {ID: "rest", Match: All()}},
		Escalations: []Escalation{{ID: "scan", On: []string{"rest"}, Offences: 3, Window: time.Minute, Ban: time.Hour}},
	}})
	client, server := pair(t, f, "198.51.100.1:5")
	for i := range 3 {
		seen := f.admitConn(fakeConn{remote: &nowhere{i}, closed: new(int), lingers: new(int)})
		if seen != nil {
			t.Fatal("a closed port was let in")
		}
	}
	if _, err := server.Write([]byte("x")); err == nil || len(f.Bans()) != 1 {
		t.Errorf("the connection is open, bans %v", f.Bans())
	}
	client.Close()
}

// nowhere is an address at a port that the policy closes.
type nowhere struct{ n int }

func (nowhere) Network() string  { return "tcp" }
func (a nowhere) String() string { return fmt.Sprintf("198.51.100.1:%d", 1000+a.n) }

func TestEscalationUnderContention(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{
		Rules:       []Rule{{ID: "all", Match: All()}},
		Escalations: []Escalation{{ID: "e", Offences: 50, Window: time.Hour, Ban: time.Hour}},
	}})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				get(f, request("GET", "/", fmt.Sprintf("192.0.2.%d:1", g*8+i%8)))
			}
		})
	}
	wg.Wait()
	if n := len(f.Bans()); n != 0 && n != 64 {
		t.Errorf("%d of 64 clients with 25 offences each are banned", n)
	}
}

func TestTooManyBansAreToldOnce(t *testing.T) {
	var log strings.Builder
	f := newFirewall(t, Config{
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Policy: Policy{Escalations: []Escalation{{ID: "e", Offences: 1, Window: time.Minute, Ban: time.Hour}}},
	})
	f.bans.most = 1
	for i := range 10 {
		f.Offence(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), "x")
	}
	if n := strings.Count(log.String(), "offenders are not banned"); n != 1 || len(f.Bans()) != 1 {
		t.Errorf("told %d times, %d bans", n, len(f.Bans()))
	}
}

func TestEscalationMistakes(t *testing.T) {
	good := Escalation{ID: "e", Offences: 1, Window: time.Minute, Ban: time.Minute}
	for want, change := range map[string]func(*Escalation){
		"no ID":             func(e *Escalation) { e.ID = "" },
		"Offences 0":        func(e *Escalation) { e.Offences = 0 },
		"Offences 8001":     func(e *Escalation) { e.Offences = 8001 },
		"Window 1ms":        func(e *Escalation) { e.Window = time.Millisecond },
		"Ban 0s":            func(e *Escalation) { e.Ban = 0 },
		"IPv4Bits [24 32]":  func(e *Escalation) { e.IPv4Bits = []int{24, 32} },
		"IPv6Bits []":       func(e *Escalation) { e.IPv6Bits = []int{} },
		"IPv6Bits [129]":    func(e *Escalation) { e.IPv6Bits = []int{129} },
		"MaxClients 1":      func(e *Escalation) { e.MaxClients = 1 },
		`on "typo"`:         func(e *Escalation) { e.On = []string{"typo"} },
		"Mode(2)":           func(e *Escalation) { e.Mode = 2 },
		"ClientIdentity wi": func(e *Escalation) { e.Match = ClientIdentity("x") },
	} {
		e := good
		change(&e)
		if _, err := New(Config{Policy: Policy{Escalations: []Escalation{e}}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", e, err, want)
		}
	}
	if _, err := New(Config{Policy: Policy{Escalations: []Escalation{good, good}}}); err == nil {
		t.Error("two with one ID were taken")
	}
}

// TestEscalationSurvivesUpdates counts on over a change of policy.
func TestEscalationSurvivesUpdates(t *testing.T) {
	p := Policy{
		Rules:       []Rule{{ID: "all", Match: All(), Verdict: Reject}},
		Escalations: []Escalation{{ID: "e", Offences: 4, Window: time.Minute, Ban: time.Hour}},
	}
	f := newFirewall(t, Config{Policy: p})
	for range 2 {
		for range 2 {
			if w := get(f, request("GET", "/", "192.0.2.1:1")); w.Code != http.StatusForbidden {
				t.Fatal(w.Code)
			}
		}
		if err := f.Update(p); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.Bans()) != 1 {
		t.Errorf("bans %v", f.Bans())
	}
}
