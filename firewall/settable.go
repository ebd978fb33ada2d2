package firewall

import (
	"cmp"
	"encoding/binary"
	"iter"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

const mostListBits = 16 // of an index: 65,536 places

// prefixTable is what a set holds at one time, and never changes. A list that came
// as a whole is kept sorted, which is several times cheaper than to grow a tree and
// leaves the garbage collector nothing to follow. The first change of single
// prefixes grows the tree, since only a tree can be changed in parts.
type prefixTable struct {
	tree         *bart.Lite // nil: the lists are it
	list4, list6 sortedPrefixes
}

// newPrefixTable makes a table of canonical prefixes.
func newPrefixTable(clean []netip.Prefix) *prefixTable {
	return &prefixTable{list4: newSortedPrefixes(clean, true), list6: newSortedPrefixes(clean, false)}
}

func (t *prefixTable) list(is4 bool) *sortedPrefixes {
	if is4 {
		return &t.list4
	}
	return &t.list6
}

// contains asks about an address that is not an IPv4-mapped one.
func (t *prefixTable) contains(addr netip.Addr) bool {
	if t.tree != nil {
		return t.tree.Contains(addr)
	}
	return addr.IsValid() && t.list(addr.Is4()).contains(listAddr(addr))
}

// overlaps says whether the table and a canonical prefix have an address in common.
func (t *prefixTable) overlaps(p netip.Prefix) bool {
	if t.tree != nil {
		return t.tree.OverlapsPrefix(p)
	}
	return p.IsValid() && t.list(p.Addr().Is4()).overlaps(newListPrefix(p))
}

func (t *prefixTable) size() int {
	if t.tree != nil {
		return t.tree.Size()
	}
	return len(t.list4.all) + len(t.list6.all)
}

// all returns the prefixes sorted, those of IPv4 first.
func (t *prefixTable) all() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		if t.tree != nil {
			for p := range t.tree.AllSorted() {
				if !yield(p) {
					return
				}
			}
			return
		}
		for _, is4 := range []bool{true, false} {
			for _, p := range t.list(is4).all {
				if !yield(p.prefix(is4)) {
					return
				}
			}
		}
	}
}

// grown returns a tree of the prefixes, which is not to be changed.
func (t *prefixTable) grown() *bart.Lite {
	if t.tree != nil {
		return t.tree
	}
	tree := new(bart.Lite)
	for p := range t.all() {
		tree.Insert(p)
	}
	return tree
}

// address is an address as a number. That of an IPv4 one is in the upper half of hi.
type address struct{ hi, lo uint64 }

func listAddr(addr netip.Addr) address {
	if addr.Is4() {
		b := addr.As4()
		return address{hi: uint64(binary.BigEndian.Uint32(b[:])) << 32}
	}
	b := addr.As16()
	return address{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (a address) compare(b address) int {
	if a.hi != b.hi {
		return cmp.Compare(a.hi, b.hi)
	}
	return cmp.Compare(a.lo, b.lo)
}

// listPrefix is a prefix of a list: its first address, and its length.
type listPrefix struct {
	address
	bits uint8
}

func newListPrefix(p netip.Prefix) listPrefix {
	return listPrefix{listAddr(p.Addr()), uint8(p.Bits())}
}

func (p listPrefix) covers(a address) bool {
	if p.bits <= 64 {
		return (p.hi^a.hi)>>(64-p.bits) == 0
	}
	return p.hi == a.hi && (p.lo^a.lo)>>(128-p.bits) == 0
}

func (p listPrefix) prefix(is4 bool) netip.Prefix {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], p.hi)
	binary.BigEndian.PutUint64(b[8:], p.lo)
	if is4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(b[:4])), int(p.bits))
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), int(p.bits))
}

// sortedPrefixes is a sorted list of the prefixes of one family. Two prefixes are
// either apart or one is inside the other, so that the last one before an address
// among those that are inside no other is the only one that can cover it.
type sortedPrefixes struct {
	all   []listPrefix // sorted by address, then length; none twice
	outer []listPrefix // those of all that are inside no other
	place places
	index []uint32 // how many of outer are before each place, and how many there are
}

