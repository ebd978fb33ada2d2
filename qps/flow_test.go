package qps

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

// TestFlow ends requests in flows that are nearly full, and must be emptied, while
// somebody reads: nothing may be lost, and no reader may see less than before.
func TestFlow(t *testing.T) {
	const workers, each, near = 4, 20_000, 1<<39 - 1<<34
	var s series
	var p picker
	var want, in uint64
	for i := range uint32(2) {
		f := &s.shards.at(place{shard: i}).flow
		if f.word.Load() == 0 { // one processor has one flow
			f.word.Store(near << flightBits)
			want += near
		}
	}
	var mu sync.Mutex
	var work sync.WaitGroup
	for w := range workers {
		work.Go(func() {
			rng := rand.New(rand.NewPCG(5, uint64(w)))
			var sent uint64
			for i := range each {
				at := p.pick()
				s.enter(at)
				out := rng.Uint64N(mostAtOnce + mostAtOnce/8)
				if i%3 == 0 {
					s.sent(at, out)
					s.leave(at, 0)
				} else {
					s.leave(at, out)
				}
				sent += out
			}
			s.enter(p.pick())
			mu.Lock()
			want += sent
			in++
			mu.Unlock()
		})
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	read := func() (int64, uint64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.flow()
	}
	var last uint64
	for over := false; !over; runtime.Gosched() {
		select {
		case <-done:
			over = true
		default:
		}
		n, out := read()
		if out < last || n < 0 {
			t.Fatalf("%d in flight and %d bytes after %d", n, out, last)
		}
		last = out
	}
	if n, out := read(); uint64(n) != in || out != want {
		t.Errorf("%d in flight, %d bytes, want %d and %d", n, out, in, want)
	}
	emptied := 0
	for sh := range s.shards.all() {
		if sh.flow.word.Load()>>flightBits < near {
			emptied++
		}
	}
	if emptied == 0 {
		t.Error("no flow was emptied: the test did not reach what it tests")
	}
}
