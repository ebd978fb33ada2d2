package firewall_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/palisade-go/palisade/firewall"
)

// send shows the status that a request from an address gets.
func send(fw *firewall.Firewall, from, target string) {
	r := httptest.NewRequest("GET", target, nil)
	r.RemoteAddr = from + ":50000"
	w := httptest.NewRecorder()
	app := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	fw.Handler(app).ServeHTTP(w, r)
	fmt.Println(from, target, w.Code, strings.TrimSpace("Retry-After: "+w.Header().Get("Retry-After")))
}

// An edge that keeps what is inside from those outside, and one client from
// taking everybody's share.
func Example() {
	fw, err := firewall.New(firewall.Config{Policy: firewall.Policy{
		Rules:   []firewall.Rule{{ID: "inner", Match: firewall.PathPrefix("/-/"), Verdict: firewall.Reject}},
		Limits:  []firewall.Limit{{ID: "per-client", Rate: 0.5, Burst: 1}},
		Default: firewall.Accept,
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	send(fw, "192.0.2.1", "/-/snapshot")
	send(fw, "192.0.2.1", "/x/..;//%2d/snapshot")
	send(fw, "192.0.2.1", "/")
	send(fw, "192.0.2.1", "/")
	send(fw, "192.0.2.2", "/")
	// Output:
	// 192.0.2.1 /-/snapshot 403 Retry-After:
	// 192.0.2.1 /x/..;//%2d/snapshot 403 Retry-After:
	// 192.0.2.1 / 200 Retry-After:
	// 192.0.2.1 / 429 Retry-After: 2
	// 192.0.2.2 / 200 Retry-After:
}

// The rules of a server that only its balancer may use. At accept nobody knows
// yet who the peer is, so the connection passes on to TLS.
func ExampleClientIdentity() {
	fw, err := firewall.New(firewall.Config{
		Policy: firewall.Policy{Rules: []firewall.Rule{{
			ID:      "balancer",
			Match:   firewall.ClientIdentity("spiffe://example.com/balancer"),
			Verdict: firewall.Accept,
		}}},
		Identity: func(r *http.Request) string {
			if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0][0].URIs) != 1 {
				return ""
			}
			return r.TLS.VerifiedChains[0][0].URIs[0].String()
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	d := fw.DecideConn(netip.MustParseAddrPort("10.0.0.1:50000"), netip.MustParseAddrPort("10.0.0.2:443"))
	fmt.Println("connection:", d.Verdict, "undecided:", d.Undecided)
	r := httptest.NewRequest("GET", "/", nil)
	fmt.Println("request without a certificate:", fw.DecideRequest(r).Verdict)
	// Output:
	// connection: accept undecided: true
	// request without a certificate: drop
}

func ExampleFirewall_Listener() {
	fw, err := firewall.New(firewall.Config{Policy: firewall.Policy{
		Rules: []firewall.Rule{
			{ID: "office", Match: firewall.Source(netip.MustParsePrefix("192.0.2.0/24")), Verdict: firewall.Accept},
			{ID: "public", Match: firewall.All(firewall.DestinationPort(443), firewall.PathPrefix("/public")), Verdict: firewall.Accept},
		},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range [][2]string{
		{"192.0.2.1:50000", "10.0.0.1:80"},
		{"198.51.100.1:50000", "10.0.0.1:443"}, // may ask for /public
		{"198.51.100.1:50000", "10.0.0.1:80"},
	} {
		d := fw.DecideConn(netip.MustParseAddrPort(c[0]), netip.MustParseAddrPort(c[1]))
		fmt.Printf("%v by %v %q, undecided: %v\n", d.Verdict, d.Reason, d.RuleID, d.Undecided)
	}
	// Output:
	// accept by rule "office", undecided: false
	// accept by rule "public", undecided: true
	// drop by default "", undecided: false
}

func ExamplePrefixSet() {
	var bad firewall.PrefixSet
	fw, err := firewall.New(firewall.Config{Policy: firewall.Policy{
		Sets:    map[string]*firewall.PrefixSet{"bad": &bad},
		Rules:   []firewall.Rule{{ID: "bad", Match: firewall.SourceSet("bad")}},
		Default: firewall.Accept,
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "198.51.100.9:50000"
	fmt.Println(fw.DecideRequest(r).Verdict)
	fmt.Println(bad.Load(strings.NewReader("# yesterday's scanners\n198.51.100.0/24\n2001:db8:bad::/48\n")), bad.Len())
	fmt.Println(fw.DecideRequest(r).Verdict)
	fmt.Println(bad.Load(strings.NewReader("198.51.100.0/24\n198.51.100.300\n")), bad.Len())
	// Output:
	// accept
	// <nil> 2
	// drop
	// firewall: line 2: "198.51.100.300", want an address or a prefix 2
}

func ExampleFirewall_ClientIP() {
	fw, err := firewall.New(firewall.Config{
		Policy:         firewall.Policy{Default: firewall.Accept},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	h := fw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ip, _ := fw.ClientIP(r)
		fmt.Println(r.RemoteAddr, "forwards for", ip)
	}))
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "10.0.0.1:50000"
	// The client wrote 127.0.0.1; the proxy added what it saw.
	r.Header.Set("X-Forwarded-For", "127.0.0.1, 203.0.113.7")
	h.ServeHTTP(httptest.NewRecorder(), r)
	// Output: 10.0.0.1:50000 forwards for 203.0.113.7
}

func ExampleClientIP() {
	fw, err := firewall.New(firewall.Config{
		Policy:          firewall.Policy{Default: firewall.Accept},
		ClientInContext: true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	h := fw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		// Deep in the application, where there is a context and no request.
		fmt.Println(firewall.ClientIP(r.Context()))
	}))
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "203.0.113.7:50000"
	h.ServeHTTP(httptest.NewRecorder(), r)
	// Output: 203.0.113.7 true
}

func ExampleFirewall_Ban() {
	fw, err := firewall.New(firewall.Config{
		Policy: firewall.Policy{Default: firewall.Accept},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	scanner := netip.MustParsePrefix("2001:db8:1:2::/64")
	fmt.Println(fw.Ban(scanner, 10*time.Minute, "scan"))
	src, dst := netip.MustParseAddrPort("[2001:db8:1:2::9]:50000"), netip.MustParseAddrPort("[2001:db8::1]:443")
	d := fw.DecideConn(src, dst)
	fmt.Println(d.Verdict, "by", d.Reason)
	fmt.Println(len(fw.Bans()), fw.Unban(scanner), fw.DecideConn(src, dst).Verdict)
	// Output:
	// <nil>
	// drop by ban
	// 1 true accept
}

// A rule in Monitor mode says what it would do.
func ExampleEvent() {
	fw, err := firewall.New(firewall.Config{
		Policy: firewall.Policy{
			Rules: []firewall.Rule{{
				ID:    "no-writes",
				Match: firewall.Not(firewall.Method("GET", "HEAD")),
				Mode:  firewall.Monitor,
			}},
			Default: firewall.Accept,
		},
		OnDecision: func(e firewall.Event) {
			fmt.Println(e.Mode, e.RuleID, "would", e.Verdict, "a request of", e.Client)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	r := httptest.NewRequest("POST", "/", nil)
	w := httptest.NewRecorder()
	fw.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
	fmt.Println(w.Code, fw.Counters().Rules[0].Requests)
	// Output:
	// monitor no-writes would drop a request of 192.0.2.1
	// 200 1
}

func ExampleFirewall_Update() {
	fw, err := firewall.New(firewall.Config{
		Policy: firewall.Policy{Default: firewall.Accept},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = fw.Update(firewall.Policy{Rules: []firewall.Rule{{ID: "admin", Match: firewall.Path("admin")}, {ID: "rest"}}})
	fmt.Println(err)
	err = fw.Update(firewall.Policy{Rules: []firewall.Rule{{ID: "admin", Match: firewall.Path("/admin")}}, Default: firewall.Accept})
	d := fw.DecideRequest(httptest.NewRequest("GET", "/Admin", nil))
	fmt.Println(err, d.Verdict, d.RuleID, d.Generation)
	// Output:
	// firewall: rule 0, "admin": Path("admin"), want a decoded path that starts with / and has no dot segments, empty segments or any of %\;?#
	// firewall: rule 1, "rest": zero Match, want All() to match everything
	// <nil> drop admin 2
}

// A policy as text, and what is wrong with another.
func ExampleParsePolicy() {
	policy, err := firewall.ParsePolicy(`
		set bad { 198.51.100.0/24 }
		drop bad if source @bad       # before anything else
		accept web if destination-port 443 and (path /a or path /b)
	`)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(policy)
	_, err = firewall.ParsePolicy("drop bad if source @bad\naccept web if destination-port 99999")
	fmt.Println(err)
	// Output:
	// set bad {
	// 	198.51.100.0/24,
	// }
	// drop bad if source @bad
	// accept web if destination-port 443 and (path /a or path /b)
	// default drop
	// firewall: line 2, column 32: "99999", want a number up to 65535, or a range such as 8-10
	// firewall: line 1, column 21: set "bad" is not defined
}

// What a packet filter may do: a connection to the port of the web server has to
// pass, since a request over it might be for /a.
func ExampleFirewall_DecidePacket() {
	policy, err := firewall.ParsePolicy("accept a if protocol tcp and destination-port 443 and path /a")
	if err != nil {
		fmt.Println(err)
		return
	}
	fw, err := firewall.New(firewall.Config{Policy: policy})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, port := range []uint16{443, 22} {
		d := fw.DecidePacket(firewall.Packet{
			Version:  4,
			Source:   netip.MustParseAddr("192.0.2.1"),
			Protocol: firewall.ProtocolTCP, DestinationPort: port,
		})
		fmt.Println(port, d.Verdict, d.Undecided)
	}
	// Output:
	// 443 accept true
	// 22 drop false
}

// A frame that cannot be read.
func ExampleParsePacket() {
	_, err := firewall.ParsePacket([]byte("short"))
	fmt.Println(err)
	// Output: firewall: bad packet: truncated
}

// Why a request is refused.
func ExampleFirewall_ExplainRequest() {
	policy, err := firewall.ParsePolicy("accept ours if source 10.0.0.0/8\nreject inner if path-prefix /-/\ndefault accept")
	if err != nil {
		fmt.Println(err)
		return
	}
	fw, err := firewall.New(firewall.Config{Policy: policy})
	if err != nil {
		fmt.Println(err)
		return
	}
	r := httptest.NewRequest("GET", "/x/..//%2d/", nil)
	r.RemoteAddr = "192.0.2.1:50000"
	fmt.Print(fw.ExplainRequest(r))
	// Output:
	// request depth: reject by rule inner (generation 1)
	// 	client 192.0.2.1
	// 	accept ours if source 10.0.0.0/8 [no]: no
	// 	reject inner if path-prefix /- [unknown]: unknown
}

// Bans that outlive the process.
func ExampleFirewall_SaveBans() {
	dir, err := os.MkdirTemp("", "bans")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	before, err := firewall.New(firewall.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(before.Ban(netip.MustParsePrefix("192.0.2.0/24"), time.Hour, "scans"))
	fmt.Println(before.SaveBans(filepath.Join(dir, "bans.json")))

	after, err := firewall.New(firewall.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(after.LoadBans(filepath.Join(dir, "bans.json")))
	for _, ban := range after.Bans() {
		fmt.Println(ban.Prefix, ban.Reason)
	}
	// Output:
	// <nil>
	// <nil>
	// <nil>
	// 192.0.2.0/24 scans
}
