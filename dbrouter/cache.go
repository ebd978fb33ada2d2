package dbrouter

import (
	"hash/maphash"
	"strings"
	"sync/atomic"
)

const (
	cacheSlots   = 4096 // a power of two
	cacheMaxText = 4096 // bytes; longer statements are classified each time
)

// cache remembers classifications by the text of the statement. A slot holds
// one statement, the last that hashed to it, so that its size is bounded and
// nothing has to be evicted. It takes no lock.
type cache struct {
	seed  maphash.Seed
	deny  map[string]bool // by digest; never changed
	slots [cacheSlots]atomic.Pointer[cached]
}

type cached struct {
	sql string
	Classification
	hint   hintKind
	denied bool
}

func newCache(deny map[string]bool) *cache { return &cache{seed: maphash.MakeSeed(), deny: deny} }

func (c *cache) classify(sql string) (class Classification, hint hintKind, denied bool) {
	if len(sql) > cacheMaxText {
		return Classify(sql), commentHint(sql), c.denies(sql)
	}
	slot := c.slot(sql)
	if e := slot.Load(); e != nil && e.sql == sql {
		return e.Classification, e.hint, e.denied
	}
	class, hint, denied = Classify(sql), commentHint(sql), c.denies(sql)
	slot.Store(&cached{strings.Clone(sql), class, hint, denied})
	return class, hint, denied
}

func (c *cache) denies(sql string) bool { return len(c.deny) > 0 && c.deny[Digest(sql)] }

// learn remembers what the server knows better.
func (c *cache) learn(sql string, class Classification) {
	if len(sql) <= cacheMaxText {
		c.slot(sql).Store(&cached{strings.Clone(sql), class, commentHint(sql), c.denies(sql)})
	}
}

func (c *cache) slot(sql string) *atomic.Pointer[cached] {
	return &c.slots[maphash.String(c.seed, sql)%cacheSlots]
}
