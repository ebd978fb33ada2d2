package firewall

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimitKeys(t *testing.T) {
	for name, c := range map[string]struct {
		key  Key
		with func(r *http.Request, value string)
	}{
		"header":   {HeaderKey("x-api-key"), func(r *http.Request, v string) { r.Header.Set("X-Api-Key", v) }},
		"lines":    {HeaderKey("X-Api-Key"), func(r *http.Request, v string) { r.Header["X-Api-Key"] = []string{"a", v} }},
		"cookie":   {CookieKey("sid"), func(r *http.Request, v string) { r.Header.Set("Cookie", "x=1; sid="+v+"; sid=z") }},
		"identity": {IdentityKey(), func(r *http.Request, v string) { r.Header.Set("X-Id", v) }},
		"func":     {FuncKey("tenant"), func(r *http.Request, v string) { r.Header.Set("X-Tenant", v) }},
	} {
		f := newFirewall(t, Config{
			Identity: func(r *http.Request) string { return r.Header.Get("X-Id") },
			KeyFuncs: map[string]func(*http.Request) string{"tenant": func(r *http.Request) string { return r.Header.Get("X-Tenant") }},
			Policy:   Policy{Default: Accept, Limits: []Limit{{ID: "l", Key: c.key, Rate: 1e-6, Burst: 1}}},
		})
		for i, step := range []struct {
			value, peer string
			want        int
		}{
			{"one", "192.0.2.1:1", 200}, {"one", "192.0.2.2:1", 429}, {"two", "192.0.2.1:1", 200}, {"two", "192.0.2.1:1", 429},
			{"", "192.0.2.1:1", 200}, {"", "192.0.2.1:1", 429}, {"", "192.0.2.3:1", 200}, // without: by address
			{"192.0.2.3", "192.0.2.9:1", 200}, // a value is no address
		} {
			r := request("GET", "/", step.peer)
			if step.value != "" {
				c.with(r, step.value)
			}
			if w := get(f, r); w.Code != step.want {
				t.Errorf("%s, step %d: status %d, want %d", name, i, w.Code, step.want)
			}
		}
	}
}

func TestSlidingWindowLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{Policy: Policy{Default: Accept, Limits: []Limit{{ID: "l", Window: time.Minute, Burst: 3}}}})
		for range 3 {
			if w := get(f, request("GET", "/", "192.0.2.1:1")); w.Code != 200 {
				t.Fatalf("status %d", w.Code)
			}
			time.Sleep(10 * time.Second)
		}
		w := get(f, request("GET", "/", "192.0.2.1:1"))
		if w.Code != 429 || w.Header().Get("Retry-After") != "42" { // the first counts for a minute and a part
			t.Fatalf("status %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
		}
		time.Sleep(42 * time.Second)
		if w := get(f, request("GET", "/", "192.0.2.1:1")); w.Code != 200 {
			t.Errorf("status %d after waiting", w.Code)
		}
	})
}

func TestAnnouncedLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{Policy: Policy{Default: Accept, Limits: []Limit{
			{ID: `per "client"`, Rate: 0.5, Burst: 2, Announce: true},
			{ID: "daily", Window: 24 * time.Hour, Burst: 100, Announce: true},
			{ID: "silent", Rate: 100, Burst: 100},
			{ID: "shadow", Rate: 1, Burst: 1, Announce: true, Mode: Monitor},
		}}})
		time.Sleep(time.Second)
		for i, want := range []struct{ status, fields string }{
			{"200", `"per \"client\"";r=1;t=2 "daily";r=99;t=103679`},
			{"200", `"per \"client\"";r=0;t=4 "daily";r=98;t=103679`},
			{"429", `"per \"client\"";r=0;t=4`},
		} {
			w := get(f, request("GET", "/", "192.0.2.1:1"))
			if got := strings.Join(w.Header().Values("RateLimit"), " "); got != want.fields {
				t.Errorf("answer %d: RateLimit %s, want %s", i, got, want.fields)
			}
			if policy := strings.Join(w.Header().Values("RateLimit-Policy"), " "); !strings.HasPrefix(policy, `"per \"client\"";q=2;w=4`) || strings.Contains(policy, "silent") {
				t.Errorf("answer %d: RateLimit-Policy %s", i, policy)
			}
		}
	})
}

func TestRetryJitter(t *testing.T) {
	f := newFirewall(t, Config{RetryJitter: 20 * time.Second, Policy: Policy{Default: Accept, Limits: []Limit{{ID: "l", Rate: 0.1, Burst: 1}}}})
	get(f, request("GET", "/", "192.0.2.1:1"))
	seen := make(map[string]bool)
	for range 200 {
		seen[get(f, request("GET", "/", "192.0.2.1:1")).Header().Get("Retry-After")] = true
	}
	if len(seen) < 10 {
		t.Errorf("only %d values of Retry-After", len(seen))
	}
	for s := range seen {
		if d, err := time.ParseDuration(s + "s"); err != nil || d < 10*time.Second || d > 31*time.Second {
			t.Errorf("Retry-After %s, want 10 to 30 or so", s)
		}
	}
}