// places divides the first addresses of a list's prefixes, from the lowest to the
// highest, into equal parts: by the bits that follow those which all have in common.
type places struct {
	min, max uint64 // of hi
	common   int    // bits
	bits     int    // by which they are divided
}

func (p places) of(hi uint64) uint64 { return hi << p.common >> (64 - p.bits) }

// newSortedPrefixes makes a list of those of the canonical prefixes that are of the
// family.
func newSortedPrefixes(clean []netip.Prefix, is4 bool) sortedPrefixes {
	n := 0
	l := sortedPrefixes{place: places{min: ^uint64(0)}}
	for _, p := range clean {
		if p.Addr().Is4() == is4 {
			n++
			q := newListPrefix(p)
			l.place.min, l.place.max = min(l.place.min, q.hi), max(l.place.max, q.hi)
		}
	}
	if n == 0 {
		return sortedPrefixes{}
	}
	l.place.common = bits.LeadingZeros64(l.place.min ^ l.place.max)
	l.place.bits = min(bits.Len(uint(n)), mostListBits, 64-l.place.common)
	l.sort(clean, is4, n)
	l.all = slices.Compact(l.all)
	l.findOuter()
	return l
}

// sort fills all with the n prefixes of the family: first by places, each of which
// holds few, and then within each.
func (l *sortedPrefixes) sort(clean []netip.Prefix, is4 bool, n int) {
	ends := make([]uint32, 1<<l.place.bits+1) // first: where a place starts
	for _, p := range clean {
		if p.Addr().Is4() == is4 {
			ends[l.place.of(listAddr(p.Addr()).hi)+1]++
		}
	}
	for i := range ends[1:] {
		ends[i+1] += ends[i]
	}
	l.all = make([]listPrefix, n)
	for _, p := range clean {
		if p.Addr().Is4() == is4 {
			q := newListPrefix(p)
			end := &ends[l.place.of(q.hi)]
			l.all[*end] = q
			*end++
		}
	}
	start := uint32(0)
	for _, end := range ends {
		if end > start+1 {
			slices.SortFunc(l.all[start:end], func(a, b listPrefix) int {
				return cmp.Or(a.compare(b.address), cmp.Compare(a.bits, b.bits))
			})
		}
		start = max(start, end)
	}
}

// findOuter fills outer, and its index.
func (l *sortedPrefixes) findOuter() {
	n := 0
	var last listPrefix
	for i, p := range l.all {
		if i == 0 || !last.covers(p.address) {
			last = p
			n++
		}
	}
	l.outer = make([]listPrefix, 0, n)
	l.index = make([]uint32, 1<<l.place.bits+1)
	for _, p := range l.all {
		if i := len(l.outer); i == 0 || !l.outer[i-1].covers(p.address) {
			l.outer = append(l.outer, p)
			l.index[l.place.of(p.hi)+1]++
		}
	}
	for i := range l.index[1:] {
		l.index[i+1] += l.index[i]
	}
}

// before returns how many of outer start at the address or before it.
func (l *sortedPrefixes) before(a address) int {
	if len(l.outer) == 0 || a.hi < l.place.min {
		return 0
	}
	if a.hi > l.place.max {
		return len(l.outer)
	}
	place := l.place.of(a.hi)
	low, high := l.index[place], l.index[place+1]
	for low < high {
		middle := (low + high) / 2
		if l.outer[middle].compare(a) <= 0 {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return int(low)
}

func (l *sortedPrefixes) contains(a address) bool {
	n := l.before(a)
	return n > 0 && l.outer[n-1].covers(a)
}

func (l *sortedPrefixes) overlaps(p listPrefix) bool {
	n := l.before(p.address)
	return n > 0 && l.outer[n-1].covers(p.address) || n < len(l.outer) && p.covers(l.outer[n].address)
}
