package firewall_test

import (
	"fmt"
	"net/http/httptest"
	"net/netip"

	"github.com/palisade-go/palisade/firewall"
)

// mmdb is what is used of *maxminddb.Reader, of
// github.com/oschwald/maxminddb-golang/v2, with maxminddb.Result for R. It reads
// the databases of MaxMind, DB-IP, IPinfo and others.
type mmdb[R mmdbResult] interface{ Lookup(netip.Addr) R }

type mmdbResult interface {
	DecodePath(v any, path ...any) error
}

// countryOf returns a Config.Country that asks a database, and asnOf a Config.ASN.
// An address that is not in it, or cannot be looked up, has no country.
func countryOf[R mmdbResult](db mmdb[R]) func(netip.Addr) string {
	return func(addr netip.Addr) string {
		var code string
		if err := db.Lookup(addr).DecodePath(&code, "country", "iso_code"); err != nil {
			return ""
		}
		return code
	}
}

func asnOf[R mmdbResult](db mmdb[R]) func(netip.Addr) uint32 {
	return func(addr netip.Addr) uint32 {
		var number uint32
		if err := db.Lookup(addr).DecodePath(&number, "autonomous_system_number"); err != nil {
			return 0
		}
		return number
	}
}

// Rules about countries and autonomous systems, from mmdb files. With files:
//
//	countries, err := maxminddb.Open("GeoLite2-Country.mmdb")
//	…
//	config.Country = countryOf[maxminddb.Result](countries)
func ExampleCountry_mmdb() {
	countries, networks := testDatabase{"192.0.2.7": "CH", "192.0.2.8": "AQ"}, testDatabase{"192.0.2.9": uint32(64496)}
	fw, err := firewall.New(firewall.Config{
		Country: countryOf[testResult](countries),
		ASN:     asnOf[testResult](networks),
		Policy: firewall.Policy{
			Rules: []firewall.Rule{
				{ID: "scanners", Match: firewall.ASN(64496)},
				{ID: "at home", Match: firewall.Country("CH", "LI"), Verdict: firewall.Accept},
			},
			Default: firewall.Reject,
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, client := range []string{"192.0.2.7", "192.0.2.8", "192.0.2.9"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = client + ":50000"
		d := fw.DecideRequest(r)
		fmt.Printf("%s: %v by %v %q\n", client, d.Verdict, d.Reason, d.RuleID)
	}
	// Output:
	// 192.0.2.7: accept by rule "at home"
	// 192.0.2.8: reject by default ""
	// 192.0.2.9: drop by rule "scanners"
}

// testDatabase stands in for a file.
type testDatabase map[string]any

type testResult struct{ value any }

func (db testDatabase) Lookup(addr netip.Addr) testResult { return testResult{db[addr.String()]} }

func (r testResult) DecodePath(v any, _ ...any) error {
	switch to := v.(type) {
	case *string:
		*to, _ = r.value.(string)
	case *uint32:
		*to, _ = r.value.(uint32)
	}
	return nil
}
