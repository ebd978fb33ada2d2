package dbrouter

import (
	"hash/maphash"
	"math/bits"
	"strings"
	"sync/atomic"
)

const (
	cacheSlots   = 4096 // a power of two
	cacheMaxText = 4096 // bytes; longer statements are classified each time
	glanceBits   = 10
)

// cache remembers classifications by the text of the statement. A slot holds
// one statement, the last that hashed to it, so that its size is bounded and
// nothing has to be evicted. It takes no lock.
//
// glances finds most of them without a look at all of the text but the one that
// compares it: by its length and a few of its bytes. Statements that are alike in
// those take turns there, and are found by their hash then.
type cache struct {
	seed    maphash.Seed
	deny    map[string]bool // by digest; never changed
	slots   [cacheSlots]atomic.Pointer[cached]
	glances [1 << glanceBits]atomic.Pointer[cached]
}

type cached struct {
	sql string
	Classification
	hint   hintKind
	denied bool
	// slot is where it counts as long as it is there; nil: nowhere.
	slot *atomic.Pointer[cached]
}

// counts says whether e is what is known of the statement.
func (e *cached) counts(sql string) bool {
	return e != nil && e.sql == sql && e.slot != nil && e.slot.Load() == e
}

func newCache(deny map[string]bool) *cache { return &cache{seed: maphash.MakeSeed(), deny: deny} }

// classify returns what is known of a statement. last, if it is not nil, is what
// the caller was told before, in the hope that it asks for the same again.
func (c *cache) classify(sql string, last **cached) *cached {
	if last != nil && (*last).counts(sql) {
		return *last
	}
	if len(sql) > cacheMaxText {
		return c.fresh(sql, nil)
	}
	glance := &c.glances[glance(sql)]
	e := glance.Load()
	if !e.counts(sql) {
		slot := c.slot(sql)
		if e = slot.Load(); e == nil || e.sql != sql {
			e = c.fresh(strings.Clone(sql), slot)
			slot.Store(e)
		}
		glance.Store(e)
	}
	if last != nil {
		*last = e
	}
	return e
}

// fresh classifies a statement that is not known.
func (c *cache) fresh(sql string, slot *atomic.Pointer[cached]) *cached {
	return &cached{sql: sql, Classification: Classify(sql), hint: commentHint(sql), denied: c.denies(sql), slot: slot}
}

func (c *cache) denies(sql string) bool { return len(c.deny) > 0 && c.deny[Digest(sql)] }

// learn remembers what the server knows better.
func (c *cache) learn(sql string, class Classification) {
	if len(sql) <= cacheMaxText {
		slot := c.slot(sql)
		e := c.fresh(strings.Clone(sql), slot)
		e.Classification = class
		slot.Store(e)
	}
}

func (c *cache) slot(sql string) *atomic.Pointer[cached] {
	return &c.slots[maphash.String(c.seed, sql)%cacheSlots]
}

// glance tells most statements of a program apart: by the length, and by the bytes
// at the beginning, in the middle and at the end.
func glance(sql string) uint64 {
	n := len(sql)
	if n < 8 {
		return uint64(n)
	}
	h := eight(sql) ^ bits.RotateLeft64(eight(sql[n/2-4:]), 41) ^ bits.RotateLeft64(eight(sql[n-8:]), 23) ^ uint64(n)
	return h * 0x9e3779b97f4a7c15 >> (64 - glanceBits) // 2⁶⁴ by the golden ratio spreads them
}

// eight is the first eight bytes as a number, in one read.
func eight(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}
