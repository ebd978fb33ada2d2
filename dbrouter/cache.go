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

// recent is what a caller was told last, in the hope that it asks for the same
// again: then there is no need to hash. It belongs to one goroutine at a time.
type recent struct {
	slot *atomic.Pointer[cached] // nil: it was told nothing
	*cached
}

// classify returns what is known of a statement. last may be nil.
func (c *cache) classify(sql string, last *recent) *cached {
	if last != nil && last.slot != nil && last.sql == sql && last.slot.Load() == last.cached {
		return last.cached
	}
	if len(sql) > cacheMaxText {
		return &cached{"", Classify(sql), commentHint(sql), c.denies(sql)}
	}
	slot := c.slot(sql)
	e := slot.Load()
	if e == nil || e.sql != sql {
		e = &cached{strings.Clone(sql), Classify(sql), commentHint(sql), c.denies(sql)}
		slot.Store(e)
	}
	if last != nil {
		*last = recent{slot, e}
	}
	return e
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
