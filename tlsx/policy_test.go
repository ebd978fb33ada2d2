package tlsx

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/palisade-go/palisade/internal/testcert"
)

func TestNormalName(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"example.com", "example.com"},
		{"WWW.Example.COM.", "www.example.com"},
		{"my_host-1", "my_host-1"},
		{"192.0.2.1", "192.0.2.1"},
		{"2001:DB8::0:1", "2001:db8::1"},
		{"::ffff:192.0.2.1", "192.0.2.1"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"bücher.example", ""},
		{"", ""}, {".", ""}, {"a..b", ""}, {".a", ""}, {"a..", ""},
		{"*.example.com", ""}, {"a b", ""}, {"user@host", ""}, {"a/b", ""}, {"a\x00b", ""},
		{"[::1]", ""}, {"fe80::1%eth0", ""},
		{strings.Repeat("a", 64), ""}, {strings.Repeat("a", 63), strings.Repeat("a", 63)},
		{strings.Repeat("a.", 126) + "a", strings.Repeat("a.", 126) + "a"}, {strings.Repeat("a.", 126) + "ab", ""}, {strings.Repeat("a.", 127) + "a", ""},
	} {
		if got, err := normalName(c.in); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("normalName(%q) = %q, %v, want %q", c.in, got, err, c.want)
		}
	}
}

func TestNormalHost(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"Example.com", "example.com"},
		{"example.com:8443", "example.com"}, {"example.com:65535", "example.com"},
		{"example.com:", "example.com"}, // RFC 3986 allows an empty port
		{"example.com.:443", "example.com"},
		{"192.0.2.1:80", "192.0.2.1"},
		{"[::1]", "::1"}, {"[::1]:443", "::1"},
		{"::1", ""}, {"[::1", ""}, {"[[::1]]", ""}, {"[example.com]", ""}, {"[192.0.2.1]", ""},
		{"example.com:http", ""}, {"example.com:1:2", ""}, {"example.com:123456", ""}, {"[::1]443", ""},
		{":443", ""}, {"", ""},
	} {
		if got, err := normalHost(c.in); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("normalHost(%q) = %q, %v, want %q", c.in, got, err, c.want)
		}
	}
}

// FuzzNormalName checks that what is normal stays as it is, in every way in.
func FuzzNormalName(f *testing.F) {
	for _, s := range []string{"Example.COM.", "::FFFF:1.2.3.4", "a_b", "*.x", "[::1]:80", "1.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		normal, err := normalName(s)
		if err != nil {
			if normal != "" {
				t.Errorf("%q: both %q and %v", s, normal, err)
			}
			return
		}
		if again, err := normalName(normal); again != normal || err != nil {
			t.Errorf("%q → %q → %q, %v", s, normal, again, err)
		}
		host := normal
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		for _, h := range []string{host, host + ":443"} {
			if got, err := normalHost(h); got != normal || err != nil {
				t.Errorf("Host %q → %q, %v, want %q", h, got, err, normal)
			}
		}
	})
}

