package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestWhoIsToBlame: only a backend to which no connection could be made is
// unhealthy at once, and not if this machine was the reason.
func TestWhoIsToBlame(t *testing.T) {
	for _, c := range []struct {
		o    Outcome
		want State
	}{
		{Outcome{Result: Unreachable, Err: syscall.ECONNREFUSED}, Unhealthy},
		{Outcome{Result: Unreachable, Err: fmt.Errorf("dial: %w", syscall.EHOSTUNREACH)}, Unhealthy},
		{Outcome{Result: Unreachable, Err: fmt.Errorf("dial: %w", syscall.EMFILE)}, Healthy},
		{Outcome{Result: Unreachable, Err: syscall.ENFILE}, Healthy},
		{Outcome{Result: Unreachable, Err: syscall.EADDRNOTAVAIL}, Healthy},
		{Outcome{Result: Failed, Err: io.ErrUnexpectedEOF}, Healthy},
		{Outcome{Result: Canceled, Err: context.Canceled}, Healthy},
		{Outcome{Result: Succeeded, Status: 503}, Healthy},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := poolOf(t, PoolConfig{Health: &HealthCheck{Interval: time.Hour, Func: func(context.Context, *Backend) error { return nil }}}, 1)
			defer p.Close()
			synctest.Wait()
			picked, err := p.Pick(PickInfo{})
			if err != nil {
				t.Fatal(err)
			}
			picked.Done(c.o)
			if got := stateOf(p, 0); got != c.want {
				t.Errorf("%+v: the backend is %v, want %v", c.o, got, c.want)
			}
		})
	}
}

// TestDoneCountsItself: the limiter is told of all requests in flight, the one that
// ends included.
func TestDoneCountsItself(t *testing.T) {
	p := poolOf(t, PoolConfig{AdaptiveLimit: new(AdaptiveLimit)}, 1)
	var all []Picked
	for range 7 {
		picked, err := p.Pick(PickInfo{})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, picked)
	}
	all[0].Done(Outcome{Status: 200, Duration: time.Millisecond})
	all[1].Done(Outcome{Status: 200, Duration: time.Millisecond})
	if got := p.backends[0].limiter.peak; got != 7 {
		t.Errorf("the most in flight was %d, want 7", got)
	}
	// A late one does not hide what there was.
	if got := p.backends[0].InFlight(); got != 5 {
		t.Errorf("%d in flight, want 5", got)
	}
}

// told is a strategy whose pickers note what they hear of.
type told struct{ pickers *[]*toldPicker }

type toldPicker struct {
	first
	heard []string
}

func (s told) Build(backends []*Backend) Picker {
	p := &toldPicker{first: backends}
	*s.pickers = append(*s.pickers, p)
	return p
}

func (p *toldPicker) Done(b *Backend, _ Outcome) { p.heard = append(p.heard, b.ID()) }

// TestObserverIsOfTheTier: the picker that chose is told, also of a backend of a
// later tier.
func TestObserverIsOfTheTier(t *testing.T) {
	var pickers []*toldPicker
	p := tiered(t, PoolConfig{Strategy: told{&pickers}}, "hh h")
	for _, tried := range []int{0, 1, 2} {
		picked, err := p.Pick(PickInfo{Tried: p.backends[:tried]})
		if err != nil {
			t.Fatal(err)
		}
		picked.Done(Outcome{})
	}
	heard := make(map[string]int)
	for _, q := range pickers {
		for _, id := range q.heard {
			if heard[id]++; q.first[0].priority != int(id[0]-'0') {
				t.Errorf("the picker of %v was told of %s", q.first, id)
			}
		}
	}
	if len(heard) != 3 {
		t.Errorf("of %v was told, want all three", heard)
	}
}

// stubborn picks its first backend, whatever has been tried.
type stubborn struct{ first }

func (stubborn) Build(backends []*Backend) Picker { return stubborn{backends} }
func (s stubborn) Pick(PickInfo) *Backend         { return s.first[0] }

