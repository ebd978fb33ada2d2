package firewallbench

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/palisade-go/palisade/bench/internal/measure"
	"github.com/palisade-go/palisade/bench/internal/report"
	"github.com/palisade-go/palisade/firewall"
)

// TestRun runs everything briefly, and checks that each target is of a cell that
// is there.
func TestRun(t *testing.T) {
	var out report.Section
	if err := Suite().Run(t.Context(), report.Options{Rounds: 1, Length: 30 * time.Millisecond, Log: t.Logf}, &out); err != nil {
		t.Fatal(err)
	}
	if len(out.Tables) != 3 || len(out.Programs) != 2 {
		t.Fatalf("the section is %+v", out)
	}
	for _, table := range out.Tables {
		for _, row := range table.Rows {
			if _, ok := row.Values["one"]; ok { // a busy machine may let no window count
				row.Values["one"] = measure.SampleOf([]float64{1})
			}
		}
	}
	for _, v := range report.Judge(targets(), out.Tables) {
		if v.Result == "not measured" {
			t.Errorf("%s: %s", v.Text, v.Got)
		}
	}
}

// TestAccepted checks that every request that is measured is accepted, and that
// each client asks.
func TestAccepted(t *testing.T) {
	set, err := firewall.NewPrefixSet(prefixes(1000, 1)...)
	if err != nil {
		t.Fatal(err)
	}
	fw, err := newPolicy(set)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]int)
	next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen[r.RemoteAddr+r.Header.Get("X-Forwarded-For")]++ })
	handlers, err := limited(next)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range append(handlers, named{oursPolicy, fw.Handler(next)}) {
		clear(seen)
		f := serving(h.name, h.handler, h.name == oursPolicy).Prepare()
		for range 2 * clients {
			f()
		}
		for client, n := range seen {
			if n != 2 {
				t.Errorf("%s: client %s was served %d times, want 2", h.name, client, n)
			}
		}
		if len(seen) != clients {
			t.Errorf("%s: %d clients were served, want %d", h.name, len(seen), clients)
		}
	}
}

// TestPolicyRefuses checks that the policy that is measured is not empty.
func TestPolicyRefuses(t *testing.T) {
	set, err := firewall.NewPrefixSet(netip.MustParsePrefix("198.51.100.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	fw, err := newPolicy(set)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, url, client, header string
		want                        int
	}{
		{"GET", "http://www.example.com/", "203.0.113.1", "", 200},
		{"GET", "http://www.example.com/", "198.51.100.7", "", 403},
		{"GET", "http://www.example.com/forbidden48/x", "203.0.113.1", "", 403},
		{"DELETE", "http://www.example.com/item/49", "203.0.113.1", "", 403},
		{"GET", "http://old46.example.com/", "203.0.113.1", "", 403},
		{"GET", "http://www.example.com/", "203.0.113.1", "X-Scanner-47", 403},
	} {
		r := httptest.NewRequest(c.method, c.url, nil)
		r.RemoteAddr = "10.0.0.1:1"
		r.Header.Set("X-Forwarded-For", c.client)
		if c.header != "" {
			r.Header.Set(c.header, "yes")
		}
		w := httptest.NewRecorder()
		fw.Handler(http.HandlerFunc(hello)).ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%+v: status %d", c, w.Code)
		}
	}
}

func TestPrefixes(t *testing.T) {
	a, b := prefixes(1000, 1), prefixes(1000, 2)
	seen := make(map[netip.Prefix]bool)
	same := 0
	for i, p := range a {
		if p != p.Masked() || seen[p] {
			t.Errorf("prefix %d is %v", i, p)
		}
		seen[p] = true
		if p == b[i] {
			same++
		}
	}
	if same > 10 {
		t.Errorf("%d prefixes are the same with another seed", same)
	}
}
