package firewall

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// randomList returns up to n prefixes of both families, many of which are inside
// others, or next to them, or there twice. Depth is how many of the first bits
// of an address they differ in at most.
func randomList(rng *rand.Rand, n, depth int) []netip.Prefix {
	var out []netip.Prefix
	for range n {
		a := randomListAddr(rng, depth)
		p, _ := a.Prefix(rng.IntN(a.BitLen() + 1))
		out = append(out, p)
		if rng.IntN(4) == 0 {
			out = append(out, out[rng.IntN(len(out))])
		}
	}
	return out
}

func randomListAddr(rng *rand.Rand, depth int) netip.Addr {
	var b [16]byte
	for range rng.IntN(4) {
		bit := rng.IntN(depth)
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	if rng.IntN(4) == 0 { // an end of a range
		for i := rng.IntN(len(b)); i < len(b); i++ {
			b[i] = 0xff
		}
	}
	if rng.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	b[0] |= 0x20 // which is not an IPv4-mapped address
	return netip.AddrFrom16(b)
}

// TestReplacedSetAgainstAList compares sets that came as a whole with plain lists of
// prefixes, before and after they are changed.
func TestReplacedSetAgainstAList(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	for round := range 300 {
		depth := []int{6, 12, 32, 128}[round%4]
		list := randomList(rng, rng.IntN(80), depth)
		s, err := NewPrefixSet(list...)
		if err != nil {
			t.Fatal(err)
		}
		sameAsList(t, rng, s, list, depth)
		extra := randomList(rng, 3, depth)
		if err := s.Insert(extra...); err != nil {
			t.Fatal(err)
		}
		list = append(list, extra...)
		sameAsList(t, rng, s, list, depth)
		if err := s.Replace(list...); err != nil {
			t.Fatal(err)
		}
		gone := append(randomList(rng, 3, depth), list[rng.IntN(len(list))])
		s.Remove(gone...)
		list = slices.DeleteFunc(list, func(p netip.Prefix) bool { return slices.Contains(gone, p) })
		sameAsList(t, rng, s, list, depth)
	}
}

func sameAsList(t *testing.T, rng *rand.Rand, s *PrefixSet, list []netip.Prefix, depth int) {
	t.Helper()
	want := slices.Clone(list)
	slices.SortFunc(want, netip.Prefix.Compare)
	want = slices.Compact(want)
	if got := slices.Collect(s.table.Load().all()); !slices.Equal(got, want) || s.Len() != len(want) {
		t.Fatalf("the set has %v, with Len %d, want %v", got, s.Len(), want)
	}
	for range s.table.Load().all() {
		break // which stops it
	}
	probes := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("ffff::ffff")}
	for range 50 {
		probes = append(probes, randomListAddr(rng, depth))
	}
	for _, p := range want {
		probes = append(probes, p.Addr(), p.Addr().Prev(), p.Addr().Next())
	}
	for _, a := range probes {
		if got, want := s.Contains(a), slices.ContainsFunc(want, func(p netip.Prefix) bool { return p.Contains(a) }); got != want {
			t.Fatalf("Contains(%v) = %v, want %v: %v", a, got, want, list)
		}
	}
	for _, q := range append(randomList(rng, 30, depth), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")) {
		if got, want := s.overlaps(q), slices.ContainsFunc(want, q.Overlaps); got != want {
			t.Fatalf("overlaps(%v) = %v, want %v: %v", q, got, want, list)
		}
	}
}

// TestLongListsAgainstATree compares lists of which many prefixes are close together
// with the tree that is made of them.
func TestLongListsAgainstATree(t *testing.T) {
	rng := rand.New(rand.NewPCG(23, 24))
	for name, random := range map[string]func() netip.Addr{
		"everywhere": func() netip.Addr {
			return netip.AddrFrom4([4]byte{0: byte(rng.Uint32()), 1: byte(rng.Uint32()), 2: byte(rng.Uint32())})
		},
		"one network": func() netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(rng.Uint32()), byte(rng.Uint32())}) },
		"far apart": func() netip.Addr {
			return netip.AddrFrom16([16]byte{0: 0x20 + byte(rng.IntN(2)*0x80), 8: byte(rng.Uint32()), 15: byte(rng.Uint32())})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var list []netip.Prefix
			for range 5000 {
				a := random()
				p, _ := a.Prefix(a.BitLen() - rng.IntN(a.BitLen()/2))
				list = append(list, p)
			}
			table := newPrefixTable(list)
			tree := &prefixTable{tree: table.grown()}
			if table.size() != tree.size() || !slices.Equal(slices.Collect(table.all()), slices.Collect(tree.all())) {
				t.Fatalf("%d prefixes, and %d in a tree of them", table.size(), tree.size())
			}
			for range 20_000 {
				if a := random(); table.contains(a) != tree.contains(a) {
					t.Fatalf("contains(%v) = %v, and of a tree %v", a, table.contains(a), tree.contains(a))
				}
			}
		})
	}
}
