package qps

import (
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
)

// This file is the only one that knows how recorders are spread over
// processors. A counter that two processors share costs about five times one
// that each has for itself, and a shard chosen at random costs more than that:
// it must be the shard that this processor used last. The runtime does not tell
// which processor a goroutine runs on, but sync.Pool keeps what is put back
// beside the processor, so a token from a pool is as good as its number. When
// sync.Counter of golang/go #80645 exists, it takes this file's place.

const (
	maxShards = 64
	// lineBytes is two cache lines: processors fetch them in pairs.
	lineBytes = 128
)

// token names a shard. Each processor has one of its own, most of the time;
// every shard may be used from everywhere, so it need not be exact.
type token struct{ index atomic.Uint32 }

// move goes to another shard, after a collision showed that two processors
// share this one.
func (t *token) move() { t.index.Add(1) }

// picker hands out tokens. Its zero value works.
type picker struct {
	pool sync.Pool
	next atomic.Uint32
}

// place is where one request counts: a shard, and the token that led there.
type place struct {
	shard uint32
	token *token
}

// pick returns the place of this processor, to be used for all that belongs to
// one request: picking costs as much as several counts.
func (p *picker) pick() place {
	t, ok := p.pool.Get().(*token)
	if !ok {
		t = new(token)
		t.index.Store(p.next.Add(1) - 1)
	}
	p.pool.Put(t)
	return place{shard: t.index.Load(), token: t}
}

// shards has a T for each processor that asked for one. T should fill whole
// pairs of cache lines. Its zero value works; how many there can be is settled
// at first use, from GOMAXPROCS.
type shards[T any] struct {
	list atomic.Pointer[[]atomic.Pointer[T]]
}

func (s *shards[T]) at(p place) *T {
	list := s.list.Load()
	if list == nil {
		list = s.grow()
	}
	slot := &(*list)[p.shard&uint32(len(*list)-1)]
	v := slot.Load()
	if v == nil {
		slot.CompareAndSwap(nil, new(T))
		v = slot.Load()
	}
	return v
}

func (s *shards[T]) grow() *[]atomic.Pointer[T] {
	n := 1
	for n < min(runtime.GOMAXPROCS(0), maxShards) {
		n <<= 1
	}
	list := make([]atomic.Pointer[T], n)
	s.list.CompareAndSwap(nil, &list)
	return s.list.Load()
}

// all yields every T there is.
func (s *shards[T]) all() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		list := s.list.Load()
		if list == nil {
			return
		}
		for i := range *list {
			if v := (*list)[i].Load(); v != nil && !yield(v) {
				return
			}
		}
	}
}