// TestStubbornPickersAreNotBelieved, of whatever tier they are.
func TestStubbornPickersAreNotBelieved(t *testing.T) {
	p := tiered(t, PoolConfig{Strategy: stubborn{}}, "h h")
	for tried, want := range []string{"0h0", "1h0", ErrNoBackend.Error()} {
		if got := pickID(t, p, PickInfo{Tried: p.backends[:tried]}); got != want {
			t.Errorf("%d were tried: got %s, want %s", tried, got, want)
		}
	}
}

// TestUnknownLevelDoesNotPanic: of a level nobody knows anything of, nothing says
// that its health is not to be believed.
func TestUnknownLevelDoesNotPanic(t *testing.T) {
	p := tiered(t, PoolConfig{Strategy: RoundRobin{}, PanicThreshold: .5}, "?? huuu")
	if got := pickID(t, p, PickInfo{Tried: p.backends[2:]}); got != ErrNoBackend.Error() {
		t.Errorf("all of the level that is known were tried, got %s", got)
	}
}

// TestPickRoom: where the strategy insists on full backends, all are looked at,
// from one at random on, and those that were tried are left out.
func TestPickRoom(t *testing.T) {
	var pickers []*toldPicker
	p := poolOf(t, PoolConfig{MaxInFlight: 1, Strategy: told{&pickers}, Logger: slog.New(slog.DiscardHandler)}, 20)
	for i := range 10 { // the first ten are full
		if picked, err := p.Pick(PickInfo{}); err != nil || picked.Backend() != p.backends[i] && i <= rePicks {
			t.Fatalf("%d: %v, %v", i, picked.Backend(), err)
		}
	}
	full := 0
	for _, b := range p.backends {
		if n := b.InFlight(); n > 1 {
			t.Errorf("%v has %d in flight", b, n)
		} else if n == 1 {
			full++
		}
	}
	if full != 10 {
		t.Errorf("%d backends are full, want 10", full)
	}
	// Fill the first five, then free the rest: beyond the strategy's five looks the
	// choice is at random.
	for _, b := range p.backends {
		b.inFlight.Store(0)
	}
	for _, b := range p.backends[:rePicks+1] {
		b.inFlight.Store(1)
	}
	got := make(map[*Backend]bool)
	tried := p.backends[19:]
	for range 400 {
		picked, err := p.Pick(PickInfo{})
		if err != nil {
			t.Fatal(err)
		}
		got[picked.Backend()] = true
		picked.Done(Outcome{})
	}
	if len(got) != 15 {
		t.Errorf("%d of 15 with room were chosen in 400 picks, want all", len(got))
	}
	// Only the last has room, and it has been tried.
	for _, b := range p.backends[:19] {
		b.inFlight.Store(1)
	}
	info := PickInfo{Tried: tried[:1:1]}
	if picked, err := p.Pick(info); !errors.Is(err, ErrBusy) {
		t.Errorf("picked %v, %v, want ErrBusy", picked.Backend(), err)
	}
	if len(info.Tried) != 1 || info.Tried[0] != p.backends[19] {
		t.Errorf("the caller's list has become %v", info.Tried)
	}
	if picked, err := p.Pick(PickInfo{}); err != nil || picked.Backend() != p.backends[19] {
		t.Errorf("picked %v, %v, want the last", picked.Backend(), err)
	}
}

// TestPickRoomLeavesTheCallersListAlone, though there is room in its array.
func TestPickRoomLeavesTheCallersListAlone(t *testing.T) {
	p := poolOf(t, PoolConfig{MaxInFlight: 1, Strategy: First{}}, 4)
	p.backends[1].inFlight.Store(1)
	room := make([]*Backend, 1, 4)
	room[0] = p.backends[0]
	if picked, err := p.Pick(PickInfo{Tried: room}); err != nil || picked.Backend() != p.backends[2] {
		t.Errorf("picked %v, %v", picked.Backend(), err)
	}
	if room[:2][1] != nil {
		t.Errorf("the caller's array has become %v", room[:4])
	}
}
