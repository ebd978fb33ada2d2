package qps

import (
	"iter"
	"maps"
	"slices"
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
	entries atomic.Pointer[entries[T]]
}

// entries are those of a table at one time. They do not change.
type entries[T any] struct {
	byName map[string]*T
	names  []string // sorted
	list   []*T     // by name
}

func (t *table[T]) len() int { return len(t.entries.Load().names) }

// all yields the entries in the order of their names.
func (t *table[T]) all() iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		e := t.entries.Load()
		for i, name := range e.names {
			if !yield(name, e.list[i]) {
				return
			}
		}
	}
}

func newTable[T any](limit int, make func(name string) *T) *table[T] {
	t := &table[T]{limit: limit, make: make, other: make(other)}
	t.entries.Store(&entries[T]{map[string]*T{other: t.other}, []string{other}, []*T{t.other}})
	return t
}

// find returns the entry of a name, and false if the table is full and does not
// have it.
func (t *table[T]) find(name string) (entry *T, ok bool) {
	if len(name) <= maxLabel {
		if e, ok := t.entries.Load().byName[name]; ok {
			return e, true
		}
	}
	name = label(name)
	for {
		old := t.entries.Load()
		if e, ok := old.byName[name]; ok {
			return e, true
		}
		if len(old.names) > t.limit {
			return t.other, false
		}
		name = strings.Clone(name) // it may be a small part of a large buffer
		grown := &entries[T]{byName: maps.Clone(old.byName)}
		entry = t.make(name)
		grown.byName[name] = entry
		at, _ := slices.BinarySearch(old.names, name)
		grown.names = slices.Concat(old.names[:at], []string{name}, old.names[at:])
		grown.list = slices.Concat(old.list[:at], []*T{entry}, old.list[at:])
		if t.entries.CompareAndSwap(old, grown) {
			return entry, true
		}
	}
}
