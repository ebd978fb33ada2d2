package firewall

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaissmai/bart"
)

func TestBan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{TrustedProxies: prefixes("10.0.0.1/32"), Policy: Policy{
			Rules: []Rule{{ID: "all", Match: All(), Verdict: Accept}},
		}})
		local := netip.MustParseAddrPort("192.0.2.80:443")
		conn := func(s string) Decision { return f.DecideConn(netip.MustParseAddrPort(s), local) }
		ban := func(s string, ttl time.Duration) {
			t.Helper()
			if err := f.Ban(netip.MustParsePrefix(s), ttl, "scan"); err != nil {
				t.Fatal(err)
			}
		}
		ban("198.51.100.0/24", time.Hour)
		ban("198.51.100.7/32", time.Minute)
		ban("::ffff:203.0.113.0/120", time.Minute)
		ban("10.0.0.0/8", time.Hour)
		for addr, want := range map[string]Verdict{
			"198.51.100.7:1": Drop, "198.51.100.8:1": Drop, "[::ffff:198.51.100.8]:1": Drop, "203.0.113.5:1": Drop,
			"192.0.2.1:1": Accept,
			"10.0.0.1:1":  Accept, // a trusted proxy is not the client
			"10.0.0.2:1":  Drop,
		} {
			if d := conn(addr); d.Verdict != want || want == Drop && d.Reason != ByBan {
				t.Errorf("connection from %s: %v by %v, want %v", addr, d.Verdict, d.Reason, want)
			}
		}
		r := request("GET", "/", "10.0.0.1:1")
		r.Header.Set("X-Forwarded-For", "198.51.100.7")
		if d := f.DecideRequest(r); d.Verdict != Drop || d.Reason != ByBan {
			t.Errorf("request behind a proxy: %v by %v", d.Verdict, d.Reason)
		}

		time.Sleep(time.Minute)
		if d := conn("203.0.113.5:1"); d.Verdict != Accept {
			t.Errorf("a ban of a minute lasts longer: %+v", d)
		}
		if d := conn("198.51.100.7:1"); d.Verdict != Drop {
			t.Error("a short ban that ended hides the long one around it")
		}
		bans := f.Bans()
		if len(bans) != 2 || bans[0].Prefix != netip.MustParsePrefix("10.0.0.0/8") || bans[1].Reason != "scan" || !bans[1].Until.Equal(time.Now().Add(59*time.Minute)) {
			t.Errorf("Bans: %+v", bans)
		}
		ban("198.51.100.0/24", time.Second) // does not shorten
		time.Sleep(time.Minute)
		if d := conn("198.51.100.7:1"); d.Verdict != Drop {
			t.Error("a shorter ban shortened a longer one")
		}
		if !f.Unban(netip.MustParsePrefix("198.51.100.0/24")) || f.Unban(netip.MustParsePrefix("198.51.100.0/24")) {
			t.Error("Unban does not say whether there was a ban")
		}
		if f.Unban(netip.MustParsePrefix("203.0.113.0/24")) || f.Unban(netip.Prefix{}) {
			t.Error("Unban found a ban that is over or that cannot be")
		}
		if d := conn("198.51.100.7:1"); d.Verdict != Accept {
			t.Errorf("after Unban: %+v", d)
		}
	})
}

func TestBanRefusesNonsense(t *testing.T) {
	f := newFirewall(t, Config{})
	for _, c := range []struct {
		prefix netip.Prefix
		ttl    time.Duration
	}{
		{netip.Prefix{}, time.Hour},
		{netip.MustParsePrefix("10.0.0.1/8"), time.Hour},
		{netip.MustParsePrefix("10.0.0.0/8"), 0},
		{netip.MustParsePrefix("10.0.0.0/8"), -1},
		{netip.MustParsePrefix("10.0.0.0/8"), 1<<63 - 1},
	} {
		if err := f.Ban(c.prefix, c.ttl, ""); err == nil {
			t.Errorf("Ban(%v, %v) was taken", c.prefix, c.ttl)
		}
	}
	if n := len(f.Bans()); n != 0 {
		t.Errorf("%d bans", n)
	}
}

func TestBansAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{})
		source := func(n uint32) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))), 32)
		}
		// Filled by hand: a table that is copied at every change takes seconds.
		full := new(bart.Table[banEntry])
		for i := range uint32(maxBans) {
			ttl := time.Hour
			if i%2 == 0 {
				ttl = time.Minute
			}
			full.Insert(source(i), banEntry{until: f.now() + int64(ttl)})
		}
		f.bans.table.Store(full)
		if err := f.Ban(source(maxBans), time.Hour, ""); !errors.Is(err, ErrTooManyBans) {
			t.Fatalf("error %v, want ErrTooManyBans", err)
		}
		if err := f.Ban(source(1), 2*time.Hour, ""); err != nil {
			t.Errorf("a ban that is there already cannot be renewed: %v", err)
		}
		time.Sleep(time.Minute)
		if err := f.Ban(source(maxBans), time.Hour, ""); err != nil {
			t.Errorf("half of the bans are over: %v", err)
		}
		if n := f.bans.table.Load().Size(); n != maxBans/2+1 {
			t.Errorf("%d bans are kept, want %d", n, maxBans/2+1)
		}
	})
}
