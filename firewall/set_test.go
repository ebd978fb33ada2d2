package firewall

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

func TestPrefixSet(t *testing.T) {
	var s PrefixSet
	if s.Contains(netip.MustParseAddr("192.0.2.1")) || s.Len() != 0 {
		t.Error("the zero value is not empty")
	}
	s.Remove(prefixes("192.0.2.0/24")...)
	if err := s.Insert(prefixes("192.0.2.0/24", "::ffff:198.51.100.0/120", "2001:db8::/32")...); err != nil {
		t.Fatal(err)
	}
	if err := s.Insert(prefixes("203.0.113.7/32", "192.0.2.0/24")...); err != nil {
		t.Fatal(err)
	}
	if s.Len() != 4 {
		t.Errorf("Len %d, want 4", s.Len())
	}
	for addr, want := range map[string]bool{
		"192.0.2.9": true, "::ffff:192.0.2.9": true, "198.51.100.9": true, "2001:db8::1": true, "2001:db8::1%eth0": true,
		"203.0.113.7": true, "203.0.113.8": false, "::1": false,
	} {
		if got := s.Contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Contains(%s) = %v, want %v", addr, got, want)
		}
	}
	if s.Contains(netip.Addr{}) {
		t.Error("contains the zero Addr")
	}
	s.Remove(netip.Prefix{}, netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("2001:db8::/32"))
	if !s.Contains(netip.MustParseAddr("192.0.2.1")) || s.Contains(netip.MustParseAddr("2001:db8::1")) || s.Len() != 3 {
		t.Error("Remove did not take out exactly what it was given")
	}
	if err := s.Replace(prefixes("10.0.0.0/8")...); err != nil || s.Len() != 1 {
		t.Errorf("Replace: %v, Len %d", err, s.Len())
	}
}

func TestPrefixSetRefusesWrongPrefixes(t *testing.T) {
	wrong := []netip.Prefix{{}, netip.MustParsePrefix("10.0.0.5/8"), netip.MustParsePrefix("::ffff:1.2.3.4/90")}
	s, err := NewPrefixSet(prefixes("192.0.2.0/24")...)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(...netip.Prefix) error{"Insert": s.Insert, "Replace": s.Replace} {
		err := change(wrong...)
		if joined, ok := errors.AsType[interface {
			error
			Unwrap() []error
		}](err); !ok || len(joined.Unwrap()) != len(wrong) {
			t.Errorf("%s: %v, want %d errors", name, err, len(wrong))
		}
	}
	if _, err := NewPrefixSet(wrong...); err == nil || !strings.Contains(err.Error(), "10.0.0.5/8") || !strings.Contains(err.Error(), "10.0.0.0/8") {
		t.Errorf("NewPrefixSet: %v", err)
	}
	if s.Len() != 1 {
		t.Error("a refused change changed the set")
	}
}

func TestPrefixSetLoad(t *testing.T) {
	var s PrefixSet
	const list = "# networks\n192.0.2.0/24\r\n\n  2001:db8::/32 # documentation\n198.51.100.7\n::ffff:203.0.113.1\n"
	if err := s.Load(strings.NewReader(list)); err != nil || s.Len() != 4 {
		t.Fatalf("Load: %v, Len %d", err, s.Len())
	}
	for _, c := range []struct {
		in   io.Reader
		line string
	}{
		{strings.NewReader("10.0.0.0/8\nnonsense\n"), "line 2"},
		{strings.NewReader("10.0.0.0/8\n\n10.0.0.0/33"), "line 3"},
		{strings.NewReader("10.0.0.1/8"), "line 1"},
		{strings.NewReader("fe80::1%eth0"), "line 1"},
		{strings.NewReader("10.0.0.0/8 10.1.0.0/16"), "line 1"},
		{strings.NewReader("10.0.0.0/8\n" + strings.Repeat("1", maxLineBytes+1)), "line 2"},
		{io.MultiReader(strings.NewReader("10.0.0.0/8\n"), iotest.ErrReader(io.ErrUnexpectedEOF)), "line 2"},
	} {
		if err := s.Load(c.in); err == nil || !strings.Contains(err.Error(), c.line+":") {
			t.Errorf("error %v, want one of %s", err, c.line)
		}
	}
	if s.Len() != 4 || !s.Contains(netip.MustParseAddr("203.0.113.1")) {
		t.Error("a refused list changed the set")
	}
	if err := s.Load(iotest.ErrReader(io.ErrUnexpectedEOF)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v does not wrap the reader's", err)
	}
	if err := s.Load(strings.NewReader("")); err != nil || s.Len() != 0 {
		t.Errorf("an empty list: %v, Len %d", err, s.Len())
	}
}

// endless reads a text again and again.
type endless struct {
	text string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.text[e.at:])
	e.at = (e.at + n) % len(e.text)
	return n, nil
}

