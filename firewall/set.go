package firewall

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	maxPrefixes  = 1 << 22 // of one set
	maxLineBytes = 4 << 10 // of what Load reads

	// maxListBytes is how much Load reads: 128 bytes a prefix, with a comment.
	maxListBytes = 128 * maxPrefixes
)

// PrefixSet is a set of IPv4 and IPv6 prefixes that can change while policies
// use it. Its zero value is an empty set. It is safe for concurrent use: readers
// take no lock and see a change whole or not at all.
//
// A prefix must have no bits set beyond its length: 10.0.0.5/8 is refused, since
// it is more often a typing mistake for 10.0.0.5 than a way to write
// 10.0.0.0/8. IPv4-mapped IPv6 prefixes mean the IPv4 ones. A set holds at most
// 4,194,304 prefixes. Replace and Load are the way to change many at once; the first
// Insert or Remove after them takes longer, as a long list has to be made a tree of.
type PrefixSet struct {
	mu    sync.Mutex                    // serialises writers
	table atomic.Pointer[prefixTable]   // nil: there never was one
	timed atomic.Pointer[timedPrefixes] // nil: there are none
	file  string                        // the one that text names; set before anybody shares the set
}

// NewPrefixSet returns a set of the prefixes, or an error that lists every
// wrong one.
func NewPrefixSet(prefixes ...netip.Prefix) (*PrefixSet, error) {
	s := new(PrefixSet)
	if err := s.Replace(prefixes...); err != nil {
		return nil, err
	}
	return s, nil
}

// Contains says whether a prefix of the set covers the address. An IPv4-mapped
// address counts as the IPv4 one, and a zone is ignored.
func (s *PrefixSet) Contains(addr netip.Addr) bool {
	addr = plainAddr(addr)
	if t := s.table.Load(); t != nil && t.contains(addr) {
		return true
	}
	timed := s.timed.Load()
	return timed != nil && timed.contains(addr)
}

// overlaps says whether the set and the prefix have an address in common.
func (s *PrefixSet) overlaps(p netip.Prefix) bool {
	t := s.table.Load()
	return t != nil && t.overlaps(p)
}

// Len returns the number of prefixes.
func (s *PrefixSet) Len() int {
	n := 0
	if t := s.table.Load(); t != nil {
		n = t.size()
	}
	if timed := s.timed.Load(); timed != nil {
		n += timed.len()
	}
	return n
}

// Replace makes the set consist of the prefixes, and of those that
// [PrefixSet.InsertFor] put there, which stay. An error, which lists every wrong
// prefix, leaves it as it was.
func (s *PrefixSet) Replace(prefixes ...netip.Prefix) error {
	clean, errs := canonicalPrefixes(prefixes)
	if len(errs) > 0 {
		return prefixed("firewall", errs)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store(clean)
}

// Insert adds the prefixes. An error, which lists every wrong prefix, leaves
// the set as it was.
func (s *PrefixSet) Insert(prefixes ...netip.Prefix) error {
	clean, errs := canonicalPrefixes(prefixes)
	if len(errs) > 0 {
		return prefixed("firewall", errs)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table.Load()
	if t == nil {
		return s.store(clean)
	}
	if t.size()+len(clean) > maxPrefixes {
		return errSetFull
	}
	tree := t.grown()
	for _, p := range clean {
		tree = tree.InsertPersist(p)
	}
	s.table.Store(&prefixTable{tree: tree})
	return nil
}

// Remove takes out exactly the prefixes given; one inside a larger prefix of
// the set stays covered. Prefixes that are not in the set are ignored.
func (s *PrefixSet) Remove(prefixes ...netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if timed := s.timed.Load(); timed != nil {
		timed.remove(prefixes)
	}
	t := s.table.Load()
	if t == nil {
		return
	}
	tree := t.grown()
	for _, p := range prefixes {
		if clean, err := canonicalPrefix(p); err == nil {
			tree = tree.DeletePersist(clean)
		}
	}
	s.table.Store(&prefixTable{tree: tree})
}

// Load replaces the set, as Replace does, by what r holds: one prefix or address a
// line. Empty lines and what follows a # are ignored. The first wrong line, which
// the error names by its number, refuses all of it and leaves the set as it was,
// since half a list is worse than yesterday's. A list of more than 512 MiB is
// refused, too.
func (s *PrefixSet) Load(r io.Reader) error {
	var prefixes []netip.Prefix
	in := &io.LimitedReader{R: r, N: maxListBytes + 1}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLineBytes)
	number := 0
	for lines.Scan() {
		number++
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := parsePrefix(text)
		if err != nil {
			return fmt.Errorf("firewall: line %d: %w", number, err)
		}
		if len(prefixes) == maxPrefixes {
			return fmt.Errorf("firewall: line %d: %w", number, errSetFull)
		}
		prefixes = append(prefixes, p)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("firewall: line %d: %w", number+1, err)
	}
	if in.N == 0 {
		return fmt.Errorf("firewall: line %d: more than %d bytes", number+1, maxListBytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store(prefixes)
}

var errSetFull = fmt.Errorf("firewall: more than %d prefixes in a set", maxPrefixes)

// store publishes a new table. The caller holds mu.
func (s *PrefixSet) store(clean []netip.Prefix) error {
	if len(clean) > maxPrefixes {
		return errSetFull
	}
	s.table.Store(newPrefixTable(clean))
	return nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q, want an address or a prefix", clip(s))
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q, want an address or a prefix", clip(s))
	}
	return canonicalPrefix(p)
}

// canonicalPrefixes returns the prefixes in canonical form, and every mistake. The
// result is not to be kept or changed: if they have that form already, as long lists
// do, it is prefixes itself, since a copy costs as much as half of what is to be
// done with it.
func canonicalPrefixes(prefixes []netip.Prefix) (clean []netip.Prefix, errs []error) {
	clean = prefixes
	copied := false
	for i, p := range prefixes {
		c, err := canonicalPrefix(p)
		if err != nil {
			errs = append(errs, err)
		}
		if c == p {
			continue
		}
		if !copied {
			clean, copied = slices.Clone(prefixes), true
		}
		clean[i] = c
	}
	return clean, errs
}

// prefixed makes one error of many.
func prefixed(prefix string, errs []error) error {
	var out []error
	for _, err := range errs {
		out = append(out, fmt.Errorf("%s: %w", prefix, err))
	}
	return errors.Join(out...)
}

// canonicalPrefix returns the one form in which a prefix is stored.
func canonicalPrefix(p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return p, fmt.Errorf("prefix %v, want one such as 192.0.2.0/24", p)
	}
	clean := p
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return p, fmt.Errorf("prefix %v is partly IPv4 and partly IPv6, want one of them", p)
		}
		clean = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if masked := clean.Masked(); masked != clean {
		return p, fmt.Errorf("prefix %v has bits set beyond its length, want %v or a longer prefix", p, masked)
	}
	return clean, nil
}
