package firewall

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestInsertFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewPrefixSet(prefixes("10.0.0.0/8")...)
		if err != nil {
			t.Fatal(err)
		}
		has := func(addr string) bool { return s.Contains(netip.MustParseAddr(addr)) }
		if err := s.InsertFor(time.Hour, prefixes("192.0.2.0/24", "2001:db8::/32")...); err != nil {
			t.Fatal(err)
		}
		if err := s.InsertFor(time.Minute, prefixes("192.0.2.0/24", "192.0.2.1/32", "198.51.100.0/24")...); err != nil {
			t.Fatal(err)
		}
		if !has("192.0.2.9") || !has("198.51.100.1") || !has("2001:db8::1") || !has("10.1.1.1") || s.Len() != 5 {
			t.Errorf("at first: %d prefixes", s.Len())
		}
		if err := s.Load(strings.NewReader("203.0.113.0/24\n")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if !has("192.0.2.1") || has("198.51.100.1") || has("10.1.1.1") || !has("203.0.113.1") || s.Len() != 3 {
			t.Errorf("after a minute: %d prefixes", s.Len())
		}
		s.Remove(prefixes("2001:db8::/32")...)
		if has("2001:db8::1") {
			t.Error("it was not removed")
		}
		time.Sleep(time.Hour)
		if has("192.0.2.1") || s.Len() != 1 {
			t.Errorf("after an hour: %d prefixes", s.Len())
		}
		p := Policy{Sets: map[string]*PrefixSet{"s": s}, Rules: []Rule{{ID: "x", Match: SourceSet("s")}}}
		if err := s.InsertFor(time.Hour, prefixes("192.0.2.0/24")...); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(p.String(), "192.0.2.0") {
			t.Errorf("printed as\n%v", p)
		}
		for ttl, bad := range map[time.Duration][]netip.Prefix{0: prefixes("192.0.2.0/24"), 1: {{}}, -1: nil} {
			if err := s.InsertFor(ttl, bad...); err == nil {
				t.Errorf("%v for %v was taken", bad, ttl)
			}
		}
		s.timed.Load().table.most = 1
		if err := s.InsertFor(time.Hour, prefixes("198.51.100.0/24")...); !errors.Is(err, errSetFull) || has("198.51.100.1") {
			t.Errorf("beyond its room: %v", err)
		}
		time.Sleep(2 * time.Hour)
		if err := s.InsertFor(time.Hour, prefixes("198.51.100.0/24")...); err != nil || !has("198.51.100.1") {
			t.Errorf("in the room of what has ended: %v", err)
		}
	})
}

func TestEmptySetWithTimedPrefixesPrints(t *testing.T) {
	s := new(PrefixSet)
	if err := s.InsertFor(time.Hour, prefixes("192.0.2.0/24")...); err != nil {
		t.Fatal(err)
	}
	p := Policy{Sets: map[string]*PrefixSet{"s": s}}
	if got := p.String(); got != "set s {}\ndefault drop\n" {
		t.Errorf("printed as %q", got)
	}
}

func TestWatchFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bad.txt")
	write := func(text string, age time.Duration) {
		t.Helper()
		tmp := path + ".new"
		if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(tmp, then, then); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, path); err != nil {
			t.Fatal(err)
		}
	}
	p, err := ParsePolicy("set bad file bad.txt\nset other { 10.0.0.0/8 }\ndrop bad if source @bad\ndefault accept")
	if err != nil {
		t.Fatal(err)
	}
	write("192.0.2.0/24\n", time.Hour)
	if err := p.LoadFiles(dir); err != nil {
		t.Fatal(err)
	}
	f := newFirewall(t, Config{Policy: p})
	verdict := func() Verdict { return f.DecideRequest(request("GET", "/", "192.0.2.1:1")).Verdict }

	reports := make(chan error, 100)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.WatchFiles(ctx, dir, time.Millisecond, func(set string, err error) {
			if set != "bad" {
				t.Errorf("a report about %q", set)
			}
			reports <- err
		})
	}()
	next := func() error {
		t.Helper()
		select {
		case err := <-reports:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("no report")
			return nil
		}
	}
	if err := next(); err != nil || verdict() != Drop {
		t.Errorf("at first: %v, %v", err, verdict())
	}
	write("198.51.100.0/24\n", time.Hour) // same size but for two bytes, and old
	if err := next(); err != nil || verdict() != Accept {
		t.Errorf("another list: %v, %v", err, verdict())
	}
	write("192.0.2.0/24\nx\n", time.Hour)
	if err := next(); err == nil || !strings.Contains(err.Error(), "line 2") || verdict() != Accept {
		t.Errorf("a bad list: %v, %v", err, verdict())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := next(); !errors.Is(err, os.ErrNotExist) || verdict() != Accept {
		t.Errorf("no list: %v, %v", err, verdict())
	}
	write("192.0.2.0/24\n", 0) // so new that it is read twice
	if err := next(); err != nil || verdict() != Drop {
		t.Errorf("a new list: %v, %v", err, verdict())
	}
	stop()
	<-done
	if len(reports) != 0 {
		t.Errorf("%d more reports, the first %v", len(reports), <-reports)
	}
}

func TestWatchFileSeesASecondWriteInOneTick(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	now := time.Now()
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now, now); err != nil {
			t.Fatal(err)
		}
	}
	w := fileWatch{set: new(PrefixSet), path: path}
	write("192.0.2.1\n")
	if report, err := w.check(); !report || err != nil {
		t.Fatal(report, err)
	}
	write("192.0.2.2\n") // same size, same time
	if report, err := w.check(); report || err != nil || !w.set.Contains(netip.MustParseAddr("192.0.2.2")) {
		t.Errorf("report %v, %v, and it is not there", report, err)
	}
}