func TestLimitMistakes(t *testing.T) {
	for want, l := range map[string]Limit{
		"no ID":                           {Rate: 1, Burst: 1},
		"Unit(7)":                         {ID: "x", Rate: 1, Burst: 1, Unit: 7},
		"Rate 0":                          {ID: "x", Burst: 1},
		"with unit concurrent, want only": {ID: "x", Unit: Concurrent, Rate: 1, Burst: 1},
		"with a Window, want only Burst":  {ID: "x", Rate: 1, Burst: 1, Window: time.Minute},
		"Window 1ms":                      {ID: "x", Burst: 1, Window: time.Millisecond},
		"at most 65535":                   {ID: "x", Burst: 1 << 16, Window: time.Minute},
		"Announce or Shared":              {ID: "x", Unit: Connections, Rate: 1, Burst: 1, Announce: true},
		"another Key":                     {ID: "x", Unit: Connections, Rate: 1, Burst: 1, Key: CookieKey("x")},
		"match path /x, want predicates":  {ID: "x", Unit: Concurrent, Burst: 1, Match: Path("/x")},
		"match not sni a.example, want":   {ID: "x", Unit: Concurrent, Burst: 1, Match: Not(SNI("a.example"))},
		"key header \"a b\"":              {ID: "x", Rate: 1, Burst: 1, Key: HeaderKey("a b")},
		"printable ASCII":                 {ID: "é", Rate: 1, Burst: 1, Announce: true},
		"Shared with a Window":            {ID: "x", Burst: 1, Window: time.Minute, Shared: true},
		"Shared without Config.Store":     {ID: "x", Rate: 1, Burst: 1, Shared: true},
		"no function \"f\" in":            {ID: "x", Rate: 1, Burst: 1, Key: FuncKey("f")},
		"IdentityKey without":             {ID: "x", Rate: 1, Burst: 1, Key: IdentityKey()},
		"takes centuries":                 {ID: "x", Rate: 1e-9, Burst: 1 << 40},
		"IPv4Bits 33":                     {ID: "x", Rate: 1, Burst: 1, IPv4Bits: 33},
		"MaxClients 1":                    {ID: "x", Rate: 1, Burst: 1, MaxClients: 1},
		"Mode(9), want enforce":           {ID: "x", Rate: 1, Burst: 1, Mode: 9},
		"Country without Config.Country":  {ID: "x", Rate: 1, Burst: 1, Match: Country("CH")},
	} {
		_, err := New(Config{Policy: Policy{Limits: []Limit{l}}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", l, err, want)
		}
	}
	if f, err := New(Config{Policy: Policy{Limits: []Limit{{ID: "x", Rate: 1, Burst: 1}, {ID: "x", Rate: 1, Burst: 1}}}}); f != nil || err == nil {
		t.Error("two limits with one ID were taken")
	}
}

// TestUpdateKeepsWhatCounts changes one thing at a time.
func TestUpdateKeepsWhatCounts(t *testing.T) {
	first := Limit{ID: "l", Rate: 1e-6, Burst: 1}
	for name, c := range map[string]struct {
		change func(*Limit)
		kept   bool
	}{
		"nothing":  {func(*Limit) {}, true},
		"match":    {func(l *Limit) { l.Match = Source(prefixes("192.0.2.0/24")...) }, true},
		"announce": {func(l *Limit) { l.Announce = true }, true},
		"burst":    {func(l *Limit) { l.Burst = 2 }, false},
		"key":      {func(l *Limit) { l.Key = CookieKey("x") }, false},
		"window":   {func(l *Limit) { l.Rate, l.Window = 0, time.Hour }, false},
		"ID":       {func(l *Limit) { l.ID = "m" }, false},
	} {
		f := newFirewall(t, Config{Policy: Policy{Default: Accept, Limits: []Limit{first}}})
		get(f, request("GET", "/", "192.0.2.1:1"))
		next := first
		c.change(&next)
		if err := f.Update(Policy{Default: Accept, Limits: []Limit{next}}); err != nil {
			t.Fatal(err)
		}
		if over := f.DecideRequest(request("GET", "/", "192.0.2.1:1")).Verdict == Reject; over != c.kept {
			t.Errorf("%s: over the limit: %v, want %v", name, over, c.kept)
		}
	}
}

func TestConnectionLimitsAreNotForRequests(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept, Limits: []Limit{{ID: "c", Unit: Connections, Rate: 1e-6, Burst: 1}, {ID: "o", Unit: Concurrent, Burst: 1}}}})
	for range 3 {
		if w := get(f, request("GET", "/", "192.0.2.1:1")); w.Code != 200 {
			t.Errorf("status %d", w.Code)
		}
	}
	d := f.DecideConn(netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.80:80"))
	if d.Verdict != Accept {
		t.Errorf("decision %+v", d)
	}
}
