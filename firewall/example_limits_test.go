package firewall_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"time"

	"github.com/palisade-go/palisade/firewall"
)

// Logins by account, whatever address they come from.
func ExampleLimiter() {
	logins, err := firewall.NewLimiter[string](firewall.LimiterConfig{Rate: 1.0 / 60, Burst: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 4 {
		fmt.Println(logins.Allow("alice"), logins.Peek("alice").Remaining)
	}
	r, err := logins.Reserve("bob", 3)
	fmt.Println(r.Delay, err, logins.Peek("bob").Remaining)
	r.Cancel() // too late for what needs no delay
	fmt.Println(logins.Peek("bob").Wait.Round(time.Minute))
	// Output:
	// true 2
	// true 1
	// true 0
	// false 0
	// 0s <nil> 0
	// 1m0s
}

// A limit by API key, of which the client is told.
func ExampleHeaderKey() {
	fw, err := firewall.New(firewall.Config{Policy: firewall.Policy{
		Limits:  []firewall.Limit{{ID: "api", Key: firewall.HeaderKey("X-API-Key"), Rate: 1, Burst: 60, Announce: true}},
		Default: firewall.Accept,
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-API-Key", "k1")
	w := httptest.NewRecorder()
	fw.Handler(http.NotFoundHandler()).ServeHTTP(w, r)
	fmt.Println(w.Header().Get("RateLimit-Policy"))
	fmt.Println(w.Header().Get("RateLimit"))
	// Output:
	// "api";q=60;w=60
	// "api";r=59;t=1
}

// Who asks for what is not there to be found is shut out.
func ExampleEscalation() {
	policy, err := firewall.ParsePolicy(`
		reject inner if path-prefix /-/
		escalate scan on { inner, app:login } offences 3 window 1m ban 10m max-ban 24h
		default accept`)
	if err != nil {
		fmt.Println(err)
		return
	}
	fw, err := firewall.New(firewall.Config{Policy: policy, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	send(fw, "192.0.2.1", "/-/a")
	send(fw, "192.0.2.1", "/-/b")
	fw.Offence(netip.MustParseAddr("192.0.2.1"), "login") // a password was wrong
	for _, b := range fw.Bans() {
		fmt.Println(b.Prefix, time.Until(b.Until).Round(time.Minute), b.Reason)
	}
	// Output:
	// 192.0.2.1 /-/a 403 Retry-After:
	// 192.0.2.1 /-/b 403 Retry-After:
	// 192.0.2.1/32 10m0s scan: offences, the last by app:login
}

// Uploads may be large, and nothing else.
func ExampleSizeLimit() {
	upload := firewall.PathPrefix("/upload")
	fw, err := firewall.New(firewall.Config{Policy: firewall.Policy{
		Sizes: []firewall.SizeLimit{
			{ID: "upload", Body: 100 << 20, Match: upload},
			{ID: "other", Body: 64 << 10, Match: firewall.Not(upload)},
		},
		Default: firewall.Accept,
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, path := range []string{"/upload/a", "/a"} {
		r := httptest.NewRequest("POST", path, strings.NewReader(strings.Repeat("x", 1<<20)))
		d := fw.DecideRequest(r)
		fmt.Println(path, d.Verdict, d.SizeID, d.Status)
	}
	// Output:
	// /upload/a accept  0
	// /a reject other 413
}

// A form that another website made the browser send.
func ExampleCrossOrigin() {
	fw, err := firewall.New(firewall.Config{Policy: firewall.Policy{
		Rules:   []firewall.Rule{{ID: "csrf", Match: firewall.CrossOrigin(), Verdict: firewall.Reject}},
		Default: firewall.Accept,
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	r := httptest.NewRequest("POST", "/transfer", nil)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	fmt.Println(fw.DecideRequest(r).Verdict)
	// Output: reject
}

// A name that is not served never gets as far as a certificate.
func ExampleFirewall_TLSConfig() {
	fw, err := firewall.New(firewall.Config{Policy: firewall.Policy{Rules: []firewall.Rule{
		{ID: "ours", Match: firewall.SNI("example.com", "*.example.com"), Verdict: firewall.Accept},
	}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := httptest.NewUnstartedServer(fw.Handler(http.NotFoundHandler()))
	server.Listener = fw.Listener(server.Listener)
	server.TLS = fw.TLSConfig(nil)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	defer server.Close()
	for _, name := range []string{"www.example.com", "elsewhere.example"} {
		c, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		fmt.Println(name, err == nil)
		if err == nil {
			c.Close()
		}
	}
	// Output:
	// www.example.com true
	// elsewhere.example false
}

// The country comes from a database. With MaxMind's format and
// github.com/oschwald/maxminddb-golang/v2 the function is
//
//	func(addr netip.Addr) string {
//		var code string
//		_ = db.Lookup(addr).DecodePath(&code, "country", "iso_code") // "" if it is not there
//		return code
//	}
func ExampleCountry() {
	table := map[netip.Prefix]string{netip.MustParsePrefix("192.0.2.0/24"): "CH"}
	fw, err := firewall.New(firewall.Config{
		Country: func(addr netip.Addr) string {
			for p, code := range table {
				if p.Contains(addr) {
					return code
				}
			}
			return ""
		},
		Policy: firewall.Policy{Rules: []firewall.Rule{{ID: "home", Match: firewall.Country("CH", "LI"), Verdict: firewall.Accept}}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	dst := netip.MustParseAddrPort("10.0.0.1:443")
	fmt.Println(fw.DecideConn(netip.MustParseAddrPort("192.0.2.1:50000"), dst).Verdict)
	fmt.Println(fw.DecideConn(netip.MustParseAddrPort("198.51.100.1:50000"), dst).Verdict)
	// Output:
	// accept
	// drop
}

// At most a few connections of each client at a time.
func ExampleUnit() {
	policy, err := firewall.ParsePolicy(`
		limit open unit concurrent burst 64
		limit new unit connections rate 10 burst 100
		default accept`)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, l := range policy.Limits {
		fmt.Println(l.ID, l.Unit, l.Burst)
	}
	// Output:
	// open concurrent 64
	// new connections 100
}

func ExamplePrefixSet_InsertFor() {
	var seen firewall.PrefixSet
	fmt.Println(seen.InsertFor(time.Hour, netip.MustParsePrefix("192.0.2.0/24")))
	fmt.Println(seen.Contains(netip.MustParseAddr("192.0.2.1")), seen.Len())
	// Output:
	// <nil>
	// true 1
}