// TestPrefixSetLoadEnds: what has no end and no prefixes either is given up.
func TestPrefixSetLoadEnds(t *testing.T) {
	comment := &endless{text: "# " + strings.Repeat("x", 1000) + "\n"}
	s, err := NewPrefixSet(prefixes("192.0.2.0/24")...)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Load(comment); err == nil || !strings.Contains(err.Error(), "more than 536870912 bytes") || s.Len() != 1 {
		t.Errorf("error %v, Len %d", err, s.Len())
	}
	comment.at = 0
	if err := s.Load(io.LimitReader(comment, maxListBytes)); err != nil || s.Len() != 0 {
		t.Errorf("a list of as much as may be: %v, Len %d", err, s.Len())
	}
}

// TestReplaceLeavesItsArgumentAlone gives lists of which some have to be written in
// another form.
func TestReplaceLeavesItsArgumentAlone(t *testing.T) {
	list := prefixes("10.0.0.0/8", "::ffff:192.0.2.0/120", "2001:db8::/32", "::ffff:198.51.100.7/128")
	before := slices.Clone(list)
	s, err := NewPrefixSet(list...)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"10.1.1.1", "192.0.2.9", "2001:db8::1", "198.51.100.7"} {
		if !s.Contains(netip.MustParseAddr(addr)) {
			t.Errorf("%s is not in the set", addr)
		}
	}
	if !slices.Equal(list, before) || s.Len() != 4 {
		t.Errorf("the list has become %v, and the set has %d", list, s.Len())
	}
}

// TestPrefixSetAgainstAList compares with a plain list of prefixes.
func TestPrefixSetAgainstAList(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func() netip.Addr {
		if rng.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(rng.IntN(4)), byte(rng.IntN(4)), byte(rng.IntN(4))})
		}
		return netip.AddrFrom16([16]byte{0x20, 1, byte(rng.IntN(4)), 15: byte(rng.IntN(4))})
	}
	var s PrefixSet
	list := make(map[netip.Prefix]bool)
	for range 2000 {
		a := random()
		p, _ := a.Prefix(rng.IntN(a.BitLen() + 1))
		if rng.IntN(3) == 0 {
			s.Remove(p)
			delete(list, p)
		} else {
			if err := s.Insert(p); err != nil {
				t.Fatal(err)
			}
			list[p] = true
		}
		probe, want := random(), false
		for q := range list {
			want = want || q.Contains(probe)
		}
		if got := s.Contains(probe); got != want || s.Len() != len(list) {
			t.Fatalf("Contains(%v) = %v with Len %d, want %v with %d", probe, got, s.Len(), want, len(list))
		}
	}
}

func TestPrefixSetChangesWhole(t *testing.T) {
	var s PrefixSet
	a, b := prefixes("10.0.0.0/9", "10.128.0.0/9"), prefixes("10.0.0.0/8")
	if err := s.Replace(a...); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 2000 {
			if err := s.Replace([][]netip.Prefix{a, b}[i%2]...); err != nil {
				t.Error(err)
			}
		}
	})
	for range 4000 {
		if !s.Contains(netip.MustParseAddr("10.1.1.1")) || !s.Contains(netip.MustParseAddr("10.200.1.1")) {
			t.Fatal("a reader saw half a change")
		}
	}
	wg.Wait()
}

// FuzzPrefixSetLoad says that Load takes exactly what netip can parse.
func FuzzPrefixSetLoad(f *testing.F) {
	f.Add("10.0.0.0/8\n# x\n::1 # y\n")
	f.Add("10.0.0.1/8")
	f.Add("fe80::1%a")
	f.Add("::ffff:1.2.3.4/96\n::ffff:0.0.0.0/96")
	f.Fuzz(func(t *testing.T, list string) {
		var want []netip.Addr
		good := true
		for line := range strings.SplitSeq(list, "\n") {
			line, _, _ = strings.Cut(line, "#")
			line = strings.TrimSpace(line)
			p, err := netip.ParsePrefix(line)
			if a, aerr := netip.ParseAddr(line); aerr == nil && a.Zone() == "" {
				p, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
			switch {
			case line == "":
				continue
			case err != nil, p.Masked() != p, p.Addr().Is4In6() && p.Bits() < 96:
				good = false
			}
			want = append(want, p.Addr())
		}
		var s PrefixSet
		err := s.Load(strings.NewReader(list))
		if len(list) < maxLineBytes && (err == nil) != good {
			t.Fatalf("%q: error %v, want one: %v", list, err, !good)
		}
		if err != nil && s.Len() != 0 {
			t.Errorf("%q: refused, but %d prefixes were taken", list, s.Len())
		}
		for _, a := range want {
			if err == nil && !s.Contains(a) {
				t.Errorf("%q: %v is not in the set", list, a)
			}
		}
	})
}
