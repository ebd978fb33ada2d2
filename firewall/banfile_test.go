package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBansSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bans.json")
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{})
		if err := f.LoadBans(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("without a file: %v", err)
		}
		if err := f.SaveBans(path); err != nil {
			t.Fatal(err)
		}
		if err := f.LoadBans(path); err != nil || len(f.Bans()) != 0 {
			t.Errorf("no bans: %v, %v", err, f.Bans())
		}
		for i, p := range prefixes("192.0.2.0/24", "2001:db8::/64", "203.0.113.7/32") {
			if err := f.Ban(p, time.Duration(i+1)*time.Hour, strings.Repeat("\x01", 300)); err != nil {
				t.Fatal(err)
			}
		}
		want := f.Bans()[1:] // the first will be over
		if err := f.SaveBans(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(90 * time.Minute)
		again := newFirewall(t, Config{Policy: Policy{Default: Accept}})
		if err := again.LoadBans(path); err != nil {
			t.Fatal(err)
		}
		same := func(a, b Ban) bool { return a.Prefix == b.Prefix && a.Reason == b.Reason && a.Until.Equal(b.Until) }
		slices.SortFunc(want, func(a, b Ban) int { return a.Until.Compare(b.Until) })
		got := again.Bans()
		slices.SortFunc(got, func(a, b Ban) int { return a.Until.Compare(b.Until) })
		if !slices.EqualFunc(got, want, same) {
			t.Errorf("loaded %v\nwant %v", got, want)
		}
		time.Sleep(time.Hour) // the second is over
		if d := again.DecideRequest(request("GET", "/", "[2001:db8::1]:1")); d.Verdict != Accept {
			t.Errorf("after its end: %+v", d)
		}
		if d := again.DecideRequest(request("GET", "/", "203.0.113.7:1")); d.Reason != ByBan {
			t.Errorf("before its end: %+v", d)
		}
	})
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestSaveBansFails(t *testing.T) {
	f := newFirewall(t, Config{})
	if err := f.SaveBans(filepath.Join(t.TempDir(), "no", "bans.json")); err == nil {
		t.Error("saved to a folder that does not exist")
	}
	dir := t.TempDir()
	full := filepath.Join(dir, "bans.json")
	if err := os.MkdirAll(filepath.Join(full, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.SaveBans(full); err == nil {
		t.Error("saved over a folder")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
}

func TestLoadBansRefuses(t *testing.T) {
	until := time.Now().Add(time.Hour).Format(time.RFC3339)
	good := fmt.Sprintf(`{"prefix":"192.0.2.0/24","until":%q,"reason":""}`, until)
	for name, text := range map[string]string{
		"empty":         "",
		"cut off":       `{"bans":[` + good,
		"two values":    `{"bans":[]} {}`,
		"other fields":  `{"bans":[],"x":1}`,
		"no end":        `{"bans":[` + good + `,{"prefix":"192.0.2.1/32","reason":""}]}`,
		"host bits":     `{"bans":[` + good + `,` + strings.Replace(good, "2.0/24", "2.1/24", 1) + `]}`,
		"no prefix":     `{"bans":[` + good + `,` + strings.Replace(good, "192.0.2.0/24", "", 1) + `]}`,
		"long reason":   `{"bans":[` + strings.Replace(good, `"reason":"`, `"reason":"`+strings.Repeat("x", 257), 1) + `]}`,
		"too many bans": `{"bans":[` + strings.Repeat(good+",", maxBans) + good + `]}`,
	} {
		path := filepath.Join(t.TempDir(), "bans.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f := newFirewall(t, Config{})
		if err := f.LoadBans(path); err == nil || len(f.Bans()) != 0 {
			t.Errorf("%s: %v, %v", name, err, f.Bans())
		}
	}
}

// FuzzReadBans wants what is read to be what was written.
func FuzzReadBans(f *testing.F) {
	f.Add([]byte(`{"bans":[{"prefix":"192.0.2.0/24","until":"2030-01-01T00:00:00Z","reason":"x"}]}`))
	f.Add([]byte(`{"bans":[]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		records, err := readBans(bytes.NewReader(text))
		if err != nil {
			return
		}
		for _, r := range records {
			if p, err := canonicalPrefix(r.Prefix); err != nil || p != r.Prefix || r.Prefix == (netip.Prefix{}) || r.Until.IsZero() {
				t.Errorf("record %+v", r)
			}
		}
	})
}
