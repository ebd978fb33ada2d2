package lb

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func weights(p *Pool) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []int
	for _, b := range p.backends {
		out = append(out, b.Weight())
	}
	return fmt.Sprint(out)
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{SlowStart: 20 * time.Second, Strategy: WeightedRoundRobin{}}, 2)
		defer p.Close()
		if got := weights(p); got != "[1 1]" {
			t.Errorf("at the start of the pool %s, want no slow start, as nobody else is warm", got)
		}
		if err := p.Upsert(BackendConfig{ID: "new", URL: "http://h", Weight: 3}); err != nil {
			t.Fatal(err)
		}
		expect := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := weights(p); got != want {
				t.Errorf("weights %s, want %s", got, want)
			}
			if w := p.Status()[2].Weight; w != 3 {
				t.Errorf("the status tells of the weight %d, want 3 as configured", w)
			}
		}
		expect("[100 100 15]")
		time.Sleep(10 * time.Second)
		expect("[100 100 150]")
		got := 0
		for range 350 {
			if pickID(t, p, PickInfo{}) == "new" {
				got++
			}
		}
		if got != 150 {
			t.Errorf("half warm it got %d of 350, want 150", got)
		}
		time.Sleep(9 * time.Second)
		expect("[100 100 285]")
		p.Drain("b0")
		p.Resume("b0") // which comes back cold
		expect("[5 100 285]")
		time.Sleep(time.Second)
		expect("[5 100 300]")
		time.Sleep(19 * time.Second)
		expect("[1 1 3]")
		p.mu.Lock()
		if p.step != nil {
			t.Error("a timer runs though all are warm")
		}
		p.mu.Unlock()
		p.Drain("b0")
		p.Resume("b0") // Close ends a slow start, or the bubble would not end
	})
}

// TestSlowStartBeginsAnew: who falls ill on the way begins at the beginning.
func TestSlowStartBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{SlowStart: 20 * time.Second}, 2)
		defer p.Close()
		p.Drain("b1")
		p.Resume("b1")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := weights(p); got != "[100 50]" {
			t.Errorf("half-way %s", got)
		}
		p.Drain("b1")
		p.Resume("b1")
		if got := weights(p); got != "[100 5]" {
			t.Errorf("after another fall %s, want it to begin anew", got)
		}
	})
}

// TestSlowStartHasOneTimer, however often the pool changes meanwhile: what is
// published is so at each step and each change only.
func TestSlowStartHasOneTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{SlowStart: 20 * time.Second}, 2)
		defer p.Close()
		p.Drain("b1")
		p.Resume("b1")
		time.Sleep(500 * time.Millisecond)
		p.Upsert(BackendConfig{ID: "b0", URL: "http://192.0.2.1:1", Weight: 2})
		time.Sleep(750 * time.Millisecond) // the step of 1 s is over
		synctest.Wait()
		before := p.now.Load()
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		if p.now.Load() != before {
			t.Error("there was a step after 1.5 s, want one each second")
		}
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		if p.now.Load() == before {
			t.Error("there was no step after 2 s")
		}
	})
}

func TestUpsertAndRemove(t *testing.T) {
	p := poolOf(t, PoolConfig{}, 3)
	before := slices.Clone(p.backends)
	if err := p.Upsert(BackendConfig{ID: "b1", URL: "http://192.0.2.1:2", Weight: 9, Priority: 1, Zone: "z"}, BackendConfig{ID: "b2", URL: "http://other"}, BackendConfig{ID: "b3", URL: "http://new"}); err != nil {
		t.Fatal(err)
	}
	if len(p.backends) != 4 || p.backends[0] != before[0] || p.backends[1] != before[1] {
		t.Errorf("%v after Upsert, of %v", p.backends, before)
	}
	if s := p.Status()[1]; s.Weight != 9 || s.Priority != 1 || s.Zone != "z" {
		t.Errorf("b1 is %+v", s)
	}
	if p.backends[2] == before[2] || !before[2].removed {
		t.Error("another server under the name b2 is taken for the old one")
	}
	if err := p.Upsert(BackendConfig{ID: "b4", URL: "http://h"}, BackendConfig{URL: "bad"}); err == nil || len(p.backends) != 4 {
		t.Errorf("Upsert with a mistake: %v, and %d backends", err, len(p.backends))
	}
	if err := p.Remove("b0", "nobody"); err == nil || len(p.backends) != 4 {
		t.Errorf("Remove of nobody: %v, and %d backends", err, len(p.backends))
	}
	if err := p.Remove("b0", "b3"); err != nil || len(p.backends) != 2 || !before[0].removed {
		t.Errorf("Remove: %v, and %v are left", err, p.backends)
	}
	for range 5 {
		if got := pickID(t, p, PickInfo{}); got == "b0" || got == "b3" {
			t.Errorf("picked %s, which is gone", got)
		}
	}
	many := make([]BackendConfig, maxBackends)
	for i := range many {
		many[i] = BackendConfig{ID: fmt.Sprint("m", i), URL: "http://h"}
	}
	if err := p.Upsert(many...); err == nil || len(p.backends) != 2 {
		t.Errorf("too many: %v, and %d backends", err, len(p.backends))
	}
	p.Close()
	if p.Upsert() != ErrClosed || p.Remove() != ErrClosed {
		t.Error("a closed pool can be changed")
	}
}

// A step of a slow start that comes late does not open a closed pool again.
func TestSlowStartEndsWithThePool(t *testing.T) {
	p := poolOf(t, PoolConfig{SlowStart: time.Hour}, 1)
	p.Close()
	p.warmer()
	if _, err := p.Pick(PickInfo{}); err != ErrClosed {
		t.Errorf("Pick: %v, want ErrClosed", err)
	}
}