func TestPolicyTable(t *testing.T) {
	table, err := newPolicyTable([]Policy{
		{Names: []string{"www.example.com", "192.0.2.1"}},
		{Names: []string{"*.Example.com"}},
		{Names: []string{"*.deep.example.com", "2001:db8::1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{
		"www.example.com": 0, "192.0.2.1": 0,
		"api.example.com": 1, "deep.example.com": 1,
		"x.deep.example.com": 2, "2001:db8::1": 2,
		"example.com": -1, "a.b.example.com": -1, "com": -1, "": -1, "192.0.2.2": -1,
	} {
		if got := table.find(name); got != want {
			t.Errorf("find(%q) = %d, want %d", name, got, want)
		}
	}
}

func TestNewListsEveryMistake(t *testing.T) {
	_, err := New(Config{Policies: []Policy{
		{Names: []string{"a.test", "not a name"}},
		{Names: []string{"A.test."}, Client: &ClientAuth{}},
		{ID: "x", Profile: 9}, {ID: "x", ALPN: []string{""}},
	}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"Config.Certs", `"not a name"`, `both have the name "A.test."`, "Client.Roots", "Profile(9)", "both have no names", `both have the ID "x"`, "empty ALPN"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not mention %q:\n%v", want, err)
		}
	}
	for _, c := range []struct {
		policies []Policy
		want     string
	}{
		{[]Policy{{ID: "a"}, {ID: "b"}}, "both have no names"},
		{[]Policy{{Names: []string{"a.test", "b.test"}}, {ID: "a.test,b.test", Names: []string{"c.test"}}}, `both have the ID "a.test,b.test"`},
		{[]Policy{{Client: &ClientAuth{Mode: Required + 1, Roots: new(swapRoots)}}}, "client mode not known"},
	} {
		if _, err := newPolicyTable(c.policies); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.policies, err, c.want)
		}
	}
	if _, err := New(Config{Certs: []CertSource{nil}}); err == nil {
		t.Error("a nil source was accepted")
	}
	var none swapRoots
	cert := static(testcert.NewCA(t).Issue(testcert.Leaf{Names: []string{"a.test"}}))
	if _, err := New(Config{Certs: []CertSource{cert}, Policies: []Policy{{Client: &ClientAuth{Roots: &none}}}}); err == nil {
		t.Error("a TrustSource without roots was accepted")
	}
}

func TestProfiles(t *testing.T) {
	ca := testcert.NewCA(t)
	term := newTerminator(t, Config{
		Certs: []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"old.test", "new.test"}}))},
		Policies: []Policy{
			{Names: []string{"old.test"}},
			{Names: []string{"new.test"}, Profile: Modern},
		},
	})
	for _, c := range []struct {
		name    string
		version uint16
		suites  []uint16
		ok      bool
	}{
		{"old.test", tls.VersionTLS13, nil, true},
		{"old.test", tls.VersionTLS12, nil, true},
		{"old.test", tls.VersionTLS11, nil, false},
		{"old.test", tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}, false},
		{"new.test", tls.VersionTLS13, nil, true},
		{"new.test", tls.VersionTLS12, nil, false},
	} {
		r := shake(t, term.ServerConfig(), &tls.Config{ServerName: c.name, RootCAs: ca.Pool(), MinVersion: tls.VersionTLS10, MaxVersion: c.version, CipherSuites: c.suites})
		if r.ok() != c.ok || c.ok && r.client.Version != c.version {
			t.Errorf("%s with %s, suites %v: %v / %v", c.name, tls.VersionName(c.version), c.suites, r.clientErr, r.serverErr)
		}
		if r.client.Version == tls.VersionTLS13 && r.client.CurveID != tls.X25519MLKEM768 {
			t.Errorf("%s: key exchange %v, want the post-quantum hybrid", c.name, r.client.CurveID)
		}
	}
}

// TestProfilesSetTheVersion is about what crypto/tls would refuse for other
// reasons, too: no suite of the profile is of TLS 1.1.
func TestProfilesSetTheVersion(t *testing.T) {
	for p, want := range map[Profile]uint16{Intermediate: tls.VersionTLS12, Modern: tls.VersionTLS13} {
		var c tls.Config
		if p.apply(&c); c.MinVersion != want || c.MaxVersion != 0 || c.CurvePreferences != nil {
			t.Errorf("%v: %s to %s, groups %v, want at least %s and the defaults", p, tls.VersionName(c.MinVersion), tls.VersionName(c.MaxVersion), c.CurvePreferences, tls.VersionName(want))
		}
	}
}

func TestParseProfile(t *testing.T) {
	for _, p := range []Profile{Intermediate, Modern} {
		if got, err := ParseProfile(p.String()); got != p || err != nil {
			t.Errorf("ParseProfile(%q) = %v, %v", p.String(), got, err)
		}
	}
	if _, err := ParseProfile("old"); err == nil {
		t.Error("the profile old was accepted")
	}
}
