package qps

import (
	"maps"
	"strings"
	"sync/atomic"
)

// table is a map from label values to T that grows to a limit; names beyond it
// share the entry "other", which does not count towards the limit. Readers take
// no lock: a new name makes a copy of the map, and there are few.
type table[T any] struct {
	limit   int
	make    func(name string) *T
	other   *T
	entries atomic.Pointer[map[string]*T]
}

func newTable[T any](limit int, make func(name string) *T) *table[T] {
	t := &table[T]{limit: limit, make: make, other: make(other)}
	t.entries.Store(&map[string]*T{other: t.other})
	return t
}

// find returns the entry of a name, and false if the table is full and does not
// have it.
func (t *table[T]) find(name string) (entry *T, ok bool) {
	if len(name) <= maxLabel {
		if e, ok := (*t.entries.Load())[name]; ok {
			return e, true
		}
	}
	name = label(name)
	for {
		old := t.entries.Load()
		if e, ok := (*old)[name]; ok {
			return e, true
		}
		if len(*old) > t.limit {
			return t.other, false
		}
		grown := maps.Clone(*old)
		name = strings.Clone(name) // it may be a small part of a large buffer
		entry = t.make(name)
		grown[name] = entry
		if t.entries.CompareAndSwap(old, &grown) {
			return entry, true
		}
	}
}
